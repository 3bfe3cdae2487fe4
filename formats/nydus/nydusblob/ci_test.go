package nydusblob

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/lazuli-project/lazuli/blob"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	p, err := hex.DecodeString(strings.Map(func(r rune) rune {
		if r == ' ' {
			return -1
		}
		return r
	}, s))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// Entries of real blobs.
func TestEntryV1(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		raw           string
		plain, stored blob.Range
	}{
		{"0000000000202204 0000000000b02d01", blob.Range{Off: 0, Len: 0x4223}, blob.Range{Off: 0, Len: 0x12dc}},
		{"0050000000704503 dc12000000d0b900", blob.Range{Off: 0x5000, Len: 0x3458}, blob.Range{Off: 0x12dc, Len: 0xb9e}},
		{"0000000000f0af00 0000000000a04b00", blob.Range{Off: 0, Len: 0xb00}, blob.Range{Off: 0, Len: 0x4bb}},
		{"0010000000502a00 bb04000000601900", blob.Range{Off: 0x1000, Len: 0x2a6}, blob.Range{Off: 0x4bb, Len: 0x197}},
		{"0020000000a0c200 5206000000a04b00", blob.Range{Off: 0x2000, Len: 0xc2b}, blob.Range{Off: 0x652, Len: 0x4bb}},
	} {
		want := Entry{Plain: c.plain, Stored: c.stored, Compressed: true}
		if got := decodeV1(unhex(t, c.raw)); got != want {
			t.Errorf("%s: %+v instead of %+v", c.raw, got, want)
		}
		if got := want.appendV1(nil); !bytes.Equal(got, unhex(t, c.raw)) {
			t.Errorf("%+v: %x instead of %s", want, got, c.raw)
		}
	}
	// The largest of everything.
	e := Entry{Plain: blob.Range{Off: MaxPlainSize - MaxChunkSize, Len: MaxChunkSize}, Stored: blob.Range{Off: MaxStoredSize - 1, Len: 1}, Compressed: true}
	if got := decodeV1(e.appendV1(nil)); got != e {
		t.Errorf("%+v instead of %+v", got, e)
	}
}

func TestEntryV2(t *testing.T) {
	t.Parallel()
	// Of a real blob with inflate contexts; the context is not decoded.
	e, flags := decodeV2(unhex(t, "000000007b050003 b800000000890200 0004000000000000"))
	if flags != flagCompressed|flagZran || e.Plain != (blob.Range{Off: 0, Len: 0x57c}) || e.Stored != (blob.Range{Off: 0xb8, Len: 0x289}) {
		t.Errorf("%+v, flags %#x", e, flags)
	}
}

func TestTarHeader(t *testing.T) {
	t.Parallel()
	h := AppendTarHeader(nil, SectionTOC, 512)
	if len(h) != TarHeaderSize || string(h[124:136]) != "00000001000\x00" || string(h[148:156]) != "0006255\x00" || !bytes.Equal(h[100:124], make([]byte, 24)) {
		t.Errorf("%q", h)
	}
	for _, size := range []int64{0, 1, 1<<33 - 1, 1 << 33, MaxStoredSize} {
		name, got, err := parseTarHeader(AppendTarHeader(nil, "x", size))
		if err != nil || name != "x" || got != size {
			t.Errorf("%d: %q, %d, %v", size, name, got, err)
		}
	}
}

// tableOf makes a table of chunks with their plain and stored sizes, and what a blob table says about it.
func tableOf(sizes ...[2]int64) (*Table, *Info) {
	t := &Table{}
	var plain, stored int64
	for _, s := range sizes {
		t.Append(Entry{Plain: blob.Range{Off: plain, Len: s[0]}, Stored: blob.Range{Off: stored, Len: s[1]}})
		plain, stored = alignUp(plain+s[0]), stored+s[1]
	}
	n := uint64(len(t.raw))
	return t, &Info{ID: "id", ChunkSize: 1 << 20, ChunkCount: uint32(t.Len()), Compressor: CompressorZstd, Features: FeatureAligned | FeatureCapTarTOC,
		StoredSize: uint64(stored) + n + HeaderSize, PlainSize: uint64(plain), CIOffset: uint64(stored), CIStoredSize: n, CISize: n}
}

func TestTable(t *testing.T) {
	t.Parallel()
	d, err := NewDecoder()
	if err != nil {
		t.Fatal(err)
	}
	good, info := tableOf([2]int64{5000, 100}, [2]int64{1, 1}, [2]int64{1 << 20, 1 << 20})
	if err := info.Validate(); err != nil {
		t.Fatal(err)
	}
	stored := good.AppendHeader(slices.Clone(good.Bytes()), info)
	got, err := DecodeTable(d, info, stored)
	if err != nil || !bytes.Equal(got.raw, good.raw) {
		t.Fatal(err)
	}
	if got, err = DecodeTableFile(info, good.File(info)); err != nil || !bytes.Equal(got.raw, good.raw) {
		t.Fatal(err)
	}
	for off, want := range map[int64]int{0: 0, 8191: 0, 8192: 1, 12287: 1, 12288: 2, 12288 + 1<<20 - 1: 2} {
		if i := got.Find(off); i != want {
			t.Errorf("offset %d is in chunk %d instead of %d", off, i, want)
		}
	}
	n := len(good.raw)
	for _, c := range []struct {
		name string
		at   int
		put  []byte
	}{
		{"chunk beyond its place", 1, []byte{0x10}},
		{"gap", 17, []byte{0x30}},
		{"chunk larger than the chunk size", 32, []byte{0, 0x31}},
		{"stored outside", 8, []byte{0, 0, 0x20}},
		{"plain size", 37, []byte{0, 0, 0}},
		{"magic", n, []byte{0}},
		{"compressor", n + 8, []byte{1}},
		{"entries", n + 12, []byte{4}},
		{"offset", n + 16, []byte{0}},
		{"stored size", n + 24, []byte{0}},
		{"size", n + 32, []byte{0}},
		{"second magic", n + HeaderSize - 1, []byte{0}},
	} {
		p := slices.Clone(stored)
		copy(p[c.at:], c.put)
		if bytes.Equal(p, stored) {
			t.Fatalf("%s: nothing changed", c.name)
		}
		if _, err := DecodeTable(d, info, p); !errors.Is(err, blob.ErrCorrupt) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	for i := range stored {
		if _, err := DecodeTable(d, info, stored[:i]); !errors.Is(err, blob.ErrCorrupt) {
			t.Fatalf("cut at %d: %v", i, err)
		}
	}
	large := *info
	large.CICompressor, large.CISize, large.CIStoredSize, large.ChunkCount = CompressorZstd, 16*MaxChunks, 10, MaxChunks
	if _, err := DecodeTable(d, &large, new(Table).AppendHeader(make([]byte, 10), &large)); !errors.Is(err, blob.ErrCorrupt) {
		t.Errorf("table that is much larger than what is stored: %v", err)
	}
}

// The smallest image of the reference tool: one file with "hello". Its blob comes out bit for bit.
func TestMinimalBlob(t *testing.T) {
	t.Parallel()
	table, info := tableOf([2]int64{5, 5})
	p := table.AppendHeader(append([]byte("hello"), table.Bytes()...), info)
	const want = "aa3b70cf2d0e8ac5d3a67e4d3177e9ad9b2a0a57690867ffc87de96158e875d1"
	if got := sha256.Sum256(p); hex.EncodeToString(got[:]) != want {
		t.Errorf("%x instead of %s", got, want)
	}
}

// What an encoder makes does not depend on what it made before.
func TestEncoder(t *testing.T) {
	t.Parallel()
	d, err := NewDecoder()
	if err != nil {
		t.Fatal(err)
	}
	text := []byte(strings.Repeat("what is written here compresses well. ", 5000))
	noise := make([]byte, 70_000)
	for i, x := range noise {
		noise[i] = x + byte(uint32(i)*2654435761>>17)
	}
	inputs := [][]byte{text, noise, text[:100], noise[:1], text[:1], append(slices.Clone(noise), text...), text[:40000]}
	for _, c := range []Compressor{CompressorNone, CompressorLZ4, CompressorZstd} {
		e, err := NewEncoder(c, zstd.SpeedDefault, 1, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		var first [][]byte
		for _, p := range inputs {
			fresh, err := NewEncoder(c, zstd.SpeedDefault, 1, 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			first = append(first, fresh.Append(nil, p))
		}
		for range 3 {
			for i, p := range inputs {
				got := e.Append([]byte("before"), p)[len("before"):]
				if !bytes.Equal(got, first[i]) {
					t.Errorf("%s: input %d is stored in %d bytes first and then %d, or others", c, i, len(first[i]), len(got))
				}
				codec := c
				if len(got) == len(p) {
					codec = CompressorNone
				}
				if len(got) > len(p) {
					t.Errorf("%s: input %d grows", c, i)
				}
				plain := make([]byte, len(p))
				if err := d.Decode(plain, got, codec); err != nil || !bytes.Equal(plain, p) {
					t.Errorf("%s: input %d: %v", c, i, err)
				}
				if codec == CompressorNone {
					continue
				}
				for _, n := range []int{len(p) - 1, len(p) + 1} {
					if err := d.Decode(make([]byte, n), got, codec); !errors.Is(err, blob.ErrCorrupt) {
						t.Errorf("%s: input %d decoded to %d bytes: %v", c, i, n, err)
					}
				}
				if err := d.Decode(plain, got[:len(got)-1], codec); !errors.Is(err, blob.ErrCorrupt) {
					t.Errorf("%s: input %d cut: %v", c, i, err)
				}
			}
		}
	}
}
