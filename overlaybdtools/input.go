package overlaybdtools

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"

	"github.com/opencontainers/go-digest"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/flate"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/formats/overlaybd/layerfile"
	"github.com/lazuli-project/lazuli/formats/overlaybd/zfile"
	"github.com/lazuli-project/lazuli/formats/turbooci/gzindex"
	"github.com/lazuli-project/lazuli/tarfs"
)

// input is a layer's tar that is read. It gives the plain bytes.
type input struct {
	ctx       context.Context //nolint:containedctx // of one tool's run, for io.Reader
	stream    *flate.Reader
	closeFile func() error
	size      int64 // as it is stored; -1 for a pipe

	builder *gzindex.Builder // nil without an index
	begun   bool
	index   []byte // once the stream is at its end

	sum  hash.Hash // nil unless the digest is wanted
	rest []byte    // of what Next returned, for Read

	// plain has the plain bytes where they can be read anywhere, that is of tars that are not compressed; else nil.
	plain io.ReaderAt
	spool formats.Spool // content that plain does not have as disks need it; nil while there is none
}

var _ tarfs.Pieces = (*input)(nil)

// inputOptions say what is wanted beside the bytes.
type inputOptions struct {
	index  bool // the index of a gzip stream
	digest bool
}

// openInput opens a tar: plain, gzip, zstd, or in a ZFile. What is no file, such as a pipe, is read as it comes.
func openInput(ctx context.Context, path string, o inputOptions) (_ *input, err error) {
	in := &input{ctx: ctx, size: -1}
	i, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("input: %w", err)
	}
	if i.IsDir() {
		return nil, fmt.Errorf("input %s is a directory", path)
	}
	var src io.Reader
	if i.Mode().IsRegular() {
		src, err = in.openFile(ctx, path, i.Size())
	} else {
		var pipe io.ReadCloser
		if pipe, err = openPipe(ctx, path); err == nil {
			src, in.closeFile = pipe, pipe.Close
		}
	}
	if err != nil {
		return nil, fmt.Errorf("input: %w", err)
	}
	trace := flate.Trace(0)
	if o.index {
		trace = flate.TraceIndex
	}
	if in.stream, err = flate.NewTracingReader(contextReader{ctx, src}, trace); err != nil {
		return nil, errors.Join(fmt.Errorf("input %s: %w", path, err), in.closeFile())
	}
	if in.stream.Compression() != flate.None {
		in.plain = nil
	}
	if o.index && in.stream.Compression() == flate.Gzip {
		in.builder = gzindex.NewBuilder(in.stream)
	}
	if o.digest {
		in.sum = sha256.New()
	}
	return in, nil
}

// openFile opens a file, which may be a ZFile.
func (in *input) openFile(ctx context.Context, path string, size int64) (io.Reader, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	in.size, in.plain, in.closeFile = size, f, f.Close
	front := make([]byte, min(size, zfile.HeaderSize))
	if _, err := io.ReadFull(io.NewSectionReader(f, 0, size), front); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if !zfile.IsZFile(front) {
		return f, nil
	}
	src := blob.ReaderAtSource{R: f, N: size}
	l, err := zfile.Open(ctx, src, blob.Range{Len: size})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), f.Close())
	}
	in.plain, in.size = (&layerfile.File{Layout: l}).ReaderAt(ctx, src), l.Size()
	return io.NewSectionReader(in.plain, 0, l.Size()), nil
}

// close ends reading. The temporary file vanishes.
func (in *input) close() error {
	errs := []error{in.stream.Close(), in.closeFile()}
	if in.spool != nil {
		errs = append(errs, in.spool.Close())
	}
	return errors.Join(errs...)
}

// Next implements [tarfs.Pieces].
func (in *input) Next() ([]byte, error) {
	if in.builder != nil && in.begun {
		if err := in.builder.Advance(); err != nil {
			return nil, fmt.Errorf("gzip index: %w", err)
		}
	}
	p, err := in.stream.Next()
	in.begun = true
	if in.sum != nil {
		in.sum.Write(p)
	}
	if errors.Is(err, io.EOF) && in.builder != nil && in.index == nil {
		var failed error
		if in.index, failed = in.builder.Finish(in.size); failed != nil {
			return nil, fmt.Errorf("gzip index: %w", failed)
		}
	}
	return p, err
}

// Read implements [io.Reader].
func (in *input) Read(p []byte) (int, error) {
	for len(in.rest) == 0 {
		var err error
		if in.rest, err = in.Next(); err != nil {
			return 0, err
		}
	}
	n := copy(p, in.rest)
	in.rest = in.rest[n:]
	return n, nil
}

// digest returns the digest of the plain bytes, at their end.
func (in *input) digest() digest.Digest { return digest.NewDigest(digest.SHA256, in.sum) }

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
