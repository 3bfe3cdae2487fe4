package flate

import "math/bits"

// Checkpoint is a place of a gzip stream where decoding can go on without what is before it, see [Resumer]. It is one where
// zlib's inflate stops with Z_BLOCK: behind a block, or right behind the header of a gzip member. It is for the goroutine of
// its [Reader] until that has gone on behind it as far as Complete says, and for any after that.
type Checkpoint struct {
	// Stored is how many stored bytes have been begun, of all members and headers.
	Stored int64
	// Plain is how many plain bytes have been decoded, of all members.
	Plain int64
	// Bits is how many high bits of Byte, the stored byte before Stored, have not been taken yet: 0 to 7. Byte is 0 if
	// Bits is.
	Bits, Byte uint8
	// Member is the number of the gzip member, from 0 on.
	Member int
	// Final says that the member's last block ends here. Its trailer follows, with which decoding cannot begin.
	Final bool

	size   int    // of the window
	window []byte // nil while it is in the decoder's buffer
	used   *usedBytes
	seen   int64   // up to here matches have been looked at
	trace  *tracer // nil once it is complete
	asked  bool    // a caller has it
}

// usedBytes has a bit for each byte of a window.
type usedBytes [historySize / 64]uint64

// mark marks the bytes from begin to end.
func (u *usedBytes) mark(begin, end int) {
	for begin < end {
		n := min(64-begin%64, end-begin)
		u[begin/64%len(u)] |= (1<<n - 1) << (begin % 64)
		begin += n
	}
}

// Window returns the plain bytes of the member before Plain, up to 32 KiB, which decoding needs. They may not be changed.
func (c *Checkpoint) Window() []byte {
	if c.window == nil && c.size > 0 {
		end := int(c.Plain - c.trace.base)
		c.window = append(c.trace.index.spare.window(c), c.trace.d.win[end-c.size:end]...)
	}
	return c.window
}

// Sparse returns a copy of Window in which all bytes are zero that nothing behind Plain refers to, as far as it has
// been decoded: see Complete. Decoding from Plain on gives the same with it.
func (c *Checkpoint) Sparse() []byte {
	c.look()
	window := c.Window()
	p := make([]byte, len(window))
	if c.used == nil {
		return p
	}
	for i, word := range c.used {
		for ; word != 0; word &= word - 1 {
			at := i*64 + bits.TrailingZeros64(word)
			p[at] = window[at]
		}
	}
	return p
}

// Complete reports whether all is known that can refer to the window: the reader is 32 KiB behind it, or at the end of the
// member.
func (c *Checkpoint) Complete() bool {
	t := c.trace
	return t == nil || c.size == 0 || t.index.ended > c.Member || t.to-c.Plain >= historySize
}

// keep makes c independent of the current piece, which ends.
func (c *Checkpoint) keep() {
	if c.trace == nil {
		return
	}
	c.look()
	c.Window()
	if c.Complete() {
		c.trace = nil
	}
}

// look marks what the matches of the current piece refer to.
func (c *Checkpoint) look() {
	t := c.trace
	if t == nil {
		return
	}
	plain := int(c.Plain - t.base) // in the window of the decoder
	begin := plain - c.size
	end := int(min(c.Plain+historySize, t.to) - t.base)
	for _, r := range t.recordsBehind(int(max(c.seen, t.from) - t.base)) {
		at := r.at()
		if at >= end {
			break
		}
		if source := at - r.distance(); source < plain {
			if c.used == nil {
				c.used = t.index.spare.usedBytes(c)
			}
			c.used.mark(source-begin, min(source+r.length(), plain)-begin)
		}
	}
	c.seen = max(c.seen, t.to)
}

// spares are buffers of checkpoints that nobody has asked for.
type spares struct {
	windows [][]byte
	used    []*usedBytes
}

// take takes the buffers of a checkpoint which is not needed any more.
func (s *spares) take(c *Checkpoint) {
	if c.asked {
		return
	}
	if cap(c.window) == historySize {
		s.windows = append(s.windows, c.window[:0])
	}
	if c.used != nil {
		clear(c.used[:])
		s.used = append(s.used, c.used)
	}
	c.window, c.used = nil, nil
}

// window returns an empty buffer for the window of c.
func (s *spares) window(c *Checkpoint) []byte {
	n := len(s.windows)
	if c.asked || n == 0 {
		size := c.size
		if !c.asked {
			size = historySize
		}
		return make([]byte, 0, size)
	}
	p := s.windows[n-1]
	s.windows = s.windows[:n-1]
	return p
}

func (s *spares) usedBytes(c *Checkpoint) *usedBytes {
	n := len(s.used)
	if c.asked || n == 0 {
		return new(usedBytes)
	}
	u := s.used[n-1]
	s.used = s.used[:n-1]
	return u
}
