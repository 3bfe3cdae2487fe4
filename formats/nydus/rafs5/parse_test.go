package rafs5

import (
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/lazuli-project/lazuli/blob"
)

// Places in the minimal bootstrap: inode table at 0x2000, blob table at 0x2020, extended at 0x2068, root at 0x20a8, a at 0x2130 with
// its chunk at 0x21b8, b at 0x2208, c at 0x22e0, c/e at 0x2368, d at 0x23f0, x at 0x2480, z at 0x2570.
func TestDamage(t *testing.T) {
	t.Parallel()
	good := readFixture(t, "v5-minimal")
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
		{"nothing", 0, nil, "", nil},
		{"magic", 0, u32(1), "magic", blob.ErrCorrupt},
		{"version 4", 4, u32(0x400), "version 0x400", blob.ErrCorrupt},
		{"superblock size", 8, u32(4096), "size 4096", blob.ErrCorrupt},
		{"chunk size", 12, u32(0x180000), "chunk size", blob.ErrCorrupt},
		{"other chunk size", 12, u32(0x2000), "", nil},
		{"unknown flag", 16, u64(0x439), "flags", blob.ErrCorrupt},
		{"preserved flag", 16, u64(0x4000039), "", nil},
		{"other digest", 16, u64(0x35), "blake3", blob.ErrDigest},
		{"more inodes", 24, u64(9), "9 inodes", blob.ErrCorrupt},
		{"inode table unaligned", 32, u64(0x2004), "inode table", blob.ErrCorrupt},
		{"inode table in the superblock", 32, u64(0x1ff8), "inode table", blob.ErrCorrupt},
		{"inode table far outside", 32, u64(1<<64 - 8), "inode table", blob.ErrCorrupt},
		{"prefetch table outside", 40, append(u64(0x25f8), u64(0x2020)...), "", nil},
		{"prefetch table on blob table", 60, u32(1), "prefetch table on blob table", blob.ErrCorrupt},
		{"no entries", 56, u32(0), "0 entries", blob.ErrCorrupt},
		{"many entries", 56, u32(1 << 31), "entries", blob.ErrCorrupt},
		{"fewer entries", 56, u32(7), "there are 7", blob.ErrCorrupt},
		{"blob table too long", 64, u32(0x50), "on blob table", blob.ErrCorrupt},
		{"no blob table", 64, u32(0), "blob 0 of 0", blob.ErrCorrupt},
		{"extended table outside", 68, u32(1 << 26), "extended blob table", blob.ErrCorrupt},
		{"no extended table", 68, u32(0), "", nil},
		{"record in the superblock", 0x2000, u32(1), "record at 8", blob.ErrCorrupt},
		{"record outside", 0x2004, u32(1 << 28), "record at", blob.ErrCorrupt},
		{"blob without name", 0x2028, []byte{0}, "name of 0 bytes", blob.ErrCorrupt},
		{"blob's name", 0x2028, []byte{0xff}, "name of", blob.ErrCorrupt},
		{"one chunk", 0x2068, u32(1), "stored as", blob.ErrCorrupt},
		{"zran", 0x206c, u32(8), "zran", blob.ErrUnsupported},
		{"feature in memory", 0x206c, u32(1 << 31), "features", blob.ErrCorrupt},
		{"shorter blob", 0x2078, u64(13), "of 13", blob.ErrCorrupt},
		{"root's digest", 0x20a8, u64(1), "instead of", blob.ErrDigest},
		{"no digest", 0x20a8, make([]byte, 32), "", nil},
		{"root's number", 0x20a8 + 40, u64(2), "inode number 2", blob.ErrCorrupt},
		{"root is a file", 0x20a8 + 60, u32(0o100755), "chunks", blob.ErrCorrupt},
		{"root is a pipe", 0x20a8 + 60, u32(0o010755), "root is no directory", blob.ErrCorrupt},
		{"early dialect", 0x20a8 + 52, append(u32(0o40755), 0, 0, 0, 0, 1, 0, 0, 0), "before 2021", blob.ErrUnsupported},
		{"large mode", 0x20a8 + 60, u32(1<<16 | 0o40755), "mode", blob.ErrCorrupt},
		{"no links", 0x20a8 + 88, u32(0), "0 links", blob.ErrCorrupt},
		{"children are the root", 0x20a8 + 92, u32(1), "entries 1 to", blob.ErrCorrupt},
		{"too many children", 0x20a8 + 96, u32(8), "there are 8", blob.ErrCorrupt},
		{"children overflow", 0x20a8 + 96, u32(1<<32 - 1), "there are 8", blob.ErrCorrupt},
		{"fewer children", 0x20a8 + 96, u32(5), "instead of", blob.ErrDigest},
		{"long name", 0x2130 + 100, u16(300), "", blob.ErrCorrupt},
		{"no name", 0x2130 + 100, u16(0), "name of 0", blob.ErrCorrupt},
		{"name with slash", 0x21b0, []byte("/"), "slash", blob.ErrCorrupt},
		{"out of order", 0x21b0, []byte("b"), "after", blob.ErrCorrupt},
		{"file's size", 0x2130 + 64, u64(1 << 40), "bytes in 1 chunks", blob.ErrCorrupt},
		{"file's size overflow", 0x2130 + 64, u64(1<<64 - 1), "in 1 chunks", blob.ErrCorrupt},
		{"chunks outside", 0x2130 + 96, u32(1 << 30), "beyond the end", blob.ErrCorrupt},
		{"attributes outside", 0x2130 + 80, u64(4), "", blob.ErrCorrupt},
		{"nanoseconds", 0x2130 + 108, u32(1e9), "ns", blob.ErrCorrupt},
		{"chunk's digest", 0x21b8, u64(1), "instead of", blob.ErrDigest},
		{"chunk's blob", 0x21b8 + 32, u32(1), "blob 1 of 1", blob.ErrCorrupt},
		{"encrypted chunk", 0x21b8 + 36, u32(4), "flags 0x4", blob.ErrUnsupported},
		{"raw chunk of another size", 0x21b8 + 40, u32(5), "stored as 5", blob.ErrCorrupt},
		{"empty chunk", 0x21b8 + 40, u32(0), "stored as 0", blob.ErrCorrupt},
		{"chunk outside", 0x21b8 + 48, u64(9), "at 9 of 14", blob.ErrCorrupt},
		{"chunk far outside", 0x21b8 + 48, u64(1<<64 - 1), "of 14", blob.ErrCorrupt},
		{"two chunks at one place", 0x2480 + 128 + 8 + 8 + 24 - 8 + 48, u64(0), "", blob.ErrCorrupt},
		{"chunk's place in the file", 0x21b8 + 64, u64(1), "at 1", blob.ErrCorrupt},
		{"link to itself and later", 0x2208 + 40, u64(4), "inode number 4", blob.ErrCorrupt},
		{"link to nothing", 0x2208 + 40, u64(0), "inode number 0", blob.ErrCorrupt},
		{"link to a directory", 0x2208 + 40, u64(1), "link to entry 1", blob.ErrCorrupt},
		{"children twice", 0x22e0 + 92, append(u32(5), u32(3)...), "two directories", blob.ErrCorrupt},
		{"link without target", 0x23f0 + 102, u16(0), "link target", blob.ErrCorrupt},
		{"other target", 0x23f0 + 136, []byte("b"), "instead of", blob.ErrDigest},
		{"attribute outside", 0x2480 + 144, u32(100), "beyond the end", blob.ErrCorrupt},
		{"device", 0x2570 + 104, u32(0xffffffff), "", nil},
		{"unknown type", 0x2570 + 60, u32(0o150000), "mode", blob.ErrCorrupt},
	} {
		p := slices.Clone(good)
		copy(p[c.at:], c.put)
		_, err := Parse(p)
		if !errors.Is(err, c.err) || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, expected %q", c.name, err, c.want)
		}
	}
	for n := range len(good) {
		if _, err := Parse(good[:n]); err == nil {
			t.Errorf("cut at %d: no error", n)
		}
	}
}

// Each byte of the digests' coverage is changed in turn: sizes, targets, chunks, the shape of the tree.
func TestChangedBytes(t *testing.T) {
	t.Parallel()
	good := readFixture(t, "v5-minimal")
	want, err := Parse(good)
	if err != nil {
		t.Fatal(err)
	}
	sizes := []int64{want.Blobs[0].Table.PlainSize()}
	for i := range good {
		p := slices.Clone(good)
		p[i] ^= 0x41
		b, err := Parse(p)
		if err != nil {
			continue
		}
		if err := b.Tree.Validate(sizes); err != nil {
			t.Errorf("changed at %#x: %v", i, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, name := range []string{"v5-minimal", "v5-dir"} {
		f.Add(readFixture(f, name))
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		b, err := Parse(p)
		if err != nil {
			if !errors.Is(err, blob.ErrCorrupt) && !errors.Is(err, blob.ErrUnsupported) && !errors.Is(err, blob.ErrDigest) {
				t.Fatal(err)
			}
			return
		}
		sizes := make([]int64, len(b.Blobs))
		for i := range b.Blobs {
			sizes[i] = b.Blobs[i].Table.PlainSize()
		}
		if err := b.Tree.Validate(sizes); err != nil {
			t.Fatal(err)
		}
		// What was read can be written, unless it has what no tree of ours has, and then reads the same.
		made, err := Build(spec(b))
		if err != nil {
			if !errors.Is(err, ErrTree) && !errors.Is(err, blob.ErrUnsupported) {
				t.Fatal(err)
			}
			return
		}
		if _, err := Parse(made); err != nil {
			t.Fatal(err)
		}
	})
}
