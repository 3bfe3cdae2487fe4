package tarfs_test

import (
	"math/rand/v2"
	"strconv"
	"testing"

	"github.com/lazuli-project/lazuli/internal/imagetest"
	"github.com/lazuli-project/lazuli/tarfs"
	"github.com/lazuli-project/lazuli/tree"
)

// sameSize takes files of one size for files of one content.
func sameSize(a, b *tree.Node) bool { return a.Size == b.Size }

// merged is the tree of an image of these layers.
func merged(t *testing.T, layers ...*tree.Tree) *tree.Tree {
	t.Helper()
	m, err := tarfs.Merge(layers)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// lines lists a tree without the content of files.
func lines(t *testing.T, tr *tree.Tree) []string {
	t.Helper()
	l, err := imagetest.List(tr, func(*tree.Node) ([]byte, error) { return nil, nil })
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestDifference(t *testing.T) {
	t.Parallel()
	file, dir, link, symlink, whiteout := imagetest.File, imagetest.Dir, imagetest.Link, imagetest.Symlink, imagetest.Whiteout
	for name, c := range map[string]struct {
		lower, layer items
		want         string
	}{
		"nothing":                 {items{file("d/a", "1")}, nil, ""},
		"the same again":          {items{dir("d"), file("d/a", "1")}, items{file("d/a", "1")}, ""},
		"new file":                {items{file("a", "1")}, items{file("b", "1")}, "b=*"},
		"below a directory":       {items{file("d/e/a", "1"), file("d/b", "1")}, items{file("d/e/c", "1")}, "d/ d/e/ d/e/c=*"},
		"new directory":           {items{}, items{file("d/a", "1")}, "d/ d/a=*"},
		"other content":           {items{file("a", "1"), file("b", "1")}, items{file("a", "22")}, "a=**"},
		"other mode":              {items{file("a", "1")}, items{file("a", "1", imagetest.Mode(0o600))}, "a=*"},
		"other attribute":         {items{file("a", "1", imagetest.Xattr("user.x", "1"))}, items{file("a", "1", imagetest.Xattr("user.x", "2"))}, "a=*"},
		"other time":              {items{file("a", "1")}, items{file("a", "1", imagetest.At(5, 6))}, "a=*"},
		"other directory":         {items{dir("d"), file("d/a", "1")}, items{dir("d", imagetest.Mode(0o700))}, "d/"},
		"other target":            {items{symlink("l", "a")}, items{symlink("l", "b")}, "l->b"},
		"deleted":                 {items{file("d/a", "1"), file("d/b", "1")}, items{whiteout("d/a")}, "d/ d/.wh.a"},
		"deleted directory":       {items{file("d/a", "1")}, items{whiteout("d")}, ".wh.d"},
		"file over directory":     {items{file("d/a", "1")}, items{file("d", "1")}, "d=*"},
		"directory over file":     {items{file("d", "1")}, items{dir("d"), file("d/a", "1")}, "d/ d/a=*"},
		"links stay":              {items{file("a", "1"), link("b", "a")}, items{file("c", "1")}, "c=*"},
		"new name":                {items{file("a", "1"), link("b", "a"), file("x", "1")}, items{link("d/c", "b")}, "a=* b~a d/ d/c~a"},
		"links changed":           {items{file("a", "1"), link("b", "a")}, items{file("a", "22"), link("b", "a")}, "a=** b~a"},
		"link becomes a file":     {items{file("a", "1"), link("b", "a")}, items{file("b", "1")}, "b=*"},
		"links of another file":   {items{file("a", "1"), file("b", "1")}, items{link("b", "a")}, "a=* b~a"},
		"links change their file": {items{file("a", "1"), link("b", "a"), file("c", "1"), link("d", "c")}, items{link("b", "c"), link("d", "a")}, "a=* b=* c~b d~a"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			lower := merged(t, layerTree(t, c.lower...))
			upper := merged(t, layerTree(t, c.lower...), layerTree(t, c.layer...))
			d := tarfs.Difference(lower, upper, sameSize)
			if got := outline(d); got != c.want {
				t.Errorf("%s, expected %s", got, c.want)
			}
			again := merged(t, lower, d)
			if diff := imagetest.Diff(lines(t, upper), lines(t, again)); diff != "" {
				t.Errorf("laid over the lower tree:\n%s", diff)
			}
		})
	}
}

// Whatever the trees, the difference makes one of the other.
func TestDifferenceRandom(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	random := func() *tree.Tree {
		var list items
		var files []string
		for range r.IntN(40) {
			name := "x" + strconv.Itoa(r.IntN(3)) // what is no parent, and so may be of any kind
			for range r.IntN(3) {
				name = strconv.Itoa(r.IntN(3)) + "/" + name
			}
			switch r.IntN(6) {
			case 0:
				list = append(list, imagetest.Dir(name, imagetest.Mode(int64(0o700+r.IntN(2)))))
			case 1:
				list = append(list, imagetest.Symlink(name, strconv.Itoa(r.IntN(2))))
			case 2:
				if len(files) > 0 {
					list = append(list, imagetest.Link("links/"+strconv.Itoa(r.IntN(9)), files[r.IntN(len(files))]))
				}
			default:
				list = append(list, imagetest.File(name+"f", "content"[:r.IntN(4)]))
				files = append(files, name+"f")
			}
		}
		return merged(t, layerTree(t, list...))
	}
	for i := range 300 {
		lower, upper := random(), random()
		again := merged(t, lower, tarfs.Difference(lower, upper, sameSize))
		if diff := imagetest.Diff(lines(t, upper), lines(t, again)); diff != "" {
			t.Fatalf("%d: from %s\nto %s:\n%s", i, outline(lower), outline(upper), diff)
		}
	}
}
