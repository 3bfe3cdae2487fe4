package tree

import (
	"errors"
	"testing"
)

func TestResolve(t *testing.T) {
	t.Parallel()
	tr := New()
	dir, file := &Node{Mode: TypeDir}, &Node{Mode: TypeRegular}
	link := func(target string) *Node { return &Node{Mode: TypeSymlink, Target: target} }
	tr.Root.Put("d", dir)
	dir.Put("f", file)
	dir.Put("up", link("../d/./f"))
	dir.Put("out", link("../../../d/f"))
	tr.Root.Put("abs", link("/d"))
	tr.Root.Put("loop", link("loop"))
	for path, want := range map[string]*Node{
		"": tr.Root, "/": tr.Root, "..": tr.Root, "d": dir, "/d/f": file, "abs": dir, "abs/f": file, "d/up": file, "abs/out": file, "d/../d//f": file,
	} {
		if n, err := tr.Resolve(path); err != nil || n != want {
			t.Errorf("%q: %v, %v", path, n, err)
		}
	}
	for path, want := range map[string]error{"x": ErrNoEntry, "d/f/x": ErrNoEntry, "loop": ErrTooManyLinks} {
		if _, err := tr.Resolve(path); !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", path, err, want)
		}
	}
}
