package convert

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/flate"
	"github.com/lazuli-project/lazuli/formats"
)

// layerJob is one layer of one image.
type layerJob struct {
	c       *conversion
	image   *sourceImage
	layers  *imageLayers
	index   int
	desc    ocispec.Descriptor
	diffID  digest.Digest
	outputs []int // numbers of the outputs that need the layer converted
	keep    []int // numbers of those whose targets need the layer as it is
}

// run converts the layer for its outputs with one download and one inflation.
func (j *layerJob) run(ctx context.Context) error {
	err := j.attempt(ctx, false)
	if errors.Is(err, formats.ErrAgain) {
		err = j.attempt(ctx, true)
	}
	if err != nil {
		return fmt.Errorf("layer %d (%s): %w", j.index, j.desc.Digest, err)
	}
	return nil
}

func (j *layerJob) attempt(ctx context.Context, again bool) (err error) {
	stored, err := j.c.src.Fetch(ctx, j.desc)
	if err != nil {
		return err
	}
	defer stored.Close() // what matters of it was read to its end
	kept := j.beginKeeping(ctx)
	defer func() { err = kept.end(err) }()
	r := &layerReading{
		stored: kept.tee(stored), trace: j.trace(), algorithm: j.diffID.Algorithm(), wantDiffID: j.storesContent(),
		step: func(n int64) { j.progress(Converting, n) },
		open: func(stream *flate.Reader) ([]formats.LayerWriter, error) { return j.writers(ctx, stream, again) },
	}
	made, err := r.run(ctx, j.checkDiffID)
	if err != nil {
		return err
	}
	for i, o := range j.outputs {
		j.c.remember(ctx, o, j.layers.key(o, j.index), made[i].Desc)
		j.layers.set(o, j.index, made[i], reuse{})
	}
	j.progress(Converted, j.desc.Size)
	return nil
}

// writers begins the layer in every output.
func (j *layerJob) writers(ctx context.Context, stream *flate.Reader, again bool) ([]formats.LayerWriter, error) {
	writers := make([]formats.LayerWriter, 0, len(j.outputs))
	for _, o := range j.outputs {
		src := formats.LayerSource{
			Desc: j.desc, Index: j.index, Stream: stream, Again: again, Chains: j.layers.chains[: j.index+1 : j.index+1],
			Below: j.layers.below(o, j.index), Ready: j.layers.ready[o][j.index].give,
			Spool: func() (formats.Spool, error) { return formats.NewSpool(j.c.opt.TempDir) },
		}
		w, err := j.c.outputs[o].Writer.Layer(ctx, src, j.c.outputs[o].Target)
		if err != nil {
			return writers, err
		}
		writers = append(writers, w)
	}
	return writers, nil
}

// checkDiffID compares the digest of the inflated bytes, which is "" where nobody needs it.
func (j *layerJob) checkDiffID(got digest.Digest) error {
	if got != "" && got != j.diffID {
		return fmt.Errorf("uncompressed bytes have digest %s, the config says %s: %w", got, j.diffID, blob.ErrDigest)
	}
	return nil
}

// storesContent reports whether an output is of a format that stores content anew, and so needs the diff ID to be right. The others
// keep the layer as it is, whose own digest is verified, also where they convert it beside that.
func (j *layerJob) storesContent() bool {
	return slices.ContainsFunc(j.outputs, func(o int) bool { return !keepsLayers(j.c.outputs[o]) })
}

// trace returns what the writers want to know of the stream.
func (j *layerJob) trace() flate.Trace {
	var t flate.Trace
	for _, o := range j.outputs {
		t |= traceOf(j.c.outputs[o].Writer)
	}
	return t
}

func (j *layerJob) progress(s State, done int64) {
	if f := j.c.opt.OnProgress; f != nil {
		f(Progress{
			Platform: j.image.platform, Layer: j.index, Layers: len(j.image.src.Manifest.Layers), State: s, Done: done, Total: j.desc.Size,
		})
	}
}
