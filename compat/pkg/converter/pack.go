package converter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/lazuli-project/lazuli/nydusimage"
)

// Pack converts a layer to its Nydus blob. The caller writes the layer's tar into the result, or with OCIRef the layer as it is
// stored; the blob goes to dest at the same time, from another goroutine. A blob is
//
//	data | tar header | data | tar header ... | table of contents | tar header
//
// It is complete only when Close returned nil. Close waits until dest is not written to any more, may be called again, and always returns
// the same. After a failure Write returns what failed. When ctx ends, so does everything, with its cause; where dest blocks, as soon as
// it returns.
//
// Wrong options are an error of Pack itself.
func Pack(ctx context.Context, dest io.Writer, opt PackOption) (io.WriteCloser, error) {
	o, err := opt.create()
	if err != nil {
		return nil, err
	}
	if err := makeWorkDir(&o); err != nil {
		return nil, err
	}
	ctx, cancel := withTimeout(ctx, opt.Timeout)
	r, w := io.Pipe()
	p := &packing{w: w, done: make(chan struct{}), cause: func() error { return context.Cause(ctx) }}
	stop := context.AfterFunc(ctx, func() { _ = w.CloseWithError(context.Cause(ctx)) }) // always nil
	go func() {
		defer close(p.done)
		defer cancel()
		defer stop()
		err := pack(ctx, r, dest, o)
		if err == nil {
			_, err = io.Copy(io.Discard, r) // what stands behind the end of the tar
		}
		p.err = err
		_ = r.CloseWithError(err) // always nil
	}()
	return p, nil
}

// packing is a run of Pack.
type packing struct {
	w     *io.PipeWriter
	done  chan struct{}
	err   error        // once done is closed
	cause func() error // why the context has ended, if it has
}

// Write implements [io.Writer].
func (p *packing) Write(b []byte) (int, error) {
	n, err := p.w.Write(b)
	if !errors.Is(err, io.ErrClosedPipe) {
		return n, err
	}
	why := p.cause
	select {
	case <-p.done:
		why = func() error { return p.err }
	default:
	}
	if cause := why(); cause != nil {
		err = cause
	}
	return n, err
}

// Close implements [io.Closer].
func (p *packing) Close() error {
	_ = p.w.Close() // always nil
	<-p.done
	return p.err
}

func makeWorkDir(o *nydusimage.CreateOptions) error {
	if o.TempDir == "" {
		return nil
	}
	if err := os.MkdirAll(o.TempDir, 0o750); err != nil {
		return fmt.Errorf("work directory: %w", err)
	}
	return nil
}

// pack converts src to the blob that it writes to dest.
func pack(ctx context.Context, src io.Reader, dest io.Writer, o nydusimage.CreateOptions) error {
	o.Stdin, o.Writer = src, dest
	if _, err := nydusimage.Create(ctx, o); err != nil {
		return fmt.Errorf("pack layer: %w", err)
	}
	return nil
}
