package nydusblob

import (
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"sort"

	"github.com/lazuli-project/lazuli/blob"
)

// Sizes of the chunk table's parts in bytes.
const (
	entrySizeV1 = 16
	entrySizeV2 = 24
	groupSize   = 40
	// HeaderSize is the size of the header that follows the chunk table.
	HeaderSize = 4096

	headerMagic = 0xb10bb10b
)

// Flags of entries of version 2.
const (
	flagCompressed = 1 << iota
	flagZran
	flagBatch
	flagEncrypted
	flagCRC32

	flagsReadable = flagCompressed | flagZran | flagBatch | flagEncrypted | flagCRC32
)

// Entry is one chunk in the chunk table.
type Entry struct {
	Plain blob.Range // without padding
	// Stored range. Of a chunk in a batch it is the batch's offset and 0; of one in a context, what was read of the layer
	// while the chunk was, which says nothing about where decoding must begin.
	Stored     blob.Range
	Compressed bool
	Encrypted  bool
	// CRC32C of the plain bytes; 0 where the table has none.
	CRC32C uint32
	// InGroup says that the chunk is decoded together with others: it is GroupOffset bytes inside of the plain form of group
	// number Group, which is a batch, or an inflate context in blobs with FeatureZran.
	InGroup            bool
	Group, GroupOffset uint32
}

// Version 1 entry, 16 bytes: two words, of the plain and of the stored range.
//
//	plain:  bits 0-7 0, 8-11 size-1 bits 20-23, 12-43 offset (a multiple of 4096 as it is), 44-63 size-1 bits 0-19
//	stored: bits 0-39 offset, 40-43 size-1 bits 20-23, 44-63 size-1 bits 0-19
//
// A chunk is compressed where the sizes differ.
func (e *Entry) appendV1(dst []byte) []byte {
	u, c := uint64(e.Plain.Len-1), uint64(e.Stored.Len-1)
	dst = binary.LittleEndian.AppendUint64(dst, uint64(e.Plain.Off)|u>>20<<8|u<<44)
	return binary.LittleEndian.AppendUint64(dst, uint64(e.Stored.Off)|c>>20<<40|c<<44)
}

func decodeV1(p []byte) Entry {
	u, c := binary.LittleEndian.Uint64(p), binary.LittleEndian.Uint64(p[8:])
	e := Entry{
		Plain:  blob.Range{Off: int64(u & 0x0fff_ffff_f000), Len: int64(u>>44|u>>8&0xf<<20) + 1},
		Stored: blob.Range{Off: int64(c & 0xff_ffff_ffff), Len: int64(c>>44|c>>40&0xf<<20) + 1},
	}
	e.Compressed = e.Plain.Len != e.Stored.Len
	return e
}

// Version 2 entry, 24 bytes: three words.
//
//	plain:  bits 0-31 offset/4096, 32-55 size-1, 56-63 flags
//	stored: bits 0-39 offset, 40-63 size (not minus one)
//	data:   batch, zran: bits 32-63 number of the group, 0-31 offset in it; else with CRC: bits 0-31 CRC32C
func (e *Entry) appendV2(dst []byte, flags uint8) []byte {
	var data uint64
	if e.Compressed {
		flags |= flagCompressed
	}
	if e.Encrypted {
		flags |= flagEncrypted
	}
	switch {
	case e.InGroup:
		data = uint64(e.Group)<<32 | uint64(e.GroupOffset)
	case e.CRC32C != 0:
		flags |= flagCRC32
		data = uint64(e.CRC32C)
	}
	dst = binary.LittleEndian.AppendUint64(dst, uint64(e.Plain.Off)>>12|uint64(e.Plain.Len-1)<<32|uint64(flags)<<56)
	dst = binary.LittleEndian.AppendUint64(dst, uint64(e.Stored.Off)|uint64(e.Stored.Len)<<40)
	return binary.LittleEndian.AppendUint64(dst, data)
}

func decodeV2(p []byte) (Entry, uint8) {
	u, c := binary.LittleEndian.Uint64(p), binary.LittleEndian.Uint64(p[8:])
	data, flags := binary.LittleEndian.Uint64(p[16:]), uint8(u>>56)
	e := Entry{
		Plain:      blob.Range{Off: int64(u&0xffff_ffff) << 12, Len: int64(u>>32&0xff_ffff) + 1},
		Stored:     blob.Range{Off: int64(c & 0xff_ffff_ffff), Len: int64(c >> 40)},
		Compressed: flags&flagCompressed != 0,
		Encrypted:  flags&flagEncrypted != 0,
	}
	switch {
	case flags&(flagBatch|flagZran) != 0:
		e.InGroup, e.Group, e.GroupOffset = true, uint32(data>>32), uint32(data)
	case flags&flagCRC32 != 0:
		e.CRC32C = uint32(data)
	}
	return e, flags
}

// Table is a blob's chunk table in its plain stored form. A table that is not being appended to may be
// used concurrently.
type Table struct {
	raw    []byte // entries
	groups []byte // batches or contexts, groupSize bytes each
	tail   []byte // windows of contexts
	// windows are those of a table that is made, which has no tail but tailSize bytes of one.
	windows  []Window
	tailSize int
	v2       bool
	zran     bool // groups are contexts
}

// Len returns the number of chunks.
func (t *Table) Len() int { return len(t.raw) / t.entrySize() }

func (t *Table) entrySize() int {
	if t.v2 {
		return entrySizeV2
	}
	return entrySizeV1
}

// Entry returns the chunk with index i.
func (t *Table) Entry(i int) Entry {
	if t.v2 {
		e, _ := decodeV2(t.raw[i*entrySizeV2:][:entrySizeV2])
		return e
	}
	return decodeV1(t.raw[i*entrySizeV1:][:entrySizeV1])
}

// Append adds a chunk without batch to a table of version 1. Its compressed form must be shorter than it.
func (t *Table) Append(e Entry) { t.raw = e.appendV1(t.raw) }

// PlainSize returns the end of the last chunk, rounded up to Align.
func (t *Table) PlainSize() int64 {
	if n := t.Len(); n > 0 {
		return alignUp(t.Entry(n - 1).Plain.End())
	}
	return 0
}

// Find returns the index of the chunk whose range, rounded up to Align, holds the plain offset
// 0 <= off < PlainSize(). It costs a binary search.
func (t *Table) Find(off int64) int {
	return sort.Search(t.Len()-1, func(i int) bool { return t.Entry(i+1).Plain.Off > off })
}

// Batch, 40 bytes: 0 u32 stored size | 4 u32 plain size | 8 zeros

// group returns what is stored of the group of a chunk, and the size of its plain form.
func (t *Table) group(e *Entry) (stored blob.Range, plain int64) {
	if t.zran {
		c := t.Context(int(e.Group))
		return c.Stored, c.Plain.Len
	}
	g := t.groups[int(e.Group)*groupSize:]
	return blob.Range{Off: e.Stored.Off, Len: int64(binary.LittleEndian.Uint32(g))}, int64(binary.LittleEndian.Uint32(g[4:]))
}

// Groups returns the number of batches or contexts.
func (t *Table) Groups() int { return len(t.groups) / groupSize }

// Bytes returns the stored form before compression.
func (t *Table) Bytes() []byte {
	if len(t.groups) == 0 {
		return t.raw
	}
	p := slices.Grow(slices.Concat(t.raw, t.groups, t.tail), t.tailSize)
	for _, w := range t.windows {
		p = w.AppendTo(p)
	}
	return p
}

// Size returns the length of Bytes.
func (t *Table) Size() int64 { return int64(len(t.raw) + len(t.groups) + len(t.tail) + t.tailSize) }

// WriteTo writes what Bytes returns, a window after the other.
func (t *Table) WriteTo(w io.Writer) (int64, error) {
	var total int64
	write := func(p []byte) error {
		n, err := w.Write(p)
		total += int64(n)
		return err
	}
	for _, p := range [][]byte{t.raw, t.groups, t.tail} {
		if err := write(p); err != nil {
			return total, err
		}
	}
	var p []byte
	for _, window := range t.windows {
		p = window.AppendTo(p[:0])
		if err := write(p); err != nil {
			return total, err
		}
	}
	return total, nil
}

func alignUp(n int64) int64 { return (n + Align - 1) &^ (Align - 1) }

// The header of the chunk table, 4096 bytes.
//
//	0 u32 magic | 4 u32 features | 8 u32 compressor of the table | 12 u32 entries | 16 u64 offset of the table
//	24 u64 stored size | 32 u64 size | 40 u64 offset and 48 u64 size of the groups with their windows | 56 u32 groups
//	60 zeros | 4092 u32 magic

// AppendHeader appends the table's header. The features in it are those of b.
func (t *Table) AppendHeader(dst []byte, b *Info) []byte {
	var h [HeaderSize]byte
	le := binary.LittleEndian
	le.PutUint32(h[0:], headerMagic)
	le.PutUint32(h[4:], uint32(b.Features))
	le.PutUint32(h[8:], uint32(b.CICompressor))
	le.PutUint32(h[12:], b.ChunkCount)
	le.PutUint64(h[16:], b.CIOffset)
	le.PutUint64(h[24:], b.CIStoredSize)
	le.PutUint64(h[32:], b.CISize)
	if n := len(t.groups); n > 0 {
		le.PutUint64(h[40:], uint64(len(t.raw)))
		le.PutUint64(h[48:], uint64(n+len(t.tail)+t.tailSize))
		le.PutUint32(h[56:], uint32(t.Groups()))
	}
	le.PutUint32(h[HeaderSize-4:], headerMagic)
	return append(dst, h[:]...)
}

// checkHeader compares a table's header with the blob table, and returns the number of groups.
func checkHeader(h []byte, b *Info) (int, error) {
	le := binary.LittleEndian
	bad := func(what string, got, want uint64) error {
		return fmt.Errorf("header of the chunk table: %s is %#x instead of %#x: %w", what, got, want, blob.ErrCorrupt)
	}
	if len(h) != HeaderSize {
		return 0, bad("length", uint64(len(h)), HeaderSize)
	}
	for _, f := range []struct {
		what      string
		got, want uint64
	}{
		{"magic", uint64(le.Uint32(h)), headerMagic},
		{"second magic", uint64(le.Uint32(h[HeaderSize-4:])), headerMagic},
		{"compressor", uint64(le.Uint32(h[8:])), uint64(b.CICompressor)},
		{"number of entries", uint64(le.Uint32(h[12:])), uint64(b.ChunkCount)},
		{"offset", le.Uint64(h[16:]), b.CIOffset},
		{"stored size", le.Uint64(h[24:]), b.CIStoredSize},
		{"size", le.Uint64(h[32:]), b.CISize},
	} {
		if f.got != f.want {
			return 0, bad(f.what, f.got, f.want)
		}
	}
	if b.Features&(FeatureBatch|FeatureZran) == 0 {
		return 0, nil
	}
	n := uint64(le.Uint32(h[56:]))
	entries := uint64(b.ChunkCount) * entrySizeV2
	if off := le.Uint64(h[40:]); n > 0 && off != entries {
		return 0, bad("offset of groups", off, entries)
	}
	if n > uint64(b.ChunkCount) || b.CISize < entries+n*groupSize {
		return 0, bad("number of groups", n, uint64(b.ChunkCount))
	}
	if b.Features&FeatureZran == 0 && b.CISize != entries+n*groupSize {
		return 0, bad("number of batches", n, (b.CISize-entries)/groupSize)
	}
	return int(n), nil
}

// DecodeTable decodes and checks a chunk table as it lies in the blob at b.CIOffset: b.CIStoredSize bytes and the header.
func DecodeTable(d *Decoder, b *Info, stored []byte) (*Table, error) {
	if uint64(len(stored)) != b.CIStoredSize+HeaderSize {
		return nil, fmt.Errorf("chunk table of %d bytes instead of %d: %w", len(stored), b.CIStoredSize+HeaderSize, blob.ErrCorrupt)
	}
	header, stored := stored[b.CIStoredSize:], stored[:b.CIStoredSize]
	cipher, err := b.cipher()
	if err != nil {
		return nil, err
	}
	if cipher != nil {
		if header, err = cipher.Decrypt(header); err != nil {
			return nil, fmt.Errorf("header of the chunk table: %w", err)
		}
		if stored, err = cipher.Decrypt(stored); err != nil {
			return nil, fmt.Errorf("chunk table: %w", err)
		}
	}
	groups, err := checkHeader(header, b)
	if err != nil {
		return nil, err
	}
	if b.CICompressor == CompressorNone {
		return newTable(b, stored, groups)
	}
	if b.CISize > maxRatio*(b.CIStoredSize+1) {
		return nil, fmt.Errorf("chunk table of %d bytes in %d: %w", b.CISize, b.CIStoredSize, blob.ErrCorrupt)
	}
	plain := make([]byte, b.CISize)
	if err := d.Decode(plain, stored, b.CICompressor); err != nil {
		return nil, fmt.Errorf("chunk table: %w", err)
	}
	return newTable(b, plain, groups)
}

// maxRatio bounds what is allocated for a compressed section before anything of it is decoded. Entries of a
// table and inodes of a bootstrap differ in their offsets, so that no codec comes near it.
const maxRatio = 1 << 12

// DecodeTableFile decodes and checks a chunk table in the form of a cache file: plain, zeros up to a multiple
// of 4096, header.
func DecodeTableFile(b *Info, file []byte) (*Table, error) {
	padded := uint64(alignUp(int64(b.CISize)))
	if uint64(len(file)) != padded+HeaderSize {
		return nil, fmt.Errorf("chunk table file of %d bytes instead of %d: %w", len(file), padded+HeaderSize, blob.ErrCorrupt)
	}
	groups, err := checkHeader(file[padded:], b)
	if err != nil {
		return nil, err
	}
	return newTable(b, file[:b.CISize:b.CISize], groups)
}

// File returns the table in the form of a cache file, see [DecodeTableFile].
func (t *Table) File(b *Info) []byte {
	p := make([]byte, alignUp(int64(b.CISize)), alignUp(int64(b.CISize))+HeaderSize)
	copy(p, t.Bytes())
	return t.AppendHeader(p, b)
}

// newTable checks every entry: that the chunks tile the plain space, lie inside of the data, and what the flags ask for.
func newTable(b *Info, plain []byte, groups int) (*Table, error) {
	t := &Table{raw: plain, v2: b.Features&FeatureChunkInfoV2 != 0, zran: b.Features&FeatureZran != 0}
	if t.v2 {
		n := int(b.ChunkCount) * entrySizeV2
		t.raw, t.groups = plain[:n:n], plain[n:]
		if n := groups * groupSize; t.zran && n <= len(t.groups) {
			t.groups, t.tail = t.groups[:n:n], t.groups[n:]
		}
	}
	if t.Len() != int(b.ChunkCount) || t.Groups() != groups {
		return nil, fmt.Errorf("chunk table has %d chunks and %d groups: %w", t.Len(), t.Groups(), blob.ErrCorrupt)
	}
	end := int64(b.DataSize())
	if t.zran {
		for i := range groups {
			if err := t.checkContext(i, end); err != nil {
				return nil, fmt.Errorf("context %d: %w", i, err)
			}
		}
	}
	var next int64
	for i := range t.Len() {
		e := t.Entry(i)
		if err := t.checkEntry(i, &e, b, next, end); err != nil {
			return nil, fmt.Errorf("chunk %d: %w", i, err)
		}
		next = alignUp(e.Plain.End())
	}
	if next != alignUp(int64(b.PlainSize)) {
		return nil, fmt.Errorf("chunks cover %d of %d bytes: %w", next, b.PlainSize, blob.ErrCorrupt)
	}
	return t, nil
}

func (t *Table) checkEntry(i int, e *Entry, b *Info, next, end int64) error {
	if t.v2 {
		_, flags := decodeV2(t.raw[i*entrySizeV2:][:entrySizeV2])
		wrong := uint8(flagZran)
		if t.zran {
			wrong = flagBatch
		}
		if flags&^flagsReadable != 0 || flags&wrong != 0 || e.Encrypted && b.Features&FeatureEncrypted == 0 || flags&flagCRC32 != 0 && e.CRC32C == 0 && !e.InGroup {
			return fmt.Errorf("flags %#x: %w", flags, blob.ErrCorrupt)
		}
	}
	// Old builders left gaps between the chunks of a layer that had chunks twice.
	if gap := e.Plain.Off - next; gap < 0 || gap > 0 && (!t.zran || i == 0) {
		return fmt.Errorf("begins at %d instead of %d: %w", e.Plain.Off, next, blob.ErrCorrupt)
	}
	if e.Plain.Len > int64(b.ChunkSize) {
		return fmt.Errorf("%d bytes, the chunk size is %d: %w", e.Plain.Len, b.ChunkSize, blob.ErrCorrupt)
	}
	if e.InGroup {
		return t.checkMember(i, e, b, end)
	}
	if err := blob.CheckRange(e.Stored.Off, e.Stored.Len, end); err != nil {
		return fmt.Errorf("stored %w", err)
	}
	raw := e.Plain.Len
	if e.Encrypted {
		raw = EncryptedSize(raw)
	}
	if e.Stored.Len == 0 || !e.Compressed && e.Stored.Len != raw {
		return fmt.Errorf("%d bytes stored as %d: %w", e.Plain.Len, e.Stored.Len, blob.ErrCorrupt)
	}
	// Bounds what a reader allocates for a chunk.
	if e.Stored.Len > MaxChunkSize {
		return fmt.Errorf("stored as %d bytes: %w", e.Stored.Len, blob.ErrCorrupt)
	}
	return nil
}

// checkMember checks a chunk in a group. Groups follow each other.
func (t *Table) checkMember(i int, e *Entry, b *Info, end int64) error {
	if b.Features&(FeatureBatch|FeatureZran) == 0 || int64(e.Group) >= int64(t.Groups()) {
		return fmt.Errorf("group %d of %d: %w", e.Group, t.Groups(), blob.ErrCorrupt)
	}
	stored, plain := t.group(e)
	if !t.zran && (plain > MaxChunkSize || stored.Len > max(plain, paddedSize) || stored.Len == 0) {
		return fmt.Errorf("batch %d: %d bytes stored as %d: %w", e.Group, plain, stored.Len, blob.ErrCorrupt)
	}
	if err := blob.CheckRange(stored.Off, stored.Len, end); err != nil {
		return fmt.Errorf("group %d: stored %w", e.Group, err)
	}
	if err := blob.CheckRange(int64(e.GroupOffset), e.Plain.Len, plain); err != nil {
		return fmt.Errorf("group %d: %w", e.Group, err)
	}
	if i > 0 {
		p := t.Entry(i - 1)
		wrong := e.Group < p.Group
		if e.Group == p.Group {
			wrong = !t.zran && e.Stored.Off != p.Stored.Off ||
				t.zran && (e.Stored.End() < p.Stored.End() || e.GroupOffset < p.GroupOffset+uint32(p.Plain.Len))
		}
		if p.InGroup && wrong {
			return fmt.Errorf("group %d at %d after group %d at %d: %w", e.Group, e.Stored.Off, p.Group, p.Stored.Off, blob.ErrCorrupt)
		}
	}
	return nil
}
