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
}

func newTracer(d *inflater, what Trace) *tracer {
	return &tracer{d: d, what: what, records: new([maxRecords]record)}
}

// recordBase is what the records of the block that is being decoded have in common.
func (t *tracer) recordBase() uint64 {
	return ^uint64(recordBias) + 1
}

// begin leaves the current piece.
func (t *tracer) begin() {
	t.noted = 0
	t.from = t.to
}

// end makes what has been decoded since begin the current piece.
func (t *tracer) end() {
	t.to = t.base + int64(t.d.pos)
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
