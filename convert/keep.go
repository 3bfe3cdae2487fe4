package convert

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/lazuli-project/lazuli/formats"
)

// Layers that a format refers to as they are come into its target once: they are there, or are mounted from another repository,
// or are written while they are inflated, so that they are not downloaded twice.

// keepsLayers reports whether an output's images refer to the source's layers.
func keepsLayers(out Output) bool {
	k, ok := out.Writer.(formats.KeepsLayers)
	return ok && k.KeepsLayers()
}

// findKept notes the targets that the layer has to be written to.
func (j *layerJob) findKept(ctx context.Context) error {
	for o, out := range j.c.outputs {
		if !keepsLayers(out) {
			continue
		}
		has, err := out.Target.Exists(ctx, j.desc)
		if err == nil && !has {
			has, err = out.Target.Mount(ctx, j.desc, j.c.src)
		}
		if err != nil {
			return fmt.Errorf("layer %d (%s): %w", j.index, j.desc.Digest, err)
		}
		if !has {
			j.keep = append(j.keep, o)
		}
	}
	return nil
}

// copyKept writes the layer to the targets that need it.
func (j *layerJob) copyKept(ctx context.Context) error {
	for _, o := range j.keep {
		r, err := j.c.src.Fetch(ctx, j.desc)
		if err == nil {
			err = errors.Join(j.c.outputs[o].Target.Push(ctx, j.desc, r), r.Close())
		}
		if err != nil {
			return fmt.Errorf("keep layer %d (%s): %w", j.index, j.desc.Digest, err)
		}
	}
	return nil
}

// keeping writes a layer to targets while it is read.
type keeping struct {
	pipes []*io.PipeWriter
	errs  []error // by pipe
	wg    sync.WaitGroup
}

// beginKeeping begins to write the layer to the targets that need it. The caller has to end it.
func (j *layerJob) beginKeeping(ctx context.Context) *keeping {
	k := &keeping{errs: make([]error, len(j.keep))}
	for i, o := range j.keep {
		r, w := io.Pipe()
		k.pipes = append(k.pipes, w)
		k.wg.Go(func() {
			k.errs[i] = j.c.outputs[o].Target.Push(ctx, j.desc, r)
			if k.errs[i] == nil {
				_, k.errs[i] = io.Copy(io.Discard, r) // the target turned out to have it
			}
			r.CloseWithError(k.errs[i])
		})
	}
	return k
}

// tee returns r, of which what is read is also written to the targets.
func (k *keeping) tee(r io.Reader) io.Reader {
	for _, w := range k.pipes {
		r = io.TeeReader(r, w)
	}
	return r
}

// end ends the writing, which is given up where err says that the layer was not read to its end. It returns err, or what
// failed.
func (k *keeping) end(err error) error {
	for _, w := range k.pipes {
		w.CloseWithError(err) // nil is the end
	}
	k.wg.Wait()
	if err != nil {
		return err // a target that failed did so in the reader's way
	}
	return errors.Join(k.errs...)
}
