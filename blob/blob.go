package blob

import (
	"context"
	"errors"
	"fmt"
)

// Range is Len bytes at Off.
type Range struct{ Off, Len int64 }

// End returns the offset behind the range.
func (r Range) End() int64 { return r.Off + r.Len }

// A Span is the smallest stored range that can be decoded on its own: a compressed chunk, a nydus
// batch, an inflate context, a ZFile block. What is fetched, decoded and cached is spans.
type Span struct {
	// Index numbers the spans of a blob from 0, in the order of the plain space.
	Index int
	// Plain is what the span decodes to. The spans of a blob cover its plain space without gaps.
	Plain Range
	// Stored is what has to be read for it. It may be empty (a span of zeros), and may overlap others: neither its beginning nor its
	// end lies before those of the span before.
	Stored Range
}

// Layout is the chunk table of one stored object. It does no I/O. Decode and Verify are pure functions;
// all methods may be called concurrently.
type Layout interface {
	// Size returns the size of the plain space in bytes.
	Size() int64
	// NumSpans returns the number of spans.
	NumSpans() int
	// Span returns the span with index i, 0 <= i < NumSpans().
	Span(i int) Span
	// SpanAt returns the index of the span that holds the plain offset, 0 <= off < Size().
	SpanAt(off int64) int
	// Decode decodes the stored bytes of s (len(stored) == s.Stored.Len) into plain
	// (len(plain) == s.Plain.Len), all of which it sets. Bytes that do not decode give an error that
	// wraps [ErrCorrupt]. What it sets is not verified.
	Decode(plain, stored []byte, s Span) error
	// Verify checks decoded bytes against the digests of the span. It returns an error that wraps
	// [ErrDigest] where they differ, and [ErrUnverified] where the format has no digest for the span.
	Verify(plain []byte, s Span) error
}

// SpansDecoder is the optional ability of a [Layout] whose spans may begin at the same stored byte, each reaching further than the
// one before, to decode several of them at the cost of the longest.
type SpansDecoder interface {
	// DecodeSpans does what Decode does for every one of spans. Their stored ranges begin where stored does, and lie in it.
	DecodeSpans(plain [][]byte, stored []byte, spans []Span) error
}

// Chunk is the unit of storing and verifying in a blob, for those who list them.
type Chunk struct {
	Index      int    // in the blob
	Plain      Range  // without padding
	Stored     Range  // of the span that holds it
	Compressed bool   // stored in compressed form
	Digest     []byte // of the plain bytes; nil where there is none
}

// Chunker is the optional ability of a [Layout] to list its chunks.
type Chunker interface {
	// Chunks calls fn for each chunk in the order of the plain space until it returns false.
	Chunks(fn func(Chunk) bool)
}

// Class says how urgent a read is. Demand reads always come first.
type Class uint8

const (
	// Demand is a read that somebody waits for.
	Demand Class = iota
	// Prefetch is a read of what will probably be needed soon.
	Prefetch
	// Background is a read that completes a blob when there is nothing else to do.
	Background
)

// String returns the class's name as it is used in metrics.
func (c Class) String() string {
	switch c {
	case Demand:
		return "demand"
	case Prefetch:
		return "prefetch"
	case Background:
		return "background"
	}
	return fmt.Sprintf("class %d", uint8(c))
}

// Source is a stored object of known size: a registry blob, a file. Its bytes are not verified.
type Source interface {
	// ReadRange fills p with the bytes at off. A range that reaches beyond the object, or an object
	// that turns out to be shorter, gives an error that wraps io.ErrUnexpectedEOF. It may be called concurrently.
	ReadRange(ctx context.Context, p []byte, off int64, class Class) error
	// Size returns the size of the stored object in bytes.
	Size() int64
}

// Errors of decoding and verifying.
var (
	// ErrCorrupt: stored bytes or metadata are not what the format allows.
	ErrCorrupt = errors.New("damaged data")
	// ErrDigest: bytes differ from their digest.
	ErrDigest = errors.New("digest mismatch")
	// ErrUnverified: the format has no digest for these bytes.
	ErrUnverified = errors.New("no digest to verify")
	// ErrUnsupported: a valid object that this version cannot read; the error names the feature.
	ErrUnsupported = errors.New("unsupported")
)

// CheckRange returns an error unless 0 <= off, 0 <= n and off+n <= size, all without overflow.
func CheckRange(off, n, size int64) error {
	if off < 0 || n < 0 || off > size || n > size-off {
		return fmt.Errorf("range of %d bytes at %d outside of %d bytes: %w", n, off, size, ErrCorrupt)
	}
	return nil
}
