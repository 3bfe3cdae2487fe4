package flate

// Trace says what a [Reader] notes of the compressed stream beside the plain bytes, for those who ask it for more than
// these. Tracing costs time, and nothing is noted of streams that are not gzip.
type Trace uint8

// What can be noted.
const (
	// TraceMatches notes the matches of DEFLATE blocks, see [Match].
	TraceMatches Trace = 1 << iota
	// TraceIndex notes which stored bytes become which plain ones, and where decoding can go on, see [Checkpoint].
	TraceIndex
)

// Match says that plain bytes repeat what lies before them, as the compressor of a DEFLATE stream found it (RFC 1951, 3.2.3).
// What stands between two matches are literals.
type Match struct {
	// At is where the match begins, in plain bytes from the beginning of the range that was asked for.
	At uint32
	// Length of the match in bytes, at most 258.
	Length uint16
	// Distance to what is repeated, 1 to 32768. It may reach back before the range that was asked for.
	Distance uint16
}

// AppendMatches appends to dst the matches of the n plain bytes from off of the layer on, which must be within what Next
// returned last; for others there are none. Matches are in the order of At, do not overlap, and are clipped to the range;
// what is left of a match and shorter than 3 bytes is left out. Stored blocks and streams that are not gzip have none. It
// costs some steps more than what is appended, and needs [TraceMatches].
func (r *Reader) AppendMatches(dst []Match, off, n int64) []Match {
	t := r.trace
	if t == nil || t.what&TraceMatches == 0 || off < t.from || n < 0 || n > t.to-off {
		return dst
	}
	return t.appendMatches(dst, off, n)
}
