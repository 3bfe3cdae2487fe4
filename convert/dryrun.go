package convert

import (
	"context"
	"fmt"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/store"
)

// Plan is what a conversion would do.
type Plan struct {
	Source  ocispec.Descriptor `json:"source"`
	Images  []PlannedImage     `json:"images"`
	Carried int                `json:"carried"` // entries of the index that go along as they are
}

// PlannedImage is an image that would be converted.
type PlannedImage struct {
	Platform string         `json:"platform"`
	Source   string         `json:"source_digest"`
	Layers   []PlannedLayer `json:"layers"`
}

// PlannedLayer is a layer of it.
type PlannedLayer struct {
	Digest string `json:"digest"`
	Size   int64  `json:"size"`
	Reused bool   `json:"reused"` // converted before, and still there
	From   string `json:"from,omitempty"`
}

// DryRun resolves the source and checks that its layers can be read and the target be written, by beginning a read and an
// upload that it then gives up.
func DryRun(ctx context.Context, src store.Source, out Output, opt Options) (*Plan, error) {
	if err := opt.setDefaults(); err != nil {
		return nil, err
	}
	c := &conversion{src: src, outputs: []Output{out}, opt: opt}
	defer c.places.close()
	s, err := c.plan(ctx)
	if err != nil {
		return nil, err
	}
	plan := &Plan{Source: s.desc, Carried: len(s.carried)}
	for _, im := range s.images {
		p := PlannedImage{Platform: im.platform, Source: im.src.Desc.Digest.String()}
		if err := checkLayers(im.src); err != nil {
			return nil, err
		}
		layers, below := newImageLayers(c, im), true
		for i, d := range im.src.Manifest.Layers {
			if i == 0 {
				r, err := src.Fetch(ctx, d)
				if err != nil {
					return nil, fmt.Errorf("layer %d (%s): %w", i, d.Digest, err)
				}
				_ = r.Close() // given up in the middle
			}
			from, known := "", false
			if below {
				from, known = c.whereKnown(ctx, 0, layers.key(0, i))
			}
			below = known || !needsParents(out)
			p.Layers = append(p.Layers, PlannedLayer{Digest: d.Digest.String(), Size: d.Size, Reused: known, From: from})
		}
		plan.Images = append(plan.Images, p)
	}
	if err := probe(ctx, out.Target); err != nil {
		return nil, fmt.Errorf("%s cannot be written: %w", out.Target.Ref(), err)
	}
	return plan, nil
}

// prober is the optional ability of a target to find out whether it can be written, where beginning an object does not tell.
type prober interface {
	Probe(ctx context.Context) error
}

func probe(ctx context.Context, t store.Target) error {
	if p, ok := t.(prober); ok {
		return p.Probe(ctx)
	}
	w, err := t.Create(ctx, ocispec.MediaTypeImageLayer)
	if err == nil {
		w.Abort()
	}
	return err
}
