package lsmt

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/lazuli-project/lazuli/blob"
)

// Tags of segments.
const (
	TagData   = 0 // the segment lies in the layer
	TagRemote = 1 // in the object that a layer of turboOCI refers to
)

// Segment says where sectors of the disk lie. All numbers are in sectors of 512 bytes.
type Segment struct {
	Offset, Length int64 // on the disk
	Source         int64 // of the first sector, in the layer or, with TagRemote, in what it refers to
	Zero           bool  // reads as zeros and hides the layers below
	Tag            uint8 // TagData or TagRemote
}

// End returns the sector behind the segment.
func (s Segment) End() int64 { return s.Offset + s.Length }

// A segment as stored, two u64:
//
//	bits 0..49 offset, 50..63 length | bits 0..54 source, 55 zero, 56..63 tag
const (
	entrySize  = 16
	offsetBits = 50
	sourceBits = 55
	// MaxLength is the greatest length of a segment in a layer, in sectors.
	MaxLength     = 1<<14 - 1
	offsetMask    = 1<<offsetBits - 1
	sourceMask    = 1<<sourceBits - 1
	paddedEntries = 256
	// splitLength is how long the pieces of longer segments are: whole blocks of 4 KiB.
	splitLength = MaxLength &^ 7
	// maxSource is behind every source: as bytes, it is an int64.
	maxSource = 1 << 54
)

func (s Segment) words() (uint64, uint64) {
	w := uint64(s.Source)&sourceMask | uint64(s.Tag)<<56
	if s.Zero {
		w |= 1 << sourceBits
	}
	return uint64(s.Offset)&offsetMask | uint64(s.Length)<<offsetBits, w
}

func (s Segment) appendTo(dst []byte) []byte {
	a, b := s.words()
	return binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(dst, a), b)
}

// appendPadding appends an entry that readers pass over.
func appendPadding(dst []byte) []byte {
	return binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(dst, offsetMask), 0)
}

func segmentOf(a, b uint64) Segment {
	return Segment{
		Offset: int64(a & offsetMask), Length: int64(a >> offsetBits),
		Source: int64(b & sourceMask), Zero: b>>sourceBits&1 != 0, Tag: uint8(b >> 56),
	}
}

// Normalize brings segments into the form that layers have: sorted, neighbours that go on where the other ends joined, and
// none longer than [MaxLength]. Segments that are empty go away; that overlap, or reach outside of what can be written, are an error. It
// works in segs as far as that has room.
func Normalize(segs []Segment) ([]Segment, error) {
	slices.SortFunc(segs, func(a, b Segment) int { return cmp.Compare(a.Offset, b.Offset) })
	joined, pieces := segs[:0], 0
	for _, s := range segs {
		if s.Offset < 0 || s.Length < 0 || s.Source < 0 || s.Offset > maxSize/SectorSize-s.Length || s.Source > maxSource-s.Length {
			return nil, fmt.Errorf("segment of %d sectors at %d, from %d: out of range", s.Length, s.Offset, s.Source)
		}
		if s.Length == 0 {
			continue
		}
		if s.Zero {
			s.Tag = TagData
		}
		if n := len(joined); n > 0 {
			last := &joined[n-1]
			if s.Offset < last.End() {
				return nil, fmt.Errorf("segment of %d sectors at %d overlaps the one of %d at %d", s.Length, s.Offset, last.Length, last.Offset)
			}
			if s.Offset == last.End() && s.Zero == last.Zero && s.Tag == last.Tag && (s.Zero || s.Source == last.Source+last.Length) {
				last.Length += s.Length
				continue
			}
			pieces += piecesOf(last.Length)
		}
		joined = append(joined, s)
	}
	if n := len(joined); n > 0 {
		pieces += piecesOf(joined[n-1].Length)
	}
	if pieces == len(joined) {
		return joined, nil
	}
	out := make([]Segment, 0, pieces)
	for _, s := range joined {
		for s.Length > MaxLength {
			piece := s
			piece.Length = splitLength
			out = append(out, piece)
			s.Offset, s.Length = s.Offset+splitLength, s.Length-splitLength
			if !s.Zero {
				s.Source += splitLength
			}
		}
		out = append(out, s)
	}
	return out, nil
}

func piecesOf(length int64) int {
	if length <= MaxLength {
		return 1
	}
	return int((length-MaxLength+splitLength-1)/splitLength) + 1
}

// check reports what is wrong with a segment of a layer whose data ends at a sector.
func (s Segment) check(data int64, native bool) error {
	switch {
	case s.Length == 0:
		return fmt.Errorf("segment without sectors at %d: %w", s.Offset, blob.ErrCorrupt)
	case s.Tag > TagRemote:
		return fmt.Errorf("segment with tag %d: %w", s.Tag, blob.ErrUnsupported)
	case s.Zero && !native:
	case s.Zero && (s.Source < firstSector || s.Source > data),
		!s.Zero && s.Tag == TagData && (s.Source < firstSector || s.Length > data-s.Source),
		s.Source > maxSource-s.Length:
		return fmt.Errorf("segment of %d sectors from %d, data ends at %d: %w", s.Length, s.Source, data, blob.ErrCorrupt)
	}
	return nil
}

// Check reports what keeps segments from being the index of a layer whose data ends at indexOffset: [Normalize] has not been
// called, sources are outside of the data, there are too many, or only such with TagRemote, which readers would take for data.
func Check(segs []Segment, indexOffset int64) error {
	if len(segs) > MaxEntries {
		return fmt.Errorf("layer with %d segments, readers take %d: %w", len(segs), MaxEntries, blob.ErrUnsupported)
	}
	if indexOffset < HeaderSize || indexOffset%SectorSize != 0 {
		return fmt.Errorf("index at %d: not behind whole sectors", indexOffset)
	}
	last, remote := int64(0), 0
	for _, s := range segs {
		if s.Offset < last || s.Length > MaxLength {
			return fmt.Errorf("segment of %d sectors at %d, after one up to %d", s.Length, s.Offset, last)
		}
		if err := s.check(indexOffset/SectorSize, false); err != nil {
			return err
		}
		if s.Tag == TagRemote {
			remote++
		}
		last = s.End()
	}
	if remote > 0 && remote == len(segs) {
		return fmt.Errorf("layer with %d segments that lie elsewhere, and none of its own: %w", remote, blob.ErrUnsupported)
	}
	return nil
}
