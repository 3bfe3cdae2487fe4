package main

import (
	"fmt"

	"github.com/lazuli-project/lazuli/convert"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/store"
)

// convertResult is what convert --json prints; docs/json.md describes it.
type convertResult struct {
	Source  string        `json:"source"`
	Target  string        `json:"target"`
	Digest  string        `json:"digest"` // what the target names now
	Seconds float64       `json:"seconds"`
	CPU     float64       `json:"cpu_seconds"` // of the process, all cores; 0 where the system does not tell
	PeakRSS int64         `json:"peak_memory_bytes"`
	Stages  stageSeconds  `json:"stage_seconds"`
	Images  []imageResult `json:"images"`
}

// stageSeconds are the times that goroutines spent in the stages of the conversion, over all layers. Where more goroutines run
// than there are cores, they wait for a core inside of their stages; so these are shares rather than CPU times.
type stageSeconds map[string]float64

type imageResult struct {
	Format       string           `json:"format"`
	Target       string           `json:"target"`
	Platform     string           `json:"platform,omitempty"`
	SourceDigest string           `json:"source_digest"`
	Digest       string           `json:"digest"`
	SourceSize   int64            `json:"source_size"`
	Size         int64            `json:"size"`
	Layers       []layerResult    `json:"layers"`
	Stats        map[string]int64 `json:"stats,omitempty"`
}

type layerResult struct {
	SourceDigest string `json:"source_digest"`
	SourceSize   int64  `json:"source_size"`
	Digest       string `json:"digest"`
	Size         int64  `json:"size"`
	Reused       bool   `json:"reused"`
	From         string `json:"from,omitempty"` // where a reused layer was taken from
	formats.LayerStats
}

// printResult prints the outcome of a conversion. refs are the source and the target of each format.
func (a *app) printResult(res *convert.Result, refs []store.Ref) error {
	out := convertResult{
		Source: refs[0].String(), Target: refs[1].String(), Digest: res.Tagged[0].Digest.String(), Seconds: res.Wall.Seconds(), Stages: stageSeconds{},
	}
	out.CPU, out.PeakRSS = usage()
	for _, im := range res.Images {
		i := imageResult{
			Format: im.Format, Target: refs[min(1+im.Output, len(refs)-1)].String(), Platform: im.Platform, SourceDigest: im.Source.Digest.String(), Digest: im.Desc.Digest.String(),
			SourceSize: im.SourceSize, Size: im.Size, Stats: im.Stats,
		}
		for stage, s := range im.CPU {
			out.Stages[stage] += s
		}
		for _, l := range im.Layers {
			i.Layers = append(i.Layers, layerResult{
				SourceDigest: l.Source.Digest.String(), SourceSize: l.Source.Size, Digest: l.Desc.Digest.String(), Size: l.Desc.Size,
				Reused: l.Reused, From: l.From, LayerStats: l.LayerStats,
			})
			if l.Reused {
				continue
			}
			for stage, s := range l.CPU {
				out.Stages[stage] += s
			}
		}
		out.Images = append(out.Images, i)
	}
	if a.json {
		return a.printJSON(out)
	}
	for _, i := range out.Images {
		if _, err := fmt.Fprintf(a.stdout, "%s %s\n", i.Digest, orDash(i.Platform)); err != nil {
			return err
		}
	}
	for o, tagged := range res.Tagged {
		var format string
		var source, size int64
		for _, im := range res.Images {
			if im.Output == o {
				format, source, size = im.Format, source+im.SourceSize, size+im.Size
			}
		}
		_, err := fmt.Fprintf(a.stdout, "%s %s@%s: %s, %.1f%% of the source, in %.1f s, %s/s\n", format, refs[1+o], tagged.Digest,
			formatSize(size), 100*float64(size)/float64(max(source, 1)), res.Wall.Seconds(), formatSize(int64(float64(source)/res.Wall.Seconds())))
		if err != nil {
			return err
		}
	}
	return nil
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// printPlan prints what a conversion would do.
func (a *app) printPlan(plan *convert.Plan, refs []store.Ref) error {
	if a.json {
		return a.printJSON(plan)
	}
	fmt.Fprintf(a.stdout, "%s can be read, %s can be written\n", refs[0], refs[1])
	for _, im := range plan.Images {
		fmt.Fprintf(a.stdout, "image %s %s\n", im.Source, orDash(im.Platform))
		for i, l := range im.Layers {
			what := "would be converted"
			if l.Reused {
				what = "is there already"
			}
			fmt.Fprintf(a.stdout, "  layer %d %s %s %s\n", i, l.Digest, formatSize(l.Size), what)
		}
	}
	if plan.Carried > 0 {
		fmt.Fprintf(a.stdout, "%d other entries of the index go along\n", plan.Carried)
	}
	return nil
}
