package nydusblob

import (
	"encoding/binary"

	"github.com/lazuli-project/lazuli/blob"
)

// NewTableV2 begins a table with entries of version 2, which keep CRCs and may name batches. No chunk of it may be stored as
// more than MaxStoredV2 bytes.
func NewTableV2() *Table { return &Table{v2: true} }

// MaxStoredV2 is the largest stored size of a chunk that an entry of version 2 has room for.
const MaxStoredV2 = 1<<24 - 1

// AppendV2 adds a chunk. The entry's Compressed and CRC32C count. One that is InGroup is a batch's; but the table gets no batch.
func (t *Table) AppendV2(e Entry) {
	var flags uint8
	if e.InGroup {
		flags = flagBatch
	}
	t.raw = e.appendV2(t.raw, flags)
}

// AppendBatch adds a batch of chunks that are compressed as one: stored is its stored range, and chunks the places of its chunks
// in the plain space, in the order in which they lie behind each other in the batch.
func (t *Table) AppendBatch(stored blob.Range, chunks []blob.Range) {
	e := Entry{Stored: blob.Range{Off: stored.Off}, Compressed: true, InGroup: true, Group: uint32(t.Groups())}
	for _, c := range chunks {
		e.Plain = c
		t.raw = e.appendV2(t.raw, flagBatch)
		e.GroupOffset += uint32(c.Len)
	}
	var g [groupSize]byte
	binary.LittleEndian.PutUint32(g[0:], uint32(stored.Len))
	binary.LittleEndian.PutUint32(g[4:], e.GroupOffset)
	t.groups = append(t.groups, g[:]...)
}
