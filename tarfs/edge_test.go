package tarfs_test

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/lazuli-project/lazuli/flate"
	"github.com/lazuli-project/lazuli/internal/imagetest"
	"github.com/lazuli-project/lazuli/tarfs"
	"github.com/lazuli-project/lazuli/tree"
)

// readLayer reads a stored layer into a tree; content gets what regular files hold.
func readLayer(tb testing.TB, stored []byte, content map[*tree.Node][]byte) (*tree.Tree, error) {
	tb.Helper()
	plain, err := flate.NewReader(bytes.NewReader(stored))
	if err != nil {
		return nil, err
	}
	return readTar(tarfs.NewReader(plain), content)
}

func readTar(r *tarfs.Reader, content map[*tree.Node][]byte) (*tree.Tree, error) {
	b := tarfs.NewBuilder()
	for {
		e, err := r.Next()
		if errors.Is(err, io.EOF) {
			return b.Tree(), nil
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
		if content != nil && e.Hardlink == "" {
			content[n] = p
		}
	}
}

func compare(t *testing.T, want []string, tr *tree.Tree, content map[*tree.Node][]byte) {
	t.Helper()
	got, err := imagetest.List(tr, func(n *tree.Node) ([]byte, error) { return content[n], nil })
	if err != nil {
		t.Fatal(err)
	}
	if diff := imagetest.Diff(want, got); diff != "" {
		t.Errorf("tree differs:\n%s", diff)
	}
}

// TestEdge unpacks an image as other tools have done it.
func TestEdge(t *testing.T) {
	t.Parallel()
	img := imagetest.Edge(t)
	content := make(map[*tree.Node][]byte)
	merged := tree.New()
	for i, l := range img.Layers {
		layer, err := readLayer(t, l.Stored, content)
		if err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			bottom := tarfs.Clone(layer)
			bottom.Root.RemoveXattr(tarfs.XattrImplied)
			plain := make(map[*tree.Node][]byte)
			pair(layer.Root, bottom.Root, content, plain)
			compare(t, imagetest.EdgeLayer0(t), bottom, plain)
		}
		if err := tarfs.Overlay(merged, layer); err != nil {
			t.Fatal(err)
		}
	}
	compare(t, imagetest.EdgeTree(t), merged, content)
}

// pair copies the content of the nodes of one tree to the same nodes of another.
func pair(from, to *tree.Node, content, out map[*tree.Node][]byte) {
	out[to] = content[from]
	for i := range from.Entries {
		pair(from.Entries[i].Node, to.Entries[i].Node, content, out)
	}
}
