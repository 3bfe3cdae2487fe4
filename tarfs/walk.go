package tarfs

import (
	"fmt"
	"strings"

	"github.com/lazuli-project/lazuli/tree"
)

// pathWalk finds directories as container runtimes do: symbolic links are followed, but never out of the root.
type pathWalk struct {
	root  *tree.Node
	child func(dir *tree.Node, name string) *tree.Node
	// missing makes a directory where there is none; without it the walk ends there with nil.
	missing func(dir *tree.Node, name string) (*tree.Node, error)
	links   int
}

// place is a directory on the way, and the length of its path.
type place struct {
	node   *tree.Node
	length int
}

// dir returns the directory with the path, which may have any form.
func (w *pathWalk) dir(path string) (*tree.Node, error) {
	stack := append(make([]place, 0, 16), place{node: w.root})
	for path != "" {
		var part string
		part, path, _ = strings.Cut(path, "/")
		switch part {
		case "", ".":
			continue
		case "..":
			stack = stack[:max(1, len(stack)-1)]
			continue
		}
		dir := stack[len(stack)-1]
		length := dir.length + len(part) + 1
		if length > MaxPath {
			return nil, fmt.Errorf("%w: too long", ErrName)
		}
		n := w.child(dir.node, part)
		switch {
		case n == nil && w.missing == nil:
			return nil, nil
		case n == nil:
			var err error
			if n, err = w.missing(dir.node, part); err != nil {
				return nil, err
			}
		case n.IsSymlink():
			if w.links++; w.links > maxSymlinks {
				return nil, fmt.Errorf("%w: too many symbolic links", ErrPath)
			}
			if strings.HasPrefix(n.Target, "/") {
				stack = stack[:1]
			}
			// The rest of the path goes behind the target, so that the walk needs no recursion.
			path = n.Target + "/" + path
			continue
		case !n.IsDir():
			return nil, fmt.Errorf("%w: %q is no directory", ErrPath, part)
		}
		stack = append(stack, place{n, length})
	}
	return stack[len(stack)-1].node, nil
}
