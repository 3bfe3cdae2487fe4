package exporter

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/identity"
	"github.com/moby/buildkit/util/progress"

	"github.com/lazuli-project/lazuli/convert"
)

// warn shows warnings beside the build.
func warn(ctx context.Context, warnings []string) {
	if len(warnings) == 0 {
		return
	}
	w, _, _ := progress.NewFromContext(ctx)
	for _, text := range warnings {
		_ = w.Write(identity.NewID(), client.VertexWarning{Level: 1, Short: []byte(text)}) // nobody is told then
	}
	_ = w.Close() // as above
}

// layerProgress shows the layers that are converted, one line each.
type layerProgress struct {
	format string
	w      progress.Writer

	mu      sync.Mutex // guards started
	started map[string]time.Time
}

func newLayerProgress(ctx context.Context, format string) *layerProgress {
	w, _, _ := progress.NewFromContext(ctx)
	return &layerProgress{format: format, w: w, started: make(map[string]time.Time)}
}

// close ends the lines.
func (p *layerProgress) close() { _ = p.w.Close() } // nobody is told then

// on is called by package convert.
func (p *layerProgress) on(s convert.Progress) {
	what := fmt.Sprintf("layer %d/%d to %s", s.Layer+1, s.Layers, p.format)
	if s.Platform != "" {
		what += " for " + s.Platform
	}
	now := time.Now()
	st := progress.Status{Action: string(s.State), Current: int(s.Done), Total: int(s.Total)}
	id := "converting " + what
	if s.State == convert.Reused {
		id = "reusing " + what
	}
	p.mu.Lock()
	begin, ok := p.started[id]
	if !ok {
		begin = now
		p.started[id] = begin
	}
	p.mu.Unlock()
	st.Started = &begin
	if s.State != convert.Converting {
		st.Current, st.Completed = st.Total, &now
	}
	_ = p.w.Write(id, st) // nobody is told then
}
