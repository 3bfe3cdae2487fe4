package nydusblob

import (
	"bytes"
	"errors"
	"testing"

	"github.com/lazuli-project/lazuli/blob"
)

// Two batches and a chunk alone, through the table's stored form and back.
func TestAppendBatch(t *testing.T) {
	t.Parallel()
	table := NewTableV2()
	table.AppendBatch(blob.Range{Off: 0, Len: 9}, []blob.Range{{Off: 0, Len: 5}, {Off: Align, Len: 7}})
	table.AppendV2(Entry{Plain: blob.Range{Off: 2 * Align, Len: 6}, Stored: blob.Range{Off: 9, Len: 6}, CRC32C: 77})
	table.AppendBatch(blob.Range{Off: 15, Len: 3}, []blob.Range{{Off: 3 * Align, Len: 3}})
	info := &Info{ID: "x", ChunkSize: Align, ChunkCount: 4, PlainSize: 4 * Align, StoredSize: 4096, CIOffset: 18,
		Features: FeatureAligned | FeatureCapTarTOC | FeatureChunkInfoV2 | FeatureBatch}
	info.CISize = uint64(len(table.Bytes()))
	info.CIStoredSize = info.CISize
	if err := info.Validate(); err != nil {
		t.Fatal(err)
	}
	d, err := NewDecoder()
	if err != nil {
		t.Fatal(err)
	}
	got, err := DecodeTable(d, info, table.AppendHeader(table.Bytes(), info))
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []Entry{
		{Plain: blob.Range{Len: 5}, Compressed: true, InGroup: true},
		{Plain: blob.Range{Off: Align, Len: 7}, Compressed: true, InGroup: true, GroupOffset: 5},
		{Plain: blob.Range{Off: 2 * Align, Len: 6}, Stored: blob.Range{Off: 9, Len: 6}, CRC32C: 77},
		{Plain: blob.Range{Off: 3 * Align, Len: 3}, Stored: blob.Range{Off: 15}, Compressed: true, InGroup: true, Group: 1},
	} {
		if e := got.Entry(i); e != want {
			t.Errorf("chunk %d: %+v", i, e)
		}
	}
	if got.Groups() != 2 || !bytes.Equal(got.Bytes(), table.Bytes()) {
		t.Errorf("%d groups", got.Groups())
	}
}

// A made-up table may have chunks at one place that are in no group, or in several.
func TestDecodeSpansOfNoGroup(t *testing.T) {
	t.Parallel()
	d, err := NewDecoder()
	if err != nil {
		t.Fatal(err)
	}
	plain := &Table{}
	for i := range int64(2) {
		plain.Append(Entry{Plain: blob.Range{Off: i * Align, Len: 5}, Stored: blob.Range{Len: 5}})
	}
	batches := NewTableV2()
	for i := range int64(2) {
		batches.AppendBatch(blob.Range{Len: 5}, []blob.Range{{Off: i * Align, Len: 5 + i}})
	}
	for _, table := range []*Table{plain, batches} {
		l := NewLayout(&Info{ChunkSize: Align, ChunkCount: 2}, table, Digests{}, d)
		out := [][]byte{make([]byte, Align), make([]byte, Align)}
		if err := l.DecodeSpans(out, []byte("hello"), []blob.Span{l.Span(0), l.Span(1)}); !errors.Is(err, blob.ErrCorrupt) {
			t.Errorf("%v", err)
		}
	}
}
