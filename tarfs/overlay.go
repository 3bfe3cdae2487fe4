package tarfs

import (
	"fmt"
	"slices"
	"strings"

	"github.com/lazuli-project/lazuli/tree"
)

// Overlay lays one layer's tree over the merged tree of the layers below, which is changed in place. upper is used up: its
// nodes become part of lower, and it may not be used any more ([Clone] it where it is needed again).
//
// The rules are those of the OCI image specification (layer.md, "Applying Changesets"):
//
//   - Whiteouts and opaque directories act on lower only, wherever they stood in the tar.
//   - A directory over a directory keeps what is in it and takes upper's attributes, unless upper only implies it.
//     Everything else replaces what has its name: so does a directory that stands over a symbolic link to a directory.
//   - A directory that is only implied in upper and is a symbolic link to a directory in lower leaves the link alone, and
//     what is below it goes where the link points to: that is where runtimes extract it.
//   - Hard links into lower are resolved before anything is changed, and share the node of their target.
//
// Nlink is not kept up to date. After an error lower is unusable.
func Overlay(lower, upper *tree.Tree) error {
	o := overlay{lower: lower, links: make(map[*tree.Node]*tree.Node)}
	if err := o.resolveLinks("", upper.Root); err != nil {
		return err
	}
	o.mergeDir("", lower.Root, upper.Root)
	for len(o.through) > 0 {
		t := o.through[0]
		o.through = o.through[1:]
		w := pathWalk{root: lower.Root, child: (*tree.Node).Child}
		dir, err := w.dir(t.path)
		if err == nil && dir != nil {
			o.mergeDir(t.path, dir, t.upper)
			continue
		}
		// The link leads nowhere: the directory takes its place.
		t.parent.Put(t.name, o.graft(t.upper))
	}
	return nil
}

type overlay struct {
	lower *tree.Tree
	links map[*tree.Node]*tree.Node // nodes with XattrHardlink, and what they stand for
	// through has implied directories of upper that are symbolic links in lower. They come last, so that no
	// directory changes while it is merged.
	through []throughLink
}

type throughLink struct {
	parent     *tree.Node // in lower, of the link
	path, name string
	upper      *tree.Node
}

// resolveLinks finds the targets of all hard links of upper that lead into lower.
func (o *overlay) resolveLinks(path string, n *tree.Node) error {
	for _, e := range n.Entries {
		if e.Node.IsDir() {
			if err := o.resolveLinks(path+"/"+e.Name, e.Node); err != nil {
				return err
			}
			continue
		}
		if len(e.Node.Xattrs) == 0 {
			continue
		}
		value, ok := e.Node.Xattr(XattrHardlink)
		if !ok || o.links[e.Node] != nil {
			continue
		}
		dir, name := splitPath(string(value))
		w := pathWalk{root: o.lower.Root, child: (*tree.Node).Child}
		parent, err := w.dir(dir)
		if err != nil {
			return fmt.Errorf("hard link %q to %q: %w", path+"/"+e.Name, value, err)
		}
		var target *tree.Node
		if parent != nil {
			target = parent.Child(name)
		}
		if target == nil {
			return fmt.Errorf("%w: %q to %q, which is neither in its layer nor below", ErrLink, path+"/"+e.Name, value)
		}
		if target.IsDir() {
			return fmt.Errorf("%w: %q to %q, which is a directory", ErrLink, path+"/"+e.Name, value)
		}
		o.links[e.Node] = target
	}
	return nil
}

// mergeDir lays the directory upper over the directory lower.
func (o *overlay) mergeDir(path string, lower, upper *tree.Node) {
	if _, implied := upper.Xattr(XattrImplied); !implied {
		lower.Mode, lower.UID, lower.GID = upper.Mode, upper.UID, upper.GID
		lower.Mtime, lower.MtimeNsec, lower.Xattrs = upper.Mtime, upper.MtimeNsec, upper.Xattrs
	}
	below := lower.Entries
	if upper.Child(WhiteoutOpaque) != nil {
		below = nil
	}
	// Both lists are sorted, and so are the whiteouts of the names below.
	merged := make([]tree.Entry, 0, len(below)+len(upper.Entries))
	i := 0
	for _, e := range upper.Entries {
		if strings.HasPrefix(e.Name, WhiteoutPrefix) {
			continue
		}
		for i < len(below) && below[i].Name < e.Name {
			merged = appendVisible(merged, upper, below[i])
			i++
		}
		var under *tree.Node
		if i < len(below) && below[i].Name == e.Name {
			if !hidden(upper, e.Name) {
				under = below[i].Node
			}
			i++
		}
		merged = append(merged, tree.Entry{Name: e.Name, Node: o.mergeNode(lower, path, e.Name, under, e.Node)})
	}
	for ; i < len(below); i++ {
		merged = appendVisible(merged, upper, below[i])
	}
	lower.Entries = merged
}

// appendVisible appends an entry of a lower directory unless a whiteout takes it away.
func appendVisible(entries []tree.Entry, upper *tree.Node, e tree.Entry) []tree.Entry {
	if hidden(upper, e.Name) {
		return entries
	}
	return append(entries, e)
}

// hidden reports whether upper has a whiteout of the name.
func hidden(upper *tree.Node, name string) bool {
	// The usual directory has no whiteouts, which would stand together.
	i, ok := slices.BinarySearchFunc(upper.Entries, WhiteoutPrefix, func(e tree.Entry, s string) int { return strings.Compare(e.Name, s) })
	if !ok && (i == len(upper.Entries) || !strings.HasPrefix(upper.Entries[i].Name, WhiteoutPrefix)) {
		return false
	}
	return upper.Child(WhiteoutPrefix+name) != nil
}

// mergeNode returns what a name in the directory parent stands for that is upper in the upper layer, and under, which may
// be nil, below. dir is the directory's path.
func (o *overlay) mergeNode(parent *tree.Node, dir, name string, under, upper *tree.Node) *tree.Node {
	if under == nil || !upper.IsDir() {
		return o.graft(upper)
	}
	path := name
	if dir != "" {
		path = dir + "/" + name
	}
	switch {
	case under.IsDir():
		o.mergeDir(path, under, upper)
		return under
	case under.IsSymlink():
		if _, implied := upper.Xattr(XattrImplied); implied {
			o.through = append(o.through, throughLink{parent, path, name, upper})
			return under
		}
	}
	return o.graft(upper)
}

// graft makes a node of upper, and what is below it, a part of lower.
func (o *overlay) graft(n *tree.Node) *tree.Node {
	if target := o.links[n]; target != nil {
		return target
	}
	if !n.IsDir() {
		return n
	}
	n.RemoveXattr(XattrImplied)
	n.Entries = slices.DeleteFunc(n.Entries, func(e tree.Entry) bool { return strings.HasPrefix(e.Name, WhiteoutPrefix) })
	for i := range n.Entries {
		n.Entries[i].Node = o.graft(n.Entries[i].Node)
	}
	return n
}

// Merge lays the trees of an image's layers over each other, lowest first, by the rules of [Overlay]. The result shares no
// node with the layers, which are not changed; of their slices, only the values of extended attributes are shared. Links
// are counted, and nothing of this package's marks is left.
func Merge(layers []*tree.Tree) (*tree.Tree, error) {
	return MergeBlobs(layers, func(_ int, blob uint32) uint32 { return blob })
}

// MergeBlobs is [Merge] with new blob numbers: each extent, except holes, gets what blobs returns for the layer's number
// and the blob's number in the layer.
func MergeBlobs(layers []*tree.Tree, blobs func(layer int, blob uint32) uint32) (*tree.Tree, error) {
	m := NewMerger()
	for i, layer := range layers {
		if err := m.Add(layer, func(b uint32) uint32 { return blobs(i, b) }); err != nil {
			return nil, err
		}
	}
	return m.Tree()
}

// Merger lays layers over each other one by one, as [MergeBlobs] does.
type Merger struct {
	merged *tree.Tree
	layers int
}

// NewMerger begins without layers.
func NewMerger() *Merger { return &Merger{merged: tree.New()} }

// Add lays a layer over those before. The layer is not changed. blobs gives new numbers to the blobs of its extents. After
// an error the Merger is unusable.
func (m *Merger) Add(layer *tree.Tree, blobs func(uint32) uint32) error {
	return m.overlay(clone(layer, blobs))
}

// Take is Add for a layer that nobody needs any more: its nodes become part of the result, which saves the memory of a
// copy. Its links must be counted.
func (m *Merger) Take(layer *tree.Tree, blobs func(uint32) uint32) error {
	layer.MapBlobs(blobs)
	return m.overlay(layer)
}

func (m *Merger) overlay(upper *tree.Tree) error {
	if err := Overlay(m.merged, upper); err != nil {
		return fmt.Errorf("layer %d: %w", m.layers, err)
	}
	m.layers++
	return nil
}

// Tree returns the merged tree, with links counted. The Merger may not be used afterwards.
func (m *Merger) Tree() (*tree.Tree, error) {
	// Links that are followed can make paths longer than any layer's.
	if err := checkLengths(m.merged.Root, 0); err != nil {
		return nil, err
	}
	m.merged.CountLinks()
	return m.merged, nil
}

// checkLengths refuses paths over MaxPath. length is that of dir's path with a slash behind it.
func checkLengths(dir *tree.Node, length int) error {
	for _, e := range dir.Entries {
		if length+len(e.Name) > MaxPath {
			return fmt.Errorf("%w: path of more than %d bytes", ErrName, MaxPath)
		}
		if e.Node.IsDir() {
			if err := checkLengths(e.Node, length+len(e.Name)+1); err != nil {
				return err
			}
		}
	}
	return nil
}

// Clone copies a tree: nodes, entries, extents and the lists of extended attributes. Values of these are shared.
func Clone(t *tree.Tree) *tree.Tree { return clone(t, func(b uint32) uint32 { return b }) }

func clone(t *tree.Tree, blobs func(uint32) uint32) *tree.Tree {
	shared := make(map[*tree.Node]*tree.Node) // nodes that may have several names
	var nodes []tree.Node
	var node func(n *tree.Node) *tree.Node
	node = func(n *tree.Node) *tree.Node {
		several := !n.IsDir() && n.Nlink != 1
		if several {
			if c := shared[n]; c != nil {
				return c
			}
		}
		if len(nodes) == 0 {
			nodes = make([]tree.Node, nodeSlab)
		}
		c := &nodes[0]
		nodes = nodes[1:]
		*c = *n
		c.Xattrs = slices.Clone(n.Xattrs)
		c.Extents = slices.Clone(n.Extents)
		for i := range c.Extents {
			if c.Extents[i].Blob != tree.Hole {
				c.Extents[i].Blob = blobs(c.Extents[i].Blob)
			}
		}
		if n.Entries != nil {
			c.Entries = make([]tree.Entry, len(n.Entries))
			for i, e := range n.Entries {
				c.Entries[i] = tree.Entry{Name: e.Name, Node: node(e.Node)}
			}
		}
		if several {
			shared[n] = c
		}
		return c
	}
	return &tree.Tree{Root: node(t.Root)}
}
