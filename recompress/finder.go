package recompress

const (
	hashBits = 15
	// reach is how far matches of DEFLATE go back: those that a chunk has lost begin in as many bytes of it.
	reach = 32 << 10
	// skipLog says how fast steps become longer where nothing is found: by one each 1<<skipLog bytes.
	skipLog = 8
)

// finder looks for matches in the way of the fastest compressors: by the latest place where 5 bytes were the same.
type finder struct {
	// table has places plus base. What is below base is of earlier contents, so that it need not be cleared between them, which
	// takes longer than compressing a small file.
	table  [1 << hashBits]uint32
	base   uint32
	length int // of the content
	hashed int // up to here the content is in table, unless it is beyond reach
}

// reset begins a content of n <= MaxChunk bytes.
func (f *finder) reset(n int) {
	f.base += uint32(f.length)
	if f.base == 0 || f.base >= 1<<32-4*MaxChunk {
		clear(f.table[:])
		f.base = 1
	}
	f.length, f.hashed = n, 0
}

func hash(v uint64) uint32 {
	return uint32(v << 24 * 889523592379 >> (64 - hashBits)) // a prime of 40 bits
}

// find looks from anchor on for a match that begins before to. It ends where src ends, of which content has some bytes more. The
// length is 0 if there is none, and 4 at least otherwise.
func (f *finder) find(content, src []byte, anchor, to, maxDistance int) (at, length, distance int) {
	to = min(to, len(content)-8)
	// Every other place will do: matches are made longer to both sides.
	for i := f.hashed; i < min(anchor, reach, to); i += 2 {
		f.table[hash(le.Uint64(content[i:]))] = uint32(i) + f.base
	}
	for i := anchor; i < to; i += 1 + (i-anchor)>>skipLog {
		v := le.Uint64(content[i:])
		entry := &f.table[hash(v)]
		c := *entry - f.base
		*entry = uint32(i) + f.base
		if c >= uint32(i) || le.Uint32(content[c:]) != uint32(v) {
			continue
		}
		d := i - int(c)
		if d > maxDistance {
			continue
		}
		f.hashed = i + 1
		n := matchLength(src, i-d, i)
		for i > anchor && i > d && src[i-1] == src[i-1-d] {
			i--
			n++
		}
		return i, n, d
	}
	f.hashed = max(f.hashed, to)
	return 0, 0, 0
}
