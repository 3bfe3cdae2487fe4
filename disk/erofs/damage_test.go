package erofs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/disk/erofs/ondisk"
	"github.com/lazuli-project/lazuli/tree"
)

const damageDisk = 1 << 20

// damageTree has one node of each kind that is read in a way of its own.
func damageTree() *tree.Tree {
	t := tree.New()
	file := func(mode uint32, change func(n *tree.Node)) *tree.Node {
		n := &tree.Node{Mode: mode, Mtime: 5}
		change(n)
		return n
	}
	dir := file(tree.TypeDir|0o755, func(*tree.Node) {})
	t.Root.Put("dir", dir)
	dir.Put("a", file(tree.TypeRegular|0o644, func(n *tree.Node) {
		n.Xattrs, n.Mtime = []tree.Xattr{{Name: "user.a", Value: []byte("1234")}, {Name: "user.b", Value: []byte("5678")}}, 6
	}))
	dir.Put("link", file(tree.TypeSymlink|0o777, func(n *tree.Node) { n.Target = "target" }))
	dir.Put("null", file(tree.TypeChar|0o600, func(n *tree.Node) { n.Rdev = tree.Device{Major: 1, Minor: 3} }))
	dir.Put("plain", file(tree.TypeRegular|0o644, func(n *tree.Node) {
		n.Size, n.Extents = 5000, []tree.Extent{{Length: 5000}}
	}))
	dir.Put("sparse", file(tree.TypeRegular|0o644, func(n *tree.Node) {
		n.Size, n.Extents = 9000, []tree.Extent{{Length: 4096}, {Blob: tree.Hole, Length: 4904}}
	}))
	t.CountLinks()
	return t
}

// damageImage returns a disk with that tree, and where its inodes are.
func damageImage(tb testing.TB) ([]byte, map[string]int) {
	tb.Helper()
	f, err := Create(Options{Size: damageDisk})
	if err != nil {
		tb.Fatal(err)
	}
	c, err := f.Apply(damageTree())
	if err != nil {
		tb.Fatal(err)
	}
	img := make([]byte, damageDisk)
	for _, b := range c.Blocks {
		copy(img[b.Number*blockSize:], b.Data)
	}
	at := map[string]int{"super": superAt}
	_ = f.root.Walk(func(path string, n *tree.Node) error {
		at[path] = int(f.sb.meta()) + int(f.nid(n))*ondisk.NidSize
		return nil
	})
	return img, at
}

func TestDamage(t *testing.T) {
	t.Parallel()
	good, at := damageImage(t)
	u8 := func(v ...byte) []byte { return v }
	u16 := func(v uint16) []byte { return binary.LittleEndian.AppendUint16(nil, v) }
	u32 := func(v uint32) []byte { return binary.LittleEndian.AppendUint32(nil, v) }
	u64 := func(v uint64) []byte { return binary.LittleEndian.AppendUint64(nil, v) }
	nid := func(path string) uint64 { return uint64(at[path] / ondisk.NidSize) }
	const entries = ondisk.ExtendedSize // of "dir", behind its inode: ".", "..", "a", "link", "null", "plain", "sparse"
	for _, c := range []struct {
		name, where string
		off         int
		put         []byte
		want        string
		err         error
	}{
		{"magic", "super", 0, u32(1), "magic", blob.ErrCorrupt},
		{"checksum", "super", 8, u32(compatChecksum), "checksum", blob.ErrCorrupt},
		{"small blocks", "super", 12, u8(8), "blocks of 2^8", blob.ErrCorrupt},
		{"large blocks", "super", 12, u8(17), "blocks of 2^17", blob.ErrCorrupt},
		{"root outside", "super", 14, u16(0xffff), "outside", blob.ErrCorrupt},
		{"root in zeros", "super", 14, u16(0), "0 links", blob.ErrCorrupt},
		{"nanoseconds", "super", 32, u32(1e9), "ns", blob.ErrCorrupt},
		{"metadata outside", "super", 40, u32(1 << 31), "outside", blob.ErrCorrupt},
		{"compressed", "super", 84, u16(1), "compressed", blob.ErrUnsupported},
		{"zero padding", "super", 80, u32(1), "zero-padded", blob.ErrUnsupported},
		{"fragments", "super", 80, u32(0x20), "fragments", blob.ErrUnsupported},
		{"long prefixes", "super", 80, u32(0x40), "long attribute prefixes", blob.ErrUnsupported},
		{"48 bits", "super", 80, u32(0x80), "48-bit", blob.ErrUnsupported},
		{"metadata box", "super", 80, u32(0x100), "metadata box", blob.ErrUnsupported},
		{"unknown feature", "super", 80, u32(0x200), "0x200", blob.ErrUnsupported},
		{"devices", "super", 80, slices.Concat(u32(8), u16(0), u16(3)), "3 devices", blob.ErrUnsupported},
		{"no device", "super", 80, u32(8), "", nil},
		{"large directory blocks", "super", 90, u8(1), "directory blocks", blob.ErrUnsupported},
		{"root a file", "super", 14, u16(uint16(at["dir/plain"] / ondisk.NidSize)), "no directory", blob.ErrCorrupt},

		{"format", "dir/plain", 0, u16(0x20), "format", blob.ErrCorrupt},
		{"48-bit inode", "dir/plain", 0, u16(0x10), "48-bit", blob.ErrUnsupported},
		{"compressed file", "dir/plain", 0, u16(1 << 1), "compressed", blob.ErrUnsupported},
		{"layout", "dir/plain", 0, u16(5 << 1), "format", blob.ErrCorrupt},
		{"mode", "dir/plain", 4, u16(0), "mode", blob.ErrCorrupt},
		{"no links", "dir/plain", 6, u16(0), "0 links", blob.ErrCorrupt},
		{"content outside", "dir/plain", 8, u32(1 << 31), "outside", blob.ErrCorrupt},
		{"content far outside", "dir/plain", 16, u32(ondisk.NullBlock - 1), "outside", blob.ErrCorrupt},
		{"a hole", "dir/plain", 16, u32(ondisk.NullBlock), "", nil},
		{"inline content", "dir/plain", 0, u16(ondisk.LayoutInline << 1), "used twice", blob.ErrCorrupt},
		{"inline content over its block", "dir/plain", 0, slices.Concat(u16(ondisk.LayoutInline<<1), u16(0), u16(tree.TypeRegular), u16(1), u32(4095)), "end of its block", blob.ErrCorrupt},
		{"attributes over other inodes", "dir/plain", 2, u16(0xffff), "shared attribute 0", blob.ErrCorrupt},
		{"long inode's size", "dir/a", 8, u64(1 << 63), "file of", blob.ErrCorrupt},
		{"long inode's time", "dir/a", 40, u32(1e9), "ns", blob.ErrCorrupt},
		{"shared attributes beyond", "dir/a", 64 + 4, u8(200), "200 shared attributes", blob.ErrCorrupt},
		{"shared attribute of nothing", "dir/a", 64 + 4, u8(1, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff), "shared attribute 4294967295", blob.ErrCorrupt},
		{"attribute's name", "dir/a", 76, u8(200), "beyond the end", blob.ErrCorrupt},
		{"attribute's prefix", "dir/a", 77, u8(5), "prefix 5", blob.ErrCorrupt},
		{"attribute's long prefix", "dir/a", 77, u8(0x81), "long prefix", blob.ErrUnsupported},
		{"list with a name", "dir/a", 77, u8(2), "attribute \"system.posix_acl_accessa\"", blob.ErrCorrupt},
		{"attribute twice", "dir/a", 88 + 4, []byte("a"), "twice", blob.ErrCorrupt},
		{"attribute with NUL", "dir/a", 76 + 4, u8(0), `attribute "user.\x00"`, blob.ErrCorrupt},

		{"no target", "dir/link", 8, u32(0), "target of 0", blob.ErrCorrupt},
		{"long target", "dir/link", 8, u32(5000), "target of 5000", blob.ErrCorrupt},
		{"target with NUL", "dir/link", 33, u8(0), "target", blob.ErrCorrupt},
		{"target of chunks", "dir/link", 0, u16(ondisk.LayoutChunked << 1), "layout 4", blob.ErrCorrupt},
		{"chunk format", "dir/sparse", 16, u32(0x40), "chunk format", blob.ErrUnsupported},
		{"chunk outside", "dir/sparse", 32, u32(257), "outside", blob.ErrCorrupt},
		{"many chunks", "dir/sparse", 8, u32(ondisk.NullBlock), "chunks beyond", blob.ErrCorrupt},
		{"chunk of a device", "dir/sparse", 16, slices.Concat(u32(ondisk.ChunkIndexes), make([]byte, 12), u32(1<<16)), "device 1", blob.ErrCorrupt},

		{"directory of chunks", "dir", 0, u16(ondisk.LayoutChunked<<1 | 1), "directory of chunks", blob.ErrCorrupt},
		{"short directory", "dir", 8, u64(5), "block of 5", blob.ErrCorrupt},
		{"directory outside", "dir", 0, slices.Concat(u16(1), make([]byte, 2), u16(tree.TypeDir), u16(0), u64(1<<30)), "outside", blob.ErrCorrupt},
		{"names at 0", "dir", entries + 8, u16(0), "names at 0", blob.ErrCorrupt},
		{"names beyond", "dir", entries + 8, u16(1200), "names at 1200", blob.ErrCorrupt},
		{"names in entries", "dir", entries + 12 + 8, u16(12), "name at", blob.ErrCorrupt},
		{"another self", "dir", entries, u64(nid("dir/a")), "is inode", blob.ErrCorrupt},
		{"another parent", "dir", entries + 12, u64(nid("dir/a")), "", nil},
		{"entry outside", "dir", entries + 24, u64(1 << 62), "outside", blob.ErrCorrupt},
		{"entry of the root", "dir", entries + 24, slices.Concat(u64(nid("")), u16(87), u8(2)), "two names", blob.ErrCorrupt},
		{"entry of itself", "dir", entries + 24, slices.Concat(u64(nid("dir")), u16(87), u8(2)), "two names", blob.ErrCorrupt},
		{"entry's type", "dir", entries + 24 + 10, u8(7), "type 7", blob.ErrCorrupt},
		{"entry without type", "dir", entries + 24 + 10, u8(0), "", nil},
		{"entry with a slash", "dir", entries + 7*12 + 3, []byte("/"), "slash", blob.ErrCorrupt},
		{"entries out of order", "dir", entries + 7*12 + 3, []byte("z"), "after", blob.ErrCorrupt},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			img := slices.Clone(good)
			copy(img[at[c.where]+c.off:], c.put)
			tr, err := Read(bytes.NewReader(img), damageDisk)
			if c.err == nil {
				if err != nil || tr == nil {
					t.Fatalf("%v", err)
				}
				return
			}
			if !errors.Is(err, c.err) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q and %v", err, c.want, c.err)
			}
		})
	}
}

// TestCutDevice reads disks that are shorter than they are said to be.
func TestCutDevice(t *testing.T) {
	t.Parallel()
	img, _ := damageImage(t)
	for _, n := range []int{0, superAt, superAt + superSize, firstBlock * blockSize} {
		if _, err := Read(bytes.NewReader(img[:n]), damageDisk); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%d bytes: %v", n, err)
		}
		if _, err := Read(bytes.NewReader(img), int64(n)); !errors.Is(err, blob.ErrCorrupt) {
			t.Errorf("disk of %d bytes: %v", n, err)
		}
	}
}

// TestChecksum reads a disk with the checksum that other builders write.
func TestChecksum(t *testing.T) {
	t.Parallel()
	img, _ := damageImage(t)
	img[superAt+8] = compatChecksum
	binary.LittleEndian.PutUint32(img[superAt+4:], superChecksum(img[superAt:blockSize]))
	f, err := Open(bytes.NewReader(img), damageDisk)
	if err != nil {
		t.Fatal(err)
	}
	layer := tree.New()
	layer.Root.Put("file", &tree.Node{Mode: tree.TypeRegular})
	layer.CountLinks()
	c, err := f.Apply(layer)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range c.Blocks {
		copy(img[b.Number*blockSize:], b.Data)
	}
	if tr, err := Read(bytes.NewReader(img), damageDisk); err != nil || tr.Lookup("file") == nil || tr.Lookup("dir/a") == nil {
		t.Errorf("after another layer: %v", err)
	}
}

// FuzzRead reads any bytes as a disk. What can be read is valid, and can be added to or not, and read again.
func FuzzRead(f *testing.F) {
	img, _ := damageImage(f)
	f.Add(img[:(firstBlock+4)*blockSize])
	small := damageTree()
	_ = small.Nodes(func(n *tree.Node) error {
		n.Extents = nil
		if n.Size > 0 {
			n.Extents = []tree.Extent{{Blob: tree.Hole, Length: n.Size}}
		}
		return nil
	})
	built, err := Build(small, nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(built)
	plain := slices.Clone(built)
	plain[superAt+12] = minBlockBits
	f.Add(plain)
	f.Fuzz(func(t *testing.T, p []byte) {
		check := func(r io.ReaderAt, size int64) *tree.Tree {
			tr, err := Read(r, size)
			if err != nil {
				if !errors.Is(err, blob.ErrCorrupt) && !errors.Is(err, blob.ErrUnsupported) {
					t.Fatal(err)
				}
				return nil
			}
			if err := tr.Validate([]int64{size}); err != nil {
				t.Fatal(err)
			}
			return tr
		}
		if check(bytes.NewReader(p), int64(len(p))) == nil {
			return
		}
		const more = 1 << 20
		size := roundUp(int64(len(p)), blockSize) + more
		padded := append(slices.Clone(p), make([]byte, size-int64(len(p)))...)
		fs, err := Open(bytes.NewReader(padded), size)
		if err != nil {
			return
		}
		layer := tree.New()
		layer.Root.Put("zz-new", &tree.Node{Mode: tree.TypeRegular, Size: 600, Extents: []tree.Extent{{Length: 600}}})
		layer.CountLinks()
		c, err := fs.Apply(layer)
		if err != nil {
			return
		}
		for _, b := range c.Blocks {
			copy(padded[b.Number*blockSize:], b.Data)
		}
		if tr := check(bytes.NewReader(padded), size); tr == nil || tr.Lookup("zz-new") == nil {
			t.Fatal("not there after it was added")
		}
	})
}

// zeros is a disk of zeros behind a beginning.
type zeros struct{ begin []byte }

func (z zeros) ReadAt(p []byte, off int64) (int, error) {
	clear(p)
	if off < int64(len(z.begin)) {
		copy(p, z.begin[off:])
	}
	return len(p), nil
}

// TestHuge reads large disks of few bytes, which say that much is in them. That must be told soon.
func TestHuge(t *testing.T) {
	t.Parallel()
	good, at := damageImage(t)
	const size = 16 << 40
	for name, change := range map[string]func(img []byte){
		"directory": func(img []byte) {
			binary.LittleEndian.PutUint16(img[at["dir"]:], 1)
			binary.LittleEndian.PutUint64(img[at["dir"]+8:], size-blockSize)
		},
		"chunks": func(img []byte) {
			binary.LittleEndian.PutUint16(img[at["dir/a"]:], ondisk.LayoutChunked<<1|1)
			binary.LittleEndian.PutUint64(img[at["dir/a"]+8:], size-blockSize)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			img := slices.Clone(good)
			change(img)
			if _, err := Read(zeros{img}, size); !errors.Is(err, blob.ErrCorrupt) {
				t.Error(err)
			}
		})
	}
}
