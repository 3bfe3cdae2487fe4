package ext4

import (
	"bytes"
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

func TestEmpty(t *testing.T) {
	t.Parallel()
	s := newStack(t, Options{})
	s.apply(t, imagetest.Tar(t))
	s.dev.fsck(t)
	t.Logf("%d blocks", len(s.changes[0].Blocks))
	for _, b := range s.changes[0].Blocks {
		t.Log(b.Number)
	}
}
