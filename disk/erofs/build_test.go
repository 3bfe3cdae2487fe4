package erofs_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/disk/erofs"
	"github.com/lazuli-project/lazuli/tree"
)

// treeOf returns a tree with one file of these extents.
func treeOf(extents ...tree.Extent) *tree.Tree {
	t, n := tree.New(), &tree.Node{Mode: tree.TypeRegular | 0o644}
	for _, x := range extents {
		n.Extents = append(n.Extents, x)
		n.Size += x.Length
	}
	t.Root.Put("d", &tree.Node{Mode: tree.TypeDir | 0o755})
	t.Root.Child("d").Put("file", n)
	t.CountLinks()
	return t
}

func TestBuildRefuses(t *testing.T) {
	t.Parallel()
	const hole = tree.Hole
	for _, c := range []struct {
		name string
		t    *tree.Tree
		want string // "" for none
	}{
		{"nothing", tree.New(), ""},
		{"whole", treeOf(tree.Extent{Length: 1 << 20}), ""},
		{"end of the blob", treeOf(tree.Extent{Offset: 512, Length: 1<<20 - 512}), ""},
		{"one hole", treeOf(tree.Extent{Blob: hole, Length: 1 << 59}), ""},
		{"not aligned", treeOf(tree.Extent{Offset: 256, Length: 512}), "512 bytes"},
		{"part not aligned", treeOf(tree.Extent{Length: 700}, tree.Extent{Blob: hole, Length: 700}), "512 bytes"},
		{"no such blob", treeOf(tree.Extent{Blob: 1, Length: 512}), "outside the blobs"},
		{"beyond the blob", treeOf(tree.Extent{Offset: 512, Length: 1 << 20}), "outside the blobs"},
		{"many chunks", treeOf(tree.Extent{Length: 4096}, tree.Extent{Blob: hole, Length: 1 << 50}), "metadata of more than"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			img, err := erofs.Build(c.t, []int64{1 << 20})
			if c.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				if again, err := erofs.Build(c.t, []int64{1 << 20}); err != nil || !bytes.Equal(img, again) {
					t.Errorf("another image the second time, %v", err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(c.want, "512") && (!errors.Is(err, blob.ErrUnsupported) || !strings.Contains(err.Error(), "d/file")) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
}
