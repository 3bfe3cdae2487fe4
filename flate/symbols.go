package flate

import "encoding/binary"

var (
	errBadSymbol   = corrupt("invalid code word")
	errBadDistance = corrupt("match reaches back before the beginning")
)

// codes decodes symbols until the block ends, the window is full, or the input ends.
func (d *inflater) codes() error {
	for d.pos < d.stop {
		d.in.fill(lookahead)
		limit := d.in.end - lookahead
		if d.in.end-d.in.pos < lookahead {
			if d.exact {
				return d.slowly()
			}
			// The input ends here. Zeros follow, of which the decoder may look at some before it stops.
			limit = d.in.end + 8
		}
		ended, err := d.fast(limit)
		if err != nil {
			// Garbage may be the zeros behind the input's end.
			if d.in.pos-int(d.nbits>>3) > d.in.end {
				return d.cut()
			}
			return err
		}
		if d.in.pos > d.in.end {
			// Looked at zeros: what has been used of them?
			if d.in.pos-int(d.nbits>>3) > d.in.end {
				return d.cut()
			}
			back := d.in.pos - d.in.end
			d.in.pos -= back
			d.nbits -= uint(back) * 8
			d.bits &= 1<<d.nbits - 1
		}
		if ended {
			d.blockEnd()
			return nil
		}
	}
	return nil
}

func (d *inflater) fast(limit int) (ended bool, err error) {
	switch {
	case d.exact:
		return symbols[exact](d, limit)
	case d.trace != nil:
		return symbols[noting](d, limit)
	}
	return symbols[silent](d, limit)
}

// slowly is codes for where the input or what is wanted of it ends: it takes nothing that is not there.
func (d *inflater) slowly() error {
	for d.pos < d.stop {
		s := d.look()
		if s.taken > d.nbits {
			return d.cut()
		}
		if s.kind == flagSpecial {
			return errBadSymbol
		}
		d.take(s.taken)
		if s.kind == flagEnd {
			d.blockEnd()
			return nil
		}
		if s.kind == flagLiteral {
			d.win[d.pos] = s.literal
			d.pos++
			continue
		}
		if d.pos-s.distance < d.low {
			return errBadDistance
		}
		for range s.length {
			d.win[d.pos] = d.win[d.pos-s.distance]
			d.pos++
		}
	}
	return nil
}

// symbol is what comes next in a block with Huffman codes.
type symbol struct {
	kind             uint32 // flagLiteral, flagEnd, flagSpecial if it is invalid, or 0 for a match
	literal          byte
	length, distance int
	taken            uint // its bits, which may be more than there are
}

// look decodes the next symbol and takes nothing.
func (d *inflater) look() symbol {
	d.refillSlowly()
	bits, e := d.bits, d.lit[d.bits&(1<<litBits-1)]
	taken := uint(0)
	if e&flagLink != 0 {
		taken = uint(e & takeMask)
		bits >>= taken
		e = d.lit[(uint64(e>>valueShift)+bits&(1<<(e>>fieldShift&fieldMask)-1))%litSize]
	}
	s := symbol{kind: e & (flagLiteral | flagSpecial | flagEnd), taken: taken + uint(e&takeMask)}
	switch {
	case e&flagLiteral != 0:
		s.kind, s.literal = flagLiteral, byte(e>>valueShift)
		return s
	case e&flagEnd != 0:
		s.kind = flagEnd
		return s
	case e&flagSpecial != 0:
		return s
	}
	s.length = int(uint64(e>>valueShift) + bits&(1<<(e&takeMask)-1)>>(e>>fieldShift&fieldMask))
	bits >>= e & takeMask
	e = d.dist[bits&(1<<distBits-1)]
	if e&flagLink != 0 {
		s.taken += uint(e & takeMask)
		bits >>= e & takeMask
		e = d.dist[(uint64(e>>valueShift)+bits&(1<<(e>>fieldShift&fieldMask)-1))%distSize]
	}
	s.kind = e & flagSpecial
	s.taken += uint(e & takeMask)
	s.distance = int(uint64(e>>valueShift) + bits&(1<<(e&takeMask)-1)>>(e>>fieldShift&fieldMask))
	return s
}

var le = binary.LittleEndian

// variant says what symbols does beside decoding. The length of its types is known when the compiler makes each variant of
// the function, so that the others have nothing of it.
type variant interface{ silent | noting | exact }

type (
	silent [0]struct{}
	noting [1]struct{} // records matches
	exact  [2]struct{} // heeds stop
)

// symbols is the loop that nearly all the time is spent in. It goes on while input bytes before limit and room in the
// window are left, and reports whether it met the end of the block.
//
// Indices are masked, which costs less than testing them: the arrays are larger than the masks by what is looked at
// from one index on, so that the compiler needs no tests of its own. No mask ever changes an index.
func symbols[V variant](d *inflater, limit int) (ended bool, err error) {
	var v V
	stop := windowEnd
	if len(v) == 2 {
		stop = d.stop
	}
	var (
		records *[maxRecords]record
		noted   int
		base    uint64
	)
	if len(v) == 1 {
		records, noted, base = d.trace.records, d.trace.noted, d.trace.recordBase()
	}
	in, out := d.in.buf, d.win
	bits, nbits, ip, op := d.bits, d.nbits, d.in.pos, d.pos

	// Refill to 56 to 63 bits. Bits above nbits are set already to what the next refill sets them to.
	bits |= le.Uint64(in[ip&inputMask:]) << (nbits & 63)
	ip += int(7 - nbits>>3&7)
	nbits |= 56
	e := d.lit[bits&(1<<litBits-1)]
	for ip <= limit && op < stop {
		// The buffer has been refilled, and e is the entry of its first bits, which have not been taken.
		if e&flagLiteral != 0 {
			bits >>= e & takeMask
			nbits -= uint(e & takeMask)
			out[op&windowMask] = byte(e >> valueShift)
			op++
			e = d.lit[bits&(1<<litBits-1)]
			if e&flagLiteral != 0 {
				bits >>= e & takeMask
				nbits -= uint(e & takeMask)
				out[op&windowMask] = byte(e >> valueShift)
				op++
				e = d.lit[bits&(1<<litBits-1)]
				if e&flagLiteral != 0 {
					bits >>= e & takeMask
					nbits -= uint(e & takeMask)
					out[op&windowMask] = byte(e >> valueShift)
					op++
					// The next entry does not wait for the refill: 23 bits at least are left.
					e = d.lit[bits&(1<<litBits-1)]
					bits |= le.Uint64(in[ip&inputMask:]) << (nbits & 63)
					ip += int(7 - nbits>>3&7)
					nbits |= 56
					continue
				}
			}
		}

		// A length takes 20 bits at most, and 34 at least are left.
		saved := bits
		bits >>= e & takeMask
		nbits -= uint(e & takeMask)
		if e&flagSpecial != 0 {
			if e&flagLink != 0 {
				e = d.lit[(uint64(e>>valueShift)+bits&(1<<(e>>fieldShift&fieldMask)-1))%litSize]
				saved = bits
				bits >>= e & takeMask
				nbits -= uint(e & takeMask)
			}
			if e&flagLiteral != 0 {
				out[op&windowMask] = byte(e >> valueShift)
				op++
				e = d.lit[bits&(1<<litBits-1)]
				bits |= le.Uint64(in[ip&inputMask:]) << (nbits & 63)
				ip += int(7 - nbits>>3&7)
				nbits |= 56
				continue
			}
			if e&flagSpecial != 0 {
				ended = e&flagEnd != 0
				if !ended {
					err = errBadSymbol
				}
				break
			}
		}
		length := uint(uint64(e>>valueShift)+saved&(1<<(e&takeMask)-1)>>(e>>fieldShift&fieldMask)) & 511

		bits |= le.Uint64(in[ip&inputMask:]) << (nbits & 63)
		ip += int(7 - nbits>>3&7)
		nbits |= 56
		e = d.dist[bits&(1<<distBits-1)]
		if e&flagSpecial != 0 {
			if e&flagLink == 0 {
				err = errBadSymbol
				break
			}
			bits >>= e & takeMask
			nbits -= uint(e & takeMask)
			e = d.dist[(uint64(e>>valueShift)+bits&(1<<(e>>fieldShift&fieldMask)-1))%distSize]
			if e&flagSpecial != 0 {
				err = errBadSymbol
				break
			}
		}
		distance := int(uint64(e>>valueShift) + bits&(1<<(e&takeMask)-1)>>(e>>fieldShift&fieldMask))
		bits >>= e & takeMask
		nbits -= uint(e & takeMask)
		from := op - distance
		if from < d.low {
			err = errBadDistance
			break
		}
		if len(v) == 1 {
			records[noted%maxRecords] = record(base + uint64(op) + uint64(length)<<lengthShift + uint64(distance)<<distanceShift + uint64(ip<<3-int(nbits))<<bitShift)
			noted++
		}

		// A distance takes 28 bits at most, so that 28 at least are left for the next entry.
		e = d.lit[bits&(1<<litBits-1)]
		bits |= le.Uint64(in[ip&inputMask:]) << (nbits & 63)
		ip += int(7 - nbits>>3&7)
		nbits |= 56

		// Up to 13 bytes behind the match are written, too; what comes next overwrites them.
		at, since := op&windowMask, from&windowMask
		to, src := out[at:at+copyView:at+copyView], out[since:since+copyView:since+copyView]
		op += int(length)
		switch {
		case distance >= 8:
			le.PutUint64(to, le.Uint64(src))
			le.PutUint64(to[8:], le.Uint64(src[8:]))
			for i := uint(16); i < length; i += 8 {
				le.PutUint64(to[i:i+8], le.Uint64(src[i:i+8]))
			}
		case distance == 1:
			v := uint64(src[0]) * 0x0101010101010101
			for i := uint(0); i < length; i += 8 {
				le.PutUint64(to[i:i+8], v)
			}
		default:
			for i := range length {
				to[i] = src[i]
			}
		}
	}
	if len(v) == 1 {
		d.trace.noted = noted
	}
	nbits &= 63
	d.bits, d.nbits, d.in.pos, d.pos = bits&(1<<nbits-1), nbits, ip, op
	return ended, err
}
