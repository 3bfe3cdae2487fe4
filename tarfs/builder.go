package tarfs

import (
	"fmt"
	"slices"
	"strings"

	"github.com/lazuli-project/lazuli/tree"
)

// Attributes that mark nodes of a layer's tree for [Overlay], which takes them away. They never come from a tar: the
// Reader refuses names that begin with "trusted.lazuli.".
const (
	// XattrImplied marks a directory that has no entry of its own in the layer, only entries below it: it keeps the
	// attributes that it has in the layers below.
	XattrImplied = privatePrefix + "implied"
	// XattrHardlink marks an empty regular file that stands for a hard link whose target is not in the layer. Its value
	// is the target's path, in the manner of [Entry.Hardlink].
	XattrHardlink = privatePrefix + "hardlink"
)

// Names that have a meaning in a layer (OCI image specification, layer.md, "Whiteouts").
const (
	// WhiteoutPrefix before a name takes away what has the name in the layers below.
	WhiteoutPrefix = ".wh."
	// WhiteoutOpaque takes away all entries that its directory has in the layers below.
	WhiteoutOpaque = ".wh..wh..opq"
)

// maxSymlinks is how many symbolic links are followed on the way to a parent directory, as in Linux.
const maxSymlinks = 40

// Builder makes the tree of one layer of its entries in tar order. The zero value is not usable; it is for one
// goroutine at a time.
//
// The result is what extracting the entries one after the other gives: of several entries with one path the last
// wins, a directory over a directory changes its attributes only, anything over a directory drops what is in it. Parents
// are made where they are missing (0755, 0:0, time 0, XattrImplied); on the way to a parent symbolic links of
// the same layer are followed, inside the root. Whiteouts stay as the files that they are in the tar.
type Builder struct {
	t *tree.Tree
	// large has the directories whose entries did not come in the order of their names. They are sorted by Tree.
	large map[*tree.Node]*unsorted
	// Consecutive entries mostly share their parent.
	lastPath   string
	lastParent *tree.Node
	nodes      []tree.Node // to be handed out
	names      *strings.Builder
}

// unsorted finds the entries of a directory that is not sorted at the moment.
type unsorted struct{ place map[string]int }

// Nodes and names are allocated many at a time. So many nodes fill a piece of the allocator of 8 KiB.
const (
	nodeSlab = 60
	nameSlab = 8 << 10
)

// sortedLimit is how many entries a directory may have before inserting into their order becomes too slow.
const sortedLimit = 64

// NewBuilder begins a tree whose root is implied.
func NewBuilder() *Builder {
	b := &Builder{t: tree.New(), large: make(map[*tree.Node]*unsorted), names: new(strings.Builder)}
	b.t.Root.SetXattr(XattrImplied, nil)
	b.lastParent = b.t.Root
	return b
}

// Add adds an entry and returns its node. For a hard link to something in the layer that is the node that both names
// share, and for one to another layer a node with XattrHardlink; in both cases the attributes of e do not count. The node
// has the entry's Size and no extents. An error is an [*Error], and then the tree is not changed except by implied parents.
func (b *Builder) Add(e *Entry) (*tree.Node, error) {
	n, err := b.add(e)
	if err != nil {
		return nil, &Error{Entry: e.Index, Offset: e.Offset, Name: e.Name, Err: err}
	}
	return n, nil
}

func (b *Builder) add(e *Entry) (*tree.Node, error) {
	isDir := e.Mode&tree.TypeMask == tree.TypeDir
	if e.Name == "" {
		if !isDir {
			return nil, fmt.Errorf("%w: the root is a directory", ErrPath)
		}
		setAttributes(b.t.Root, e)
		return b.t.Root, nil
	}
	parent, name, err := b.parent(e.Name)
	if err != nil {
		return nil, err
	}
	if err := checkEntryName(name); err != nil {
		return nil, err
	}
	if e.Hardlink != "" {
		return b.link(e, parent, name)
	}
	old := b.child(parent, name)
	if old != nil && old.IsDir() && isDir {
		setAttributes(old, e)
		return old, nil
	}
	n := b.newNode()
	setAttributes(n, e)
	b.put(parent, name, n, old)
	return n, nil
}

// checkEntryName checks the last component of a path.
func checkEntryName(name string) error {
	if err := tree.CheckName(name); err != nil {
		return fmt.Errorf("%w: %w", ErrName, err)
	}
	if hidden, ok := strings.CutPrefix(name, WhiteoutPrefix); ok && (hidden == "" || hidden == "." || hidden == "..") {
		return fmt.Errorf("%w: whiteout of %q", ErrName, hidden)
	}
	return nil
}

func setAttributes(n *tree.Node, e *Entry) {
	n.Mode, n.UID, n.GID = e.Mode, e.UID, e.GID
	n.Mtime, n.MtimeNsec = e.Mtime, e.MtimeNsec
	n.Rdev, n.Size, n.Target = e.Rdev, e.Size, e.Target
	n.Xattrs = slices.Clone(e.Xattrs)
}

func (b *Builder) newNode() *tree.Node {
	if len(b.nodes) == 0 {
		b.nodes = make([]tree.Node, nodeSlab)
	}
	n := &b.nodes[0]
	b.nodes = b.nodes[1:]
	return n
}

// keepName returns a copy of a name, which is a part of a path, so that the path is not kept with it. What has been written
// to a strings.Builder stays where it is until its capacity is used up.
func (b *Builder) keepName(name string) string {
	if b.names.Cap()-b.names.Len() < len(name) {
		b.names = new(strings.Builder)
		b.names.Grow(nameSlab)
	}
	at := b.names.Len()
	b.names.WriteString(name)
	return b.names.String()[at:]
}

// link adds another name of a node.
func (b *Builder) link(e *Entry, parent *tree.Node, name string) (*tree.Node, error) {
	target, err := b.find(e.Hardlink)
	if err != nil {
		return nil, fmt.Errorf("hard link to %q: %w", e.Hardlink, err)
	}
	if target != nil && target.IsDir() {
		return nil, fmt.Errorf("%w: %q is a directory", ErrLink, e.Hardlink)
	}
	if target == nil {
		target = b.newNode()
		target.Mode = tree.TypeRegular
		target.SetXattr(XattrHardlink, []byte(e.Hardlink))
	}
	b.put(parent, name, target, b.child(parent, name))
	return target, nil
}

// find returns the node with the path, or nil.
func (b *Builder) find(path string) (*tree.Node, error) {
	dir, name := splitPath(path)
	parent, err := b.walk(dir, false)
	if parent == nil || err != nil {
		return nil, err
	}
	return b.child(parent, name), nil
}

// splitPath splits a clean path before its last component.
func splitPath(path string) (dir, name string) {
	i := strings.LastIndexByte(path, '/')
	return path[:max(i, 0)], path[i+1:]
}

// parent returns the directory that the path's last component belongs in.
func (b *Builder) parent(path string) (*tree.Node, string, error) {
	dir, name := splitPath(path)
	if dir == b.lastPath && b.lastParent != nil {
		return b.lastParent, name, nil
	}
	n, err := b.walk(dir, true)
	if err != nil {
		return nil, "", err
	}
	b.lastPath, b.lastParent = dir, n
	return n, name, nil
}

// walk returns the directory with the path. Where there is nothing it returns nil or, with create, makes it.
func (b *Builder) walk(path string, create bool) (*tree.Node, error) {
	w := pathWalk{root: b.t.Root, child: b.child}
	if create {
		w.missing = func(dir *tree.Node, name string) (*tree.Node, error) {
			if err := checkEntryName(name); err != nil {
				return nil, err
			}
			n := b.newNode()
			n.Mode = tree.TypeDir | 0o755
			n.SetXattr(XattrImplied, nil)
			b.put(dir, name, n, nil)
			return n, nil
		}
	}
	return w.dir(path)
}

// child returns what has the name in the directory, or nil.
func (b *Builder) child(dir *tree.Node, name string) *tree.Node {
	if u := b.large[dir]; u != nil {
		if i, ok := u.place[name]; ok {
			return dir.Entries[i].Node
		}
		return nil
	}
	return dir.Child(name)
}

// put names n in the directory, in place of old, which is what has the name now or nil.
func (b *Builder) put(dir *tree.Node, name string, n, old *tree.Node) {
	if old != nil && old != n && (old.IsDir() || old.IsSymlink()) {
		b.lastParent = nil // it may have been below
	}
	if old == nil {
		name = b.keepName(name)
	}
	u := b.large[dir]
	if k := len(dir.Entries); u == nil && old == nil && k >= sortedLimit && dir.Entries[k-1].Name > name {
		u = &unsorted{make(map[string]int, 2*k)}
		for i, e := range dir.Entries {
			u.place[e.Name] = i
		}
		b.large[dir] = u
	}
	switch {
	case u == nil:
		dir.Put(name, n)
	case old != nil:
		dir.Entries[u.place[name]].Node = n
	default:
		u.place[name] = len(dir.Entries)
		dir.Entries = append(dir.Entries, tree.Entry{Name: name, Node: n})
	}
}

// Tree ends the layer and returns its tree, with links counted. Add may not be called afterwards.
func (b *Builder) Tree() *tree.Tree {
	for dir := range b.large {
		slices.SortFunc(dir.Entries, func(a, c tree.Entry) int { return strings.Compare(a.Name, c.Name) })
	}
	clear(b.large)
	b.t.CountLinks()
	return b.t
}
