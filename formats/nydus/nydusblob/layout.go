package nydusblob

import (
	"bytes"
	"fmt"
	"hash/crc32"
	"sort"
	"sync"

	"github.com/lazuli-project/lazuli/blob"
)

// Digests are the digests of a blob's chunks by their index.
type Digests struct {
	// Sums has DigestSize bytes for each chunk, zeros where the chunk's digest is not known. May be nil.
	Sums []byte
	// CRC32C has the CRC of each chunk, 0 where it is not known. May be nil.
	CRC32C []uint32
}

// Complete reports whether the digests of all n chunks are known.
func (d *Digests) Complete(n int) bool {
	for i := range n {
		if d.Sum(i) == nil {
			return false
		}
	}
	return true
}

// Sum returns the digest of chunk i, or nil where it is not known.
func (d *Digests) Sum(i int) []byte {
	if d.Sums == nil {
		return nil
	}
	if s := d.Sums[i*DigestSize:][:DigestSize]; !bytes.Equal(s, zeroSum[:]) {
		return s
	}
	return nil
}

func (d *Digests) crc(i int) uint32 {
	if d.CRC32C == nil {
		return 0
	}
	return d.CRC32C[i]
}

var zeroSum [DigestSize]byte

// maxGroupSpan bounds the plain size of a span with several chunks. Each chunk of a group begins at a multiple of Align,
// so that a group of many tiny ones is much larger in the plain space than its content. It then has several spans,
// all with the same stored range.
const maxGroupSpan = 4 << 20

// contextSpan is about how many stored bytes of an inflate context make a span. A span's stored range begins where its context
// does, and ends with the span: what is behind it needs not be read for it.
const contextSpan = 64 << 10

// Layout maps the plain space of a blob. Its spans are chunks, and groups (batches, inflate contexts) or parts of them where
// chunks share one. A span's plain range is rounded up to Align; what follows a chunk there is zeros.
type Layout struct {
	info    Info
	table   *Table
	digests Digests
	decoder *Decoder
	cipher  *Cipher   // nil where nothing is encrypted
	first   []uint32  // of each span its first chunk; nil where spans are chunks
	groups  sync.Pool // of *[]byte, plain forms
}

var (
	_ blob.Layout       = (*Layout)(nil)
	_ blob.SpansDecoder = (*Layout)(nil)
	_ blob.Chunker      = (*Layout)(nil)
)

// NewLayout returns the layout of a blob. The digests must have the table's length.
func NewLayout(info *Info, t *Table, digests Digests, d *Decoder) *Layout {
	l := &Layout{info: *info, table: t, digests: digests, decoder: d}
	l.cipher, _ = info.cipher() // keys were checked with the info
	if t.Groups() == 0 {
		return l
	}
	var begin Entry // of the last span
	for i := range t.Len() {
		e := t.Entry(i)
		if i > 0 && e.InGroup && begin.InGroup && begin.Group == e.Group && e.Plain.End()-begin.Plain.Off <= maxGroupSpan &&
			(!t.zran || e.Stored.End()-begin.Stored.Off <= contextSpan) {
			continue
		}
		l.first = append(l.first, uint32(i))
		begin = e
	}
	return l
}

// Info returns what the blob table says about the blob.
func (l *Layout) Info() Info { return l.info }

// Digests returns the digests of the chunks, as far as they are known.
func (l *Layout) Digests() Digests { return l.digests }

// Table returns the chunk table.
func (l *Layout) Table() *Table { return l.table }

// Size implements [blob.Layout].
func (l *Layout) Size() int64 { return l.table.PlainSize() }

// NumSpans implements [blob.Layout].
func (l *Layout) NumSpans() int {
	if l.first != nil {
		return len(l.first)
	}
	return l.table.Len()
}

// chunks returns the range of chunk indexes of a span.
func (l *Layout) chunks(span int) (from, to int) {
	if l.first == nil {
		return span, span + 1
	}
	to = l.table.Len()
	if span+1 < len(l.first) {
		to = int(l.first[span+1])
	}
	return int(l.first[span]), to
}

// Span implements [blob.Layout].
func (l *Layout) Span(i int) blob.Span {
	from, to := l.chunks(i)
	e := l.table.Entry(from)
	end := l.Size()
	if to < l.table.Len() {
		end = l.table.Entry(to).Plain.Off
	}
	s := blob.Span{Index: i, Stored: e.Stored, Plain: blob.Range{Off: e.Plain.Off, Len: end - e.Plain.Off}}
	if e.InGroup {
		s.Stored, _ = l.table.group(&e)
		if l.table.zran {
			s.Stored.Len = l.contextPart(s.Stored, to)
		}
	}
	return s
}

// SpanAt implements [blob.Layout].
func (l *Layout) SpanAt(off int64) int {
	i := l.table.Find(off)
	if l.first == nil {
		return i
	}
	return sort.Search(len(l.first), func(k int) bool { return int(l.first[k]) > i }) - 1
}

// Decode implements [blob.Layout].
func (l *Layout) Decode(plain, stored []byte, s blob.Span) error {
	from, _ := l.chunks(s.Index)
	e := l.table.Entry(from)
	if !e.InGroup {
		n := e.Plain.Len
		stored, err := l.decrypt(stored, &e)
		if err == nil {
			err = l.decoder.Decode(plain[:n], stored, l.codec(e.Compressed))
		}
		if err != nil {
			return fmt.Errorf("chunk %d: %w", from, err)
		}
		clear(plain[n:])
		return nil
	}
	return l.DecodeSpans([][]byte{plain}, stored, []blob.Span{s})
}

// decrypt returns the stored bytes of a chunk or its group as they were before they were encrypted.
func (l *Layout) decrypt(stored []byte, e *Entry) ([]byte, error) {
	switch {
	case !e.Encrypted:
		return stored, nil
	case l.cipher == nil:
		return nil, fmt.Errorf("encrypted, and there is no key: %w", blob.ErrCorrupt)
	}
	return l.cipher.Decrypt(stored)
}

// contextPart returns how many stored bytes of a context the chunks before an index need.
func (l *Layout) contextPart(context blob.Range, to int) int64 {
	n := context.Len
	last := l.table.Entry(to - 1)
	if end := last.Stored.End() - context.Off; to < l.table.Len() && l.table.Entry(to).Group == last.Group && end > 0 {
		n = min(n, end)
	}
	// What follows may have been looked at before a chunk was known to be complete.
	return min(n+contextSlack, int64(l.info.StoredSize)-context.Off)
}

// DecodeSpans implements [blob.SpansDecoder]: the spans are parts of one group.
func (l *Layout) DecodeSpans(plain [][]byte, stored []byte, spans []blob.Span) error {
	first, to := l.chunks(spans[0].Index)
	for _, s := range spans[1:] {
		_, end := l.chunks(s.Index)
		to = max(to, end)
	}
	e, last := l.table.Entry(first), l.table.Entry(to-1)
	for _, s := range spans {
		// Spans of no group, or of several, can lie at one place in a table that somebody made up.
		if from, to := l.chunks(s.Index); !l.sameGroup(&e, from, to) {
			return fmt.Errorf("spans of several groups at %d: %w", s.Stored.Off, blob.ErrCorrupt)
		}
	}
	_, size := l.table.group(&e)
	if l.table.zran {
		size = int64(last.GroupOffset) + last.Plain.Len
	}
	buf, _ := l.groups.Get().(*[]byte)
	if buf == nil || int64(cap(*buf)) < size {
		b := make([]byte, size)
		buf = &b
	}
	defer l.groups.Put(buf)
	group := (*buf)[:size]
	stored, err := l.decrypt(stored, &e)
	if err == nil {
		err = l.decodeGroup(group, stored, e.Group)
	}
	if err != nil {
		return fmt.Errorf("group %d: %w", e.Group, err)
	}
	for i, s := range spans {
		l.cut(plain[i], group, s)
	}
	return nil
}

// sameGroup reports whether chunks are in the group of e.
func (l *Layout) sameGroup(e *Entry, from, to int) bool {
	for i := from; i < to; i++ {
		if x := l.table.Entry(i); !x.InGroup || x.Group != e.Group {
			return false
		}
	}
	return true
}

// cut takes the chunks of a span out of their group.
func (l *Layout) cut(plain, group []byte, s blob.Span) {
	var done int64 // of plain
	from, to := l.chunks(s.Index)
	for i := from; i < to; i++ {
		e := l.table.Entry(i)
		at := e.Plain.Off - s.Plain.Off
		clear(plain[done:at])
		done = at + int64(copy(plain[at:], group[e.GroupOffset:][:e.Plain.Len]))
	}
	clear(plain[done:])
}

// decodeGroup decodes a group, of which plain is the whole or, of a context, the beginning.
func (l *Layout) decodeGroup(plain, stored []byte, number uint32) error {
	if !l.table.zran {
		return l.decoder.Decode(plain, stored, l.codec(len(stored) != len(plain)))
	}
	return l.decoder.resumer.Decode(plain, stored, l.table.Context(int(number)).Start)
}

func (l *Layout) codec(compressed bool) Compressor {
	if !compressed {
		return CompressorNone
	}
	return l.info.Compressor
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// CRC32C returns the CRC that the format keeps beside digests.
func CRC32C(p []byte) uint32 { return crc32.Checksum(p, castagnoli) }

// Verify implements [blob.Layout]. Chunks are checked by their digest, and by their CRC where there is one.
func (l *Layout) Verify(plain []byte, s blob.Span) error {
	from, to := l.chunks(s.Index)
	for i := from; i < to; i++ {
		e := l.table.Entry(i)
		if err := l.verify(plain[e.Plain.Off-s.Plain.Off:][:e.Plain.Len], i, &e); err != nil {
			return fmt.Errorf("chunk %d: %w", i, err)
		}
	}
	return nil
}

func (l *Layout) verify(chunk []byte, i int, e *Entry) error {
	want := l.digests.Sum(i)
	crcs := [2]uint32{e.CRC32C, l.digests.crc(i)}
	if want == nil && crcs == [2]uint32{} {
		return blob.ErrUnverified
	}
	if want != nil {
		if got := l.info.Digester.Sum(chunk); !bytes.Equal(got[:], want) {
			return fmt.Errorf("%s %x instead of %x: %w", l.info.Digester, got, want, blob.ErrDigest)
		}
	}
	for _, want := range crcs {
		if want != 0 && CRC32C(chunk) != want {
			return fmt.Errorf("crc32c is not %08x: %w", want, blob.ErrDigest)
		}
	}
	return nil
}

// Chunks implements [blob.Chunker].
func (l *Layout) Chunks(fn func(blob.Chunk) bool) {
	for s := range l.NumSpans() {
		from, to := l.chunks(s)
		span := l.Span(s)
		for i := from; i < to; i++ {
			e := l.table.Entry(i)
			compressed := e.Compressed
			if e.InGroup && !l.table.zran {
				stored, plain := l.table.group(&e)
				compressed = stored.Len != plain
			}
			if !fn(blob.Chunk{Index: i, Plain: e.Plain, Stored: span.Stored, Compressed: compressed, Digest: l.digests.Sum(i)}) {
				return
			}
		}
	}
}
