package nydusblob

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/lazuli-project/lazuli/blob"
)

func readBlob(f *testing.F, id string) []byte {
	p, err := os.ReadFile(filepath.Join("..", "testdata", "blobs", id))
	if err != nil {
		f.Fatal(err)
	}
	return p
}

// FuzzTable takes a chunk table with its header behind the words that a blob table has for it.
func FuzzTable(f *testing.F) {
	le := binary.LittleEndian
	seed := func(info *Info, stored []byte) {
		p := le.AppendUint32(nil, uint32(info.Features))
		p = le.AppendUint32(p, info.ChunkCount)
		p = le.AppendUint64(p, info.PlainSize)
		p = le.AppendUint64(p, info.CIOffset)
		p = le.AppendUint64(p, info.CISize)
		f.Add(append(append(p, byte(info.CICompressor)), stored...))
	}
	t, info := tableOf([2]int64{5000, 100}, [2]int64{1, 1}, [2]int64{1 << 20, 1 << 20})
	seed(info, t.AppendHeader(bytes.Clone(t.raw), info))
	// A blob with batches, and one with inflate contexts.
	for id, plain := range map[string]uint64{
		"edfcd8d972fb3bc44e0d19e3305748bb64133395fa585162eb3481233a370078": 1060864,
		"2b74f9172618f7a93bcbdf82ae68cd42abef67d09fb5dc7aeeaca3f5916b7c48": 307200,
	} {
		groups := readBlob(f, id)
		for at := 0; at+HeaderSize <= len(groups); at++ {
			h := groups[at:]
			if le.Uint32(h) != headerMagic {
				continue
			}
			info := &Info{Features: Features(le.Uint32(h[4:])), CICompressor: Compressor(le.Uint32(h[8:])), ChunkCount: le.Uint32(h[12:]),
				CIOffset: le.Uint64(h[16:]), CISize: le.Uint64(h[32:]), PlainSize: plain}
			seed(info, groups[info.CIOffset:at+HeaderSize])
			break
		}
	}
	d, err := NewDecoder()
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		if len(p) < 33+HeaderSize {
			return
		}
		info := &Info{ID: "id", ChunkSize: 1 << 20, Compressor: CompressorZstd, StoredSize: MaxStoredSize, Features: Features(le.Uint32(p)), ChunkCount: le.Uint32(p[4:]),
			PlainSize: le.Uint64(p[8:]), CIOffset: le.Uint64(p[16:]), CISize: le.Uint64(p[24:]), CICompressor: Compressor(p[32]), CIStoredSize: uint64(len(p) - 33 - HeaderSize)}
		if info.Validate() != nil {
			return
		}
		table, err := DecodeTable(d, info, p[33:])
		if err != nil {
			if !errors.Is(err, blob.ErrCorrupt) {
				t.Fatal(err)
			}
			return
		}
		l := NewLayout(info, table, Digests{}, d)
		var next int64
		var before blob.Span
		for i := range l.NumSpans() {
			s := l.Span(i)
			if table.zran && (s.Stored.Off < before.Stored.Off || s.Stored.End() < before.Stored.End()) {
				t.Fatalf("span %d: %+v after %+v", i, s, before)
			}
			before = s
			if s.Plain.Off != next || s.Plain.Len <= 0 || l.SpanAt(s.Plain.Off) != i || l.SpanAt(s.Plain.End()-1) != i {
				t.Fatalf("span %d: %+v at %d", i, s, next)
			}
			next = s.Plain.End()
			if s.Stored.Off < 0 || s.Stored.Len <= 0 || s.Stored.End() > MaxStoredSize || s.Stored.Len > MaxChunkSize+contextSlack {
				t.Fatalf("span %d: %+v", i, s)
			}
			if s.Plain.Len < 1<<22 {
				plain := make([]byte, s.Plain.Len)
				if err := l.Decode(plain, make([]byte, s.Stored.Len), s); err == nil {
					_ = l.Verify(plain, s)
				}
			}
		}
		if next != l.Size() {
			t.Fatalf("spans end at %d of %d", next, l.Size())
		}
	})
}

// FuzzSections takes blobs.
func FuzzSections(f *testing.F) {
	f.Add(readBlob(f, "6a6c131bef0bdf16d474470e9fea62af5f259ca32887bebdba984221c2e4ab6f"))
	f.Add(readBlob(f, "99362b0575e3160fd56b07aa8222eb7de41d87437e117ba03659f91b78b7d285"))
	d, err := NewDecoder()
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		src := blob.ReaderAtSource{R: bytes.NewReader(p), N: int64(len(p))}
		for _, name := range []string{SectionMeta, SectionMetaHeader, SectionDigest, SectionBootstrap, SectionTOC} {
			s, err := FindSection(t.Context(), src, name)
			if err == nil && s != nil {
				_, err = s.Read(t.Context(), src, d, 1<<20)
			}
			if err != nil && !errors.Is(err, blob.ErrCorrupt) && !errors.Is(err, blob.ErrDigest) && !errors.Is(err, blob.ErrUnsupported) && !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Fatal(err)
			}
		}
	})
}
