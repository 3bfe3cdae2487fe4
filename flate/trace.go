package flate

import (
	"errors"
	"io"
)

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

// StoredAt returns how many stored bytes zlib's inflate, called with Z_BLOCK, has consumed when it has given the first off
// plain bytes of the layer and has no room for more: it has decoded one symbol more then, or has gone to the end of the
// block, and holds bits of one byte only. (A zlib whose input buffer ends inside of that symbol has consumed up to there.) off is from the beginning to the end of what Next returned last; for others,
// for streams that are not gzip, and without [TraceIndex] it returns -1.
func (r *Reader) StoredAt(off int64) int64 {
	if !r.indexed(off) {
		return -1
	}
	return r.trace.storedAt(off)
}

// CheckpointAt returns the latest place at which zlib's inflate, called with Z_BLOCK, has stopped when it has given the
// first off plain bytes in the sense of StoredAt. It may lie before what Next returned last, but off must be from the
// beginning to the end of that; for others, for streams that are not gzip, and without [TraceIndex] it returns nil. The
// same place is the same pointer.
//
// It keeps up to 36 KB in memory, which are copied when the reader goes on; BoundaryAt is cheaper. Of streams with very many blocks
// without content in a row only the first ones and the last are noted.
func (r *Reader) CheckpointAt(off int64) *Checkpoint {
	if !r.indexed(off) {
		return nil
	}
	return r.trace.ask(r.trace.checkpointAt(off))
}

// BoundaryAt returns Stored and Plain of what CheckpointAt would return, and keeps nothing: for those who decide by them
// whether they need the checkpoint. Both are -1 where CheckpointAt returns nil.
func (r *Reader) BoundaryAt(off int64) (stored, plain int64) {
	if !r.indexed(off) {
		return -1, -1
	}
	c := r.trace.checkpointAt(off)
	if c == nil {
		return -1, -1
	}
	return c.Stored, c.Plain
}

// AppendCheckpoints appends to dst all checkpoints within what Next returned last, in order, as CheckpointAt does. Those at
// its first byte were among those of the piece before, except for the ones that come behind it without plain bytes between;
// what is behind the last byte of all is there once Next has returned io.EOF.
func (r *Reader) AppendCheckpoints(dst []*Checkpoint) []*Checkpoint {
	if r.trace == nil || r.trace.what&TraceIndex == 0 {
		return dst
	}
	for _, c := range r.trace.index.places {
		if c.Plain <= r.trace.to { // what comes before an error is not handed out
			dst = append(dst, r.trace.ask(c))
		}
	}
	return dst
}

// Piece returns where what Next returned last begins and ends in the plain bytes of the layer: what the other methods may be asked
// about. It needs a trace of a gzip stream; for others it returns 0, 0.
func (r *Reader) Piece() (from, to int64) {
	if r.trace == nil {
		return 0, 0
	}
	return r.trace.from, r.trace.to
}

// Ended reports whether Next has returned io.EOF, and how many gzip members there are then. It needs [TraceIndex].
func (r *Reader) Ended() (members int, ok bool) {
	if r.trace == nil || !errors.Is(r.err, io.EOF) {
		return 0, false
	}
	return r.trace.index.ended, true
}

// indexed reports whether there is an index of off.
func (r *Reader) indexed(off int64) bool {
	t := r.trace
	return t != nil && t.what&TraceIndex != 0 && off >= t.from && off <= t.to
}
