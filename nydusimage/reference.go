package nydusimage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/flate"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/formats/nydus"
)

// refSpacing is how many stored bytes of a layer are inflated together, as nydus-image has it.
const refSpacing = 1 << 20

// isRef reports whether the layer stays the data, and the blob is an index of it.
func (o *CreateOptions) isRef() bool { return o.Type == TypeTargzRef || o.Type == TypeStargzRef }

// refLayer writes the index of a layer. The layer's digest, which is its name, stands before the end of the index, so that the layer
// has to be known as a whole: what comes through a pipe goes through a temporary file.
func (c *creation) refLayer(ctx context.Context, out *object) (_ formats.Layer, err error) {
	w, err := nydus.NewRefWriter(nydus.RefOptions{ChunkSize: c.ChunkSize, Spacing: refSpacing, CPU: c.CPU})
	if err != nil {
		return formats.Layer{}, err
	}
	src, err := openSource(ctx, c.Source, c.Stdin)
	if err != nil {
		return formats.Layer{}, err
	}
	defer func() { _ = src.Close() }() // was read only
	dir := c.TempDir
	if c.Writer == nil {
		dir = filepath.Dir(c.Blob)
	}
	stored, desc, err := wholeLayer(ctx, src, dir)
	if err != nil {
		return formats.Layer{}, fmt.Errorf("source: %w", err)
	}
	defer func() { err = errors.Join(err, stored.Close()) }()
	plain, err := flate.NewTracingReader(stored, w.Trace())
	if err != nil {
		return formats.Layer{}, fmt.Errorf("source: %w", err)
	}
	defer func() { _ = plain.Close() }() // frees memory only
	if plain.Compression() == flate.Zstd {
		return formats.Layer{}, fmt.Errorf("--type %s of a zstd layer: %w", c.Type, blob.ErrUnsupported)
	}
	lw, err := w.Layer(ctx, formats.LayerSource{Desc: desc, Stream: plain}, sink{out})
	if err != nil {
		return formats.Layer{}, err
	}
	defer lw.Abort()
	t, err := feedTar(ctx, plain, lw)
	if errors.Is(err, formats.ErrAgain) {
		return formats.Layer{}, fmt.Errorf("--type %s: %w: %w", c.Type, blob.ErrUnsupported, err)
	}
	if err != nil {
		return formats.Layer{}, err
	}
	return lw.Close(t)
}

// layerCopy is a layer in a file. A temporary one goes with Close.
type layerCopy struct {
	io.Reader
	close func() error
}

func (f layerCopy) Close() error { return f.close() }

// wholeLayer reads a layer to its end and gives it once more from its beginning, with its digest and size.
func wholeLayer(ctx context.Context, src io.ReadCloser, dir string) (_ layerCopy, _ ocispec.Descriptor, err error) {
	f, seekable := src.(*os.File) // a pipe is none, see openSource
	d := digest.SHA256.Digester()
	to := io.Writer(d.Hash())
	done := func() error { return nil } // src is the caller's
	if !seekable {
		if f, err = os.CreateTemp(dir, ".nydus-image-*"); err != nil {
			return layerCopy{}, ocispec.Descriptor{}, err
		}
		done = func() error { return errors.Join(f.Close(), os.Remove(f.Name())) }
		to = io.MultiWriter(to, f)
	}
	n, err := io.CopyBuffer(struct{ io.Writer }{to}, contextReader{ctx, src}, make([]byte, 1<<20))
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		return layerCopy{}, ocispec.Descriptor{}, errors.Join(err, done())
	}
	return layerCopy{f, done}, ocispec.Descriptor{Digest: d.Digest(), Size: n}, nil
}

// contextReader ends with its context.
type contextReader struct {
	ctx context.Context //nolint:containedctx // io.Reader takes none
	r   io.Reader
}

func (c contextReader) Read(p []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, context.Cause(c.ctx)
	}
	return c.r.Read(p)
}
