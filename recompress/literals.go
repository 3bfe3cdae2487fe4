package recompress

import (
	"errors"

	"github.com/klauspost/compress/huff0"
)

// Types of literals sections (RFC 8878, 3.1.1.3.1.1).
const (
	literalsRaw = iota
	literalsRLE
	literalsCompressed
	literalsTreeless
)

// literalGain is the logarithm of the part of literals that a code must save at least: decoding it takes time.
const literalGain = 6

// minHuffman is the number of literals from which on they are worth a code. Below it the code's description takes about what it
// saves, and making it half of the time.
const minHuffman = 128

// appendLiterals appends a literals section.
func (s *state) appendLiterals(dst, p []byte) []byte {
	if len(p) < minHuffman {
		return appendPlainLiterals(dst, p, literalsRaw)
	}
	var out []byte
	var reused bool
	var err error
	single := len(p) < 1024
	if single {
		out, reused, err = huff0.Compress1X(p, &s.huffman)
	} else {
		out, reused, err = huff0.Compress4X(p, &s.huffman)
	}
	switch {
	case err == nil:
	case errors.Is(err, huff0.ErrUseRLE):
		return appendPlainLiterals(dst, p, literalsRLE)
	default:
		return appendPlainLiterals(dst, p, literalsRaw)
	}
	header := uint64(literalsCompressed)
	if reused {
		header = literalsTreeless
	} else {
		s.treeSent = true
	}
	switch n := max(len(out), len(p)); {
	case single:
		header |= uint64(len(p))<<4 | uint64(len(out))<<14
		dst = append(dst, uint8(header), uint8(header>>8), uint8(header>>16))
	case n < 1<<10:
		header |= 1<<2 | uint64(len(p))<<4 | uint64(len(out))<<14
		dst = append(dst, uint8(header), uint8(header>>8), uint8(header>>16))
	case n < 1<<14:
		header |= 2<<2 | uint64(len(p))<<4 | uint64(len(out))<<18
		dst = append(dst, uint8(header), uint8(header>>8), uint8(header>>16), uint8(header>>24))
	default:
		header |= 3<<2 | uint64(len(p))<<4 | uint64(len(out))<<22
		dst = append(dst, uint8(header), uint8(header>>8), uint8(header>>16), uint8(header>>24), uint8(header>>32))
	}
	return append(dst, out...)
}

// appendPlainLiterals appends literals as they are, or one of them that is repeated.
func appendPlainLiterals(dst, p []byte, kind uint8) []byte {
	switch n := len(p); {
	case n < 1<<5:
		dst = append(dst, kind|uint8(n)<<3)
	case n < 1<<12:
		dst = append(dst, kind|1<<2|uint8(n)<<4, uint8(n>>4))
	default:
		dst = append(dst, kind|3<<2|uint8(n)<<4, uint8(n>>4), uint8(n>>12))
	}
	if kind == literalsRLE {
		p = p[:1]
	}
	return append(dst, p...)
}
