package tree

import (
	"slices"
	"strings"
	"testing"
)

func file(size int64, x ...Extent) *Node {
	return &Node{Mode: TypeRegular | 0o644, Size: size, Extents: x}
}

func TestPutKeepsOrder(t *testing.T) {
	t.Parallel()
	tr := New()
	for _, name := range []string{"b", "a", "c", "B", "a"} {
		tr.Root.Put(name, file(0))
	}
	var names []string
	for _, e := range tr.Root.Entries {
		names = append(names, e.Name)
	}
	if want := []string{"B", "a", "b", "c"}; !slices.Equal(names, want) {
		t.Fatalf("names = %q, want %q", names, want)
	}
	if !tr.Root.Remove("a") || tr.Root.Remove("a") || tr.Root.Child("a") != nil {
		t.Fatal("Remove does not remove once")
	}
}

func TestCountLinks(t *testing.T) {
	t.Parallel()
	tr := New()
	dir := &Node{Mode: TypeDir | 0o755}
	f := file(0)
	tr.Root.Put("d", dir)
	dir.Put("x", f)
	tr.Root.Put("y", f)
	tr.CountLinks()
	if tr.Root.Nlink != 3 || dir.Nlink != 2 || f.Nlink != 2 {
		t.Fatalf("nlink root %d dir %d file %d", tr.Root.Nlink, dir.Nlink, f.Nlink)
	}
	visited := 0
	_ = tr.Nodes(func(*Node) error { visited++; return nil })
	if visited != 3 {
		t.Fatalf("visited %d nodes, want 3", visited)
	}
	if tr.Lookup("/d/./x") != f || tr.Lookup("d/none") != nil || tr.Lookup("") != tr.Root {
		t.Fatal("Lookup")
	}
}

func TestXattrs(t *testing.T) {
	t.Parallel()
	n := file(0)
	n.SetXattr("user.b", []byte("1"))
	n.SetXattr("user.a", []byte("2"))
	n.SetXattr("user.b", []byte("3"))
	if v, ok := n.Xattr("user.b"); !ok || string(v) != "3" || len(n.Xattrs) != 2 || n.Xattrs[0].Name != "user.a" {
		t.Fatalf("xattrs = %+v", n.Xattrs)
	}
	if !n.RemoveXattr("user.a") || n.RemoveXattr("user.a") {
		t.Fatal("RemoveXattr")
	}
}

func TestAppendExtentJoinsNeighbours(t *testing.T) {
	t.Parallel()
	n := file(30)
	n.AppendExtent(Extent{0, 0, 10})
	n.AppendExtent(Extent{0, 10, 10})
	n.AppendExtent(Extent{1, 20, 10})
	if want := []Extent{{0, 0, 20}, {1, 20, 10}}; !slices.Equal(n.Extents, want) {
		t.Fatalf("extents = %v, want %v", n.Extents, want)
	}
}

func TestValidate(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		make func(*Tree)
		want string
	}{
		"right":        {func(tr *Tree) { tr.Root.Put("f", file(10, Extent{0, 90, 10})) }, ""},
		"hole":         {func(tr *Tree) { tr.Root.Put("f", file(10, Extent{Hole, 0, 10})) }, ""},
		"outside":      {func(tr *Tree) { tr.Root.Put("f", file(10, Extent{0, 91, 10})) }, "outside"},
		"no such blob": {func(tr *Tree) { tr.Root.Put("f", file(10, Extent{1, 0, 10})) }, "outside"},
		"short":        {func(tr *Tree) { tr.Root.Put("f", file(11, Extent{0, 0, 10})) }, "10 of 11"},
		"name":         {func(tr *Tree) { tr.Root.Put("..", file(0)) }, "reserved"},
		"long name":    {func(tr *Tree) { tr.Root.Put(strings.Repeat("x", 256), file(0)) }, "256 bytes"},
		"NUL":          {func(tr *Tree) { tr.Root.Put("a\x00", file(0)) }, "NUL"},
		"order":        {func(tr *Tree) { tr.Root.Entries = []Entry{{"b", file(0)}, {"a", file(0)}} }, "order"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tr := New()
			c.make(tr)
			err := tr.Validate([]int64{100})
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Fatalf("err = %v, want %q", err, c.want)
			}
		})
	}
}
