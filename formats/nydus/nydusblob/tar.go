package nydusblob

import (
	"fmt"

	"github.com/lazuli-project/lazuli/blob"
)

// tarSpan is how much of a tar is read at once.
const tarSpan = 1 << 20

// TarLayout is the layout of a blob with FeatureTarfs, which is an uncompressed tar: its plain space is what is stored. There are no
// digests of its parts.
type TarLayout struct{ size int64 }

var (
	_ blob.Layout  = TarLayout{}
	_ blob.Chunker = TarLayout{}
)

// NewTarLayout returns the layout of a tar of size bytes.
func NewTarLayout(size int64) TarLayout { return TarLayout{size} }

// Size implements [blob.Layout].
func (l TarLayout) Size() int64 { return l.size }

// NumSpans implements [blob.Layout].
func (l TarLayout) NumSpans() int { return int((l.size + tarSpan - 1) / tarSpan) }

// Span implements [blob.Layout].
func (l TarLayout) Span(i int) blob.Span {
	r := blob.Range{Off: int64(i) * tarSpan, Len: min(tarSpan, l.size-int64(i)*tarSpan)}
	return blob.Span{Index: i, Plain: r, Stored: r}
}

// SpanAt implements [blob.Layout].
func (TarLayout) SpanAt(off int64) int { return int(off / tarSpan) }

// Decode implements [blob.Layout].
func (TarLayout) Decode(plain, stored []byte, _ blob.Span) error {
	if len(plain) != len(stored) {
		return fmt.Errorf("%d bytes of a tar instead of %d: %w", len(stored), len(plain), blob.ErrCorrupt)
	}
	copy(plain, stored)
	return nil
}

// Verify implements [blob.Layout].
func (TarLayout) Verify([]byte, blob.Span) error { return blob.ErrUnverified }

// Chunks implements [blob.Chunker].
func (l TarLayout) Chunks(fn func(blob.Chunk) bool) {
	for i := range l.NumSpans() {
		s := l.Span(i)
		if !fn(blob.Chunk{Index: i, Plain: s.Plain, Stored: s.Stored}) {
			return
		}
	}
}
