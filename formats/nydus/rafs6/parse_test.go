package rafs6

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lazuli-project/lazuli/blob"
)

func readFixture(t testing.TB, name string) []byte {
	t.Helper()
	p, err := os.ReadFile(filepath.Join(fixtures, name, "image.boot"))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// Places in the minimal bootstrap: superblocks, device slot, blob table at 0x1000, root at 0x3000, file at 0x3080, chunk
// table at 0x4000.
func TestDamage(t *testing.T) {
	t.Parallel()
	good := readFixture(t, "v6-minimal")
	u16 := func(v uint16) []byte { return binary.LittleEndian.AppendUint16(nil, v) }
	u32 := func(v uint32) []byte { return binary.LittleEndian.AppendUint32(nil, v) }
	u64 := func(v uint64) []byte { return binary.LittleEndian.AppendUint64(nil, v) }
	for _, c := range []struct {
		name string
		at   int
		put  []byte
		want string
		err  error
	}{
		{"magic", 0x400, u32(1), "magic", blob.ErrCorrupt},
		{"v5", 0, u32(magicV5), "RAFS v5", blob.ErrUnsupported},
		{"checksum", 0x404, u32(1), "checksum", blob.ErrCorrupt},
		{"no RAFS", 0x408, u32(0), "RAFS feature", blob.ErrCorrupt},
		{"block size", 0x40c, []byte{13}, "block size", blob.ErrCorrupt},
		{"512-byte blocks", 0x40c, []byte{9}, "block size", blob.ErrCorrupt},
		{"tarfs", 0x480, u64(0x1000294), "block size", blob.ErrCorrupt},
		{"root 0", 0x40e, u16(0), "root 0", blob.ErrCorrupt},
		{"root outside", 0x40e, u16(0xffff), "outside", blob.ErrCorrupt},
		{"no inodes", 0x410, u64(0), "0 inodes", blob.ErrCorrupt},
		{"metadata outside", 0x428, u32(6), "metadata at block", blob.ErrCorrupt},
		{"metadata far outside", 0x428, u32(1 << 31), "metadata at block", blob.ErrCorrupt},
		{"shared attributes", 0x42c, u32(1), "shared attributes", blob.ErrCorrupt},
		{"features", 0x450, u32(0x1c), "incompatible", blob.ErrCorrupt},
		{"no devices", 0x456, u16(0), "blocks without devices", blob.ErrCorrupt},
		{"many devices", 0x456, u16(255), "255 devices", blob.ErrCorrupt},
		{"slots", 0x458, u16(12), "device slots", blob.ErrCorrupt},
		{"two hashes", 0x480, u64(0x0100009c), "flags", blob.ErrCorrupt},
		{"no codec", 0x480, u64(0x01000014), "flags", blob.ErrCorrupt},
		{"unknown flag", 0x480, u64(0x01000894), "flags", blob.ErrCorrupt},
		{"says encrypted", 0x480, u64(0x02000094), "", nil},
		{"blob table unaligned", 0x488, u64(0x1004), "blob table", blob.ErrCorrupt},
		{"blob table outside", 0x488, u64(0x5000), "blob table", blob.ErrCorrupt},
		{"blob table far outside", 0x488, u64(1<<64 - 4096), "blob table", blob.ErrCorrupt},
		{"chunk size", 0x494, u32(0x180000), "chunk size", blob.ErrCorrupt},
		{"other chunk size", 0x494, u32(0x200000), "chunk size", blob.ErrCorrupt},
		{"chunk table on blob table", 0x498, u64(0x1000), "chunk table", blob.ErrCorrupt},
		{"chunk table size", 0x4a0, u64(81), "chunk table", blob.ErrCorrupt},
		{"empty chunk table outside", 0x498, append(u64(1<<40), u64(0)...), "", nil},
		{"chunk table outside", 0x4a0, u64(80 << 20), "chunk table", blob.ErrCorrupt},
		{"prefetch table outside", 0x4a8, append(u64(0x5000), u32(4)...), "prefetch table", blob.ErrCorrupt},
		{"device name", 0x580, []byte("b"), "device", blob.ErrCorrupt},
		{"device blocks", 0x5c0, u32(2), "blocks", blob.ErrCorrupt},
		{"blob index", 0x1040, u32(1), "index 1", blob.ErrCorrupt},
		{"no chunks", 0x1048, u32(0), "0 chunks", blob.ErrCorrupt},
		{"more chunks", 0x1048, u32(2), "chunk table of 16 bytes", blob.ErrCorrupt},
		{"codec", 0x104c, u32(4), "compressors", blob.ErrCorrupt},
		{"digest", 0x1050, u32(2), "digester", blob.ErrCorrupt},
		{"not aligned", 0x1054, u32(0x40000000), "not aligned", blob.ErrCorrupt},
		{"unknown feature", 0x1054, u32(0x40001001), "features", blob.ErrCorrupt},
		{"feature in memory", 0x1054, u32(0xc0000001), "features", blob.ErrCorrupt},
		{"zran", 0x1054, u32(0x4000000d), "groups", blob.ErrCorrupt},
		{"external", 0x1054, u32(0x40000801), "external", blob.ErrUnsupported},
		{"encrypted blob", 0x1054, u32(0x40000105), "cipher 0", blob.ErrCorrupt},
		{"cipher", 0x10d8, u32(1), "cipher 1", blob.ErrCorrupt},
		{"plain size", 0x1060, u64(1 << 45), "plain size", blob.ErrCorrupt},
		{"raw chunk table", 0x1078, u64(15), "raw chunk table", blob.ErrCorrupt},
		{"inode format", 0x3000, u16(0x7), "format", blob.ErrCorrupt},
		{"new inode format", 0x3000, u16(0x15), "format", blob.ErrCorrupt},
		{"attributes outside", 0x3002, u16(0xffff), "attributes", blob.ErrCorrupt},
		{"root is a file", 0x3004, u16(0o100644), "layout", blob.ErrCorrupt},
		{"root too large", 0x3008, u64(1 << 40), "content of", blob.ErrCorrupt},
		{"root empty", 0x3008, u64(0), "missing", blob.ErrCorrupt},
		{"no links", 0x302c, u32(0), "0 links", blob.ErrCorrupt},
		{"names overlap", 0x3048, u16(37), "names at 37", blob.ErrCorrupt},
		{"names at 0", 0x3048, u16(0), "names at 0", blob.ErrCorrupt},
		{"self", 0x3040, u64(129), "missing or wrong", blob.ErrCorrupt},
		{"name with slash", 0x3067, []byte("/"), "slash", blob.ErrCorrupt},
		{"out of order", 0x3067, []byte("-"), "after", blob.ErrCorrupt},
		{"child is the parent", 0x3058, u64(128), "more names", blob.ErrCorrupt},
		{"child outside", 0x3058, u64(1 << 31), "outside", blob.ErrCorrupt},
		{"child at 0", 0x3058, u64(0), "outside", blob.ErrCorrupt},
		{"type", 0x3062, []byte{2}, "type 2", blob.ErrCorrupt},
		{"file layout", 0x3080, u16(5), "layout", blob.ErrCorrupt},
		{"unknown type", 0x3084, u16(0o170644), "mode", blob.ErrCorrupt},
		{"file size", 0x3088, u64(1 << 50), "beyond the end", blob.ErrCorrupt},
		{"file larger than its blob", 0x3088, u64(4097), "outside of blob", blob.ErrCorrupt},
		{"no indexes", 0x3090, u32(8), "chunk format", blob.ErrCorrupt},
		{"48-bit", 0x3090, u32(0x68), "chunk format", blob.ErrCorrupt},
		{"smaller chunks", 0x3088, append(append(u64(4096), u32(0x27)...), u32(2)...), "", nil},
		{"nanoseconds", 0x30a8, u32(1e9), "ns", blob.ErrCorrupt},
		{"chunk index", 0x30c0, u16(1), "chunk 1", blob.ErrCorrupt},
		{"chunk's device", 0x30c2, []byte{0}, "blob -1", blob.ErrCorrupt},
		{"chunk's other device", 0x30c2, []byte{2}, "blob 1", blob.ErrCorrupt},
		{"chunk's block", 0x30c4, u32(1), "outside of blob", blob.ErrCorrupt},
		{"table's blob", 0x4020, u32(1), "chunk table", blob.ErrCorrupt},
		{"table's chunk", 0x4048, u32(1), "chunk table", blob.ErrCorrupt},
		{"table's flags", 0x4024, u32(0x40), "flags", blob.ErrCorrupt},
		{"nothing", 0x400, nil, "", nil},
	} {
		p := slices.Clone(good)
		copy(p[c.at:], c.put)
		_, err := Parse(p)
		if !errors.Is(err, c.err) || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, expected %q", c.name, err, c.want)
		}
	}
	for _, n := range []int{0, 4096, 8191, 8192, 12288, 16384, len(good) - 1} {
		if _, err := Parse(good[:n]); !errors.Is(err, blob.ErrCorrupt) {
			t.Errorf("cut at %d: %v", n, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, name := range []string{"v6-minimal", "v6-dir", "v6-parent-dir"} {
		f.Add(readFixture(f, name))
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		b, err := Parse(p)
		if err != nil {
			if !errors.Is(err, blob.ErrCorrupt) && !errors.Is(err, blob.ErrUnsupported) {
				t.Fatal(err)
			}
			return
		}
		sizes := make([]int64, len(b.Blobs))
		for i := range b.Blobs {
			sizes[i] = int64(b.Blobs[i].PlainSize)
		}
		if err := b.Tree.Validate(sizes); err != nil {
			t.Fatal(err)
		}
		rebuild(t, b)
	})
}

// rebuild makes a bootstrap of what another one knows, which must be possible or refused.
func rebuild(t *testing.T, b *Bootstrap) {
	t.Helper()
	blobs, err := b.KnownBlobs()
	if err != nil {
		if !errors.Is(err, blob.ErrCorrupt) && !errors.Is(err, blob.ErrUnsupported) {
			t.Fatal(err)
		}
		return
	}
	for i := range blobs {
		if blobs[i], err = JoinKnown(blobs[i], blobs[i]); err != nil {
			t.Fatal(err)
		}
	}
	_, err = Build(&Spec{Tree: b.Tree, Blobs: blobs, ChunkSize: b.ChunkSize, Compressor: b.Compressor(), Digester: b.Digester()})
	if err != nil && !errors.Is(err, ErrTree) && !errors.Is(err, blob.ErrUnsupported) {
		t.Fatal(err)
	}
}
