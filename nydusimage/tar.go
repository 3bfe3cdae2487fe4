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

// openSource opens a tar: a file, a pipe, a device, or "-" for stdin.
func openSource(path string, stdin io.Reader) (io.ReadCloser, error) {
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
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("source: %w", err)
	}
	return f, nil
}

// feedTar gives a tar to a writer and returns the layer's tree.
func feedTar(ctx context.Context, plain *flate.Reader, w formats.LayerWriter) (*tree.Tree, error) {
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

func feedEntry(r *tarfs.Reader, e *tarfs.Entry, n *tree.Node, w formats.LayerWriter) error {
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
