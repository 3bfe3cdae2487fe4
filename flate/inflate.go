package flate

import (
	"fmt"
	"io"

	"github.com/lazuli-project/lazuli/blob"
)

const (
	historySize = 32 << 10 // how far back a match may reach
	maxMatch    = 258
	// The window has room for history and for what is handed out at once. Symbols begin before windowEnd; up to three
	// literals may stand before a match.
	windowMask = 1<<18 - 1
	windowEnd  = windowMask - 3
	// A match is copied through a view of copyView bytes, which its length as a 9-bit number cannot leave.
	copyView   = 512 + 8
	windowSize = windowMask + 1 + copyView
	// One turn of the decoder's loop reads at most two words of 8 bytes, behind one that it began with, each 7 bytes behind
	// the other at most.
	lookahead = 3 * 8
)

// state says what comes next in a DEFLATE stream.
type state uint8

const (
	stateHeader state = iota // of a block
	stateStored              // inside a stored block
	stateCodes               // inside a block with Huffman codes
	stateEnd                 // behind the last block
)

// inflater decodes DEFLATE streams (RFC 1951) from in. Between two blocks, everything that decoding depends on is
// the bit position and the last historySize bytes of the window.
type inflater struct {
	in    *input
	bits  uint64 // the next nbits bits of the input, from the lowest; higher bits are zero
	nbits uint
	state state
	last  bool // this is the last block
	left  int  // bytes of a stored block that have not been copied

	win *[windowSize]byte // history and what has been decoded
	pos int               // where the next byte goes
	low int               // first byte of the stream in win: matches may not reach below

	stop  int     // decoding stops when pos is here, at most windowEnd
	exact bool    // stop, too, before input that is not there matters
	trace *tracer // nil: nothing is noted

	fixed bool // lit and dist hold the fixed codes
	lit   [litSize]uint32
	dist  [distSize]uint32
}

func newInflater(in *input) *inflater {
	return &inflater{in: in, win: new([windowSize]byte)}
}

// reset begins a new stream at the input's next byte.
func (d *inflater) reset() {
	d.bits, d.nbits, d.state, d.last, d.low = 0, 0, stateHeader, false, d.pos
}

var errCut = fmt.Errorf("%w: %w", blob.ErrCorrupt, io.ErrUnexpectedEOF)

// corrupt describes damaged input.
func corrupt(reason string) error { return fmt.Errorf("%w: %s", blob.ErrCorrupt, reason) }

// next decodes the next piece of the stream, which is valid until the next call. It is empty at the stream's end
// only, and then the input stands at the byte behind the stream.
func (d *inflater) next() ([]byte, error) {
	p, err := d.decode(windowEnd)
	if err != nil {
		return nil, err
	}
	return p, nil
}

// decode decodes n bytes or some more, or as many as there is room for, or up to the stream's end. An error comes with the bytes
// before it.
func (d *inflater) decode(n int) ([]byte, error) {
	if d.pos > historySize {
		// A stream that ends in a piece leaves room for the next one; small members share the window.
		if d.pos > windowEnd/2 {
			slide := d.pos - historySize
			copy(d.win[:], d.win[slide:d.pos])
			d.pos = historySize
			d.low = max(0, d.low-slide)
			if d.trace != nil {
				d.trace.base += int64(slide)
			}
		}
	}
	from := d.pos
	d.stop = min(windowEnd, d.pos+n)
	for d.pos < d.stop && d.state != stateEnd {
		if d.trace != nil && d.pos > from && d.trace.full() {
			break
		}
		var err error
		switch d.state {
		case stateHeader:
			err = d.header()
		case stateStored:
			err = d.stored()
		default:
			err = d.codes()
		}
		if err != nil {
			return d.win[from:d.pos], err
		}
	}
	return d.win[from:d.pos], nil
}

// need makes n <= 32 bits be there. It goes byte by byte and is for headers only.
func (d *inflater) need(n uint) error {
	for d.nbits < n {
		if d.in.pos == d.in.end {
			d.in.fill(1)
			if d.in.pos == d.in.end {
				return d.cut()
			}
		}
		d.bits |= uint64(d.in.buf[d.in.pos]) << d.nbits
		d.in.pos++
		d.nbits += 8
	}
	return nil
}

// cut is the error where the input ends too early.
func (d *inflater) cut() error {
	if err := d.in.failed(); err != nil {
		return err
	}
	return errCut
}

// bitPos is how many bits of the input have been taken.
func (d *inflater) bitPos() int64 { return (d.in.off+int64(d.in.pos))*8 - int64(d.nbits) }

// take returns the next n bits, which are there.
func (d *inflater) take(n uint) uint {
	v := uint(d.bits & (1<<n - 1))
	d.bits >>= n
	d.nbits -= n
	return v
}

// header reads the header of a block.
func (d *inflater) header() error {
	if err := d.need(3); err != nil {
		return err
	}
	d.last = d.take(1) == 1
	switch d.take(2) {
	case 0:
		return d.storedHeader()
	case 1:
		if !d.fixed {
			buildTable(d.lit[:], litBits, fixedLit[:], litResults[:])
			buildTable(d.dist[:], distBits, fixedDist[:], distResults[:])
			d.fixed = true
		}
		d.state = stateCodes
		if d.trace != nil {
			d.trace.beginBlock(fixedLit[:endOfBlock])
		}
		return nil
	case 2:
		d.fixed = false
		d.state = stateCodes
		return d.dynamicHeader()
	}
	return corrupt("block of reserved type")
}

// blockEnd goes on behind a block.
func (d *inflater) blockEnd() {
	if d.trace != nil {
		d.trace.endBlock(d.bitPos())
	}
	if !d.last {
		d.state = stateHeader
		return
	}
	d.state = stateEnd
	d.giveBack()
}

// giveBack leaves the bits of a byte that has been begun, and gives whole bytes back to the input.
func (d *inflater) giveBack() {
	d.in.pos -= int(d.nbits >> 3)
	d.bits, d.nbits = 0, 0
}

func (d *inflater) storedHeader() error {
	d.giveBack()
	if err := d.need(32); err != nil {
		return err
	}
	n, inverse := d.take(16), d.take(16)
	if n != inverse^0xffff {
		return corrupt("stored block whose length is not confirmed")
	}
	d.left = int(n)
	d.state = stateStored
	if d.trace != nil {
		d.trace.beginBlock(nil)
	}
	return nil
}

// stored copies from a stored block until it ends or the window is full.
func (d *inflater) stored() error {
	for d.left > 0 {
		if d.pos >= d.stop {
			return nil
		}
		d.in.fill(1)
		if d.in.pos == d.in.end {
			return d.cut()
		}
		n := copy(d.win[d.pos:d.stop], d.in.buf[d.in.pos:min(d.in.end, d.in.pos+d.left)])
		d.in.pos += n
		d.pos += n
		d.left -= n
	}
	d.blockEnd()
	return nil
}

// preOrder is the order in which the lengths of the precode stand in the header (RFC 1951, 3.2.7).
var preOrder = [numPreSyms]uint8{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15}

// dynamicHeader reads the codes of a block and makes their tables.
func (d *inflater) dynamicHeader() error {
	if err := d.need(14); err != nil {
		return err
	}
	numLit, numDist, numPre := 257+int(d.take(5)), 1+int(d.take(5)), 4+int(d.take(4))
	if numLit > 286 || numDist > 30 {
		return corrupt("too many symbols in a block's header")
	}
	var preLens [numPreSyms]uint8
	for _, i := range preOrder[:numPre] {
		if err := d.need(3); err != nil {
			return err
		}
		preLens[i] = uint8(d.take(3))
	}
	var pre [preSize]uint32
	if !buildTable(pre[:], preBits, preLens[:], preResults[:]) {
		return corrupt("invalid code of code lengths")
	}
	var lens [numLitSyms + numDistSyms]uint8
	if err := d.codeLengths(lens[:numLit+numDist], &pre); err != nil {
		return err
	}
	if lens[endOfBlock] == 0 {
		return corrupt("block without an end")
	}
	if !buildTable(d.lit[:], litBits, lens[:numLit], litResults[:]) {
		return corrupt("invalid code of literals and lengths")
	}
	if !buildTable(d.dist[:], distBits, lens[numLit:numLit+numDist], distResults[:]) {
		return corrupt("invalid code of distances")
	}
	if d.trace != nil {
		d.trace.beginBlock(lens[:endOfBlock])
	}
	return nil
}

// codeLengths reads the lengths of code words, which are run-length coded.
func (d *inflater) codeLengths(lens []uint8, pre *[preSize]uint32) error {
	for i := 0; i < len(lens); {
		// A symbol of the precode has at most 7 bits and 7 extra bits. They may be more than the stream has left, hence
		// the second look after less has turned out to be enough.
		if d.nbits < 14 {
			d.refillSlowly()
		}
		e := pre[d.bits&(preSize-1)]
		sym, n := uint8(e>>valueShift), uint(e&takeMask)
		if e&flagSpecial != 0 {
			if d.nbits < preBits {
				return d.cut()
			}
			return corrupt("invalid code length")
		}
		var value uint8
		repeat, extra := 1, uint(0)
		switch sym {
		case 16:
			if i == 0 {
				return corrupt("repeated code length without one")
			}
			value, repeat, extra = lens[i-1], 3, 2
		case 17:
			repeat, extra = 3, 3
		case 18:
			repeat, extra = 11, 7
		default:
			value = sym
		}
		if d.nbits < n+extra {
			return d.cut()
		}
		d.take(n)
		repeat += int(d.take(extra))
		if repeat > len(lens)-i {
			return corrupt("more code lengths than symbols")
		}
		for range repeat {
			lens[i] = value
			i++
		}
	}
	return nil
}

// refillSlowly takes as many bytes as fit, or as there are. There is room for 56 bits at least.
func (d *inflater) refillSlowly() {
	if d.in.end-d.in.pos < 8 {
		d.in.fill(8)
	}
	for d.nbits < 56 && d.in.pos < d.in.end {
		d.bits |= uint64(d.in.buf[d.in.pos]) << d.nbits
		d.in.pos++
		d.nbits += 8
	}
}
