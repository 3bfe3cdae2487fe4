package flate

import (
	"math/bits"
)

// Decode table entries are 32 bits:
//
//	bits 0-5    how many bits the entry takes: code words, and extra bits of a length or distance
//	bits 8-11   lengths, distances: length of the code word, behind which the extra bits begin
//	            link to a subtable: number of bits that index it
//	bits 12-15  flags
//	bits 16-31  literals: the byte; lengths, distances: the base; link: where the subtable begins
const (
	flagLiteral = 1 << 15
	flagSpecial = 1 << 14 // none of literal, length, distance: one of the following or, without any, invalid
	flagLink    = 1 << 13
	flagEnd     = 1 << 12

	takeMask   = 63
	fieldShift = 8
	fieldMask  = 15
	valueShift = 16
)

const (
	maxCodeLen = 15

	numLitSyms  = 288 // with the two that only the fixed code has
	numDistSyms = 32
	numPreSyms  = 19
	endOfBlock  = 256

	litBits  = 11
	distBits = 9
	preBits  = 7

	// A complete subtable of 2^b entries has b+1 symbols at least, so that n symbols need at most n*2^b/(b+1)
	// entries in subtables, with b = maxCodeLen - litBits or maxCodeLen - distBits.
	litSize  = 1<<litBits + numLitSyms*16/5
	distSize = 1<<distBits + numDistSyms*64/7
	preSize  = 1 << preBits
)

var (
	litResults  = makeLitResults()
	distResults = makeDistResults()
	preResults  = makePreResults()
	fixedLit    = makeFixedLit()
	fixedDist   = makeFixedDist()
)

// makeLitResults makes the entries of literals and lengths without their code words. The extra bits are in
// the low 6 bits, so that adding the length of the code word to them and to the field gives the entry.
func makeLitResults() (r [numLitSyms]uint32) {
	for i := range endOfBlock {
		r[i] = uint32(i)<<valueShift | flagLiteral
	}
	r[endOfBlock] = flagSpecial | flagEnd
	base := uint32(3)
	for i := 257; i < 285; i++ {
		extra := uint32(0)
		if i >= 265 {
			extra = uint32(i-261) / 4
		}
		r[i] = base<<valueShift | extra
		base += 1 << extra
	}
	r[285] = 258 << valueShift
	r[286], r[287] = flagSpecial, flagSpecial
	return r
}

func makeDistResults() (r [numDistSyms]uint32) {
	base := uint32(1)
	for i := range 30 {
		extra := uint32(0)
		if i >= 4 {
			extra = uint32(i-2) / 2
		}
		r[i] = base<<valueShift | extra
		base += 1 << extra
	}
	r[30], r[31] = flagSpecial, flagSpecial
	return r
}

func makePreResults() (r [numPreSyms]uint32) {
	for i := range r {
		r[i] = uint32(i) << valueShift
	}
	return r
}

func makeFixedLit() (lens [numLitSyms]uint8) {
	for i := range lens {
		switch {
		case i < 144:
			lens[i] = 8
		case i < 256:
			lens[i] = 9
		case i < 280:
			lens[i] = 7
		default:
			lens[i] = 8
		}
	}
	return lens
}

func makeFixedDist() (lens [numDistSyms]uint8) {
	for i := range lens {
		lens[i] = 5
	}
	return lens
}

// entry puts the length of the code word into a symbol's result.
func entry(result uint32, codeLen int) uint32 {
	return result + uint32(codeLen)<<fieldShift + uint32(codeLen)
}

// buildTable makes the decode table of a canonical code. lens gives the length of each symbol's code word, 0
// for symbols without one; results their entries. The first 1<<tableBits entries of table are indexed by the next bits
// of the input, the others are subtables for longer code words. It reports whether the code is valid: complete,
// or with at most one code word, of length 1 (as zlib allows it); bit patterns without a meaning get flagSpecial.
//
// Code words stand in the input from their most significant bit, so that an index is a code word reversed.
// They are enumerated in that reversed form, in the order of their lengths, while the table is doubled from
// length to length: so each entry is computed once and then copied.
func buildTable(table []uint32, tableBits int, lens []uint8, results []uint32) bool {
	var count, next [maxCodeLen + 2]uint16
	for _, l := range lens {
		count[l&15]++
	}
	used := len(lens) - int(count[0])
	count[0] = 0
	space := 0
	for l := 1; l <= maxCodeLen; l++ {
		next[l+1] = next[l] + count[l]
		space = space<<1 + int(count[l])
	}
	if space != 1<<maxCodeLen {
		if used > 1 || used == 1 && count[1] != 1 {
			return false
		}
		for i := range table[:1<<tableBits] {
			table[i] = flagSpecial
		}
		for sym, l := range lens {
			if l == 1 {
				e := entry(results[sym], 1)
				for i := 0; i < 1<<tableBits; i += 2 {
					table[i] = e
				}
			}
		}
		return true
	}

	var sorted [numLitSyms]uint16
	for sym, l := range lens {
		if l != 0 {
			sorted[next[l&15]] = uint16(sym)
			next[l&15]++
		}
	}

	length, word, end, s := 1, 0, 2, 0
	for count[length] == 0 {
		length++
		end <<= 1
	}
	for n := int(count[length]); length <= tableBits; {
		for ; n > 0; n-- {
			table[word] = entry(results[sorted[s]], length)
			s++
			if word == end-1 { // all ones: the last code word
				for ; length < tableBits; length++ {
					copy(table[end:2*end], table[:end])
					end <<= 1
				}
				return true
			}
			word = nextWord(word, end-1)
		}
		for n == 0 {
			length++
			if length <= tableBits {
				copy(table[end:2*end], table[:end])
				end <<= 1
			}
			n = int(count[length])
		}
	}
	buildSubtables(table, tableBits, word, length, &count, sorted[s:used], results)
	return true
}

// buildSubtables goes on where the code words become longer than the table's index.
func buildSubtables(table []uint32, tableBits, word, length int, count *[maxCodeLen + 2]uint16, sorted []uint16, results []uint32) {
	end := 1 << tableBits
	prefix, start := -1, 0
	n := int(count[length])
	for _, sym := range sorted {
		for n == 0 {
			length++
			n = int(count[length])
		}
		if p := word & (1<<tableBits - 1); p != prefix {
			// The subtable is as large as the rest of the code words that begin like this needs.
			prefix, start = p, end
			subBits := length - tableBits
			for space := n; space < 1<<subBits; {
				subBits++
				space = space<<1 + int(count[tableBits+subBits])
			}
			end = start + 1<<subBits
			table[prefix] = uint32(start)<<valueShift | flagSpecial | flagLink | uint32(subBits)<<fieldShift | uint32(tableBits)
		}
		e := entry(results[sym], length-tableBits)
		for i := start + word>>tableBits; i < end; i += 1 << (length - tableBits) {
			table[i] = e
		}
		word = nextWord(word, 1<<length-1)
		n--
	}
}

// nextWord adds one to a code word that is kept in reversed form. ones is the last code word of its length.
func nextWord(word, ones int) int {
	if word == ones {
		return 0
	}
	bit := 1 << (bits.Len(uint(word^ones)) - 1)
	return word&(bit-1) | bit
}
