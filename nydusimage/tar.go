package nydusimage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/lazuli-project/lazuli/flate"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/tarfs"
	"github.com/lazuli-project/lazuli/tree"
)

// landmarks are the entries of an eStargz layer that are no files of the image.
var landmarks = map[string]bool{"stargz.index.json": true, ".prefetch.landmark": true, ".no.prefetch.landmark": true}

// openSource opens a tar: a file, which is an *os.File, a pipe, a device, or "-" for stdin. The end of the context ends waiting for
// who writes into a pipe.
func openSource(ctx context.Context, path string, stdin io.Reader) (io.ReadCloser, error) {
	if path == "-" {
		if stdin == nil {
			return nil, errors.New("no standard input")
		}
		return io.NopCloser(stdin), nil
	}
	i, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("source: %w", err)
	}
	if m := i.Mode(); !m.IsRegular() && m&(os.ModeNamedPipe|os.ModeCharDevice) == 0 {
		return nil, fmt.Errorf("source %s is neither a file nor a pipe", path)
	}
	if i.Mode().IsRegular() {
		f, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("source: %w", err)
		}
		return f, nil
	}
	return openPipeSource(ctx, path)
}

// pipeSource is a pipe that is read until the context ends.
type pipeSource struct {
	io.Reader
	close func() error
}

func (p pipeSource) Close() error { return p.close() }

// openPipeSource opens a pipe, which lasts until somebody opens it for writing.
func openPipeSource(ctx context.Context, path string) (io.ReadCloser, error) {
	type opened struct {
		f   *os.File
		err error
	}
	done := make(chan opened, 1)
	go func() {
		f, err := os.Open(path)
		done <- opened{f, err}
	}()
	select {
	case o := <-done:
		if o.err != nil {
			return nil, fmt.Errorf("source: %w", o.err)
		}
		stop := context.AfterFunc(ctx, func() { _ = o.f.Close() })
		return pipeSource{o.f, func() error { stop(); return o.f.Close() }}, nil
	case <-ctx.Done():
		// Nothing ends an open but a writer: one of our own.
		go func() {
			if o := <-done; o.err == nil {
				_ = o.f.Close() // nothing was read
			}
		}()
		openPipe(path).giveUp()
		return nil, fmt.Errorf("source: %w", context.Cause(ctx))
	}
}

// tarSink takes the entries of a tar, as a [formats.LayerWriter] does.
type tarSink interface {
	Entry(e *tarfs.Entry, node *tree.Node) error
	Data(p []byte) error
}

var _ tarSink = formats.LayerWriter(nil)

// feedTar gives a tar to a writer and returns the layer's tree.
func feedTar(ctx context.Context, plain *flate.Reader, w tarSink) (*tree.Tree, error) {
	r, b := tarfs.NewReader(plain), tarfs.NewBuilder()
	for {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		e, err := r.Next()
		if errors.Is(err, io.EOF) {
			return b.Tree(), nil
		}
		if err != nil {
			return nil, fmt.Errorf("source: %w", err)
		}
		if landmarks[e.Name] {
			continue
		}
		n, err := b.Add(e)
		if err != nil {
			return nil, fmt.Errorf("source: %w", err)
		}
		if err := feedEntry(r, e, n, w); err != nil {
			return nil, fmt.Errorf("entry %d (%q): %w", e.Index, e.Name, err)
		}
	}
}

func feedEntry(r *tarfs.Reader, e *tarfs.Entry, n *tree.Node, w tarSink) error {
	if err := w.Entry(e, n); err != nil {
		return err
	}
	for e.Size > 0 {
		p, err := r.Data()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := w.Data(p); err != nil {
			return err
		}
	}
	return nil
}
