package recompress

import (
	"math/bits"
	"slices"
)

// coded is a sequence in the codes of RFC 8878, 3.1.1.3.2.1.1: the extra bits of all three in the order of the stream, those
// of the literals' length lowest, as it is read last; and in bytes from the lowest the codes of literals' length, match
// length and offset, and the number of extra bits. (A struct of bytes would be put together in memory, which takes long.)
type coded struct {
	extra uint64
	codes uint32
}

// Extra bits of codes; lengths below are codes of their own.
var (
	literalBits = [36]uint8{16: 1, 1, 1, 1, 2, 2, 3, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}
	lengthBits  = [53]uint8{32: 1, 1, 1, 1, 2, 2, 3, 3, 4, 4, 5, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}
)

// Lengths below these are looked up. Match lengths are coded from minLength on.
const (
	smallLiterals = 64
	smallLengths  = 128
	minLength     = 3
)

// lengthCode is a length as a code, and the value of its extra bits.
type lengthCode struct{ code, bits, extra uint8 }

var (
	literalCodes = [smallLiterals]lengthCode(makeCodes(literalBits[:]))
	lengthCodes  = [smallLengths]lengthCode(makeCodes(lengthBits[:]))
)

func makeCodes(extra []uint8) []lengthCode {
	var codes []lengthCode
	for c, b := range extra {
		for v := range min(1<<b, smallLengths) {
			codes = append(codes, lengthCode{code: uint8(c), bits: b, extra: uint8(v)})
		}
		if len(codes) >= smallLengths {
			break
		}
	}
	return codes
}

// repeats are the last distances, in the order of RFC 8878, 3.1.1.5.
type repeats [3]uint32

var firstRepeats = repeats{1, 4, 8}

// value returns what stands for a distance, and remembers it.
func (r *repeats) value(distance uint32, literals bool) uint32 {
	switch {
	case distance == r[0] && literals:
		return 1
	case distance == r[1]:
		r[1], r[0] = r[0], distance
		if literals {
			return 2
		}
		return 1
	case distance == r[2]:
		r[2], r[1], r[0] = r[1], r[0], distance
		if literals {
			return 3
		}
		return 2
	case distance == r[0]-1 && !literals:
		r[2], r[1], r[0] = r[1], r[0], distance
		return 3
	}
	r[2], r[1], r[0] = r[1], r[0], distance
	return distance + 3
}

// copyAhead is the length of copies that are not exact, because short ones are faster so.
const copyAhead = 16

// code makes the codes of a block's sequences and counts them, and gathers the literals, all from p.
func (s *state) code(seqs []sequence, p []byte, r *repeats) {
	s.coded = slices.Grow(s.coded[:0], len(seqs))[:len(seqs)]
	s.literals = slices.Grow(s.literals[:0], len(p)+copyAhead)
	literals := s.literals[:len(p)+copyAhead]
	literalHist, offsetHist, lengthHist := &s.coders[alphabetLiterals].hist, &s.coders[alphabetOffset].hist, &s.coders[alphabetLength].hist
	*literalHist, *offsetHist, *lengthHist = histogram{}, histogram{}, histogram{}
	pos, n := 0, 0
	for i := range seqs {
		q := seqs[i]
		if l := int(q.literals); l <= copyAhead && len(p)-pos >= copyAhead {
			copy(literals[n:n+copyAhead], p[pos:pos+copyAhead])
			n += l
			pos += l
		} else {
			n += copy(literals[n:], p[pos:pos+l])
			pos += l
		}
		pos += int(q.length)

		var literal, length uint8
		var bits uint
		var extra uint64
		if q.literals < smallLiterals {
			l := literalCodes[q.literals]
			literal, bits, extra = l.code, uint(l.bits), uint64(l.extra)
		} else {
			literal, bits, extra = longCode(q.literals, 19)
		}
		if q.length < minLength+smallLengths {
			l := lengthCodes[(q.length-minLength)%smallLengths]
			length = l.code
			extra |= uint64(l.extra) << (bits & 63)
			bits += uint(l.bits)
		} else {
			code, b, e := longCode(q.length-minLength, 36)
			length = code
			extra |= e << (bits & 63)
			bits += b
		}
		offset := r.value(q.distance, q.literals > 0)
		offsetCode := log2Floor(offset)
		extra |= (uint64(offset) ^ 1<<(offsetCode&63)) << (bits & 63)
		bits += uint(offsetCode)
		s.coded[i] = coded{extra: extra, codes: uint32(literal) | uint32(length)<<8 | uint32(offsetCode)<<16 | uint32(bits)<<24}
		literalHist[literal%maxSyms]++
		offsetHist[offsetCode%maxSyms]++
		lengthHist[length%maxSyms]++
	}
	n += copy(literals[n:], p[pos:])
	s.literals = literals[:n]
}

// longCode returns the code of a length that is in no table, the number of its extra bits, and these. Such codes begin at powers
// of two, from 1<<0 for the code first on.
func longCode(n uint32, first uint8) (code uint8, count uint, extra uint64) {
	b := log2Floor(n)
	return b + first, uint(b), uint64(n) ^ 1<<(b&63)
}

func log2Floor(n uint32) uint8 { return uint8(bits.Len32(n) - 1) }

// The three alphabets of a sequences section, in the order of their tables there.
const (
	alphabetLiterals = iota
	alphabetOffset
	alphabetLength
	alphabets
)

// Modes of tables (RFC 8878, 3.1.1.3.2.1).
const (
	modePredefined = iota
	modeSingle
	modeOwn
	modeRepeat
)

var (
	maxLogs    = [alphabets]int{9, 8, 9}
	predefined = makePredefined()
)

// makePredefined makes the tables of RFC 8878, 3.1.1.3.2.2.
func makePredefined() *[alphabets]fseTable {
	var t [alphabets]fseTable
	for i, d := range [alphabets]struct {
		log  uint8
		norm []int16
	}{
		alphabetLiterals: {6, []int16{4, 3, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 3, 2, 1, 1, 1, 1, 1,
			-1, -1, -1, -1}},
		alphabetOffset: {5, []int16{1, 1, 1, 1, 1, 1, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1}},
		alphabetLength: {6, []int16{1, 4, 3, 2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
			1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1, -1}},
	} {
		t[i].log, t[i].syms = d.log, len(d.norm)
		copy(t[i].norm[:], d.norm)
		t[i].build()
	}
	return &t
}

// coder codes one alphabet over the blocks of a frame.
type coder struct {
	hist   histogram
	own    [2]fseTable // one for this block, one that the last block may have left
	last   *fseTable   // what the decoder has from the last block, if it is worth while
	chosen *fseTable
	mode   uint8
}

// choose takes the cheapest table for n codes, and appends its description.
func (c *coder) choose(dst []byte, alphabet, n int) []byte {
	syms := maxSyms
	for c.hist[syms-1] == 0 {
		syms--
	}
	if int(c.hist[syms-1]) == n {
		// Only this one.
		bits, _ := predefined[alphabet].cost(&c.hist, syms)
		if n <= 2 && bits <= 8 {
			c.mode, c.chosen = modePredefined, &predefined[alphabet]
			return dst
		}
		t := c.free()
		t.single()
		c.mode, c.chosen = modeSingle, t
		return append(dst, uint8(syms-1))
	}
	best, _ := predefined[alphabet].cost(&c.hist, syms)
	c.mode, c.chosen = modePredefined, &predefined[alphabet]
	if c.last != nil {
		if bits, ok := c.last.cost(&c.hist, syms); ok && bits < best {
			best = bits
			c.mode, c.chosen = modeRepeat, c.last
		}
	}
	if n < minOwnTable {
		return dst
	}
	t := c.free()
	t.normalize(&c.hist, syms, n, maxLogs[alphabet])
	bits, _ := t.cost(&c.hist, syms)
	if bits+8*8 >= best {
		return dst
	}
	longer := t.appendTo(dst)
	if bits+8*(len(longer)-len(dst)) >= best {
		return dst
	}
	t.build()
	c.mode, c.chosen = modeOwn, t
	return longer
}

// minOwnTable is the number of sequences from which on a table of their own can be worth its description.
const minOwnTable = 24

// free returns the table that is not the last one.
func (c *coder) free() *fseTable {
	if c.last == &c.own[0] {
		return &c.own[1]
	}
	return &c.own[0]
}

// keep remembers what the decoder has now.
func (c *coder) keep() {
	if c.mode == modeOwn || c.mode == modeRepeat {
		c.last = c.chosen
	} else {
		c.last = nil
	}
}

// first returns the state that begins with a code.
func (t *fseTable) first(code uint8) uint32 {
	c := t.sym[code%maxSyms]
	n := (c.deltaBits + 1<<15) >> 16
	return uint32(t.next[(int32((n<<16-c.deltaBits)>>n)+c.deltaNext)&(1<<maxLog-1)])
}

// step returns the state behind a code, and the n bits of v that it gives.
func (t *fseTable) step(state uint32, code uint8) (next uint32, v uint64, n uint) {
	c := t.sym[code%maxSyms]
	n = uint(state+c.deltaBits) >> 16
	return uint32(t.next[(int32(state>>(n&31))+c.deltaNext)&(1<<maxLog-1)]), uint64(state) & (1<<(n&63) - 1), n
}

// appendSequences appends a sequences section (RFC 8878, 3.1.1.3.2) of what code has made.
func (s *state) appendSequences(dst []byte, seqs []coded) []byte {
	switch n := len(seqs); {
	case n == 0:
		return append(dst, 0)
	case n < 128:
		dst = append(dst, uint8(n))
	case n < 0x7f00:
		dst = append(dst, uint8(n>>8)+128, uint8(n))
	default:
		n -= 0x7f00
		dst = append(dst, 255, uint8(n), uint8(n>>8))
	}
	modes := len(dst)
	dst = append(dst, 0)
	for i := range s.coders {
		dst = s.coders[i].choose(dst, i, len(seqs))
		dst[modes] |= s.coders[i].mode << (6 - 2*i)
	}
	return appendStream(dst, seqs, s.coders[alphabetLiterals].chosen, s.coders[alphabetOffset].chosen, s.coders[alphabetLength].chosen)
}

// maxSequenceBytes is more than a sequence takes: 16 + 16 + 25 extra bits and three states.
const maxSequenceBytes = 11

// appendStream appends the codes, from the last one to the first.
func appendStream(dst []byte, seqs []coded, literals, offset, length *fseTable) []byte {
	begin := len(dst)
	room := len(seqs)*maxSequenceBytes + 16
	buf := slices.Grow(dst, room)[:begin+room]
	c := seqs[len(seqs)-1]
	literalState, lengthState, offsetState := literals.first(uint8(c.codes)), length.first(uint8(c.codes>>8)), offset.first(uint8(c.codes>>16))
	w := bitState{acc: c.extra, n: uint(c.codes >> 24), at: begin}.flush(buf)
	for i := len(seqs) - 2; i >= 0; i-- {
		c := seqs[i]
		var v uint64
		var n uint
		// At most 7 bits are waiting, and the states give 26.
		offsetState, v, n = offset.step(offsetState, uint8(c.codes>>16))
		w = w.add(v, n)
		lengthState, v, n = length.step(lengthState, uint8(c.codes>>8))
		w = w.add(v, n)
		literalState, v, n = literals.step(literalState, uint8(c.codes))
		w = w.add(v, n)
		n = uint(c.codes >> 24)
		if n > 30 {
			w = w.flush(buf)
		}
		w = w.add(c.extra, n).flush(buf)
	}
	w = w.add(uint64(lengthState)&(1<<length.log-1), uint(length.log))
	w = w.add(uint64(offsetState)&(1<<offset.log-1), uint(offset.log))
	w = w.add(uint64(literalState)&(1<<literals.log-1), uint(literals.log)).flush(buf)
	return w.close(buf)
}
