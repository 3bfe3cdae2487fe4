package tree

import (
	"errors"
	"fmt"
	"strings"
)

// maxLinks is how many symbolic links one look-up follows, as in Linux.
const maxLinks = 40

// Errors of [Tree.Resolve].
var (
	ErrNoEntry      = errors.New("no such file or directory")
	ErrTooManyLinks = errors.New("too many symbolic links")
)

// Resolve returns the node at a path as a process sees it whose root directory is the tree's: symbolic links are followed
// everywhere in the path, also at its end, and neither they nor ".." lead out of the tree.
func (t *Tree) Resolve(path string) (*Node, error) {
	parts := strings.Split(path, "/")
	var at []*Node // from the root's child down to here
	here := func() *Node {
		if len(at) == 0 {
			return t.Root
		}
		return at[len(at)-1]
	}
	for links := 0; len(parts) > 0; {
		part := parts[0]
		parts = parts[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			at = at[:max(0, len(at)-1)]
			continue
		}
		n := here().Child(part)
		if n == nil {
			return nil, fmt.Errorf("%s: %w", path, ErrNoEntry)
		}
		if !n.IsSymlink() {
			at = append(at, n)
			continue
		}
		if links++; links > maxLinks {
			return nil, fmt.Errorf("%s: %w", path, ErrTooManyLinks)
		}
		if strings.HasPrefix(n.Target, "/") {
			at = nil
		}
		parts = append(strings.Split(n.Target, "/"), parts...)
	}
	return here(), nil
}
