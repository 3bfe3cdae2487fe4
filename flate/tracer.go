package flate

import "sort"

// record is a match as the decoder's loop notes it, in one word:
//
//	bits 0-17   where it begins in the window
//	bits 18-25  length - 3
//	bits 26-40  distance - 1
//	bits 41-63  bits of the stream from the beginning of its block's part in this piece to behind the match. A piece has
//	            less than 2^18 bytes; none takes more than 16 bits, so that 2^22 are enough.
type record uint64

const (
	lengthShift   = 18
	distanceShift = 26
	bitShift      = 41
	// recordBias is what lengths and distances are noted without.
	recordBias = minMatch<<lengthShift + 1<<distanceShift

	minMatch = 3
	// maxRecords is more than a piece has matches of the least length.
	maxRecords = 1 << 17
)

const _ = uint(maxRecords - (windowMask+1+maxMatch)/minMatch)

func (r record) at() int { return int(r & (1<<lengthShift - 1)) }
func (r record) length() int {
	return int(r>>lengthShift&(1<<(distanceShift-lengthShift)-1)) + minMatch
}
func (r record) distance() int { return int(r>>distanceShift&(1<<(bitShift-distanceShift)-1)) + 1 }
func (r record) bits() int64   { return int64(r >> bitShift) }
func (r record) end() int      { return r.at() + r.length() }

// tracer notes of a stream what callers may ask for about the current piece, which is what gzipReader.next returned
// last. Offsets are plain bytes of the whole stream if nothing else is said.
type tracer struct {
	d    *inflater
	what Trace

	base     int64 // offset of the window's first byte
	from, to int64 // the current piece

	records *[maxRecords]record // matches of the piece
	noted   int                 // how many of them there are

	index index
}

func newTracer(d *inflater, what Trace) *tracer {
	t := &tracer{d: d, what: what, records: new([maxRecords]record)}
	t.index.cursor.off = -1
	return t
}

// recordBase is what the records of the block that is being decoded have in common.
func (t *tracer) recordBase() uint64 {
	base := ^uint64(recordBias) + 1
	if n := len(t.index.blocks); n > 0 {
		base += uint64(t.d.in.off*8-t.index.blocks[n-1].bit) << bitShift
	}
	return base
}

// begin leaves the current piece. The window and the records are still the piece's.
func (t *tracer) begin() {
	if t.what&TraceIndex != 0 {
		t.leaveIndex()
	}
	t.noted = 0
	t.from = t.to
}

// end makes the n bytes that have been decoded since begin the current piece.
func (t *tracer) end(n int) {
	t.to = t.from + int64(n)
	if t.what&TraceIndex != 0 {
		t.endIndex()
	}
}

// recordsBehind returns the records of matches that end behind a place in the window.
func (t *tracer) recordsBehind(pos int) []record {
	records := t.records[:t.noted]
	return records[sort.Search(len(records), func(i int) bool { return records[i].end() > pos }):]
}

func (t *tracer) appendMatches(dst []Match, off, n int64) []Match {
	begin, end := int(off-t.base), int(off+n-t.base)
	for _, r := range t.recordsBehind(begin) {
		from, to := max(r.at(), begin), min(r.end(), end)
		if r.at() >= end {
			break
		}
		if to-from >= minMatch {
			dst = append(dst, Match{At: uint32(from - begin), Length: uint16(to - from), Distance: uint16(r.distance())})
		}
	}
	return dst
}
