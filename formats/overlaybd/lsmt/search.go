package lsmt

import (
	"math"
	"math/bits"
)

// nodeSize is the number of keys of a node: one cache line.
const nodeSize = 8

type node [nodeSize]uint64

// search finds keys in a sorted list: a B+-tree without pointers, whose leaves are the list itself and whose inner levels are every
// 8th key of the level below. Within a node all keys are compared, without branches: the processor does not guess where a search
// goes, waits for one cache line a level, and works at several searches at a time.
type search struct {
	nodes  []node // level after level, from the root; filled up with the greatest number
	bases  []int  // where the levels begin in nodes
	leaves []node // the last level
}

// newSearch takes sorted keys.
func newSearch(keys []uint64) search {
	var levels [][]node
	size := 0
	for {
		level := make([]node, max(1, (len(keys)+nodeSize-1)/nodeSize))
		for i := range level {
			for j := copy(level[i][:], keys[min(i*nodeSize, len(keys)):]); j < nodeSize; j++ {
				level[i][j] = math.MaxUint64
			}
		}
		levels = append(levels, level)
		size += len(level)
		if len(level) == 1 {
			break
		}
		keys = make([]uint64, len(level))
		for i := range level {
			keys[i] = level[i][0]
		}
	}
	s := search{nodes: make([]node, 0, size)}
	for i := len(levels) - 1; i >= 0; i-- {
		s.bases = append(s.bases, len(s.nodes))
		s.nodes = append(s.nodes, levels[i]...)
	}
	s.leaves = s.nodes[s.bases[len(s.bases)-1]:]
	return s
}

// key returns key i.
func (s *search) key(i int) uint64 { return s.leaves[i/nodeSize][i%nodeSize] }

// last returns the place of the last key that is not greater than x, and 0 if there is none. x is less than the greatest number.
func (s *search) last(x uint64) int {
	at := 0
	for _, base := range s.bases {
		n := &s.nodes[base+at]
		// Each borrow says that a key is greater.
		_, b1 := bits.Sub64(x, n[1], 0)
		_, b2 := bits.Sub64(x, n[2], 0)
		_, b3 := bits.Sub64(x, n[3], 0)
		_, b4 := bits.Sub64(x, n[4], 0)
		_, b5 := bits.Sub64(x, n[5], 0)
		_, b6 := bits.Sub64(x, n[6], 0)
		_, b7 := bits.Sub64(x, n[7], 0)
		at = at*nodeSize + nodeSize - 1 - int(b1+b2+b3+b4+b5+b6+b7)
	}
	return at
}
