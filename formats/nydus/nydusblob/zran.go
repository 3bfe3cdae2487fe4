package nydusblob

import (
	"encoding/binary"
	"fmt"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/flate"
)

// MaxContext bounds the plain and the stored size of a context, as the reference reader does for the plain one.
const MaxContext = 16 << 20

// contextSlack is how many stored bytes behind a context are read with it.
const contextSlack = 16

// windowSize is how far a DEFLATE stream reaches back.
const windowSize = 32 << 10

// Context is a place in a layer's gzip stream from which it can be decoded, and how far.
type Context struct {
	Stored blob.Range // of the layer
	Plain  blob.Range // of the layer's tar
	// Start is what decoding needs to know of what lies before.
	Start flate.Start
}

// Context, 40 bytes. Windows follow the contexts.
//
//	0 u64 stored offset | 8 u64 plain offset | 16 u64 offset of the window behind the contexts | 24 u32 stored size
//	28 u32 plain size | 32 u32 size of the window | 36 u8 byte before the stored offset
//	37 u8 how many of its high bits have not been used | 38 zeros

// AppendZran adds a chunk to a table of a layer's gzip stream.
func (t *Table) AppendZran(e Entry) {
	t.v2, t.zran = true, true
	t.raw = e.appendV2(t.raw, flagZran)
}

// AppendContext adds a context, whose Start.Window does not count, with its window.
func (t *Table) AppendContext(c *Context, w Window) {
	var g [groupSize]byte
	le := binary.LittleEndian
	le.PutUint64(g[0:], uint64(c.Stored.Off))
	le.PutUint64(g[8:], uint64(c.Plain.Off))
	le.PutUint64(g[16:], uint64(t.tailSize))
	le.PutUint32(g[24:], uint32(c.Stored.Len))
	le.PutUint32(g[28:], uint32(c.Plain.Len))
	le.PutUint32(g[32:], uint32(w.size))
	g[36], g[37] = c.Start.Byte, c.Start.Bits
	t.groups = append(t.groups, g[:]...)
	t.windows = append(t.windows, w)
	t.tailSize += w.size
}

// Context returns context i, 0 <= i < Groups(), of a table that has contexts.
func (t *Table) Context(i int) Context {
	g := t.groups[i*groupSize:][:groupSize]
	le := binary.LittleEndian
	at, n := le.Uint64(g[16:]), uint64(le.Uint32(g[32:]))
	var window []byte
	if t.windows != nil {
		window = t.windows[i].AppendTo(nil)
	} else {
		window = t.tail[at : at+n : at+n]
	}
	return Context{
		Stored: blob.Range{Off: int64(le.Uint64(g)), Len: int64(le.Uint32(g[24:]))},
		Plain:  blob.Range{Off: int64(le.Uint64(g[8:])), Len: int64(le.Uint32(g[28:]))},
		Start:  flate.Start{Byte: g[36], Bits: g[37], Window: window},
	}
}

// checkContext checks a context before [Table.Context] may be called for it. end is the size of the layer.
func (t *Table) checkContext(i int, end int64) error {
	g := t.groups[i*groupSize:][:groupSize]
	le := binary.LittleEndian
	at, n := le.Uint64(g[16:]), uint64(le.Uint32(g[32:]))
	if n > windowSize || at > uint64(len(t.tail)) || n > uint64(len(t.tail))-at {
		return fmt.Errorf("window of %d bytes at %d of %d: %w", n, at, len(t.tail), blob.ErrCorrupt)
	}
	c := t.Context(i)
	if err := blob.CheckRange(c.Stored.Off, c.Stored.Len, end); err != nil {
		return fmt.Errorf("stored %w", err)
	}
	if i > 0 {
		if p := t.Context(i - 1); c.Stored.Off < p.Stored.Off || c.Stored.End() < p.Stored.End() {
			return fmt.Errorf("stored at %d to %d, after one at %d to %d: %w", c.Stored.Off, c.Stored.End(), p.Stored.Off, p.Stored.End(), blob.ErrCorrupt)
		}
	}
	if c.Stored.Len > MaxContext || c.Plain.Len > MaxContext || c.Plain.Off < 0 || c.Start.Bits > 7 {
		return fmt.Errorf("%d bytes stored as %d, %d bits: %w", c.Plain.Len, c.Stored.Len, c.Start.Bits, blob.ErrCorrupt)
	}
	return nil
}
