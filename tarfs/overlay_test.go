package tarfs_test

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/lazuli-project/lazuli/internal/imagetest"
	"github.com/lazuli-project/lazuli/tarfs"
	"github.com/lazuli-project/lazuli/tree"
)

// outline prints a tree in one line: names, "/" behind directories, "->" targets, "=" sizes, "~" equal nodes.
func outline(tr *tree.Tree) string {
	var parts []string
	names := make(map[*tree.Node]string)
	_ = tr.Walk(func(path string, n *tree.Node) error {
		if path == "" {
			return nil
		}
		if first, ok := names[n]; ok {
			parts = append(parts, path+"~"+first)
			return nil
		}
		names[n] = path
		switch {
		case n.IsDir():
			path += "/"
		case n.IsSymlink():
			path += "->" + n.Target
		case n.Size > 0:
			path += "=" + strings.Repeat("*", int(n.Size))
		}
		parts = append(parts, path)
		return nil
	})
	return strings.Join(parts, " ")
}

func layerTree(t *testing.T, items ...imagetest.Item) *tree.Tree {
	t.Helper()
	tr, err := readTree(tarfs.NewReader(bytes.NewReader(imagetest.Tar(t, items...))))
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

type items = []imagetest.Item

func TestMerge(t *testing.T) {
	t.Parallel()
	file, dir, link, symlink, whiteout := imagetest.File, imagetest.Dir, imagetest.Link, imagetest.Symlink, imagetest.Whiteout
	for name, c := range map[string]struct {
		layers []items
		want   string
	}{
		"whiteout":                      {[]items{{file("a", ""), file("b", "")}, {whiteout("a")}}, "b"},
		"whiteout of a directory":       {[]items{{file("d/a", ""), file("b", "")}, {whiteout("d")}}, "b"},
		"whiteout and new, after":       {[]items{{file("a", "1")}, {whiteout("a"), file("a", "22")}}, "a=**"},
		"whiteout and new, before":      {[]items{{file("a", "1")}, {file("a", "22"), whiteout("a")}}, "a=**"},
		"whiteout and new directory":    {[]items{{file("d/a", "")}, {file("d/b", ""), whiteout("d")}}, "d/ d/b"},
		"whiteout of nothing":           {[]items{{file("a", "")}, {whiteout("b")}}, "a"},
		"whiteout at the bottom":        {[]items{{file("a", ""), whiteout("a"), whiteout("d/x")}}, "a d/"},
		"whiteout under a new tree":     {[]items{{}, {file("d/e/f", ""), whiteout("d/e/g")}}, "d/ d/e/ d/e/f"},
		"deleted, then back":            {[]items{{file("a", "1")}, {whiteout("a")}, {file("a", "22")}}, "a=**"},
		"name that sorts before":        {[]items{{file("+", ""), file("-", ""), file(".a", "")}, {whiteout("-"), file("/+", "1")}}, "+=* .a"},
		"opaque, first":                 {[]items{{file("d/a", "")}, {imagetest.Opaque("d"), file("d/b", "")}}, "d/ d/b"},
		"opaque, last":                  {[]items{{file("d/a", "")}, {file("d/b", ""), imagetest.Opaque("d")}}, "d/ d/b"},
		"opaque, subdirectory":          {[]items{{file("d/e/a", "")}, {imagetest.Opaque("d"), file("d/e/b", "")}}, "d/ d/e/ d/e/b"},
		"opaque, root":                  {[]items{{file("a", "")}, {imagetest.Opaque(""), file("b", "")}}, "b"},
		"aufs metadata":                 {[]items{{file("a", ""), file(".wh..wh.aufs", ""), dir(".wh..wh.plnk")}, {file(".wh..wh.orph/x", "")}}, "a"},
		"file over directory":           {[]items{{file("d/a", "")}, {file("d", "1")}}, "d=*"},
		"directory over file":           {[]items{{file("d", "1")}, {dir("d"), file("d/a", "")}}, "d/ d/a"},
		"directory over directory":      {[]items{{file("d/a", "")}, {dir("d"), file("d/b", "")}}, "d/ d/a d/b"},
		"directory over symlink":        {[]items{{file("e/a", ""), symlink("d", "e")}, {dir("d"), file("d/b", "")}}, "d/ d/b e/ e/a"},
		"through a symlink":             {[]items{{file("e/a", ""), symlink("d", "e")}, {file("d/b", "")}}, "d->e e/ e/a e/b"},
		"through an absolute symlink":   {[]items{{file("e/f/a", ""), symlink("x/d", "/e/f")}, {file("x/d/b", "")}}, "e/ e/f/ e/f/a e/f/b x/ x/d->/e/f"},
		"through a symlink outside":     {[]items{{file("e/a", ""), symlink("d", "../../../e")}, {file("d/b", "")}}, "d->../../../e e/ e/a e/b"},
		"through a symlink to the root": {[]items{{symlink("d", "/")}, {file("d/b", "")}}, "b d->/"},
		"through two symlinks":          {[]items{{dir("e/f"), symlink("d", "c"), symlink("c", "e")}, {file("d/f/b", ""), whiteout("c/f")}}, "c->e d->c e/ e/f/ e/f/b"},
		"whiteout through a symlink":    {[]items{{file("e/a", ""), symlink("d", "e")}, {whiteout("d/a")}}, "d->e e/"},
		"through a dangling symlink":    {[]items{{symlink("d", "e")}, {file("d/b", "")}}, "d/ d/b"},
		"through a loop":                {[]items{{symlink("d", "d")}, {file("d/b", "")}}, "d/ d/b"},
		"hard link":                     {[]items{{file("a", "1"), link("b", "a")}}, "a=* b~a"},
		"hard link below":               {[]items{{file("a", "1")}, {link("b", "a")}}, "a=* b~a"},
		"hard link below, absolute":     {[]items{{file("d/a", "1")}, {link("b", "/d/a")}}, "b=* d/ d/a~b"},
		"hard link below, two below":    {[]items{{file("a", "1")}, {file("x", "")}, {link("b", "a")}}, "a=* b~a x"},
		"hard link below, chain":        {[]items{{file("a", "1")}, {link("b", "a"), link("c", "b")}, {link("d", "c")}}, "a=* b~a c~a d~a"},
		"hard link below, then removed": {[]items{{file("a", "1")}, {link("b", "a"), whiteout("a")}}, "b=*"},
		"hard link below, then changed": {[]items{{file("a", "1")}, {link("b", "a"), file("a", "22")}}, "a=** b=*"},
		"hard link below, to itself":    {[]items{{file("a", "1")}, {link("a", "a")}}, "a=*"},
		"hard link below, symlink":      {[]items{{symlink("a", "x")}, {link("b", "a")}}, "a->x b~a"},
		"hard link below, via symlink":  {[]items{{file("e/a", "1"), symlink("d", "e")}, {link("b", "d/a")}}, "b=* d->e e/ e/a~b"},
		"hard link replaces":            {[]items{{file("a", "1"), file("b", "22")}, {link("b", "a")}}, "a=* b~a"},
		"links stay shared":             {[]items{{file("a", "1"), link("b", "a")}, {file("c", "")}, {whiteout("c")}}, "a=* b~a"},
		"one name of a link replaced":   {[]items{{file("a", "1"), link("b", "a"), link("c", "a")}, {file("a", "22")}}, "a=** b=* c~b"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var layers []*tree.Tree
			var before []string
			for _, l := range c.layers {
				layers = append(layers, layerTree(t, l...))
				before = append(before, outline(layers[len(layers)-1]))
			}
			got, err := tarfs.Merge(layers)
			if err != nil {
				t.Fatal(err)
			}
			if s := outline(got); s != c.want {
				t.Errorf("got  %s\nwant %s", s, c.want)
			}
			for i, l := range layers {
				if s := outline(l); s != before[i] {
					t.Errorf("layer %d was changed: %s\nbefore: %s", i, s, before[i])
				}
			}
			checkMerged(t, got)
		})
	}
}

// checkMerged checks that a tree is valid, has no private marks, and that its links are counted.
func checkMerged(t *testing.T, tr *tree.Tree) {
	t.Helper()
	names := make(map[*tree.Node]uint32)
	_ = tr.Walk(func(path string, n *tree.Node) error {
		names[n]++
		for _, x := range n.Xattrs {
			if strings.HasPrefix(x.Name, "trusted.lazuli.") {
				t.Errorf("%q has %s", path, x.Name)
			}
		}
		for i, e := range n.Entries {
			if strings.HasPrefix(e.Name, ".wh.") {
				t.Errorf("%q has %q", path, e.Name)
			}
			if err := tree.CheckName(e.Name); err != nil || i > 0 && n.Entries[i-1].Name >= e.Name {
				t.Errorf("%q: entry %q: %v", path, e.Name, err)
			}
		}
		return nil
	})
	for n, count := range names {
		if !n.IsDir() && n.Nlink != count {
			t.Errorf("link count %d of %d names", n.Nlink, count)
		}
		if n.IsDir() && count != 1 {
			t.Errorf("directory with %d names", count)
		}
	}
}

func TestMergeAttributes(t *testing.T) {
	t.Parallel()
	bottom := layerTree(t, imagetest.Dir(".", imagetest.Mode(0o700), imagetest.At(5, 6)), imagetest.Dir("d", imagetest.Owner(1, 2), imagetest.Xattr("user.a", "1")))
	implied := layerTree(t, imagetest.File("d/x", ""))
	explicit := layerTree(t, imagetest.Dir("d", imagetest.Mode(0o711), imagetest.Xattr("user.b", "2")), imagetest.Dir("", imagetest.Owner(9, 9)))

	got, err := tarfs.Merge([]*tree.Tree{bottom, implied})
	if err != nil {
		t.Fatal(err)
	}
	root, d := got.Root, got.Lookup("d")
	if root.Mode != tree.TypeDir|0o700 || root.Mtime != 5 || root.MtimeNsec != 6 {
		t.Errorf("root %+v", root)
	}
	if v, _ := d.Xattr("user.a"); d.UID != 1 || d.GID != 2 || string(v) != "1" || d.Mtime != imagetest.Time || d.Nlink != 2 {
		t.Errorf("an implied directory changes what is below it: %+v", d)
	}

	got, err = tarfs.Merge([]*tree.Tree{bottom, implied, explicit})
	if err != nil {
		t.Fatal(err)
	}
	root, d = got.Root, got.Lookup("d")
	if root.UID != 9 || root.Mode != tree.TypeDir|0o755 {
		t.Errorf("root %+v", root)
	}
	if _, ok := d.Xattr("user.a"); ok || d.Mode != tree.TypeDir|0o711 || d.UID != 0 || len(d.Xattrs) != 1 || d.Child("x") == nil {
		t.Errorf("an explicit directory does not replace the attributes: %+v", d)
	}
}

func TestMergeErrors(t *testing.T) {
	t.Parallel()
	for name, layers := range map[string][]items{
		"hard link to nothing":            {{imagetest.Link("a", "b")}},
		"hard link to nothing below":      {{imagetest.File("x", "")}, {imagetest.Link("a", "d/b")}},
		"hard link to a directory below":  {{imagetest.Dir("d")}, {imagetest.Link("a", "d")}},
		"hard link to what comes later":   {{imagetest.Link("a", "b"), imagetest.File("b", "")}},
		"hard link to what was taken off": {{imagetest.File("b", "")}, {imagetest.Whiteout("b")}, {imagetest.Link("a", "b")}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var trees []*tree.Tree
			for _, l := range layers {
				trees = append(trees, layerTree(t, l...))
			}
			if _, err := tarfs.Merge(trees); !errors.Is(err, tarfs.ErrLink) {
				t.Fatalf("got %v, want %v", err, tarfs.ErrLink)
			}
		})
	}
}

func TestMergeBlobs(t *testing.T) {
	t.Parallel()
	one := func(name string) *tree.Tree {
		tr := tree.New()
		tr.Root.Put(name, &tree.Node{Mode: tree.TypeRegular, Size: 3, Nlink: 1, Extents: []tree.Extent{{Blob: 0, Length: 1}, {Blob: tree.Hole, Length: 2}}})
		return tr
	}
	layers := []*tree.Tree{one("a"), one("b")}
	got, err := tarfs.MergeBlobs(layers, func(layer int, blob uint32) uint32 { return uint32(layer) + 5 + blob })
	if err != nil {
		t.Fatal(err)
	}
	if a, b := got.Lookup("a").Extents, got.Lookup("b").Extents; a[0].Blob != 5 || b[0].Blob != 6 || b[1].Blob != tree.Hole {
		t.Errorf("%v %v", a, b)
	}
	if layers[1].Lookup("b").Extents[0].Blob != 0 {
		t.Error("the layer was changed")
	}
}

// Layers that are used up give the same tree as those that are copied.
func TestMergerTake(t *testing.T) {
	t.Parallel()
	layers := func() []*tree.Tree {
		made := []*tree.Tree{
			layerTree(t, imagetest.Dir("d"), imagetest.File("d/a", "a"), imagetest.Link("d/b", "d/a"), imagetest.File("gone", "x"), imagetest.Symlink("l", "d")),
			layerTree(t, imagetest.Whiteout("gone"), imagetest.File("l/c", "c"), imagetest.Link("e", "d/a")),
		}
		for _, l := range made {
			_ = l.Nodes(func(n *tree.Node) error {
				if n.Size > 0 {
					n.Extents = []tree.Extent{{Offset: 4096, Length: n.Size}}
				}
				return nil
			})
		}
		return made
	}
	blobs := func(layer int, blob uint32) uint32 { return uint32(layer) + 3 + blob }
	want, err := tarfs.MergeBlobs(layers(), blobs)
	if err != nil {
		t.Fatal(err)
	}
	m := tarfs.NewMerger()
	for i, l := range layers() {
		if err := m.Take(l, func(b uint32) uint32 { return blobs(i, b) }); err != nil {
			t.Fatal(err)
		}
	}
	got, err := m.Tree()
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s\n%s", outline(got), outline(want))
	}
	if x := got.Lookup("d/c").Extents; len(x) != 1 || x[0].Blob != 4 {
		t.Errorf("extents %v", x)
	}
}
