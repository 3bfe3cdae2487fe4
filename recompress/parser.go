package recompress

import (
	"math/bits"
	"slices"

	"github.com/lazuli-project/lazuli/flate"
)

// sequence is a run of literals and the match behind it.
type sequence struct {
	literals, length, distance uint32
}

// format is what matches must be like in a format.
type format struct {
	minLength   int // of a match, 3 at least
	maxDistance int
	// Matches begin so many bytes before the content's end at the latest, and end so many before it.
	lastStart, lastLiterals int
}

var (
	zstdFormat = format{minLength: 3, maxDistance: MaxChunk}
	lz4Format  = format{minLength: 4, maxDistance: 1<<16 - 1, lastStart: 12, lastLiterals: 5}
)

const (
	// farShort is the distance from which on a match of 3 bytes takes more bits than its literals do.
	farShort = 4096
	// longGap is the number of bytes without a match that make a search worth while: the source has not looked there for any,
	// or there are none, and then the search makes large steps soon.
	longGap = 4096
)

// parser makes sequences of matches. It trusts nothing about these: what does not match, or reaches out of the content, is not
// used.
type parser struct {
	format
	src     []byte
	matches []flate.Match
	next    int // of matches: the first that has not been used
	at      int // up to here src is in sequences
	rest    int // distance of a match that the last call cut at at; 0 without
	last    int // latest distance
	// lost says that from at to the next match that can be used there were others, which reach back before src.
	lost   bool
	search bool
	finder finder
	seqs   []sequence
}

func (p *parser) reset(f format, src []byte, matches []flate.Match, search bool) {
	p.format, p.src, p.matches, p.search = f, src, matches, search
	p.next, p.at, p.rest, p.last, p.lost = 0, 0, 0, 0, len(matches) == 0
	if search {
		p.finder.reset(len(src))
	}
}

// forget lets go of what belongs to the caller.
func (p *parser) forget() { p.src, p.matches = nil, nil }

// parse returns the sequences from where the last call ended up to limit. What they leave before it are literals. They are valid
// until the next call.
func (p *parser) parse(limit int) []sequence {
	seqs := slices.Grow(p.seqs[:0], (limit-p.at)/p.minLength+1)
	src := p.src[:len(p.src)-p.lastLiterals]
	lastStart := min(len(p.src)-p.lastStart, limit-p.minLength)
	anchor, next, matches := p.at, p.next, p.matches

	if d := p.rest; d != 0 && anchor <= lastStart {
		if n := min(matchLength(src, anchor-d, anchor), limit-anchor); n >= p.minLength {
			seqs = append(seqs, sequence{length: uint32(n), distance: uint32(d)})
			anchor += n
		}
	}
	if anchor < limit {
		p.rest = 0
	}
	for next < len(matches) {
		m := matches[next]
		at, d := max(int(m.At), anchor), int(m.Distance)
		if at > lastStart {
			break
		}
		end := int(m.At) + int(m.Length)
		if at < d {
			p.lost = true
			at = d
		}
		if end-at < 3 || at > lastStart || d == 0 {
			next++
			continue
		}
		// The source may have had to end the match: DEFLATE does so after 258 bytes. This merges neighbours, too.
		n := matchLength(src, at-d, at)
		for at > anchor && at > d && src[at-1] == src[at-1-d] {
			at--
			n++
		}
		if n <= 3 && (n < p.minLength || d > farShort && d != p.last) {
			next++
			continue
		}
		if p.lost || at-anchor >= longGap {
			if a, l, b := p.find(anchor, at, src); l > 0 {
				at, n, d = a, l, b
				next-- // comes again
			} else {
				p.lost = false
			}
		}
		next++
		if n > limit-at {
			n = limit - at
			p.rest = d
		}
		seqs = append(seqs, sequence{literals: uint32(at - anchor), length: uint32(n), distance: uint32(d)})
		p.last = d
		anchor = at + n
	}
	for p.lost || limit-anchor >= longGap {
		at, n, d := p.find(anchor, lastStart+1, src)
		if n == 0 {
			break
		}
		if n > limit-at {
			n = limit - at
			p.rest = d
		}
		seqs = append(seqs, sequence{literals: uint32(at - anchor), length: uint32(n), distance: uint32(d)})
		p.last = d
		anchor = at + n
	}
	p.at, p.next, p.seqs = limit, next, seqs
	return seqs
}

// find looks for a match that begins from anchor on and before to. Its length is 0 if there is none.
func (p *parser) find(anchor, to int, src []byte) (at, length, distance int) {
	if !p.search {
		return 0, 0, 0
	}
	return p.finder.find(p.src, src, anchor, to, p.maxDistance)
}

// matchLength returns how many bytes from a on are equal to those from b on, a < b.
func matchLength(p []byte, a, b int) int {
	n := 0
	x, y := p[a:], p[b:]
	for len(y) >= 8 {
		if d := le.Uint64(x) ^ le.Uint64(y); d != 0 {
			return n + bits.TrailingZeros64(d)>>3
		}
		x, y = x[8:], y[8:]
		n += 8
	}
	for i := range y {
		if x[i] != y[i] {
			return n + i
		}
	}
	return n + len(y)
}
