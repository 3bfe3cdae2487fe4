package overlaybdtools

import (
	"context"
	"errors"
	"io"
	"os"
)

// pipe is a named pipe or a device that is read until the context ends.
type pipe struct {
	ctx  context.Context //nolint:containedctx // io.Reader takes none
	file *os.File
	stop func() bool
}

// openPipe opens a pipe, which lasts until somebody opens it for writing.
func openPipe(ctx context.Context, path string) (io.ReadCloser, error) {
	type opened struct {
		file *os.File
		err  error
	}
	done := make(chan opened, 1)
	go func() {
		f, err := os.Open(path)
		done <- opened{f, err}
	}()
	var o opened
	select {
	case o = <-done:
	case <-ctx.Done():
		// Nothing ends an open but a writer: one of our own.
		w, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return nil, errors.Join(context.Cause(ctx), err)
		}
		if o = <-done; o.err == nil {
			o.err = o.file.Close()
		}
		o.err = errors.Join(context.Cause(ctx), o.err, w.Close())
	}
	if o.err != nil {
		return nil, o.err
	}
	return &pipe{ctx, o.file, context.AfterFunc(ctx, func() { _ = o.file.Close() })}, nil
}

// Read implements [io.Reader].
func (p *pipe) Read(b []byte) (int, error) {
	n, err := p.file.Read(b)
	if err != nil && p.ctx.Err() != nil {
		err = context.Cause(p.ctx)
	}
	return n, err
}

// Close ends reading.
func (p *pipe) Close() error {
	if !p.stop() {
		return nil // the end of the context has closed it
	}
	return p.file.Close()
}
