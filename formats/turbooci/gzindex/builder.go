package gzindex

import (
	"errors"
	"fmt"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/flate"
)

// Builder makes the index of a gzip stream while that is inflated. It is for the goroutine of the stream. Memory: what is stored
// of the windows, and 36 KB for each access point of the last 32 KiB of the stream.
type Builder struct {
	// FullWindows says that windows are stored as they are. Else those bytes are zeros that nothing refers to, which takes
	// a fraction of the room. It is set before the first Advance.
	FullWindows bool

	stream  *flate.Reader
	packer  packer
	next    int64 // multiple of Span for which there is no access point yet
	taken   int64 // end of the last piece that has been looked at; -1 for none
	last    *flate.Checkpoint
	lastFor int64               // the first multiple of Span that last is for
	bound   int64               // plain offset of the last block boundary before the end
	pending []*flate.Checkpoint // whose windows are not in windows yet
	points  []point
	windows []byte // behind the header
}

// NewBuilder returns a builder for a stream with [flate.TraceIndex] that has not been read yet.
func NewBuilder(stream *flate.Reader) *Builder { return &Builder{stream: stream, taken: -1} }

// Advance looks at what the stream returned last. It may be called any number of times for it; of what is passed over,
// access points are lost.
//
// For each multiple of [Span] that lies before the last block boundary, the index has the last boundary at or before it, as those that
// the reference makes. The end of the last block is no boundary.
func (b *Builder) Advance() error {
	from, to := b.stream.Piece()
	if to == b.taken {
		return nil
	}
	if b.taken < 0 && from > 0 {
		return fmt.Errorf("index of a stream from %d on: not from its beginning", from)
	}
	b.taken = to
	for ; b.next <= to; b.next += Span {
		c := b.stream.CheckpointAt(max(b.next, from))
		if c == nil {
			return fmt.Errorf("index of a stream without trace: %w", blob.ErrUnsupported)
		}
		if c != b.last && !c.Final {
			b.last, b.lastFor = c, b.next
			b.pending = append(b.pending, c)
		}
	}
	if b.last != nil && b.last.Member > 0 {
		return errMembers()
	}
	_, b.bound = b.stream.BoundaryAt(max(from, to-1))
	return b.settle(false)
}

func errMembers() error {
	return fmt.Errorf("gzip stream of several members, of which readers see the first only: %w", blob.ErrUnsupported)
}

// settle stores the windows of which all is known that refers to them, or all.
func (b *Builder) settle(all bool) error {
	for len(b.pending) > 0 && (all || b.FullWindows || b.pending[0].Complete()) {
		c := b.pending[0]
		b.pending = b.pending[1:]
		part := c.Window()
		if !b.FullWindows {
			part = c.Sparse()
		}
		window := make([]byte, windowSize)
		copy(window[windowSize-len(part):], part)
		stored, err := b.packer.compress(window)
		if err != nil {
			return err
		}
		b.points = append(b.points, point{
			plain: c.Plain, stored: c.Stored, bits: c.Bits, window: headerSize + int64(len(b.windows)), windowLen: uint32(len(stored)),
		})
		b.windows = append(b.windows, stored...)
	}
	return nil
}

// Finish returns the index once the stream has returned io.EOF. size is that of the gzip stream with what is behind its members. What
// readers cannot read gives an error that wraps blob.ErrUnsupported: several members, and blocks of more than 64 MiB.
func (b *Builder) Finish(size int64) ([]byte, error) {
	members, ok := b.stream.Ended()
	if !ok {
		return nil, errors.New("index of a stream that has not been read to its end")
	}
	if members != 1 {
		return nil, errMembers()
	}
	if err := b.Advance(); err != nil {
		return nil, err
	}
	if err := b.settle(true); err != nil {
		return nil, err
	}
	_, plain := b.stream.Piece()
	if c := b.stream.CheckpointAt(plain); c != nil && !c.Final {
		b.bound = c.Plain
	}
	if n := len(b.points) - 1; n > 0 && b.bound <= b.lastFor && b.points[n].plain < b.lastFor {
		b.windows = b.windows[:b.points[n].window-headerSize]
		b.points = b.points[:n]
	}
	h := header{compressed: true, span: Span, points: uint64(len(b.points)), gzipSize: uint64(size), plain: uint64(plain)}
	raw, err := encode(&h, b.windows, b.points)
	if err != nil {
		return nil, err
	}
	if _, err := Parse(raw); err != nil {
		return nil, fmt.Errorf("index of the stream: %w", err)
	}
	return raw, nil
}

// encode makes the file of an index. It fills in the header.
func encode(h *header, windows []byte, points []point) ([]byte, error) {
	raw := make([]byte, 0, len(points)*pointSize)
	for i := range points {
		raw = points[i].appendTo(raw)
	}
	if h.compressed {
		var err error
		if raw, err = new(packer).compress(raw); err != nil {
			return nil, err
		}
	}
	h.start, h.length = uint64(headerSize+len(windows)), uint64(len(raw))
	h.size = h.start + h.length
	out := h.appendTo(make([]byte, 0, h.size))
	return append(append(out, windows...), raw...), nil
}
