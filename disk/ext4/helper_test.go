package ext4

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lazuli-project/lazuli/disk"
	"github.com/lazuli-project/lazuli/internal/imagetest"
	"github.com/lazuli-project/lazuli/tarfs"
	"github.com/lazuli-project/lazuli/tree"
)

// content is the blobs of a test: each file's content in a row, in the order of the tar, from blocks' beginnings on.
type content struct{ blobs [][]byte }

// layer reads a tar into a tree whose files lie in a new blob.
func (c *content) layer(tb testing.TB, tar []byte) *tree.Tree {
	tb.Helper()
	t, err := c.tryLayer(tar)
	if err != nil {
		tb.Fatal(err)
	}
	return t
}

func (c *content) tryLayer(tar []byte) (*tree.Tree, error) {
	number := uint32(len(c.blobs))
	var stored []byte
	b := tarfs.NewBuilder()
	r := tarfs.NewReader(bytes.NewReader(tar))
	for {
		e, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		n, err := b.Add(e)
		if err != nil {
			return nil, err
		}
		p, err := io.ReadAll(r)
		if err != nil {
			return nil, err
		}
		// Sectors of zeros are holes, so that there are pieces of all kinds.
		for at := 0; at < len(p); {
			end := min(at+disk.SectorSize, len(p))
			if len(bytes.Trim(p[at:end], "\x00")) == 0 {
				n.AppendExtent(tree.Extent{Blob: tree.Hole, Length: int64(end - at)})
			} else {
				n.AppendExtent(tree.Extent{Blob: number, Offset: int64(len(stored) + at), Length: int64(end - at)})
			}
			at = end
		}
		stored = append(stored, p...)
		// What lies behind a file is not zeros, but for the rest of its sector.
		stored = append(stored, make([]byte, -len(stored)&(disk.SectorSize-1))...)
		stored = append(stored, bytes.Repeat([]byte{0xA5}, -len(stored)&(disk.BlockSize-1))...)
	}
	c.blobs = append(c.blobs, stored)
	return b.Tree(), nil
}

// mergeable reports whether layers can be laid over each other: hard links may lead nowhere.
func mergeable(layers []*tree.Tree) bool {
	_, err := tarfs.Merge(layers)
	return err == nil
}

// device is a disk in memory, of which only what was written is kept.
type device struct {
	blocks map[int64][]byte
	size   int64
	// genuine says that the reference converter made it, whose lost+found e2fsck finds fault with.
	genuine bool
}

func newDevice(size int64) *device { return &device{blocks: make(map[int64][]byte), size: size} }

func (d *device) ReadAt(p []byte, off int64) (int, error) {
	for n := 0; n < len(p); {
		if off >= d.size {
			return n, io.EOF
		}
		at := off % disk.BlockSize
		k := min(len(p)-n, int(disk.BlockSize-at))
		if b := d.blocks[off/disk.BlockSize]; b != nil {
			copy(p[n:n+k], b[at:])
		} else {
			clear(p[n : n+k])
		}
		n, off = n+k, off+int64(k)
	}
	return len(p), nil
}

func (d *device) write(p []byte, off int64) {
	for len(p) > 0 {
		at := off % disk.BlockSize
		b := d.blocks[off/disk.BlockSize]
		if b == nil {
			b = make([]byte, disk.BlockSize)
			d.blocks[off/disk.BlockSize] = b
		}
		n := copy(b[at:], p)
		p, off = p[n:], off+int64(n)
	}
}

// apply does what a change says, and checks that it may say so.
func (d *device) apply(tb testing.TB, c *disk.Change, blobs [][]byte) {
	tb.Helper()
	taken := make(map[int64]bool)
	last := int64(-1)
	for _, b := range c.Blocks {
		if b.Number <= last || len(b.Data) != disk.BlockSize || (b.Number+1)*disk.BlockSize > d.size {
			tb.Fatalf("block %d of %d bytes behind block %d", b.Number, len(b.Data), last)
		}
		last = b.Number
		taken[b.Number] = true
		d.write(b.Data, b.Number*disk.BlockSize)
	}
	end := int64(0)
	for i, e := range c.Data {
		if e.Device < end || e.Length <= 0 || e.Device%disk.SectorSize != 0 || e.Length%disk.SectorSize != 0 || e.Source%disk.SectorSize != 0 {
			tb.Fatalf("extent %+v behind %d", e, end)
		}
		if i > 0 && end == e.Device {
			if l := c.Data[i-1]; l.Blob == e.Blob && (l.Blob == disk.Zero || l.Source+l.Length == e.Source) {
				tb.Fatalf("extents %+v and %+v are one", l, e)
			}
		}
		end = e.Device + e.Length
		for b := e.Device / disk.BlockSize; b*disk.BlockSize < end; b++ {
			if taken[b] {
				tb.Fatalf("block %d is metadata and in the extent %+v", b, e)
			}
		}
		p := make([]byte, e.Length)
		if e.Blob != disk.Zero {
			copy(p, blobs[e.Blob][e.Source:e.Source+e.Length])
		}
		d.write(p, e.Device)
	}
}

// listing reads a disk and lists it with its content.
func (d *device) listing(tb testing.TB) []string {
	tb.Helper()
	t, err := Read(d, d.size)
	if err != nil {
		tb.Fatal(err)
	}
	return list(tb, t, func(e tree.Extent) []byte {
		p := make([]byte, e.Length)
		if _, err := d.ReadAt(p, e.Offset); err != nil {
			tb.Fatal(err)
		}
		return p
	})
}

func list(tb testing.TB, t *tree.Tree, read func(tree.Extent) []byte) []string {
	tb.Helper()
	lines, err := imagetest.List(t, func(n *tree.Node) ([]byte, error) {
		var p []byte
		for _, e := range n.Extents {
			if e.Blob == tree.Hole {
				p = append(p, make([]byte, e.Length)...)
			} else {
				p = append(p, read(e)...)
			}
		}
		return p, nil
	})
	if err != nil {
		tb.Fatal(err)
	}
	return lines
}

// merged lists the layers as package tarfs merges them.
func (c *content) merged(tb testing.TB, layers []*tree.Tree) []string {
	tb.Helper()
	t, err := tarfs.Merge(layers)
	if err != nil {
		tb.Fatal(err)
	}
	return list(tb, t, func(e tree.Extent) []byte { return c.blobs[e.Blob][e.Offset : e.Offset+e.Length] })
}

// save writes the disk to a sparse file.
func (d *device) save(tb testing.TB) string {
	tb.Helper()
	name := filepath.Join(tb.TempDir(), "disk")
	w, err := os.Create(name)
	if err != nil {
		tb.Fatal(err)
	}
	defer w.Close()
	if err := w.Truncate(d.size); err != nil {
		tb.Fatal(err)
	}
	for number, p := range d.blocks {
		if _, err := w.WriteAt(p, number*disk.BlockSize); err != nil {
			tb.Fatal(err)
		}
	}
	return name
}

// loadDevice reads a sparse file.
func loadDevice(tb testing.TB, name string) *device {
	tb.Helper()
	r, err := os.Open(name)
	if err != nil {
		tb.Fatal(err)
	}
	defer r.Close()
	s, err := r.Stat()
	if err != nil {
		tb.Fatal(err)
	}
	d := newDevice(s.Size())
	p := make([]byte, 1<<20)
	for off := int64(0); off < s.Size(); off += int64(len(p)) {
		n, err := r.ReadAt(p, off)
		if err != nil && !errors.Is(err, io.EOF) {
			tb.Fatal(err)
		}
		for at := 0; at < n; at += disk.BlockSize {
			if b := p[at:min(at+disk.BlockSize, n)]; len(bytes.Trim(b, "\x00")) > 0 {
				d.write(b, off+int64(at))
			}
		}
	}
	return d
}

// tool runs one of the tools of e2fsprogs. Where it is not installed, the test is skipped.
func tool(tb testing.TB, name string, args ...string) ([]byte, error) {
	tb.Helper()
	for _, dir := range []string{"", "/sbin/", "/usr/sbin/"} {
		path, err := exec.LookPath(dir + name)
		if err != nil {
			continue
		}
		cmd := exec.CommandContext(tb.Context(), path, args...)
		cmd.WaitDelay = time.Second
		cmd.Env = append(os.Environ(), "LC_ALL=C", "MKE2FS_CONFIG=/dev/null")
		return cmd.CombinedOutput()
	}
	tb.Skipf("%s of e2fsprogs is not installed", name)
	return nil, nil
}

// fsck has e2fsck check the disk.
func (d *device) fsck(tb testing.TB) {
	tb.Helper()
	out, err := tool(tb, "e2fsck", "-fn", d.save(tb))
	if err == nil {
		return
	}
	if d.genuine && strings.Count(string(out), "? no") == 1 &&
		bytes.Contains(out, []byte("Problem in HTREE directory inode 11: block #2 not referenced\n")) {
		return
	}
	tb.Fatalf("e2fsck: %v\n%s", err, out)
}
