package erofs_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/disk"
	"github.com/lazuli-project/lazuli/disk/erofs"
	"github.com/lazuli-project/lazuli/internal/imagetest"
	"github.com/lazuli-project/lazuli/tree"
)

func TestCreateSizes(t *testing.T) {
	t.Parallel()
	for size, ok := range map[int64]bool{0: false, -4096: false, 1<<20 - 4096: false, 1 << 20: true, 1<<20 + 512: false, 64 << 30: true, 16<<40 - 4096: true, 16 << 40: false} {
		f, err := erofs.Create(erofs.Options{Size: size})
		if ok != (err == nil) || !ok && !errors.Is(err, blob.ErrUnsupported) || ok && f.Size() != size {
			t.Errorf("%d: %v", size, err)
		}
	}
}

// TestApplyRefuses applies what EROFS cannot say.
func TestApplyRefuses(t *testing.T) {
	t.Parallel()
	node := func(n tree.Node) *tree.Tree {
		tr := treeOf()
		tr.Root.Child("d").Put("file", &n)
		tr.CountLinks()
		return tr
	}
	for _, c := range []struct {
		name string
		t    *tree.Tree
		want string
	}{
		{"aligned", treeOf(tree.Extent{Offset: 512, Length: 700}, tree.Extent{Blob: tree.Hole, Length: 10}), ""},
		{"source not aligned", treeOf(tree.Extent{Offset: 100, Length: 512}), "lies at 100"},
		{"offset not aligned", treeOf(tree.Extent{Blob: tree.Hole, Length: 100}, tree.Extent{Offset: 512, Length: 512}), "content at 100"},
		{"end not aligned", treeOf(tree.Extent{Length: 100}, tree.Extent{Blob: tree.Hole, Length: 924}, tree.Extent{Offset: 512, Length: 512}), "content at 1024"},
		{"larger than the disk", treeOf(tree.Extent{Length: 2 << 30}), "on a disk of"},
		{"device", node(tree.Node{Mode: tree.TypeChar, Rdev: tree.Device{Major: 4096}}), "device 4096:0"},
		{"attribute", node(tree.Node{Mode: tree.TypeRegular, Xattrs: []tree.Xattr{{Name: "gnu.translator"}}}), "gnu.translator"},
		{"list with a suffix", node(tree.Node{Mode: tree.TypeRegular, Xattrs: []tree.Xattr{{Name: "system.posix_acl_access2"}}}), "system.posix_acl_access2"},
		{"attributes", node(tree.Node{Mode: tree.TypeRegular, Xattrs: []tree.Xattr{
			{Name: "user.1", Value: make([]byte, 65535)}, {Name: "user.2", Value: make([]byte, 65535)}, {Name: "user.3", Value: make([]byte, 65535)},
			{Name: "user.4", Value: make([]byte, 65535)},
		}}), "256 KiB"},
		{"target", node(tree.Node{Mode: tree.TypeSymlink}), "target"},
		{"mode", node(tree.Node{Mode: 0o644}), "mode 0644"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := create(t)
			_, err := f.Apply(c.t)
			if c.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if !errors.Is(err, blob.ErrUnsupported) || !strings.Contains(err.Error(), c.want) || c.name != "larger than the disk" && !strings.Contains(err.Error(), `"d/file"`) {
				t.Errorf("%v, want %q", err, c.want)
			}
			if _, err := f.Apply(treeOf()); !errors.Is(err, blob.ErrUnsupported) {
				t.Errorf("the next layer: %v", err)
			}
		})
	}
}

// TestApplyInPlace changes directories in ways that decide where they are written.
func TestApplyInPlace(t *testing.T) {
	t.Parallel()
	many := func(from, to, length int) (items []imagetest.Item) {
		for i := from; i < to; i++ {
			items = append(items, imagetest.File(fmt.Sprintf("a/b/%0*d", length, i), ""))
		}
		return items
	}
	big := imagetest.Xattr("user.big", strings.Repeat("x", 60000))
	l := layers{
		imagetest.Tar(t, append(many(0, 10, 50), imagetest.Dir("a"), imagetest.Dir("a/b"), imagetest.Dir("c"))...),
		imagetest.Tar(t, many(10, 11, 50)...),                           // from the room behind the inode to a block
		imagetest.Tar(t, many(11, 60, 50)...),                           // in that block
		imagetest.Tar(t, many(60, 200, 50)...),                          // to several blocks
		imagetest.Tar(t, imagetest.Opaque("a/b"), imagetest.Dir("a/b")), // to nothing
		imagetest.Tar(t, many(0, 90, 80)...),
		imagetest.Tar(t, rootNames(20)...),                                                  // behind the root's inode
		imagetest.Tar(t, rootNames(30)...),                                                  // beyond the end of its block
		imagetest.Tar(t, imagetest.Dir("a", big)),                                           // which moves
		imagetest.Tar(t, imagetest.Dir("./", big, imagetest.At(-7, 3)), imagetest.Dir("c")), // which cannot move
		imagetest.Tar(t, imagetest.Dir("a"), imagetest.Dir("./")),
		imagetest.Tar(t),
	}
	// Blocks that may change below what is new: of the superblock with the root, of inodes, of directories, and of attributes that
	// become zeros.
	below := []int{0, 2, 3, 2, 3, 3, 1, 1, 2, 17, 32, 0}
	f, dev := create(t), newDevice()
	for i := range l {
		first := int64(0)
		for s := range dev.sectors {
			first = max(first, s/8+1)
		}
		c := apply(t, f, readLayer(t, l[i], uint32(i)))
		old := 0
		for _, b := range c.Blocks {
			if b.Number < first {
				old++
			}
		}
		if i > 0 && old > below[i] || len(l[i]) == 1024 && len(c.Blocks)+len(c.Data) > 0 {
			t.Errorf("layer %d changes %d blocks that were there, %d in all", i, old, len(c.Blocks))
		}
		dev.apply(t, c, l.blobs())
		if diff := imagetest.Diff(l[:i+1].list(t), dev.read(t)); diff != "" {
			t.Fatalf("after layer %d:\n%s", i, diff)
		}
	}
}

// rootNames returns files of the root with long names.
func rootNames(count int) (items []imagetest.Item) {
	for i := range count {
		items = append(items, imagetest.File(fmt.Sprintf("%0100d", i), ""))
	}
	return items
}

// TestHoles applies a large file of nearly nothing.
func TestHoles(t *testing.T) {
	t.Parallel()
	content := bytes.Repeat([]byte("0123456789abcdef"), 512)
	f, dev := create(t), newDevice()
	c := apply(t, f, treeOf(tree.Extent{Blob: tree.Hole, Length: 1 << 40}, tree.Extent{Length: 1024}, tree.Extent{Blob: tree.Hole, Length: 3072},
		tree.Extent{Offset: 1024, Length: 4096}, tree.Extent{Blob: tree.Hole, Length: 1<<40 + 5}))
	dev.apply(t, c, []io.ReaderAt{bytes.NewReader(content)})
	if len(c.Blocks) > 70 {
		t.Errorf("%d blocks of metadata", len(c.Blocks))
	}
	tr, err := erofs.Read(dev, dev.size)
	if err != nil {
		t.Fatal(err)
	}
	n := tr.Lookup("d/file")
	if k := len(n.Extents); k != 3 || n.Size != 2<<40+8197 || n.Extents[0] != (tree.Extent{Blob: tree.Hole, Length: 1 << 40}) {
		t.Fatalf("%d bytes in %v", n.Size, n.Extents)
	}
	got := make([]byte, 8192)
	if _, err := dev.ReadAt(got, n.Extents[1].Offset); err != nil {
		t.Fatal(err)
	}
	if want := append(append(bytes.Clone(content[:1024]), make([]byte, 3072)...), content[1024:1024+4096]...); !bytes.Equal(got, want) {
		t.Error("another content")
	}
}

// TestOrder looks where content goes: in the order of the blob, each file from a block on, and neighbours in one extent.
func TestOrder(t *testing.T) {
	t.Parallel()
	tr := tree.New()
	for i, name := range []string{"z", "m", "a"} {
		tr.Root.Put(name, &tree.Node{Mode: tree.TypeRegular, Size: 4096, Extents: []tree.Extent{{Blob: 3, Offset: int64(i) * 4096, Length: 4096}}})
	}
	tr.Root.Put("b", &tree.Node{Mode: tree.TypeRegular, Size: 100, Extents: []tree.Extent{{Blob: 3, Offset: 1 << 20, Length: 100}}})
	tr.Root.Put("c", &tree.Node{Mode: tree.TypeRegular, Size: 100, Extents: []tree.Extent{{Blob: 2, Offset: 1 << 21, Length: 100}}})
	tr.CountLinks()
	c := apply(t, create(t), tr)
	begin := c.Data[0].Device
	want := []disk.Extent{
		{Device: begin, Source: 1 << 21, Length: 512, Blob: 2},
		{Device: begin + 4096, Source: 0, Length: 3 * 4096, Blob: 3},
		{Device: begin + 4*4096, Source: 1 << 20, Length: 512, Blob: 3},
	}
	if fmt.Sprint(c.Data) != fmt.Sprint(want) {
		t.Errorf("%v, want %v", c.Data, want)
	}
}

// TestLinks adds names to a file of a lower layer, up to more than its inode can count.
func TestLinks(t *testing.T) {
	t.Parallel()
	base, dev := treeOf(tree.Extent{Length: 1000}), newDevice()
	f := create(t)
	dev.apply(t, apply(t, f, base), []io.ReaderAt{bytes.NewReader(make([]byte, 1024))})
	for i, want := range []error{nil, blob.ErrUnsupported} {
		var items []imagetest.Item
		for k := range 40000 {
			items = append(items, imagetest.Link(fmt.Sprintf("n%d/%d", i, k), "d/file"))
		}
		c, err := f.Apply(readLayer(t, imagetest.Tar(t, items...), 1))
		if !errors.Is(err, want) {
			t.Fatalf("%v, want %v", err, want)
		}
		if err != nil {
			continue
		}
		dev.apply(t, c, nil)
		tr, err := erofs.Read(dev, dev.size)
		if err != nil || tr.Lookup("d/file") != tr.Lookup("n0/7") || tr.Lookup("d/file").Nlink != 40001 {
			t.Errorf("names are not one file: %v", err)
		}
	}
}
