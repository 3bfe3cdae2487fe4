package erofs_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"testing"

	"github.com/lazuli-project/lazuli/disk"
	"github.com/lazuli-project/lazuli/disk/erofs"
	"github.com/lazuli-project/lazuli/internal/imagetest"
	"github.com/lazuli-project/lazuli/tarfs"
	"github.com/lazuli-project/lazuli/tree"
)

const diskSize = 1 << 30

// readLayer makes the tree of a layer's tar, which is the blob with that number.
func readLayer(tb testing.TB, tar []byte, number uint32) *tree.Tree {
	tb.Helper()
	t, err := parseLayer(tar, number)
	if err != nil {
		tb.Fatal(err)
	}
	return t
}

func parseLayer(tar []byte, number uint32) (*tree.Tree, error) {
	r, b := tarfs.NewReader(bytes.NewReader(tar)), tarfs.NewBuilder()
	for {
		e, err := r.Next()
		if errors.Is(err, io.EOF) {
			t := b.Tree()
			t.CountLinks()
			return t, nil
		}
		if err != nil {
			return nil, err
		}
		n, err := b.Add(e)
		if err != nil {
			return nil, err
		}
		for _, x := range e.Data {
			if x.Blob != tree.Hole {
				x.Blob = number
			}
			if e.Hardlink == "" {
				n.AppendExtent(x)
			}
		}
	}
}

// contentOf returns the content of a node whose extents lie in blobs.
func contentOf(n *tree.Node, blobs []io.ReaderAt) ([]byte, error) {
	p := make([]byte, 0, n.Size)
	for _, x := range n.Extents {
		piece := make([]byte, x.Length)
		if x.Blob != tree.Hole {
			if k, err := blobs[x.Blob].ReadAt(piece, x.Offset); k < len(piece) {
				return nil, fmt.Errorf("extent %+v: %w", x, err)
			}
		}
		p = append(p, piece...)
	}
	return p, nil
}

func list(tb testing.TB, t *tree.Tree, blobs []io.ReaderAt) []string {
	tb.Helper()
	lines, err := imagetest.List(t, func(n *tree.Node) ([]byte, error) { return contentOf(n, blobs) })
	if err != nil {
		tb.Fatal(err)
	}
	return lines
}

// layers are tars that are laid over each other.
type layers [][]byte

func (l layers) blobs() []io.ReaderAt {
	var blobs []io.ReaderAt
	for _, tar := range l {
		blobs = append(blobs, bytes.NewReader(tar))
	}
	return blobs
}

// merge returns the merged tree by the rules of package tarfs.
func (l layers) merge() (*tree.Tree, error) {
	var trees []*tree.Tree
	for i, tar := range l {
		t, err := parseLayer(tar, uint32(i))
		if err != nil {
			return nil, err
		}
		trees = append(trees, t)
	}
	return tarfs.Merge(trees)
}

// list returns the listing that every way of reading must give.
func (l layers) list(tb testing.TB) []string {
	tb.Helper()
	t, err := l.merge()
	if err != nil {
		tb.Fatal(err)
	}
	return list(tb, t, l.blobs())
}

// device is a virtual disk, put together from changes. What was never written reads as zeros.
type device struct {
	size    int64
	sectors map[int64][]byte // by number
}

func newDevice() *device { return &device{diskSize, make(map[int64][]byte)} }

func (d *device) clone() *device { return &device{d.size, maps.Clone(d.sectors)} }

func (d *device) put(at int64, p []byte) {
	for len(p) > 0 {
		s := make([]byte, disk.SectorSize)
		n := copy(s, p)
		d.sectors[at/disk.SectorSize] = s
		at, p = at+disk.SectorSize, p[n:]
	}
}

// apply puts a change on the disk, and fails the test where it is not as package disk wants it.
func (d *device) apply(tb testing.TB, c *disk.Change, blobs []io.ReaderAt) {
	tb.Helper()
	used := make(map[int64]bool)
	use := func(at, n int64) {
		for s := at / disk.SectorSize; s < (at+n)/disk.SectorSize; s++ {
			if used[s] {
				tb.Fatalf("sector %d is changed twice", s)
			}
			used[s] = true
		}
	}
	last := int64(-1)
	for _, b := range c.Blocks {
		if b.Number <= last || len(b.Data) != disk.BlockSize || (b.Number+1)*disk.BlockSize > d.size {
			tb.Fatalf("block %d of %d bytes after %d", b.Number, len(b.Data), last)
		}
		last = b.Number
		use(b.Number*disk.BlockSize, disk.BlockSize)
		old := make([]byte, disk.BlockSize)
		_, _ = d.ReadAt(old, b.Number*disk.BlockSize)
		if bytes.Equal(old, b.Data) {
			tb.Errorf("block %d does not change", b.Number)
		}
		d.put(b.Number*disk.BlockSize, b.Data)
	}
	end := int64(0)
	for _, x := range c.Data {
		if x.Device < end || (x.Device|x.Source|x.Length)%disk.SectorSize != 0 || x.Length <= 0 || x.Device+x.Length > d.size {
			tb.Fatalf("extent %+v behind %d", x, end)
		}
		end = x.Device + x.Length
		use(x.Device, x.Length)
		p := make([]byte, x.Length)
		if x.Blob != disk.Zero {
			if n, err := blobs[x.Blob].ReadAt(p, x.Source); n < len(p) {
				tb.Fatalf("extent %+v: %v", x, err)
			}
		}
		d.put(x.Device, p)
	}
}

func (d *device) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off >= d.size {
		return 0, io.EOF
	}
	n := 0
	for n < len(p) && off < d.size {
		from := off % disk.SectorSize
		var k int
		if s := d.sectors[off/disk.SectorSize]; s != nil {
			k = copy(p[n:], s[from:])
		} else {
			k = min(len(p)-n, int(disk.SectorSize-from))
			clear(p[n : n+k])
		}
		n, off = n+k, off+int64(k)
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// file writes the disk to a sparse file.
func (d *device) file(tb testing.TB, name string) string {
	tb.Helper()
	f, err := os.Create(name)
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(d.size); err != nil {
		tb.Fatal(err)
	}
	for _, s := range slices.Sorted(maps.Keys(d.sectors)) {
		if _, err := f.WriteAt(d.sectors[s], s*disk.SectorSize); err != nil {
			tb.Fatal(err)
		}
	}
	return name
}

// read lists the disk as this package reads it.
func (d *device) read(tb testing.TB) []string {
	tb.Helper()
	t, err := erofs.Read(d, d.size)
	if err != nil {
		tb.Fatal(err)
	}
	return list(tb, t, []io.ReaderAt{d})
}

func edgeLayers(tb testing.TB) layers {
	tb.Helper()
	var l layers
	for _, layer := range imagetest.Edge(tb).Layers {
		l = append(l, layer.Tar)
	}
	return l
}

func create(tb testing.TB) *erofs.FS {
	tb.Helper()
	f, err := erofs.Create(erofs.Options{Size: diskSize})
	if err != nil {
		tb.Fatal(err)
	}
	return f
}

func apply(tb testing.TB, f *erofs.FS, t *tree.Tree) *disk.Change {
	tb.Helper()
	c, err := f.Apply(t)
	if err != nil {
		tb.Fatal(err)
	}
	return c
}
