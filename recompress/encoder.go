package recompress

import (
	"slices"
	"sync"

	"github.com/klauspost/compress/huff0"

	"github.com/lazuli-project/lazuli/flate"
)

// MaxChunk is the length of the longest content that is compressed, in bytes.
const MaxChunk = 16 << 20

// minChunk is the length of the shortest one. Headers alone take nearly as much.
const minChunk = 16

// Options of an [Encoder].
type Options struct {
	// NoSearch uses the matches that are given and nothing else. It saves some time and costs size, the more the smaller the
	// chunks are. Default: false.
	NoSearch bool
}

// Encoder makes compressed forms of chunks. It may be used concurrently; each call at work needs some 2 MB, which are kept for later
// ones. The same content with the same matches gives the same bytes.
type Encoder struct {
	options Options
	states  sync.Pool // of *state
}

// NewEncoder returns an encoder.
func NewEncoder(o Options) *Encoder {
	e := &Encoder{options: o}
	e.states.New = func() any { return &state{huffman: huff0.Scratch{WantLogLess: literalGain}} }
	return e
}

// AppendZstd appends one zstd frame with the content p to dst. It appends p itself if the frame would not be shorter, and if p is
// shorter than 16 bytes or longer than MaxChunk: so p has been compressed if fewer than len(p) bytes are appended.
//
// matches are those of the stream that p was inflated from, with places from p's beginning on. Any others, in whatever order, give
// a right frame too, but hardly a small one. The time depends on their number more than on len(p). Nothing is
// allocated where dst has room for 1.01*len(p) and 100 bytes.
func (e *Encoder) AppendZstd(dst, p []byte, matches []flate.Match) []byte {
	if len(p) < minChunk || len(p) > MaxChunk {
		return append(dst, p...)
	}
	s := e.take(zstdFormat, p, matches)
	defer e.give(s)
	begin := len(dst)
	dst, ok := s.appendFrame(slices.Grow(dst, maxFrame(len(p))), p)
	if ok {
		return dst
	}
	return append(dst[:begin], p...)
}

// AppendLZ4 appends one raw LZ4 block with the content p to dst, or p itself, as AppendZstd does.
func (e *Encoder) AppendLZ4(dst, p []byte, matches []flate.Match) []byte {
	if len(p) < minChunk || len(p) > MaxChunk {
		return append(dst, p...)
	}
	s := e.take(lz4Format, p, matches)
	defer e.give(s)
	begin := len(dst)
	dst, ok := s.appendLZ4(slices.Grow(dst, len(p)), p)
	if ok {
		return dst
	}
	return append(dst[:begin], p...)
}

func (e *Encoder) take(f format, p []byte, matches []flate.Match) *state {
	s := e.states.Get().(*state)
	s.parser.reset(f, p, matches, !e.options.NoSearch)
	return s
}

func (e *Encoder) give(s *state) {
	s.parser.forget()
	e.states.Put(s)
}

// state is what one call works with.
type state struct {
	parser parser

	// For zstd. These are of one block,
	coded    []coded
	literals []byte
	block    []byte
	treeSent bool // the block has a new Huffman code
	// and these have what the decoder knows of the blocks before.
	coders  [alphabets]coder
	huffman huff0.Scratch
	repeats repeats
}
