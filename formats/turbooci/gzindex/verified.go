package gzindex

import (
	"fmt"
	"sync"

	"github.com/lazuli-project/lazuli/blob"
)

// verifiedGzip maps a gzip stream in pieces that have digests. A piece is decoded from the access point before it on; so pieces begin at the
// same stored byte where they have the same access point, and only what is stored up to a piece's end is read for it.
type verifiedGzip struct {
	*pieces
	index  *Layout
	points []uint32 // of the pieces, by number
	bufs   sync.Pool
}

var (
	_ blob.Layout       = (*verifiedGzip)(nil)
	_ blob.SpansDecoder = (*verifiedGzip)(nil)
	_ blob.Layout       = verifiedPlain{}
)

// WithPieces returns the layout of a layer with what a [PieceBuilder] noted of it: its spans are the pieces, and they are verified.
func (l *Layout) WithPieces(table []byte) (blob.Layout, error) {
	t, err := parsePieces(table)
	if err != nil {
		return nil, err
	}
	if t.plain != l.plain || t.stored != l.stored || t.stored == 0 {
		return nil, fmt.Errorf("table of pieces: of %d bytes stored as %d, the index is of %d and %d: %w", t.plain, t.stored, l.plain, l.stored, blob.ErrCorrupt)
	}
	v := &verifiedGzip{pieces: t, index: l, points: make([]uint32, t.number())}
	for i := range v.points {
		k := l.SpanAt(t.span(i).Off)
		v.points[i] = uint32(k)
		if x := &l.points[k]; t.ends[i] <= x.begin() || t.span(i).End()-x.plain > 2*MaxSpan || t.ends[i]-x.begin() > 2*MaxSpan {
			return nil, fmt.Errorf("table of pieces: piece %d ends at stored byte %d: %w", i, t.ends[i], blob.ErrCorrupt)
		}
	}
	return v, nil
}

// Size implements [blob.Layout].
func (v *verifiedGzip) Size() int64 { return v.plain }

// NumSpans implements [blob.Layout].
func (v *verifiedGzip) NumSpans() int { return len(v.points) }

// SpanAt implements [blob.Layout].
func (v *verifiedGzip) SpanAt(off int64) int { return int(off / v.size) }

// Span implements [blob.Layout].
func (v *verifiedGzip) Span(i int) blob.Span {
	from := v.index.points[v.points[i]].begin()
	return blob.Span{Index: i, Plain: v.span(i), Stored: blob.Range{Off: from, Len: v.ends[i] - from}}
}

// Decode implements [blob.Layout].
func (v *verifiedGzip) Decode(plain, stored []byte, s blob.Span) error {
	return v.DecodeSpans([][]byte{plain}, stored, []blob.Span{s})
}

// DecodeSpans implements [blob.SpansDecoder]. Spans that begin at the same stored byte have the same access point.
func (v *verifiedGzip) DecodeSpans(plain [][]byte, stored []byte, spans []blob.Span) error {
	last := spans[len(spans)-1]
	k := int(v.points[last.Index])
	from := v.index.points[k].plain
	size := last.Plain.End() - from
	buf, _ := v.bufs.Get().(*[]byte)
	if buf == nil || int64(cap(*buf)) < size {
		p := make([]byte, size)
		buf = &p
	}
	defer v.bufs.Put(buf)
	p := (*buf)[:size]
	if err := v.index.decode(k, p, stored); err != nil {
		return err
	}
	for i, s := range spans {
		copy(plain[i], p[s.Plain.Off-from:])
	}
	return nil
}

// Verify implements [blob.Layout].
func (v *verifiedGzip) Verify(plain []byte, s blob.Span) error { return v.verify(plain, s.Index) }

// verifiedPlain maps a layer that is not compressed, in pieces that have digests.
type verifiedPlain struct{ *pieces }

// PlainWithPieces returns the layout of a layer that is not compressed with what a [PieceBuilder] noted of it.
func PlainWithPieces(table []byte) (blob.Layout, error) {
	t, err := parsePieces(table)
	if err != nil {
		return nil, err
	}
	if t.stored != 0 {
		return nil, fmt.Errorf("table of pieces of a compressed layer: %w", blob.ErrCorrupt)
	}
	return verifiedPlain{t}, nil
}

// Size implements [blob.Layout].
func (v verifiedPlain) Size() int64 { return v.plain }

// NumSpans implements [blob.Layout].
func (v verifiedPlain) NumSpans() int { return v.number() }

// SpanAt implements [blob.Layout].
func (v verifiedPlain) SpanAt(off int64) int { return int(off / v.size) }

// Span implements [blob.Layout].
func (v verifiedPlain) Span(i int) blob.Span {
	return blob.Span{Index: i, Plain: v.span(i), Stored: v.span(i)}
}

// Decode implements [blob.Layout].
func (v verifiedPlain) Decode(plain, stored []byte, s blob.Span) error {
	return Plain{}.Decode(plain, stored, s)
}

// Verify implements [blob.Layout].
func (v verifiedPlain) Verify(plain []byte, s blob.Span) error { return v.verify(plain, s.Index) }
