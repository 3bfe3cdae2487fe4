package gzindex

import (
	"errors"
	"fmt"
	"sort"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/flate"
)

// Layout maps the plain bytes of a gzip stream. A span goes from an access point to the next one. It keeps the windows as they
// are stored, and 40 bytes for an access point.
type Layout struct {
	stored, plain int64
	compressed    bool
	windows       []byte // from headerSize on
	points        []point
	resumer       *flate.Resumer
}

var _ blob.Layout = (*Layout)(nil)

// Parse decodes an index, of which it keeps the bytes. Windows are not decoded. What does not hold together gives an error that wraps
// blob.ErrCorrupt, what is too large for spans one that wraps blob.ErrUnsupported.
func Parse(p []byte) (*Layout, error) {
	h, err := parseHeader(p)
	if err != nil {
		return nil, fmt.Errorf("gzip index: %w", err)
	}
	raw, want := p[h.start:], int64(h.points)*pointSize
	if h.compressed {
		if raw, err = inflate(raw, want); err != nil {
			return nil, fmt.Errorf("gzip index: access points: %w", err)
		}
	}
	if int64(len(raw)) != want {
		return nil, fmt.Errorf("gzip index: %d access points in %d bytes: %w", h.points, len(raw), blob.ErrCorrupt)
	}
	l := &Layout{
		stored: int64(h.gzipSize), plain: int64(h.plain), compressed: h.compressed, windows: p[headerSize:h.start],
		points: make([]point, 0, h.points), resumer: flate.NewResumer(),
	}
	for i := range int(h.points) {
		x, err := parsePoint(raw[i*pointSize:], h)
		if err == nil {
			err = l.add(x)
		}
		if err != nil {
			return nil, fmt.Errorf("gzip index: access point %d: %w", i, err)
		}
	}
	// There is no span of nothing.
	for n := len(l.points); n > 0 && l.points[n-1].plain == l.plain; n-- {
		l.points = l.points[:n-1]
	}
	for i := range l.points {
		if s := l.Span(i); s.Plain.Len > MaxSpan || s.Stored.Len > MaxSpan {
			return nil, fmt.Errorf("gzip index: %d bytes stored as %d between access points: %w", s.Plain.Len, s.Stored.Len, blob.ErrUnsupported)
		}
	}
	return l, nil
}

// add adds an access point. Of those at the same plain byte, the last one counts.
func (l *Layout) add(x point) error {
	n := len(l.points)
	if n == 0 {
		if x.plain != 0 {
			return fmt.Errorf("the first at %d: %w", x.plain, blob.ErrCorrupt)
		}
	} else if last := l.points[n-1]; x.plain < last.plain || x.stored < last.stored || x.begin() < last.begin() {
		return fmt.Errorf("at %d and %d, after %d and %d: %w", x.plain, x.stored, last.plain, last.stored, blob.ErrCorrupt)
	} else if x.plain == last.plain {
		l.points = l.points[:n-1]
	}
	l.points = append(l.points, x)
	return nil
}

// begin is the first stored byte that is needed.
func (x *point) begin() int64 {
	if x.bits > 0 {
		return x.stored - 1
	}
	return x.stored
}

// StoredSize returns the size of the gzip stream that the index is of.
func (l *Layout) StoredSize() int64 { return l.stored }

// Size implements [blob.Layout].
func (l *Layout) Size() int64 { return l.plain }

// NumSpans implements [blob.Layout].
func (l *Layout) NumSpans() int { return len(l.points) }

// Span implements [blob.Layout].
func (l *Layout) Span(i int) blob.Span {
	x, plain, stored := &l.points[i], l.plain, l.stored
	if i+1 < len(l.points) {
		plain, stored = l.points[i+1].plain, l.points[i+1].stored
	}
	return blob.Span{
		Index: i, Plain: blob.Range{Off: x.plain, Len: plain - x.plain}, Stored: blob.Range{Off: x.begin(), Len: stored - x.begin()},
	}
}

// SpanAt implements [blob.Layout].
func (l *Layout) SpanAt(off int64) int {
	return sort.Search(len(l.points), func(i int) bool { return l.points[i].plain > off }) - 1
}

// Decode implements [blob.Layout]. Where the first gzip member ends before the span does, it goes on with the next one.
func (l *Layout) Decode(plain, stored []byte, s blob.Span) error {
	return l.decode(s.Index, plain, stored)
}

// decode decodes what comes behind an access point. stored is from the first byte that it needs on.
func (l *Layout) decode(i int, plain, stored []byte) error {
	x := &l.points[i]
	from := flate.Start{Bits: x.bits}
	if x.bits > 0 {
		if len(stored) == 0 {
			return fmt.Errorf("access point %d: no stored bytes: %w", i, blob.ErrCorrupt)
		}
		from.Byte, stored = stored[0], stored[1:]
	}
	var err error
	if from.Window, err = l.window(x); err != nil {
		return fmt.Errorf("access point %d: window: %w", i, err)
	}
	if err := l.resumer.Decode(plain, stored, from); err != nil {
		return fmt.Errorf("access point %d: %w", i, err)
	}
	return nil
}

func (l *Layout) window(x *point) ([]byte, error) {
	p := l.windows[x.window-headerSize:][:x.windowLen]
	if !l.compressed {
		return p, nil
	}
	return inflate(p, windowSize)
}

// Verify implements [blob.Layout]: the format has no digests.
func (l *Layout) Verify(_ []byte, s blob.Span) error {
	return fmt.Errorf("span %d of a gzip stream: %w", s.Index, blob.ErrUnverified)
}

// Plain maps a layer that is not compressed.
type Plain struct{ size int64 }

var _ blob.Layout = Plain{}

// plainSpan is the size of a span of Plain.
const plainSpan = 128 << 10

// NewPlain returns the layout of a layer of size bytes.
func NewPlain(size int64) Plain { return Plain{size} }

// Size implements [blob.Layout].
func (l Plain) Size() int64 { return l.size }

// NumSpans implements [blob.Layout].
func (l Plain) NumSpans() int { return int((l.size + plainSpan - 1) / plainSpan) }

// Span implements [blob.Layout].
func (l Plain) Span(i int) blob.Span {
	r := blob.Range{Off: int64(i) * plainSpan}
	r.Len = min(plainSpan, l.size-r.Off)
	return blob.Span{Index: i, Plain: r, Stored: r}
}

// SpanAt implements [blob.Layout].
func (l Plain) SpanAt(off int64) int { return int(off / plainSpan) }

var errLength = errors.New("other length than stored")

// Decode implements [blob.Layout].
func (l Plain) Decode(plain, stored []byte, s blob.Span) error {
	if len(plain) != len(stored) {
		return fmt.Errorf("span %d: %w: %w", s.Index, blob.ErrCorrupt, errLength)
	}
	copy(plain, stored)
	return nil
}

// Verify implements [blob.Layout]: there are no digests.
func (l Plain) Verify(_ []byte, s blob.Span) error {
	return fmt.Errorf("span %d of a layer: %w", s.Index, blob.ErrUnverified)
}
