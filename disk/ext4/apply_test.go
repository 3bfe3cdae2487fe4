package ext4

import (
	"bytes"
	"compress/flate"
	"fmt"
	"slices"
	"testing"

	"github.com/lazuli-project/lazuli/disk"
	"github.com/lazuli-project/lazuli/internal/imagetest"
	"github.com/lazuli-project/lazuli/tarfs"
	"github.com/lazuli-project/lazuli/tree"
)

// stack applies layers one after the other, with a model that is kept and with one that is read anew for every layer, and compares both, and
// what is on the disk with what package tarfs makes of the layers.
type stack struct {
	content
	dev     *device
	kept    *FS
	layers  []*tree.Tree
	changes []*disk.Change
}

func newStack(tb testing.TB, opt Options) *stack {
	tb.Helper()
	f, err := Create(opt)
	if err != nil {
		tb.Fatal(err)
	}
	return &stack{kept: f, dev: newDevice(f.Size())}
}

func (s *stack) apply(tb testing.TB, tar []byte) {
	tb.Helper()
	s.applyTree(tb, s.layer(tb, tar))
}

func (s *stack) applyTree(tb testing.TB, layer *tree.Tree) {
	tb.Helper()
	s.layers = append(s.layers, tarfs.Clone(layer))
	var again *disk.Change
	if len(s.layers) > 1 {
		f, err := Open(s.dev, s.dev.size)
		if err != nil {
			tb.Fatal(err)
		}
		if again, err = f.Apply(tarfs.Clone(layer)); err != nil {
			tb.Fatal(err)
		}
	}
	change, err := s.kept.Apply(layer)
	if err != nil {
		tb.Fatal(err)
	}
	if again != nil {
		sameChange(tb, change, again)
	}
	s.changes = append(s.changes, change)
	s.dev.apply(tb, change, s.blobs)
	if d := imagetest.Diff(s.merged(tb, s.layers), s.dev.listing(tb)); d != "" {
		tb.Fatalf("after layer %d:\n%s", len(s.layers)-1, d)
	}
}

func sameChange(tb testing.TB, a, b *disk.Change) {
	tb.Helper()
	if len(a.Blocks) != len(b.Blocks) || len(a.Data) != len(b.Data) {
		tb.Fatalf("a kept model changes %d blocks and %d extents, one that was read %d and %d", len(a.Blocks), len(a.Data), len(b.Blocks), len(b.Data))
	}
	for i := range a.Blocks {
		if a.Blocks[i].Number != b.Blocks[i].Number || !bytes.Equal(a.Blocks[i].Data, b.Blocks[i].Data) {
			tb.Fatalf("a kept model changes block %d, one that was read block %d, differently", a.Blocks[i].Number, b.Blocks[i].Number)
		}
	}
	for i := range a.Data {
		if a.Data[i] != b.Data[i] {
			tb.Fatalf("extent %+v of a kept model, %+v of one that was read", a.Data[i], b.Data[i])
		}
	}
}

func TestEdge(t *testing.T) {
	t.Parallel()
	s := newStack(t, Options{})
	for i, l := range imagetest.Edge(t).Layers {
		s.apply(t, l.Tar)
		s.dev.fsck(t)
		t.Logf("layer %d: %d blocks, %d extents", i, len(s.changes[i].Blocks), len(s.changes[i].Data))
	}
	if d := imagetest.Diff(imagetest.EdgeTree(t), s.dev.listing(t)); d != "" {
		t.Errorf("\n%s", d)
	}
}

// An empty file system is a few blocks, and those behind the descriptors are in no use.
func TestEmpty(t *testing.T) {
	t.Parallel()
	s := newStack(t, Options{})
	s.apply(t, imagetest.Tar(t))
	s.dev.fsck(t)
	var numbers []int64
	var packed bytes.Buffer
	w, err := flate.NewWriter(&packed, flate.DefaultCompression)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range s.changes[0].Blocks {
		numbers = append(numbers, b.Number)
		if _, err := w.Write(b.Data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	// Superblock, descriptors; bitmaps, inodes; directories; the last group's bitmap.
	want := []int64{0, 1, 2, 3, 4, 5, 6, 7, 8, 1033, 1034, 1035, 1547, 1548, 511 * groupBlocks}
	if !slices.Equal(numbers, want) || len(s.changes[0].Data) > 0 {
		t.Errorf("blocks %d, want %d", numbers, want)
	}
	if packed.Len() > 8<<10 {
		t.Errorf("%d bytes when compressed", packed.Len())
	}
	t.Logf("%d bytes when compressed", packed.Len())
}

// Disks of all sizes are right, and what does not fill a group is used or left out.
func TestSizes(t *testing.T) {
	t.Parallel()
	const group = groupBlocks * disk.BlockSize
	for _, size := range []int64{
		MinSize, MinSize + 1, 100 << 20, group - disk.BlockSize, group, group + disk.BlockSize, group + 575*disk.BlockSize, group + 576*disk.BlockSize,
		2 * group, 10*group + 12345, 300 << 30, 1 << 40,
	} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			t.Parallel()
			s := newStack(t, Options{Size: size, UUID: [16]byte{0xFF, 15: 1}})
			s.apply(t, imagetest.Tar(t, imagetest.File("d/f", "content"), imagetest.Dir("d/e")))
			s.apply(t, imagetest.Tar(t, imagetest.Whiteout("d/f"), imagetest.File("d/g", "content")))
			s.dev.fsck(t)
			if s.kept.Size() != size {
				t.Errorf("a disk of %d bytes", s.kept.Size())
			}
		})
	}
}
