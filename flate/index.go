package flate

import "sort"

// index is the part of a tracer that knows which stored bytes became which plain ones.
//
// Nothing is noted of literals: where one ends is the end of the match or the block's header before it, and the lengths
// of the code words of the literals between.
type index struct {
	blocks []tracedBlock // those with plain bytes in the piece, in order
	open   bool          // the last of blocks goes on
	early  bool          // the end of the block that is being decoded has been noted already, at the end of the piece before

	next   int64 // bit behind the symbol that follows the piece, if its last block goes on
	places []*Checkpoint
	member int   // number of the gzip member that is being decoded
	origin int64 // plain bytes before it
	ended  int   // number of members that have ended

	// What is said of the piece's first byte was noted at the end of the piece before.
	startStored int64
	start, last *Checkpoint // as at, and the latest one

	asked  []*Checkpoint // handed out and not complete
	spare  spares
	cursor struct{ off, bit int64 } // the first bit of the symbol at off, which was asked for last
}

// tracedBlock is a block's part within the piece.
type tracedBlock struct {
	from, to int64 // plain bytes
	bit      int64 // bit of the stream where the symbols, or the stored bytes, of from begin
	end      int64 // bit behind the block, if it ends in the piece
	records  int   // the first match
	stored   bool
	lens     [endOfBlock]uint8 // of the code words of literals
}

const (
	// A piece ends where this many blocks or places have been noted.
	maxBlocks, maxPlaces = 512, 2048
	// Of blocks without plain bytes that follow each other, which cost their writer nothing, only the first ones and the last
	// are noted.
	maxEmpty = 16
)

func (t *tracer) full() bool {
	return len(t.index.blocks) >= maxBlocks || len(t.index.places) >= maxPlaces
}

// now is the offset of what is decoded next.
func (t *tracer) now() int64 { return t.base + int64(t.d.pos) }

// beginMember notes the place behind a member's header.
func (t *tracer) beginMember(number int) {
	if t.what&TraceIndex == 0 {
		return
	}
	t.index.member, t.index.origin = number, t.now()
	t.place(t.d.bitPos(), false)
}

// beginBlock notes that a block's header has been read. lens are the lengths of its literals' code words, nil for a
// stored block.
func (t *tracer) beginBlock(lens []uint8) {
	if t.what&TraceIndex == 0 {
		return
	}
	x := &t.index
	x.blocks = append(x.blocks, tracedBlock{from: t.now(), bit: t.d.bitPos(), records: t.noted, stored: lens == nil})
	copy(x.blocks[len(x.blocks)-1].lens[:], lens)
	x.open = true
}

// endBlock notes that a block ends at a bit.
func (t *tracer) endBlock(bit int64) {
	x := &t.index
	if t.what&TraceIndex == 0 || x.early {
		x.early = false
		return
	}
	if x.open {
		b := &x.blocks[len(x.blocks)-1]
		b.to, b.end = t.now(), bit
		if b.to == b.from {
			x.blocks = x.blocks[:len(x.blocks)-1]
		}
		x.open = false
	}
	t.place(bit, t.d.last)
	if t.d.last {
		x.ended = x.member + 1
	}
}

// place notes that decoding can go on at a bit.
func (t *tracer) place(bit int64, final bool) {
	x := &t.index
	c := &Checkpoint{
		Stored: (bit + 7) / 8, Plain: t.now(), Bits: uint8(-bit & 7), Member: x.member, Final: final,
		size: int(min(t.now()-x.origin, historySize)), seen: t.now(), trace: t,
	}
	if c.Bits > 0 {
		// At most 8 bytes before the input's position, which stay in its buffer.
		c.Byte = t.d.in.buf[c.Stored-1-t.d.in.off]
	}
	if n := len(x.places); n >= maxEmpty && x.places[n-maxEmpty].Plain == c.Plain {
		x.places[n-1] = c
		return
	}
	x.places = append(x.places, c)
}

// endIndex looks at what follows the piece: zlib has decoded one symbol more when its output is full.
func (t *tracer) endIndex() {
	x := &t.index
	if !x.open {
		return
	}
	b := &x.blocks[len(x.blocks)-1]
	b.to = t.to
	if b.stored {
		return
	}
	s := t.d.look()
	x.next = t.d.bitPos() + int64(min(s.taken, t.d.nbits))
	if s.kind == flagEnd && s.taken <= t.d.nbits {
		t.endBlock(x.next)
		x.early = true
	}
}

// leaveIndex keeps what will be needed of the piece when its bytes are gone.
func (t *tracer) leaveIndex() {
	x := &t.index
	if len(x.places) == 0 && x.start == nil {
		return
	}
	x.startStored = t.storedAt(t.to)
	start, last := t.checkpointAt(t.to), x.last
	if n := len(x.places); n > 0 {
		last = x.places[n-1]
	}
	start.keep()
	last.keep()
	for _, old := range []*Checkpoint{x.start, x.last} {
		if old != nil && old != start && old != last {
			x.spare.take(old)
		}
	}
	x.start, x.last = start, last
	asked := x.asked
	x.asked = x.asked[:0]
	for _, c := range asked {
		if c.keep(); c.trace != nil {
			x.asked = append(x.asked, c)
		}
	}
	clear(asked[len(x.asked):])
	clear(x.places)
	x.places = x.places[:0]
	if !x.open {
		x.blocks = x.blocks[:0]
		return
	}
	x.blocks[0] = x.blocks[len(x.blocks)-1]
	x.blocks = x.blocks[:1]
	b := &x.blocks[0]
	b.from, b.bit, b.records = t.to, t.d.bitPos(), 0
}

// storedAt is Reader.StoredAt for an offset within the piece.
func (t *tracer) storedAt(off int64) int64 {
	x := &t.index
	if off == t.from {
		if x.start == nil && len(x.places) > 0 {
			return x.places[0].Stored
		}
		return x.startStored
	}
	i := sort.Search(len(x.blocks), func(i int) bool { return x.blocks[i].to >= off })
	b := &x.blocks[i]
	switch {
	case b.stored:
		return b.bit/8 + off - b.from
	case off == b.to && (i < len(x.blocks)-1 || !x.open):
		return (b.end + 7) / 8
	case off == b.to:
		return (x.next + 7) / 8
	}
	return (t.symbolEnd(i, off) + 7) / 8
}

// symbolEnd returns the bit behind the symbol which off is a byte of. It lies in block i, which has Huffman codes.
func (t *tracer) symbolEnd(i int, off int64) int64 {
	x := &t.index
	b, records := &x.blocks[i], t.records[:t.noted]
	if i < len(x.blocks)-1 {
		records = records[:x.blocks[i+1].records]
	}
	records = records[b.records:]
	pos := int(off - t.base)
	n := sort.Search(len(records), func(i int) bool { return records[i].end() > pos })
	if n < len(records) && records[n].at() <= pos {
		return b.bit + records[n].bits()
	}
	literal, bit := int(b.from-t.base), b.bit
	if n > 0 {
		literal, bit = records[n-1].end(), b.bit+records[n-1].bits()
	}
	if c := int(x.cursor.off - t.base); c >= literal && c <= pos {
		literal, bit = c, x.cursor.bit
	}
	for _, v := range t.d.win[literal:pos] {
		bit += int64(b.lens[v])
	}
	x.cursor.off, x.cursor.bit = off, bit
	return bit + int64(b.lens[t.d.win[pos]])
}

// checkpointAt is Reader.CheckpointAt for an offset within the piece.
func (t *tracer) checkpointAt(off int64) *Checkpoint {
	x := &t.index
	if off == t.from && x.start != nil {
		return x.start
	}
	// Of several at off, zlib has not gone beyond the first.
	i := sort.Search(len(x.places), func(i int) bool { return x.places[i].Plain >= off })
	switch {
	case i < len(x.places) && x.places[i].Plain == off:
		return x.places[i]
	case i > 0:
		return x.places[i-1]
	}
	return x.last
}

// ask notes that a caller has c from now on.
func (t *tracer) ask(c *Checkpoint) *Checkpoint {
	if c != nil && !c.asked {
		c.asked = true
		t.index.asked = append(t.index.asked, c)
	}
	return c
}
