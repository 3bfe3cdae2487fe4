package lsmt

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"

	"github.com/lazuli-project/lazuli/blob"
)

// Limits of readers.
const (
	// MaxEntries bounds the entries of a layer's index, with padding.
	MaxEntries = 1_000_000
	// MaxLayers bounds the layers of a stack.
	MaxLayers = 255
)

// tailRead is what is read at the end of a layer at once: the trailer, and what of the index comes with it.
const tailRead = 64 << 10

// Layer is a layer's index. It is not changed, and is for concurrent use. It keeps 16 bytes for a segment.
type Layer struct {
	Info
	// Remote says that there are segments with TagRemote.
	Remote bool
	// DataEnd is where the data ends in the layer and the index begins, in bytes.
	DataEnd int64

	entries []entry
}

// entry is a segment as it is stored.
type entry struct{ a, b uint64 }

// Len returns the number of segments.
func (l *Layer) Len() int { return len(l.entries) }

// At returns segment i, 0 <= i < Len().
func (l *Layer) At(i int) Segment { return segmentOf(l.entries[i].a, l.entries[i].b) }

// Segments gives the segments in the order of the disk. None overlap.
func (l *Layer) Segments() iter.Seq[Segment] {
	return func(yield func(Segment) bool) {
		for _, e := range l.entries {
			if !yield(segmentOf(e.a, e.b)) {
				return
			}
		}
	}
}

// Parse reads the index of a committed or sealed layer of size bytes. It reads the first 4096 bytes, the last 64 KiB, and what of
// the index is not in these. What the format does not allow gives an error that wraps blob.ErrCorrupt, also where
// overlaybd's readers would refuse the layer.
func Parse(r io.ReaderAt, size int64) (*Layer, error) {
	if size < 2*HeaderSize {
		return nil, fmt.Errorf("layer of %d bytes: %w", size, blob.ErrCorrupt)
	}
	head := make([]byte, HeaderSize)
	if err := readFull(r, head, 0); err != nil {
		return nil, fmt.Errorf("header of layer: %w", err)
	}
	if _, err := parseSlot(head, flagHeader|flagData, flagHeader|flagData); err != nil {
		return nil, fmt.Errorf("header of layer: %w", err)
	}
	tail := make([]byte, min(size, tailRead))
	if err := readFull(r, tail, size-int64(len(tail))); err != nil {
		return nil, fmt.Errorf("trailer of layer: %w", err)
	}
	t, err := parseSlot(tail[len(tail)-HeaderSize:], flagHeader|flagData|flagSealed, flagData|flagSealed)
	if err != nil {
		return nil, fmt.Errorf("trailer of layer: %w", err)
	}
	end := size - HeaderSize
	if t.indexSize > MaxEntries || t.indexOffset < HeaderSize || t.indexOffset > uint64(end) || t.indexOffset%SectorSize != 0 ||
		int64(t.indexSize)*entrySize > end-int64(t.indexOffset) {
		return nil, fmt.Errorf("index of %d entries at %d, before the trailer at %d: %w", t.indexSize, t.indexOffset, end, blob.ErrCorrupt)
	}
	l := &Layer{Info: t.Info, DataEnd: int64(t.indexOffset)}
	if err := l.readIndex(r, int(t.indexSize), tail, size-int64(len(tail))); err != nil {
		return nil, fmt.Errorf("index of layer: %w", err)
	}
	if err := l.check(); err != nil {
		return nil, err
	}
	return l, nil
}

// readIndex reads n entries. tail is what lies at tailAt up to the layer's end.
func (l *Layer) readIndex(r io.ReaderAt, n int, tail []byte, tailAt int64) error {
	const step = 1 << 20 / entrySize
	l.entries = make([]entry, 0, min(n, step))
	var buf []byte
	for at := l.DataEnd; n > 0; {
		m := min(n, step)
		if at >= tailAt {
			m = n
			buf = tail[at-tailAt:]
		} else {
			if buf == nil {
				buf = make([]byte, m*entrySize)
			}
			if err := readFull(r, buf[:m*entrySize], at); err != nil {
				return err
			}
		}
		p := buf[:m*entrySize]
		for i := range m {
			e := entry{binary.LittleEndian.Uint64(p[i*entrySize:]), binary.LittleEndian.Uint64(p[i*entrySize+8:])}
			if e.a&offsetMask != offsetMask { // padding
				l.entries = append(l.entries, e)
			}
		}
		n -= m
		at += int64(m * entrySize)
	}
	return nil
}

// check checks the segments, and brings the tags of layers of turboOCI to those of this package: their numbers count from the
// smallest one. More than two different tags are of a native layer, see [Layer.Native].
func (l *Layer) check() error {
	smallest, largest := uint64(1<<8-1), uint64(0)
	for _, e := range l.entries {
		smallest, largest = min(smallest, e.b>>56), max(largest, e.b>>56)
	}
	for i := range l.entries {
		if l.entries[i].b -= smallest << 56; largest > smallest+TagRemote {
			l.entries[i].b &= 1<<56 - 1
		}
		if l.entries[i].b>>56 != TagData {
			l.Remote = true
		}
	}
	return l.checkSegments()
}

// Native returns the layer as those read it who know that it refers to nothing: tags do not count then. In layers that
// overlaybd-merge made, they are the numbers of the layers that segments come from.
func (l *Layer) Native() (*Layer, error) {
	if !l.Remote {
		return l, nil
	}
	n := &Layer{Info: l.Info, DataEnd: l.DataEnd, entries: slices.Clone(l.entries)}
	for i := range n.entries {
		n.entries[i].b &= 1<<56 - 1
	}
	return n, n.checkSegments()
}

func (l *Layer) checkSegments() error {
	last := int64(0)
	for i := range l.entries {
		s := l.At(i)
		if s.Offset < last {
			return fmt.Errorf("index of layer: segment at %d after one up to %d: %w", s.Offset, last, blob.ErrCorrupt)
		}
		if err := s.check(l.DataEnd/SectorSize, !l.Remote); err != nil {
			return fmt.Errorf("index of layer: entry %d: %w", i, err)
		}
		last = s.End()
	}
	return nil
}

// readFull fills p, where the end of what is read is damage.
func readFull(r io.ReaderAt, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("%d bytes at %d: %w", len(p), off, err)
}
