package nydusblob

import (
	"fmt"

	"github.com/lazuli-project/lazuli/blob"
)

// CacheLayout is the layout of a blob of which there is a ready-made cache instead: a file with the plain space.
type CacheLayout struct {
	l    *Layout
	size int64
}

var (
	_ blob.Layout  = (*CacheLayout)(nil)
	_ blob.Chunker = (*CacheLayout)(nil)
)

// NewCacheLayout returns the layout of a file of size bytes with the plain space of l. What is missing at its end is zeros.
func NewCacheLayout(l *Layout, size int64) *CacheLayout { return &CacheLayout{l, size} }

// Size implements [blob.Layout].
func (c *CacheLayout) Size() int64 { return c.l.Size() }

// NumSpans implements [blob.Layout].
func (c *CacheLayout) NumSpans() int { return c.l.NumSpans() }

// SpanAt implements [blob.Layout].
func (c *CacheLayout) SpanAt(off int64) int { return c.l.SpanAt(off) }

// Span implements [blob.Layout].
func (c *CacheLayout) Span(i int) blob.Span {
	s := c.l.Span(i)
	from := min(s.Plain.Off, c.size)
	s.Stored = blob.Range{Off: from, Len: min(s.Plain.End(), c.size) - from}
	return s
}

// Decode implements [blob.Layout].
func (*CacheLayout) Decode(plain, stored []byte, _ blob.Span) error {
	if len(stored) > len(plain) {
		return fmt.Errorf("%d bytes of a cache instead of %d: %w", len(stored), len(plain), blob.ErrCorrupt)
	}
	clear(plain[copy(plain, stored):])
	return nil
}

// Verify implements [blob.Layout].
func (c *CacheLayout) Verify(plain []byte, s blob.Span) error { return c.l.Verify(plain, s) }

// Chunks implements [blob.Chunker].
func (c *CacheLayout) Chunks(fn func(blob.Chunk) bool) {
	c.l.Chunks(func(k blob.Chunk) bool {
		k.Compressed, k.Stored = false, c.Span(c.SpanAt(k.Plain.Off)).Stored
		return fn(k)
	})
}
