package lsmt

import (
	"fmt"
	"iter"

	"github.com/lazuli-project/lazuli/blob"
)

// maxStack bounds the segments of all layers of a stack together, which is 384 MiB in memory.
const maxStack = 16 << 20

// Piece says where a part of the disk lies. All numbers are in bytes.
type Piece struct {
	Offset, Length int64 // on the disk
	Layer          int   // from 0 at the bottom; -1 for zeros
	Source         int64 // of the first byte, in the layer or, with TagRemote, in what it refers to; 0 for zeros
	Tag            uint8 // TagData or TagRemote
}

// Index is what the layers of a stack say together: for each sector, what the highest layer says that has it. It is not changed,
// and is for concurrent use. It keeps 18 bytes for a segment.
type Index struct {
	size    int64
	starts  search
	sources []uint64
}

// A merged segment is two u64: in starts, offset in 50 bits over length in 14, so that they sort; in sources, as in a layer, but
// with the layer's number in place of the tag, and the tag in the highest bit of the source.
const (
	lengthBits = 64 - offsetBits
	lengthMask = 1<<lengthBits - 1
	remoteBit  = 1 << (sourceBits - 1)
	zeroBit    = 1 << sourceBits
	layerShift = 56
)

// run is a list of merged segments.
type run struct{ starts, sources []uint64 }

func (r *run) append(offset, length int64, source uint64) {
	r.starts = append(r.starts, uint64(offset)<<lengthBits|uint64(length))
	r.sources = append(r.sources, source)
}

func (r *run) at(i int) (offset, length int64, source uint64) {
	return int64(r.starts[i] >> lengthBits), int64(r.starts[i] & lengthMask), r.sources[i]
}

// NewIndex puts layers together, the lowest first. The disk has the size that the highest layer says which says one. It takes
// time in proportion to the segments times the logarithm of the layers.
func NewIndex(layers []*Layer) (*Index, error) {
	if len(layers) == 0 || len(layers) > MaxLayers {
		return nil, fmt.Errorf("stack of %d layers, 1 to %d are possible: %w", len(layers), MaxLayers, blob.ErrUnsupported)
	}
	total, x := 0, &Index{}
	for _, l := range layers {
		total += l.Len()
		if l.VirtualSize != 0 {
			x.size = l.VirtualSize
		}
	}
	if total > maxStack {
		return nil, fmt.Errorf("stack with %d segments, the limit is %d: %w", total, maxStack, blob.ErrUnsupported)
	}
	merged := stack(layers, 0)
	x.starts, x.sources = newSearch(merged.starts), merged.sources
	return x, nil
}

// stack merges layers whose lowest has a number.
func stack(layers []*Layer, number int) run {
	if len(layers) == 1 {
		l := layers[0]
		r := run{make([]uint64, 0, l.Len()), make([]uint64, 0, l.Len())}
		for _, e := range l.entries {
			s := segmentOf(e.a, e.b)
			source := uint64(s.Source) | uint64(number)<<layerShift
			switch {
			case s.Zero:
				source = zeroBit | uint64(number)<<layerShift
			case s.Tag == TagRemote:
				source |= remoteBit
			}
			r.append(s.Offset, s.Length, source)
		}
		return r
	}
	half := len(layers) / 2
	return overlay(stack(layers[half:], number+half), stack(layers[:half], number))
}

// overlay returns upper, with what lower has in between.
func overlay(upper, lower run) run {
	if len(upper.starts) == 0 {
		return lower
	}
	n := len(upper.starts) + len(lower.starts)
	out := run{make([]uint64, 0, n), make([]uint64, 0, n)}
	i, from := 0, int64(0) // up to from, everything is in out; upper from i on is not
	for j := range lower.starts {
		offset, length, source := lower.at(j)
		for end := offset + length; ; {
			from = max(from, offset)
			next, size := end, int64(0)
			if i < len(upper.starts) {
				next, size, _ = upper.at(i)
			}
			if stop := min(next, end); from < stop {
				at := source
				if at&zeroBit == 0 {
					at += uint64(from - offset)
				}
				out.append(from, stop-from, at)
				from = stop
			}
			if i == len(upper.starts) || next >= end {
				break
			}
			out.append(next, size, upper.sources[i])
			from = next + size
			i++
		}
	}
	out.starts = append(out.starts, upper.starts[i:]...)
	out.sources = append(out.sources, upper.sources[i:]...)
	return out
}

// Size returns the size of the disk in bytes.
func (x *Index) Size() int64 { return x.size }

// Len returns the number of segments.
func (x *Index) Len() int { return len(x.sources) }

// Segments gives the merged segments in the order of the disk, with the number of the layer. What it leaves out is in no layer.
func (x *Index) Segments() iter.Seq2[int, Segment] {
	return func(yield func(int, Segment) bool) {
		for i := range x.sources {
			layer, s := x.at(i)
			if !yield(layer, s) {
				return
			}
		}
	}
}

func (x *Index) at(i int) (int, Segment) {
	key, w := x.starts.key(i), x.sources[i]
	s := Segment{
		Offset: int64(key >> lengthBits), Length: int64(key & lengthMask),
		Source: int64(w & (remoteBit - 1)), Zero: w&zeroBit != 0,
	}
	if w&remoteBit != 0 {
		s.Tag = TagRemote
	}
	return int(w >> layerShift), s
}

// find returns the place of the last segment that begins at or before a sector, or 0.
func (x *Index) find(sector int64) int {
	return x.starts.last(uint64(sector)<<lengthBits | lengthMask)
}

// Lookup calls fn with the pieces of n bytes at off, in order and without gaps, until it returns false. Segments that go on in
// the same place are one piece. What lies outside of the disk is zeros.
func (x *Index) Lookup(off, n int64, fn func(Piece) bool) {
	if n <= 0 || off < 0 || off >= maxSize {
		return
	}
	end := off + min(n, maxSize-off)
	i := x.find(off / SectorSize)
	open := Piece{Offset: off, Layer: -1}
	for off < end {
		p := Piece{Offset: off, Length: end - off, Layer: -1}
		for ; i < len(x.sources); i++ {
			layer, s := x.at(i)
			from, to := s.Offset*SectorSize, s.End()*SectorSize
			if to <= off {
				continue
			}
			if from > off {
				p.Length = min(from, end) - off
				break
			}
			p.Length = min(to, end) - off
			if !s.Zero {
				p.Layer, p.Source, p.Tag = layer, s.Source*SectorSize+off-from, s.Tag
			}
			break
		}
		off += p.Length
		switch {
		case p.Layer == open.Layer && (p.Layer < 0 || p.Tag == open.Tag && p.Source == open.Source+open.Length):
			open.Length += p.Length
		case open.Length > 0:
			if !fn(open) {
				return
			}
			fallthrough
		default:
			open = p
		}
	}
	fn(open)
}
