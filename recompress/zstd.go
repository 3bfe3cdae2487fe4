package recompress

import (
	"bytes"

	"github.com/klauspost/compress/huff0"
)

const (
	// blockSize is the number of bytes in a block. The format has up to 128 KiB; codes made for less fit better, by more than they
	// cost.
	blockSize = 64 << 10

	frameHeader = 4 + 1 + 4
	blockHeader = 3
)

// Types of blocks (RFC 8878, 3.1.1.2.2).
const (
	blockRaw = iota
	blockRLE
	blockCompressed
)

// maxFrame is the most that a frame of n bytes takes.
func maxFrame(n int) int { return frameHeader + n + (n/blockSize+1)*blockHeader }

// appendFrame appends a frame (RFC 8878, 3.1.1) unless it would not be shorter than p.
func (s *state) appendFrame(dst, p []byte) ([]byte, bool) {
	begin := len(dst)
	// One segment, with its size in 1, 2 or 4 bytes.
	dst = append(dst, 0x28, 0xb5, 0x2f, 0xfd)
	switch n := len(p); {
	case n < 256:
		dst = append(dst, 0x20, uint8(n))
	case n < 65536+256:
		dst = append(dst, 0x60, uint8(n-256), uint8((n-256)>>8))
	default:
		dst = append(dst, 0xa0, uint8(n), uint8(n>>8), uint8(n>>16), uint8(n>>24))
	}
	for i := range s.coders {
		s.coders[i].last = nil
	}
	s.huffman.Reuse = huff0.ReusePolicyNone
	s.repeats = firstRepeats
	for at := 0; at < len(p); at += blockSize {
		end := min(at+blockSize, len(p))
		dst = s.appendBlock(dst, p[at:end], s.parser.parse(end), end == len(p))
		if len(dst)-begin >= len(p) {
			return dst, false
		}
	}
	return dst, true
}

// appendBlock appends a block with p, that seqs are of, in the shortest of its forms.
func (s *state) appendBlock(dst, p []byte, seqs []sequence, last bool) []byte {
	if len(seqs) <= 1 && bytes.Equal(p[1:], p[:len(p)-1]) {
		return append(appendBlockHeader(dst, blockRLE, len(p), last), p[0])
	}
	repeats := s.repeats
	s.code(seqs, p, &repeats)
	s.treeSent = false
	s.block = s.appendLiterals(s.block[:0], s.literals)
	s.block = s.appendSequences(s.block, s.coded)
	if len(s.block) >= len(p) {
		// What was chosen for the block does not reach the decoder.
		if s.treeSent {
			s.huffman.Reuse = huff0.ReusePolicyNone
		}
		return append(appendBlockHeader(dst, blockRaw, len(p), last), p...)
	}
	if s.treeSent {
		s.huffman.Reuse = huff0.ReusePolicyAllow
	}
	if len(seqs) > 0 {
		for i := range s.coders {
			s.coders[i].keep()
		}
	}
	s.repeats = repeats
	return append(appendBlockHeader(dst, blockCompressed, len(s.block), last), s.block...)
}

// appendBlockHeader appends the header of a block (RFC 8878, 3.1.1.2).
func appendBlockHeader(dst []byte, kind, n int, last bool) []byte {
	h := n<<3 | kind<<1
	if last {
		h |= 1
	}
	return append(dst, uint8(h), uint8(h>>8), uint8(h>>16))
}
