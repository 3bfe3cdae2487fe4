package flate

import (
	"bytes"
	"errors"
	"sort"
)

// The plain decoder that the fast one is compared with: it reads bit by bit, in the words of RFC 1951 and 1952, and
// writes down everything. Checksums are not looked at.

// refSymbol is one step of decoding: a literal, a match, the end of a block, or one byte of a stored block.
type refSymbol struct {
	plain  int64 // bytes decoded before it
	length int   // bytes that it gives
	back   int   // distance of a match, 0 for others
	end    int64 // bit of the stream behind it
	stored bool
}

// refBoundary is a place where zlib's inflate stops with Z_BLOCK.
type refBoundary struct {
	plain, bit    int64
	begin         int64 // plain bytes before the member
	member        int
	final, header bool
}

type reference struct {
	in         []byte
	bit        int64
	plain      []byte
	begin      int64
	member     int
	symbols    []refSymbol
	boundaries []refBoundary
	limit      int // of plain bytes
}

var (
	errRefInput = errors.New("reference: input")
	errRefLimit = errors.New("reference: limit")
)

// refGunzip decodes a gzip stream. What was decoded before an error is returned too.
func refGunzip(p []byte, limit int) (*reference, error) {
	r := &reference{in: p, limit: limit}
	for ; ; r.member++ {
		rest := r.in[min(r.bit/8, int64(len(p))):]
		if r.member > 0 && len(bytes.Trim(rest, "\x00")) == 0 {
			return r, nil
		}
		if err := r.header(); err != nil {
			return r, err
		}
		r.begin = int64(len(r.plain))
		r.boundary(false, true)
		for last := false; !last; {
			var err error
			if last, err = r.block(); err != nil {
				return r, err
			}
			r.boundary(last, false)
		}
		r.bit = (r.bit + 7) / 8 * 8
		if _, err := r.bits(64); err != nil {
			return r, err
		}
	}
}

func (r *reference) boundary(final, header bool) {
	r.boundaries = append(r.boundaries, refBoundary{int64(len(r.plain)), r.bit, r.begin, r.member, final, header})
}

func (r *reference) header() error {
	var head [10]byte
	for i := range head {
		v, err := r.bits(8)
		if err != nil {
			return err
		}
		head[i] = byte(v)
	}
	if head[0] != 0x1f || head[1] != 0x8b || head[2] != 8 || head[3]&gzipReserved != 0 {
		return errRefInput
	}
	skip := 0
	if head[3]&gzipExtra != 0 {
		n, err := r.bits(16)
		if err != nil {
			return err
		}
		skip = int(n)
	}
	for range skip {
		if _, err := r.bits(8); err != nil {
			return err
		}
	}
	for _, flag := range []byte{gzipName, gzipComment} {
		for v := uint64(1); head[3]&flag != 0 && v != 0; {
			var err error
			if v, err = r.bits(8); err != nil {
				return err
			}
		}
	}
	if head[3]&gzipHeaderCRC != 0 {
		_, err := r.bits(16)
		return err
	}
	return nil
}

func (r *reference) bits(n int) (v uint64, err error) {
	for i := range n {
		if r.bit/8 >= int64(len(r.in)) {
			return 0, errRefInput
		}
		v |= uint64(r.in[r.bit/8]>>(r.bit%8)&1) << i
		r.bit++
	}
	return v, nil
}

// refCode maps code words with a one put before them to symbols.
type refCode map[int]int

func newRefCode(lens []uint8) refCode {
	code, word := refCode{}, 0
	for n := 1; n <= maxCodeLen; n++ {
		word <<= 1
		for sym, l := range lens {
			if int(l) == n {
				code[1<<n|word] = sym
				word++
			}
		}
	}
	return code
}

func (r *reference) symbol(c refCode) (int, error) {
	word := 1
	for range maxCodeLen {
		b, err := r.bits(1)
		if err != nil {
			return 0, err
		}
		word = word<<1 | int(b)
		if sym, ok := c[word]; ok {
			return sym, nil
		}
	}
	return 0, errRefInput
}

func (r *reference) block() (last bool, err error) {
	head, err := r.bits(3)
	if err != nil {
		return false, err
	}
	last = head&1 == 1
	switch head >> 1 {
	case 0:
		return last, r.storedBlock()
	case 1:
		return last, r.codes(newRefCode(fixedLit[:]), newRefCode(fixedDist[:]))
	case 2:
		lit, dist, err := r.dynamic()
		if err != nil {
			return last, err
		}
		return last, r.codes(lit, dist)
	}
	return last, errRefInput
}

func (r *reference) storedBlock() error {
	r.bit = (r.bit + 7) / 8 * 8
	n, err := r.bits(32)
	if err != nil {
		return err
	}
	for range n & 0xffff {
		b, err := r.bits(8)
		if err != nil {
			return err
		}
		if err := r.put(refSymbol{length: 1, stored: true}, byte(b)); err != nil {
			return err
		}
	}
	return nil
}

func (r *reference) dynamic() (lit, dist refCode, err error) {
	counts, err := r.bits(14)
	if err != nil {
		return nil, nil, err
	}
	numLit, numDist, numPre := int(counts&31)+257, int(counts>>5&31)+1, int(counts>>10)+4
	var preLens [numPreSyms]uint8
	for _, i := range preOrder[:numPre] {
		n, err := r.bits(3)
		if err != nil {
			return nil, nil, err
		}
		preLens[i] = uint8(n)
	}
	pre := newRefCode(preLens[:])
	var lens []uint8
	for len(lens) < numLit+numDist {
		sym, err := r.symbol(pre)
		if err != nil {
			return nil, nil, err
		}
		value, repeat, extra := uint8(0), 1, 0
		switch sym {
		case 16:
			if len(lens) == 0 {
				return nil, nil, errRefInput
			}
			value, repeat, extra = lens[len(lens)-1], 3, 2
		case 17:
			repeat, extra = 3, 3
		case 18:
			repeat, extra = 11, 7
		default:
			value = uint8(sym)
		}
		more, err := r.bits(extra)
		if err != nil {
			return nil, nil, err
		}
		lens = append(lens, bytes.Repeat([]byte{value}, repeat+int(more))...)
	}
	return newRefCode(lens[:numLit]), newRefCode(lens[numLit : numLit+numDist]), nil
}

func (r *reference) codes(lit, dist refCode) error {
	for {
		sym, err := r.symbol(lit)
		if err != nil {
			return err
		}
		if sym < endOfBlock {
			if err := r.put(refSymbol{length: 1}, byte(sym)); err != nil {
				return err
			}
			continue
		}
		if sym == endOfBlock {
			return r.put(refSymbol{})
		}
		if sym > 285 {
			return errRefInput
		}
		length, err := r.extra(litResults[sym])
		if err != nil {
			return err
		}
		if sym, err = r.symbol(dist); err != nil {
			return err
		}
		if sym > 29 {
			return errRefInput
		}
		back, err := r.extra(distResults[sym])
		if err != nil {
			return err
		}
		if int64(back) > int64(len(r.plain))-r.begin {
			return errRefInput
		}
		match := make([]byte, length)
		for i := range match {
			if from := len(r.plain) - back + i; from < len(r.plain) {
				match[i] = r.plain[from]
			} else {
				match[i] = match[i-back]
			}
		}
		if err := r.put(refSymbol{length: length, back: back}, match...); err != nil {
			return err
		}
	}
}

// extra reads the extra bits of a length or distance and adds them to its base.
func (r *reference) extra(result uint32) (int, error) {
	v, err := r.bits(int(result & takeMask))
	return int(result>>valueShift) + int(v), err
}

func (r *reference) put(s refSymbol, p ...byte) error {
	s.plain, s.end = int64(len(r.plain)), r.bit
	r.symbols = append(r.symbols, s)
	r.plain = append(r.plain, p...)
	if len(r.plain) >= r.limit {
		return errRefLimit
	}
	return nil
}

// storedAt is the meaning of Reader.StoredAt in the reference's words.
func (r *reference) storedAt(off int64) int64 {
	if off == 0 {
		return r.boundaries[0].bit / 8
	}
	// The symbol of the last byte, behind which may be the end of the block.
	i := sort.Search(len(r.symbols), func(i int) bool { return r.symbols[i].plain+int64(r.symbols[i].length) >= off })
	s := r.symbols[i]
	if s.plain+int64(s.length) == off && !s.stored {
		s = r.symbols[i+1]
	}
	return (s.end + 7) / 8
}

// boundaryAt is the meaning of Reader.CheckpointAt.
func (r *reference) boundaryAt(off int64) refBoundary {
	i := sort.Search(len(r.boundaries), func(i int) bool { return r.boundaries[i].plain >= off })
	if i < len(r.boundaries) && r.boundaries[i].plain == off {
		return r.boundaries[i]
	}
	return r.boundaries[i-1]
}

// sparse is the window of a boundary with zeros for what nothing refers to.
func (r *reference) sparse(b refBoundary) []byte {
	begin := max(b.begin, b.plain-historySize)
	window := make([]byte, b.plain-begin)
	if b.header {
		return window
	}
	end := int64(len(r.plain))
	for _, c := range r.boundaries {
		if c.member == b.member && c.final {
			end = c.plain
		}
	}
	i := sort.Search(len(r.symbols), func(i int) bool { return r.symbols[i].plain >= b.plain })
	for _, s := range r.symbols[i:] {
		if s.plain >= min(end, b.plain+historySize) {
			break
		}
		for from := s.plain - int64(s.back); s.back > 0 && from < min(b.plain, s.plain-int64(s.back)+int64(s.length)); from++ {
			window[from-begin] = r.plain[from]
		}
	}
	return window
}
