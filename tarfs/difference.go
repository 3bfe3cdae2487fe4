package tarfs

import (
	"maps"
	"slices"
	"strings"

	"github.com/lazuli-project/lazuli/tree"
)

// Difference returns the layer that makes the merged tree lower the merged tree upper when it is laid over it, see [Overlay]: what is new
// or different, with all directories that this is in, and whiteouts. same reports whether two regular files have the same content; where
// it does not know, they have not. The result shares nodes with upper. Links of both trees must be counted, and are in the result.
//
// Of a file with several names, all are in the layer if one of them is new or changed, as not all who apply layers can link to files of
// lower ones.
func Difference(lower, upper *tree.Tree, same func(lower, upper *tree.Node) bool) *tree.Tree {
	d := difference{same: same, below: make(map[*tree.Node]*tree.Node), is: make(map[*tree.Node]*tree.Node), changed: make(map[*tree.Node]bool)}
	d.pair(lower.Root, upper.Root)
	root, _ := d.dir(lower.Root, upper.Root)
	t := &tree.Tree{Root: root}
	t.CountLinks()
	return t
}

type difference struct {
	same func(lower, upper *tree.Node) bool
	// below has what files of upper with several names were in lower; is, what files of lower with several names are in upper; changed,
	// those of upper for which that is not so under all names.
	below, is map[*tree.Node]*tree.Node
	changed   map[*tree.Node]bool
}

// pair compares the files with several names below a directory; lower is nil where that is new.
func (d *difference) pair(lower, upper *tree.Node) {
	for _, e := range upper.Entries {
		var under *tree.Node
		if lower != nil {
			under = lower.Child(e.Name)
		}
		if e.Node.IsDir() {
			if under != nil && !under.IsDir() {
				under = nil
			}
			d.pair(under, e.Node)
			continue
		}
		if e.Node.Nlink != 1 {
			before, seen := d.below[e.Node]
			d.below[e.Node] = under
			d.changed[e.Node] = d.changed[e.Node] || under == nil || seen && before != under || under.Nlink != e.Node.Nlink
		}
		if under != nil && !under.IsDir() && under.Nlink != 1 {
			if other := d.is[under]; other == nil {
				d.is[under] = e.Node
			} else if other != e.Node {
				d.changed[e.Node] = true
			}
		}
	}
}

// dir returns what is different in a directory, and whether anything is.
func (d *difference) dir(lower, upper *tree.Node) (*tree.Node, bool) {
	n := *upper
	n.Xattrs = slices.Clone(upper.Xattrs)
	n.Entries = nil
	for _, e := range lower.Entries {
		if upper.Child(e.Name) == nil {
			n.Entries = append(n.Entries, tree.Entry{Name: WhiteoutPrefix + e.Name, Node: &tree.Node{Mode: tree.TypeRegular | 0o644}})
		}
	}
	for _, e := range upper.Entries {
		under := lower.Child(e.Name)
		switch {
		case under == nil:
		case under.IsDir() && e.Node.IsDir():
			if child, ok := d.dir(under, e.Node); ok {
				n.Entries = append(n.Entries, tree.Entry{Name: e.Name, Node: child})
			}
			continue
		case !e.Node.IsDir() && !d.changed[e.Node] && d.sameFile(under, e.Node):
			continue
		}
		n.Entries = append(n.Entries, e)
	}
	slices.SortFunc(n.Entries, func(a, b tree.Entry) int { return strings.Compare(a.Name, b.Name) })
	return &n, len(n.Entries) > 0 || !sameAttributes(lower, upper)
}

// sameFile reports whether what is no directory is the same. A file with several names whose content differs is different under all.
func (d *difference) sameFile(lower, upper *tree.Node) bool {
	return sameAttributes(lower, upper) && lower.Size == upper.Size && lower.Target == upper.Target && lower.Rdev == upper.Rdev &&
		(!upper.IsRegular() || upper.Size == 0 || d.same(lower, upper))
}

// sameAttributes compares what all nodes have.
func sameAttributes(a, b *tree.Node) bool {
	value := func(n *tree.Node) map[string]string {
		m := make(map[string]string, len(n.Xattrs))
		for _, x := range n.Xattrs {
			m[x.Name] = string(x.Value)
		}
		return m
	}
	return a.Mode == b.Mode && a.UID == b.UID && a.GID == b.GID && a.Mtime == b.Mtime && a.MtimeNsec == b.MtimeNsec &&
		len(a.Xattrs) == len(b.Xattrs) && (len(a.Xattrs) == 0 || maps.Equal(value(a), value(b)))
}
