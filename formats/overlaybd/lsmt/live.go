package lsmt

import "sort"

// liveChunk bounds a part of a live set: what a change moves.
const liveChunk = 512

// live is the set of segments of a layer that is being written: later ones hide earlier ones. A change takes time in proportion
// to liveChunk, what it hides, and a little of the size.
type live struct {
	chunks [][]Segment // none is empty; sorted, without overlaps
}

// from returns the place of the first segment that ends behind a sector: chunk, and segment in it.
func (l *live) from(sector int64) (int, int) {
	c := sort.Search(len(l.chunks), func(i int) bool { return l.chunks[i][len(l.chunks[i])-1].End() > sector })
	if c == len(l.chunks) {
		return c, 0
	}
	chunk := l.chunks[c]
	return c, sort.Search(len(chunk), func(i int) bool { return chunk[i].End() > sector })
}

// put adds a segment.
func (l *live) put(s Segment) {
	first, at := l.from(s.Offset)
	var fresh []Segment
	last := first
	if first == len(l.chunks) {
		// Behind all others: into the last chunk, so that what is written in order does not make a chunk each.
		if first--; first >= 0 {
			fresh = l.chunks[first]
		} else {
			first = 0
		}
	} else {
		fresh = append(make([]Segment, 0, liveChunk+2), l.chunks[first][:at]...)
		if old := l.chunks[first][at]; old.Offset < s.Offset {
			old.Length = s.Offset - old.Offset
			fresh = append(fresh, old)
		}
	}
	fresh = join(fresh, s)
	for ; last < len(l.chunks); last, at = last+1, 0 {
		rest := l.chunks[last][at:]
		for len(rest) > 0 && rest[0].End() <= s.End() {
			rest = rest[1:]
		}
		if len(rest) == 0 {
			continue
		}
		begin := len(fresh)
		fresh = append(fresh, rest...)
		if old := &fresh[begin]; old.Offset < s.End() {
			cut := s.End() - old.Offset
			old.Offset, old.Length = s.End(), old.Length-cut
			if !old.Zero {
				old.Source += cut
			}
		}
		last++
		break
	}
	l.replace(first, last, fresh)
}

// join appends a segment, to the last one where it goes on there.
func join(to []Segment, s Segment) []Segment {
	if n := len(to); n > 0 {
		o := &to[n-1]
		if o.End() == s.Offset && o.Zero == s.Zero && o.Tag == s.Tag && (s.Zero || o.Source+o.Length == s.Source) {
			o.Length += s.Length
			return to
		}
	}
	return append(to, s)
}

// replace puts segments in place of chunks.
func (l *live) replace(first, last int, fresh []Segment) {
	if len(fresh) <= liveChunk && last-first == 1 {
		l.chunks[first] = fresh
		return
	}
	var parts [2][]Segment
	n := 1
	parts[0] = fresh
	if len(fresh) > liveChunk {
		half := len(fresh) / 2
		parts[0], parts[1], n = fresh[:half:half], append([]Segment(nil), fresh[half:]...), 2
	}
	tail := append(parts[:n:n], l.chunks[min(last, len(l.chunks)):]...)
	l.chunks = append(l.chunks[:first], tail...)
}

// visit calls fn with what the set has of n sectors from one on, clipped, in order, until it returns false.
func (l *live) visit(offset, n int64, fn func(Segment) bool) {
	end := offset + n
	for c, i := l.from(offset); c < len(l.chunks); c, i = c+1, 0 {
		for _, s := range l.chunks[c][i:] {
			if s.Offset >= end {
				return
			}
			if cut := offset - s.Offset; cut > 0 {
				s.Offset, s.Length = offset, s.Length-cut
				if !s.Zero {
					s.Source += cut
				}
			}
			s.Length = min(s.Length, end-s.Offset)
			if !fn(s) {
				return
			}
		}
	}
}

// all returns a copy of the set.
func (l *live) all() []Segment {
	var out []Segment
	for _, c := range l.chunks {
		out = append(out, c...)
	}
	return out
}
