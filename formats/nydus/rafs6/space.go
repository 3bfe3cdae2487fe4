package rafs6

// space hands out places in the metadata area, in units of nidSize. Blocks that were left before they were full
// are filled later.
type space struct {
	block uint64 // size
	off   uint64
	free  [blockSize / nidSize][]uint64 // by number of free units, places
	pools int                           // number of places in free
}

// take returns a place for n bytes; together says that all of it must be in one block.
func (s *space) take(n uint64, together bool) uint64 {
	units := (n + nidSize - 1) / nidSize
	if s.pools > 0 {
		for have := units; have < uint64(len(s.free)); have++ {
			k := len(s.free[have])
			if k == 0 {
				continue
			}
			at := s.free[have][k-1]
			s.free[have] = s.free[have][:k-1]
			s.pools--
			s.release(at+units*nidSize, have-units)
			return at
		}
	}
	if together && s.off%s.block+n > s.block {
		s.nextBlock()
	}
	at := s.off
	s.off += units * nidSize
	return at
}

// takeBlocks returns a place for n bytes that begins at a block and has its blocks for itself.
func (s *space) takeBlocks(n uint64) uint64 {
	s.nextBlock()
	at := s.off
	s.off += roundUp(n, s.block)
	return at
}

func (s *space) nextBlock() {
	if rest := s.off % s.block; rest != 0 {
		s.release(s.off, (s.block-rest)/nidSize)
		s.off += s.block - rest
	}
}

func (s *space) release(at, units uint64) {
	if units > 0 {
		s.free[units] = append(s.free[units], at)
		s.pools++
	}
}
