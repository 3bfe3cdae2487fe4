package main

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/lazuli-project/lazuli/convert"
)

// progress shows how far the layers are: a line each on a terminal, else a summary line every few seconds.
type progress struct {
	a    *app
	mode string // tty, plain, json or none

	mu     sync.Mutex // guards the rest
	layers map[layerID]convert.Progress
	begin  time.Time
	shown  time.Time
	lines  int // drawn on the terminal
}

type layerID struct {
	platform string
	layer    int
}

// How often progress is shown.
const (
	terminalInterval = 100 * time.Millisecond
	plainInterval    = 3 * time.Second
)

func (a *app) newProgress() *progress {
	p := &progress{a: a, mode: a.progress, layers: make(map[layerID]convert.Progress), begin: time.Now(), shown: time.Now()}
	if a.quiet {
		p.mode = "none"
	}
	if p.mode == "auto" {
		p.mode = "plain"
		if f, ok := a.stderr.(*os.File); ok && term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb" {
			p.mode = "tty"
		}
	}
	return p
}

// layer takes the state of a layer.
func (p *progress) layer(l convert.Progress) {
	if p.mode == "none" {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.layers[layerID{l.Platform, l.Layer}] = l
	interval := plainInterval
	if p.mode == "tty" {
		interval = terminalInterval
	}
	if time.Since(p.shown) >= interval {
		p.show()
	}
}

// end clears the bars.
func (p *progress) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mode == "tty" {
		p.erase()
	}
}

func (p *progress) erase() {
	if p.lines > 0 {
		fmt.Fprintf(p.a.stderr, "\x1b[%dA\x1b[J", p.lines)
		p.lines = 0
	}
}

// show draws the state. mu is held.
func (p *progress) show() {
	p.shown = time.Now()
	ids := make([]layerID, 0, len(p.layers))
	var done, total int64
	count := 0
	for id, l := range p.layers {
		ids = append(ids, id)
		done += l.Done
		total += l.Total
		count = max(count, l.Layers)
	}
	slices.SortFunc(ids, func(a, b layerID) int {
		if c := strings.Compare(a.platform, b.platform); c != 0 {
			return c
		}
		return a.layer - b.layer
	})
	elapsed := time.Since(p.begin)
	rate := float64(done) / elapsed.Seconds()
	switch p.mode {
	case "json":
		for _, id := range ids {
			_ = json.NewEncoder(p.a.stderr).Encode(progressLine(p.layers[id]))
		}
	case "plain":
		fmt.Fprintf(p.a.stderr, "%d of %d layers seen, %s of %s, %s/s\n", len(ids), count, formatSize(done), formatSize(total), formatSize(int64(rate)))
	case "tty":
		p.erase()
		for _, id := range ids {
			l := p.layers[id]
			const width = 30
			bar := width
			if l.Total > 0 {
				bar = int(width * l.Done / l.Total)
			}
			fmt.Fprintf(p.a.stderr, "layer %-3d [%-*s] %9s of %9s  %s\n", l.Layer, width, strings.Repeat("=", bar), formatSize(l.Done), formatSize(l.Total), l.State)
		}
		left := "?"
		if rate > 0 {
			left = time.Duration(float64(total-done) / rate * float64(time.Second)).Round(time.Second).String()
		}
		fmt.Fprintf(p.a.stderr, "%s of %s, %s/s, about %s left\n", formatSize(done), formatSize(total), formatSize(int64(rate)), left)
		p.lines = len(ids) + 1
	}
}

func progressLine(l convert.Progress) map[string]any {
	return map[string]any{"platform": l.Platform, "layer": l.Layer, "layers": l.Layers, "state": l.State, "done": l.Done, "total": l.Total}
}
