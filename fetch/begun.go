package fetch

import (
	"bytes"
	"sync"
)

// maxBegun is how many stored bytes a blob keeps of spans that go on in the next one.
const maxBegun = 8 << 20

// begun keeps stored bytes that are the beginning of what another span needs: of an inflate context, the more is needed the
// further a read goes. They are not fetched again for that. It is safe for concurrent use.
type begun struct {
	mu    sync.Mutex
	kept  []beginning // oldest first
	total int
}

type beginning struct {
	off    int64
	stored []byte
}

// put keeps a copy of stored bytes that begin at an offset.
func (b *begun) put(stored []byte, off int64) {
	stored = bytes.Clone(stored) // the whole request may be much more
	b.mu.Lock()
	defer b.mu.Unlock()
	b.drop(off)
	b.kept = append(b.kept, beginning{off, stored})
	for b.total += len(stored); b.total > maxBegun && len(b.kept) > 1; {
		b.drop(b.kept[0].off)
	}
}

// take copies what is known of p, which begins at an offset, and forgets it: whoever has p keeps more of it. It returns the
// number of bytes.
func (b *begun) take(p []byte, off int64) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, k := range b.kept {
		if k.off == off {
			n := copy(p, k.stored)
			b.drop(off)
			return n
		}
	}
	return 0
}

// size returns how many bytes from an offset on are known.
func (b *begun) size(off int64) int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, k := range b.kept {
		if k.off == off {
			return int64(len(k.stored))
		}
	}
	return 0
}

// drop forgets what begins at an offset. mu is held.
func (b *begun) drop(off int64) {
	for i, k := range b.kept {
		if k.off == off {
			b.total -= len(k.stored)
			b.kept = append(b.kept[:i:i], b.kept[i+1:]...)
			return
		}
	}
}
