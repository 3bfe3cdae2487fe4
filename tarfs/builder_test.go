package tarfs_test

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"github.com/lazuli-project/lazuli/internal/imagetest"
	"github.com/lazuli-project/lazuli/tarfs"
	"github.com/lazuli-project/lazuli/tree"
)

func TestBuilder(t *testing.T) {
	t.Parallel()
	file, dir, link, symlink := imagetest.File, imagetest.Dir, imagetest.Link, imagetest.Symlink
	for name, c := range map[string]struct {
		items items
		want  string
	}{
		"nothing":                      {nil, ""},
		"parents":                      {items{file("a/b/c", "")}, "a/ a/b/ a/b/c"},
		"forms of paths":               {items{file("./a", ""), file("/b", ""), file("c//./d", ""), file("e/../f", ""), file("c/g/../h", "")}, "a b c/ c/d c/h f"},
		"last wins":                    {items{file("a", "1"), file("a", "22")}, "a=**"},
		"file over directory":          {items{file("d/a", ""), file("d", "1")}, "d=*"},
		"file over directory and back": {items{file("d/a", ""), file("d", "1"), dir("d"), file("d/b", "")}, "d/ d/b"},
		"directory twice":              {items{dir("d"), file("d/a", ""), dir("d")}, "d/ d/a"},
		"hard links":                   {items{file("a", "1"), link("b", "a"), link("c", "./b")}, "a=* b~a c~a"},
		"hard link replaced":           {items{file("a", "1"), link("b", "a"), file("a", "22")}, "a=** b=*"},
		"hard link to itself":          {items{file("a", "1"), link("a", "a")}, "a=*"},
		"hard link over directory":     {items{file("a", "1"), file("d/x", ""), link("d", "a")}, "a=* d~a"},
		"whiteouts stay":               {items{file("d/a", ""), imagetest.Whiteout("d/a"), imagetest.Opaque("d")}, "d/ d/.wh..wh..opq d/.wh.a d/a"},
		"through a symlink":            {items{dir("e"), symlink("d", "e"), file("d/a", "1"), link("d/b", "d/a")}, "d->e e/ e/a=* e/b~e/a"},
		"through a dangling symlink":   {items{symlink("x/d", "../e/f"), file("x/d/a", "")}, "e/ e/f/ e/f/a x/ x/d->../e/f"},
		"symlink replaced":             {items{dir("e"), symlink("d", "e"), file("d/a", ""), dir("d"), file("d/b", "")}, "d/ d/b e/ e/a"},
		"parent replaced":              {items{file("d/e/a", ""), symlink("d", "x"), file("d/e/b", "")}, "d->x x/ x/e/ x/e/b"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := outline(layerTree(t, c.items...)); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func TestBuilderMarks(t *testing.T) {
	t.Parallel()
	tr := layerTree(t, imagetest.File("a/b/c", ""), imagetest.Dir("a/b", imagetest.Mode(0o700)), imagetest.Link("l", "/x/../far"), imagetest.Link("m", "l"))
	for path, want := range map[string]bool{"": true, "a": true, "a/b": false} {
		if _, implied := tr.Lookup(path).Xattr(tarfs.XattrImplied); implied != want {
			t.Errorf("%q: implied %v, want %v", path, implied, want)
		}
	}
	l := tr.Lookup("l")
	if v, _ := l.Xattr(tarfs.XattrHardlink); string(v) != "far" || l.Size != 0 || l.Nlink != 2 || tr.Lookup("m") != l {
		t.Errorf("placeholder %+v", l)
	}
	if a := tr.Lookup("a"); a.Mode != tree.TypeDir|0o755 || a.Mtime != 0 || a.Nlink != 3 {
		t.Errorf("implied directory %+v", a)
	}
}

// TestBuilderUnsorted has a directory whose names come in no order, and again.
func TestBuilderUnsorted(t *testing.T) {
	t.Parallel()
	const n = 5000
	b := tarfs.NewBuilder()
	for round := range 2 {
		for i := range n {
			name := fmt.Sprintf("d/%d", i*7919%n)
			if _, err := b.Add(&tarfs.Entry{Name: name, Mode: tree.TypeRegular, Size: int64(round)}); err != nil {
				t.Fatal(err)
			}
		}
	}
	tr := b.Tree()
	d := tr.Lookup("d")
	if len(d.Entries) != n {
		t.Fatalf("%d entries", len(d.Entries))
	}
	for i := range n {
		if c := tr.Lookup(fmt.Sprintf("d/%d", i)); c == nil || c.Size != 1 {
			t.Fatalf("entry %d: %+v", i, c)
		}
	}
	for i := 1; i < n; i++ {
		if d.Entries[i-1].Name >= d.Entries[i].Name {
			t.Fatalf("%q before %q", d.Entries[i-1].Name, d.Entries[i].Name)
		}
	}
}

func TestBuilderErrors(t *testing.T) {
	t.Parallel()
	file, dir, link, symlink := imagetest.File, imagetest.Dir, imagetest.Link, imagetest.Symlink
	for name, c := range map[string]struct {
		items items
		want  error
	}{
		"hard link to a directory":         {items{dir("d"), link("a", "d")}, tarfs.ErrLink},
		"hard link to implied directory":   {items{file("d/x", ""), link("a", "d")}, tarfs.ErrLink},
		"hard link below a file":           {items{file("f", ""), link("a", "f/x")}, tarfs.ErrPath},
		"parent is a file":                 {items{file("f", ""), file("f/x", "")}, tarfs.ErrPath},
		"parent is a loop":                 {items{symlink("a", "b"), symlink("b", "a"), file("a/x", "")}, tarfs.ErrPath},
		"whiteout without a name":          {items{file("d/.wh.", "")}, tarfs.ErrName},
		"whiteout of the directory itself": {items{file("d/.wh..", "")}, tarfs.ErrName},
		"whiteout of the parent":           {items{file("d/.wh...", "")}, tarfs.ErrName},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := readTree(tarfs.NewReader(bytes.NewReader(imagetest.Tar(t, c.items...))))
			var e *tarfs.Error
			if !errors.Is(err, c.want) || !errors.As(err, &e) {
				t.Fatalf("got %v, want %v", err, c.want)
			}
			if last := len(c.items) - 1; e.Entry != last || e.Offset < int64(last)*512 || e.Name == "" {
				t.Errorf("place of the error: %+v", e)
			}
		})
	}
}

// TestBuilderDeepLinks tries to make paths without end of symbolic links.
func TestBuilderDeepLinks(t *testing.T) {
	t.Parallel()
	var all items
	path := ""
	for i := range 100 {
		all = append(all, imagetest.Symlink(path+"s", "d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d/d"))
		path += "s/"
		all = append(all, imagetest.File(fmt.Sprintf("%sf%d", path, i), ""))
	}
	_, err := readTree(tarfs.NewReader(bytes.NewReader(imagetest.Tar(t, all...))))
	if !errors.Is(err, tarfs.ErrName) && !errors.Is(err, tarfs.ErrPath) {
		t.Fatal(err)
	}
}
