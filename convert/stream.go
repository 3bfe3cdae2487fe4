package convert

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/flate"
	"github.com/lazuli-project/lazuli/formats"
)

// LayerOptions of [Layer]. The zero value is a good default.
type LayerOptions struct {
	// Source is the layer as its manifest describes it. Its digest and size are verified where there is a digest. Formats that refer to
	// the layers of their source ([formats.KeepsLayers]) need it, others do not.
	Source ocispec.Descriptor
	// DiffID is verified unless it is "".
	DiffID digest.Digest
	// Below are the results of the layers below, lowest first, which formats that build on them need ([formats.NeedsParents]).
	Below []formats.Layer
	// Chains are the chain IDs of the layers below and this one, where formats build on layers below.
	Chains []digest.Digest
	// OnProgress is called now and then with the bytes that were read so far; it must be quick.
	OnProgress func(read int64)
	// TempDir is where is spooled what cannot be streamed; "" means the system's directory.
	TempDir string
}

// LayerStream is a layer that [Layer] converted.
type LayerStream struct {
	// Layer has the descriptor of what was written as it stands in an image's manifest, the digest of its table of contents, and
	// statistics; and is what [formats.Writer].Finish makes an image of.
	formats.Layer
	// DiffID is the digest of the source's inflated bytes, and Read how many stored bytes it had.
	DiffID digest.Digest
	Read   int64
}

// Layer converts one layer: it reads a tar, plain or compressed by gzip or zstd, from r to its end, and writes what the format stores to
// w while it reads. Nothing is kept but metadata and some chunks. An error leaves w with what was written so far: who stores it must
// wait for the result. When ctx ends, so does Layer, as soon as r and w let it.
//
// A format that finds the layer impossible for its usual way, as nydus-ref does with sparse files, begins anew if r is an
// [io.Seeker] and w has got nothing; else that is an error.
func Layer(ctx context.Context, w io.Writer, r io.Reader, format formats.Writer, opt LayerOptions) (*LayerStream, error) {
	out := &streamSink{w: w, ctx: ctx}
	l, err := streamLayer(ctx, out, r, format, &opt, false)
	if errors.Is(err, formats.ErrAgain) {
		seeker, ok := r.(io.Seeker)
		if !ok || out.written > 0 {
			return nil, fmt.Errorf("%s: %w, for which the layer has to be read from its beginning: %w", format.Name(), err, blob.ErrUnsupported)
		}
		if _, err := seeker.Seek(0, io.SeekStart); err != nil {
			return nil, err
		}
		l, err = streamLayer(ctx, out, r, format, &opt, true)
	}
	if err != nil {
		return nil, fmt.Errorf("%s layer: %w", format.Name(), err)
	}
	return l, nil
}

func streamLayer(ctx context.Context, out *streamSink, r io.Reader, format formats.Writer, opt *LayerOptions, again bool) (*LayerStream, error) {
	l := &LayerStream{}
	stored := &contextReader{ctx: ctx, r: r, n: &l.Read}
	if opt.Source.Digest != "" {
		if err := opt.Source.Digest.Validate(); err != nil {
			return nil, fmt.Errorf("source %q: %w: %w", opt.Source.Digest, blob.ErrCorrupt, err)
		}
		stored.sum = opt.Source.Digest.Algorithm().Hash()
	}
	algorithm := digest.Canonical
	if opt.DiffID != "" {
		if err := opt.DiffID.Validate(); err != nil {
			return nil, fmt.Errorf("diff ID %q: %w: %w", opt.DiffID, blob.ErrCorrupt, err)
		}
		algorithm = opt.DiffID.Algorithm()
	}
	step := opt.OnProgress
	if step == nil {
		step = func(int64) {}
	}
	reading := &layerReading{
		stored: stored, trace: traceOf(format), algorithm: algorithm, wantDiffID: true, step: step,
		open: func(stream *flate.Reader) ([]formats.LayerWriter, error) {
			src := formats.LayerSource{
				Desc: opt.Source, Index: len(opt.Below), Stream: stream, Again: again, Chains: opt.Chains,
				Spool: func() (formats.Spool, error) { return formats.NewSpool(opt.TempDir) },
			}
			if len(opt.Below) > 0 {
				src.Below = func(context.Context) ([]formats.Layer, error) { return opt.Below, nil }
			}
			w, err := format.Layer(ctx, src, out)
			if err != nil {
				return nil, err
			}
			return []formats.LayerWriter{w}, nil
		},
	}
	made, err := reading.run(ctx, func(diffID digest.Digest) error {
		l.DiffID = diffID
		if opt.DiffID != "" && diffID != opt.DiffID {
			return fmt.Errorf("uncompressed bytes have digest %s instead of %s: %w", diffID, opt.DiffID, blob.ErrDigest)
		}
		return stored.verify(opt.Source)
	})
	if err != nil {
		return nil, err
	}
	step(l.Read)
	l.Layer = made[0]
	return l, nil
}

// contextReader reads a layer until its context ends.
type contextReader struct {
	ctx context.Context //nolint:containedctx // of one call of Layer
	r   io.Reader
	n   *int64
	sum hash.Hash // nil where nobody wants it
}

// Read implements io.Reader.
func (c *contextReader) Read(p []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, context.Cause(c.ctx)
	}
	n, err := c.r.Read(p)
	*c.n += int64(n)
	if c.sum != nil {
		c.sum.Write(p[:n])
	}
	return n, err
}

// verify reads what lies behind the compressed stream, and compares all with its descriptor.
func (c *contextReader) verify(want ocispec.Descriptor) error {
	if _, err := io.Copy(io.Discard, c); err != nil {
		return err
	}
	if c.sum == nil {
		return nil
	}
	if got := digest.NewDigest(want.Digest.Algorithm(), c.sum); got != want.Digest || want.Size > 0 && *c.n != want.Size {
		return fmt.Errorf("%d bytes with digest %s instead of %d with %s: %w", *c.n, got, want.Size, want.Digest, blob.ErrDigest)
	}
	return nil
}

// streamSink is the target of one layer.
type streamSink struct {
	w       io.Writer
	ctx     context.Context //nolint:containedctx // of one call of Layer
	written int64
	sum     hash.Hash
}

// Create implements [formats.Sink].
func (s *streamSink) Create(context.Context, string) (formats.ObjectWriter, error) {
	if s.written > 0 {
		return nil, fmt.Errorf("a layer of several objects is no stream: %w", blob.ErrUnsupported)
	}
	s.sum = sha256.New()
	return s, nil
}

// Put implements [formats.Sink], for layers that are small.
func (s *streamSink) Put(ctx context.Context, desc ocispec.Descriptor, content []byte) error {
	w, err := s.Create(ctx, desc.MediaType)
	if err == nil {
		_, err = w.Write(content)
	}
	return err
}

// Write implements [formats.ObjectWriter].
func (s *streamSink) Write(p []byte) (int, error) {
	if s.ctx.Err() != nil {
		return 0, context.Cause(s.ctx)
	}
	n, err := s.w.Write(p)
	s.written += int64(n)
	s.sum.Write(p[:n])
	return n, err
}

// Commit implements [formats.ObjectWriter].
func (s *streamSink) Commit(context.Context) (digest.Digest, int64, error) {
	return digest.NewDigest(digest.SHA256, s.sum), s.written, nil
}

// Abort implements [formats.ObjectWriter].
func (*streamSink) Abort() {}

// RunningSHA256 implements [formats.RunningDigest].
func (s *streamSink) RunningSHA256() (sum [sha256.Size]byte, ok bool) {
	s.sum.Sum(sum[:0])
	return sum, true
}
