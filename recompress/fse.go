package recompress

import "math/bits"

// Limits of FSE tables in sequences sections (RFC 8878, 3.1.1.3.2.1). The encoder uses no more precision for offsets than for
// the others, where 8 is the limit of the format.
const (
	minLog  = 5
	maxLog  = 9
	maxSyms = 64 // more than any of the three alphabets
)

// histogram counts codes.
type histogram [maxSyms]uint32

// distribution is how the states of a table are shared among the codes: their counts sum up to 1<<log. A count of -1 is
// that of a code less probable than one state; it has one nonetheless.
type distribution struct {
	log  uint8
	syms int // codes from here on have a count of 0
	norm [maxSyms]int16
}

// fseTable codes symbols in the way of the reference coder (FSE by Yann Collet): a state in [1<<log, 2<<log) gives
// (state+deltaBits)>>16 of its lowest bits to the stream, and what is left of it leads to the next one.
type fseTable struct {
	distribution
	sym  [maxSyms]fseSymbol
	next [1 << maxLog]uint16
}

type fseSymbol struct {
	deltaBits uint32
	deltaNext int32
}

// normalize shares 1<<log states among the codes that h has in total n of, 0 < n. There are two codes at least.
func (d *distribution) normalize(h *histogram, syms, n, maxLog int) {
	// Rare codes need one state each, and small blocks are not worth a precise table.
	log := max(bits.Len(uint(n-1))-2, minLog)
	log = min(max(log, bits.Len(uint(syms))), maxLog)
	d.log, d.syms = uint8(log), syms
	left, largest := 1<<log, 0
	scale := (uint64(1) << (32 + log)) / uint64(n)
	for i, c := range h[:syms] {
		if c == 0 {
			d.norm[i] = 0
			continue
		}
		if uint64(c)<<log <= uint64(n) {
			d.norm[i] = -1
			left--
			continue
		}
		v := max(int((uint64(c)*scale+1<<31)>>32), 1)
		d.norm[i] = int16(v)
		left -= v
		if v > int(d.norm[largest]) {
			largest = i
		}
	}
	if int(d.norm[largest])+left > int(d.norm[largest])/2 {
		d.norm[largest] += int16(left)
		return
	}
	// Too many codes were rounded up: the commonest pay for them in turn.
	for ; left < 0; left++ {
		largest = 0
		for i, v := range d.norm[:syms] {
			if v > d.norm[largest] {
				largest = i
			}
		}
		d.norm[largest]--
	}
}

// build makes the table of a distribution (RFC 8878, 4.1.1: how symbols are spread over the states).
func (t *fseTable) build() {
	size := 1 << t.log
	mask := size - 1
	var spread [1 << maxLog]uint8
	var start [maxSyms + 1]uint16 // where the states of a code begin in next
	high := size - 1
	sum := uint16(0)
	for i, v := range t.norm[:t.syms] {
		start[i] = sum
		if v == -1 {
			spread[high] = uint8(i)
			high--
			v = 1
		}
		sum += uint16(v)
	}
	step, at := size>>1+size>>3+3, 0
	for i, v := range t.norm[:t.syms] {
		for range v {
			spread[at&(1<<maxLog-1)] = uint8(i)
			at = (at + step) & mask
			for at > high {
				at = (at + step) & mask
			}
		}
	}
	total := int32(0)
	for i, v := range t.norm[:t.syms] {
		switch v {
		case 0:
			t.sym[i] = fseSymbol{}
		case -1, 1:
			t.sym[i] = fseSymbol{deltaBits: uint32(t.log)<<16 - uint32(size), deltaNext: total - 1}
			total++
		default:
			most := uint32(t.log) - uint32(bits.Len16(uint16(v-1))-1)
			t.sym[i] = fseSymbol{deltaBits: most<<16 - uint32(v)<<most, deltaNext: total - int32(v)}
			total += int32(v)
		}
	}
	for i, s := range spread[:size] {
		s &= maxSyms - 1
		t.next[start[s]&(1<<maxLog-1)] = uint16(size + i)
		start[s]++
	}
}

// single makes the table of one code, which takes no bits.
func (t *fseTable) single() {
	t.log = 0
	t.sym = [maxSyms]fseSymbol{}
	t.next[0] = 0
}

// appendTo writes the description of a distribution (RFC 8878, 4.1.1).
func (d *distribution) appendTo(dst []byte) []byte {
	acc, n := uint64(d.log-minLog), uint(4)
	left := 1<<d.log + 1 // what can still come, plus one
	threshold, width := 1<<d.log, uint(d.log)+1
	for i := 0; left > 1; {
		v := int(d.norm[i])
		i++
		if v < 0 {
			left--
		} else {
			left -= v
		}
		// Values are from 0 to left+1 before v was subtracted; the lower ones of them do with one bit less.
		short := 2*threshold - 1 - (left + max(v, -v))
		code := v + 1
		if code >= threshold {
			code += short
		}
		acc |= uint64(code) << n
		n += width
		if code < short {
			n--
		}
		for left < threshold {
			width--
			threshold >>= 1
		}
		if v == 0 {
			zeros := 0
			for d.norm[i] == 0 {
				i++
				zeros++
			}
			for ; zeros >= 3; zeros -= 3 {
				acc |= 3 << n
				n += 2
				for ; n >= 8; n -= 8 {
					dst = append(dst, byte(acc))
					acc >>= 8
				}
			}
			acc |= uint64(zeros) << n
			n += 2
		}
		for ; n >= 8; n -= 8 {
			dst = append(dst, byte(acc))
			acc >>= 8
		}
	}
	if n > 0 {
		dst = append(dst, byte(acc))
	}
	return dst
}

// cost returns about how many bits the codes of h take with the distribution, and false if it lacks one of them.
func (d *distribution) cost(h *histogram, syms int) (int, bool) {
	if syms > d.syms {
		return 0, false
	}
	sum := uint32(0)
	for i, c := range h[:syms] {
		if c == 0 {
			continue
		}
		v := d.norm[i]
		if v == 0 {
			return 0, false
		}
		// -1 costs as much as 1.
		sum += c * (uint32(d.log)<<logFraction - uint32(log2[uint16(max(v, -v))]))
	}
	return int(sum >> logFraction), true
}

const logFraction = 8

// log2 is the binary logarithm in 1<<logFraction.
var log2 = makeLog2()

func makeLog2() (t [1<<maxLog + 1]uint16) {
	for i := 1; i < len(t); i++ {
		// Squaring the mantissa gives one bit of the logarithm after the other.
		whole := bits.Len(uint(i)) - 1
		m := uint64(i) << (31 - whole) // in [1<<31, 1<<32)
		v := uint16(whole)
		for range logFraction {
			m = m * m >> 31
			v <<= 1
			if m >= 1<<32 {
				m >>= 1
				v |= 1
			}
		}
		t[i] = v
	}
	return t
}
