package nydusimage

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/tarfs"
	"github.com/lazuli-project/lazuli/tree"
)

// maxDepth bounds how deep directories are nested, as the bootstrap's reader does.
const maxDepth = 2048

// fileID finds the names that a file has.
type fileID struct{ dev, ino uint64 }

// dirWalker makes a tree of a directory.
type dirWalker struct {
	root  string
	links map[fileID]*tree.Node
}

// readDirectory makes the tree of a directory, without content. The root's time is left out: it is when the directory was
// filled.
func readDirectory(path string) (*tree.Tree, error) {
	i, err := os.Stat(path)
	if err == nil && !i.IsDir() {
		err = fmt.Errorf("%s is no directory", path)
	}
	if err != nil {
		return nil, fmt.Errorf("source: %w", err)
	}
	w := &dirWalker{root: path, links: make(map[fileID]*tree.Node)}
	n, err := w.node("", i)
	if err == nil {
		err = w.entries("", n, 0)
	}
	if err != nil {
		return nil, fmt.Errorf("source: %w", err)
	}
	n.Mtime, n.MtimeNsec = 0, 0
	t := &tree.Tree{Root: n}
	t.CountLinks()
	return t, nil
}

func (w *dirWalker) entries(dir string, n *tree.Node, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("%s: directories nested deeper than %d", dir, maxDepth)
	}
	list, err := os.ReadDir(filepath.Join(w.root, dir)) // sorted by name
	if err != nil {
		return err
	}
	for _, e := range list {
		path := filepath.Join(dir, e.Name())
		i, err := e.Info()
		if err != nil {
			return err
		}
		child, err := w.node(path, i)
		if err != nil {
			return err
		}
		n.Entries = append(n.Entries, tree.Entry{Name: e.Name(), Node: child})
		if child.IsDir() {
			if err := w.entries(path, child, depth+1); err != nil {
				return err
			}
		}
	}
	return nil
}

// Marks of overlayfs: a removed name is a character device 0:0, an opaque directory has an attribute.
const (
	overlayOpaque      = "trusted.overlay.opaque"
	overlayOpaqueValue = "y"
)

// ociWhiteouts puts the whiteouts of a specification into the form that package tarfs merges, or hides names that would be
// taken for such; [revealNames] undoes that.
func ociWhiteouts(n *tree.Node, spec string) {
	for _, e := range slices.Clone(n.Entries) {
		removed := !e.Node.IsDir() && e.Node.Type() == tree.TypeChar && e.Node.Rdev == (tree.Device{})
		switch {
		case spec != WhiteoutOCI && strings.HasPrefix(e.Name, tarfs.WhiteoutPrefix):
			n.Remove(e.Name)
			n.Put(hiddenName+e.Name[1:], e.Node)
		case spec == WhiteoutOverlayFS && removed:
			n.Remove(e.Name)
			n.Put(tarfs.WhiteoutPrefix+e.Name, e.Node)
		}
		if e.Node.IsDir() {
			ociWhiteouts(e.Node, spec)
		}
	}
	if v, ok := n.Xattr(overlayOpaque); ok && spec == WhiteoutOverlayFS && string(v) == overlayOpaqueValue {
		n.RemoveXattr(overlayOpaque)
		n.Put(tarfs.WhiteoutOpaque, &tree.Node{Mode: tree.TypeRegular})
	}
}

// hiddenName stands for the first byte of names that are no whiteouts. No name has it.
const hiddenName = "\x00"

func revealNames(n *tree.Node) {
	for _, e := range slices.Clone(n.Entries) {
		if rest, ok := strings.CutPrefix(e.Name, hiddenName); ok {
			n.Remove(e.Name)
			n.Put("."+rest, e.Node)
		}
		if e.Node.IsDir() {
			revealNames(e.Node)
		}
	}
}

// dropWhiteouts removes the whiteouts of a directory that is laid over nothing. The attribute of an opaque directory stays, as it
// does with nydus-image.
func dropWhiteouts(n *tree.Node, spec string) {
	n.Entries = slices.DeleteFunc(n.Entries, func(e tree.Entry) bool {
		switch spec {
		case WhiteoutOCI:
			return strings.HasPrefix(e.Name, tarfs.WhiteoutPrefix)
		case WhiteoutOverlayFS:
			return e.Node.Type() == tree.TypeChar && e.Node.Rdev == (tree.Device{})
		}
		return false
	})
	for _, e := range n.Entries {
		if e.Node.IsDir() {
			dropWhiteouts(e.Node, spec)
		}
	}
}

// dirFile is a file with content.
type dirFile struct {
	path string
	node *tree.Node
	rank int // of the prefetch path that it is below; behind all of them where there is none
}

// dirFiles lists the files with content in the order in which they are stored: those that are prefetched first, in the order of
// the paths, then the others; and in both the files of a directory before those of the directories in it.
func dirFiles(t *tree.Tree, prefetch []string) []dirFile {
	var files []dirFile
	seen := make(map[*tree.Node]bool)
	rank := func(path string) int {
		i := slices.IndexFunc(prefetch, func(p string) bool {
			return p == "/" || path == p || strings.HasPrefix(path, strings.TrimSuffix(p, "/")+"/")
		})
		if i < 0 {
			return len(prefetch)
		}
		return i
	}
	var visit func(path string, n *tree.Node)
	visit = func(path string, n *tree.Node) {
		for _, e := range n.Entries {
			if e.Node.IsRegular() && e.Node.Size > 0 && !seen[e.Node] {
				seen[e.Node] = true
				files = append(files, dirFile{path + "/" + e.Name, e.Node, rank(path + "/" + e.Name)})
			}
		}
		for _, e := range n.Entries {
			if e.Node.IsDir() {
				visit(path+"/"+e.Name, e.Node)
			}
		}
	}
	visit("", t.Root)
	slices.SortStableFunc(files, func(a, b dirFile) int { return cmp.Compare(a.rank, b.rank) })
	return files
}

// feedDirectory gives the content of a directory's files to a writer.
func feedDirectory(ctx context.Context, root string, files []dirFile, w formats.LayerWriter) error {
	buf := make([]byte, 1<<20)
	for _, f := range files {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := feedFile(root, &f, buf, w); err != nil {
			return fmt.Errorf("source: %w", err)
		}
	}
	return nil
}

func feedFile(root string, f *dirFile, buf []byte, w formats.LayerWriter) error {
	in, err := os.Open(filepath.Join(root, f.path))
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }() // was read only
	if err := w.Entry(&tarfs.Entry{Name: f.path[1:], Mode: f.node.Mode, Size: f.node.Size}, f.node); err != nil {
		return err
	}
	for left := f.node.Size; left > 0; {
		n, err := in.Read(buf[:min(left, int64(len(buf)))])
		left -= int64(n)
		if n > 0 {
			if err := w.Data(buf[:n]); err != nil {
				return err
			}
			continue
		}
		if errors.Is(err, io.EOF) {
			return fmt.Errorf("%s became shorter while it was read: %w", f.path, io.ErrUnexpectedEOF)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
