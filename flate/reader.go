package flate

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"

	"github.com/lazuli-project/lazuli/blob"
)

// Compression says how a layer is compressed.
type Compression uint8

// The compressions of layers.
const (
	None Compression = iota
	Gzip
	Zstd
)

// String returns the compression's name as in media types.
func (c Compression) String() string {
	switch c {
	case None:
		return "none"
	case Gzip:
		return "gzip"
	case Zstd:
		return "zstd"
	}
	return fmt.Sprintf("compression %d", uint8(c))
}

// MaxZstdWindow is the largest window of a zstd frame that is accepted, in bytes. The decoder allocates it.
const MaxZstdWindow = 128 << 20

// Reader gives the plain bytes of a layer. It is for one goroutine at a time.
type Reader struct {
	compression Compression
	pieces      pieces
	rest        []byte // handed out by pieces and not yet by Read
	err         error  // sticky
	close       func()
	trace       *tracer // nil: nothing is noted
}

// pieces gives plain bytes without a copy. They are valid until the next call; io.EOF comes without bytes.
type pieces interface{ next() ([]byte, error) }

// NewReader finds out the compression of r by its first bytes. What is neither gzip nor zstd is taken as it is.
// The error is the one of reading the first bytes. r is read in large pieces, and up to its end once Read has
// returned io.EOF. Memory: about 0.6 MB for gzip, the frame's window and some for zstd.
func NewReader(r io.Reader) (*Reader, error) { return newReader(r, 0) }

// NewTracingReader is [NewReader] whose reader notes what t says. Memory beside that of NewReader: about 1 MB.
func NewTracingReader(r io.Reader, t Trace) (*Reader, error) { return newReader(r, t) }

func newReader(r io.Reader, t Trace) (*Reader, error) {
	in := newInput(r)
	in.fill(4)
	if err := in.failed(); err != nil {
		return nil, fmt.Errorf("read the beginning of a layer: %w", err)
	}
	switch c := sniff(in.buf[in.pos:in.end]); c {
	case Gzip:
		g := newGzipReader(in)
		if t != 0 {
			g.d.trace = newTracer(g.d, t)
		}
		return &Reader{compression: c, pieces: g, trace: g.d.trace}, nil
	case Zstd:
		z, err := newZstdReader(in)
		if err != nil {
			return nil, err
		}
		return &Reader{compression: c, pieces: z, close: z.d.Close}, nil
	default:
		return &Reader{compression: None, pieces: (*plainReader)(in)}, nil
	}
}

// sniff tells the compression from a layer's first bytes. A skippable frame may come first in zstd.
func sniff(p []byte) Compression {
	switch {
	case bytes.HasPrefix(p, []byte{0x1f, 0x8b, 8}):
		return Gzip
	case bytes.HasPrefix(p, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		return Zstd
	case len(p) >= 4 && p[0]&0xf0 == 0x50 && bytes.Equal(p[1:4], []byte{0x2a, 0x4d, 0x18}):
		return Zstd
	}
	return None
}

// Compression returns what NewReader found.
func (r *Reader) Compression() Compression { return r.compression }

// Next returns the next plain bytes, at most 256 KiB, without a copy: they are valid, and may not be changed, until
// the next call of a method. At the end it returns io.EOF and no bytes. Bytes of a gzip member come before its
// checksum has been seen, except those at its end; so content is right only once io.EOF has been returned.
func (r *Reader) Next() ([]byte, error) {
	if len(r.rest) > 0 {
		p := r.rest
		r.rest = nil
		return p, nil
	}
	if r.err != nil {
		return nil, r.err
	}
	p, err := r.pieces.next()
	if err != nil {
		r.err = err
		return nil, err
	}
	return p, nil
}

// Read implements [io.Reader].
func (r *Reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if len(r.rest) == 0 {
		next, err := r.Next()
		if err != nil {
			return 0, err
		}
		r.rest = next
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// WriteTo implements [io.WriterTo].
func (r *Reader) WriteTo(w io.Writer) (int64, error) {
	var total int64
	for {
		p, err := r.Next()
		if errors.Is(err, io.EOF) {
			return total, nil
		}
		if err != nil {
			return total, err
		}
		n, err := w.Write(p)
		total += int64(n)
		if err != nil {
			return total, err
		}
	}
}

// Close frees what the reader holds. It does not close the underlying reader.
func (r *Reader) Close() error {
	if r.close != nil {
		r.close()
		r.close = nil
	}
	r.rest = nil
	r.err = errClosed
	return nil
}

var errClosed = errors.New("read of a closed layer")

// plainReader hands out the input as it is.
type plainReader input

func (r *plainReader) next() ([]byte, error) {
	in := (*input)(r)
	if in.pos == in.end {
		in.pos, in.end = 0, 0
		in.fill(1)
	}
	if in.pos == in.end {
		if err := in.failed(); err != nil {
			return nil, fmt.Errorf("read layer: %w", err)
		}
		return nil, io.EOF
	}
	p := in.buf[in.pos:in.end]
	in.pos = in.end
	return p, nil
}

// zstdReader decodes zstd frames with a library.
type zstdReader struct {
	d   *zstd.Decoder
	in  *input
	buf []byte
	err error // comes behind the bytes that were read with it
}

func newZstdReader(in *input) (*zstdReader, error) {
	// Concurrency 1 decodes in the caller's goroutine: layers are decoded in parallel already.
	d, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxWindow(MaxZstdWindow), zstd.IgnoreChecksum(false))
	if err != nil {
		return nil, fmt.Errorf("zstd: %w", err)
	}
	return &zstdReader{d: d, in: in, buf: make([]byte, 128<<10)}, nil
}

func (z *zstdReader) next() ([]byte, error) {
	n := 0
	for n < len(z.buf) && z.err == nil {
		var m int
		m, z.err = z.d.Read(z.buf[n:])
		n += m
	}
	switch {
	case n > 0:
		return z.buf[:n], nil
	case errors.Is(z.err, io.EOF):
		return nil, io.EOF
	}
	return nil, z.wrap(z.err)
}

// wrap tells errors of the underlying reader, damage, and frames that are too large for us apart.
func (z *zstdReader) wrap(err error) error {
	if failed := z.in.failed(); failed != nil {
		return fmt.Errorf("zstd: %w", failed)
	}
	if errors.Is(err, zstd.ErrWindowSizeExceeded) {
		return fmt.Errorf("zstd window over %d bytes: %w: %w", MaxZstdWindow, blob.ErrUnsupported, err)
	}
	return fmt.Errorf("zstd: %w: %w", blob.ErrCorrupt, err)
}
