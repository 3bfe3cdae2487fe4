package tree

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Mode bits of a node's type, as in Linux's st_mode.
const (
	TypeMask    = 0o170000
	TypeFIFO    = 0o010000
	TypeChar    = 0o020000
	TypeDir     = 0o040000
	TypeBlock   = 0o060000
	TypeRegular = 0o100000
	TypeSymlink = 0o120000
	TypeSocket  = 0o140000

	// PermMask covers the permission, setuid, setgid and sticky bits.
	PermMask = 0o7777
)

// Limits that Linux sets to names, link targets and extended attributes, in bytes.
const (
	MaxName       = 255
	MaxTarget     = 4095
	MaxXattrName  = 255
	MaxXattrValue = 65535
)

// Hole is the blob number of an extent without stored bytes: it reads as zeros.
const Hole = ^uint32(0)

// Tree is the root directory of an image or a layer.
type Tree struct {
	Root *Node
}

// Node is one inode.
type Node struct {
	Mode uint32 // type and permissions as in st_mode
	UID  uint32
	GID  uint32
	// Nlink is the link count: names of a file; 2 + subdirectories for a directory.
	// It is set by [Tree.CountLinks] and not kept up to date by changes.
	Nlink     uint32
	Rdev      Device // of character and block devices
	MtimeNsec uint32 // 0 to 999,999,999
	Mtime     int64  // seconds since 1970, negative before
	Size      int64  // content of a regular file, in bytes
	Target    string // of a symbolic link
	Xattrs    []Xattr
	// Extents cover the content of a regular file from 0 to Size, in order and without gaps.
	Extents []Extent
	// Entries of a directory, sorted by the bytes of their names, without "." and "..".
	Entries []Entry
}

// Entry is a name in a directory.
type Entry struct {
	Name string
	Node *Node
}

// Xattr is an extended attribute with its full name, such as "security.capability". The attributes
// of a node are sorted by name.
type Xattr struct {
	Name  string
	Value []byte
}

// Extent is a piece of a file's content: Length bytes at Offset of the plain space of the blob with
// number Blob.
type Extent struct {
	Blob   uint32
	Offset int64
	Length int64
}

// Device is a device number.
type Device struct{ Major, Minor uint32 }

// New returns a tree with an empty root directory: mode 0755, owner 0:0, time 0.
func New() *Tree { return &Tree{Root: &Node{Mode: TypeDir | 0o755}} }

// Type returns the type bits of the mode.
func (n *Node) Type() uint32 { return n.Mode & TypeMask }

// IsDir reports whether the node is a directory.
func (n *Node) IsDir() bool { return n.Mode&TypeMask == TypeDir }

// IsRegular reports whether the node is a regular file.
func (n *Node) IsRegular() bool { return n.Mode&TypeMask == TypeRegular }

// IsSymlink reports whether the node is a symbolic link.
func (n *Node) IsSymlink() bool { return n.Mode&TypeMask == TypeSymlink }

// ModTime returns the modification time in UTC.
func (n *Node) ModTime() time.Time { return time.Unix(n.Mtime, int64(n.MtimeNsec)).UTC() }

// find returns where name stands in the directory, or where it would have to be inserted.
// The common case, appending in sorted order, costs one comparison.
func (n *Node) find(name string) (int, bool) {
	if k := len(n.Entries); k == 0 || n.Entries[k-1].Name < name {
		return k, false
	}
	return slices.BinarySearchFunc(n.Entries, name, func(e Entry, s string) int { return strings.Compare(e.Name, s) })
}

// Child returns the node with that name, or nil.
func (n *Node) Child(name string) *Node {
	if i, ok := n.find(name); ok {
		return n.Entries[i].Node
	}
	return nil
}

// Put names child in the directory, in place of what had that name.
func (n *Node) Put(name string, child *Node) {
	i, ok := n.find(name)
	if ok {
		n.Entries[i].Node = child
		return
	}
	n.Entries = slices.Insert(n.Entries, i, Entry{name, child})
}

// Remove takes the name out of the directory and reports whether it was there.
func (n *Node) Remove(name string) bool {
	i, ok := n.find(name)
	if ok {
		n.Entries = slices.Delete(n.Entries, i, i+1)
	}
	return ok
}

// Xattr returns the value of the extended attribute, and whether the node has it.
func (n *Node) Xattr(name string) ([]byte, bool) {
	i, ok := slices.BinarySearchFunc(n.Xattrs, name, func(x Xattr, s string) int { return strings.Compare(x.Name, s) })
	if !ok {
		return nil, false
	}
	return n.Xattrs[i].Value, true
}

// SetXattr sets an extended attribute and keeps the list sorted.
func (n *Node) SetXattr(name string, value []byte) {
	i, ok := slices.BinarySearchFunc(n.Xattrs, name, func(x Xattr, s string) int { return strings.Compare(x.Name, s) })
	if ok {
		n.Xattrs[i].Value = value
		return
	}
	n.Xattrs = slices.Insert(n.Xattrs, i, Xattr{name, value})
}

// RemoveXattr removes an extended attribute and reports whether the node had it.
func (n *Node) RemoveXattr(name string) bool {
	i, ok := slices.BinarySearchFunc(n.Xattrs, name, func(x Xattr, s string) int { return strings.Compare(x.Name, s) })
	if ok {
		n.Xattrs = slices.Delete(n.Xattrs, i, i+1)
	}
	return ok
}

// AppendExtent adds a piece to the end of a file's extents. Neighbours in one blob become one extent.
func (n *Node) AppendExtent(e Extent) {
	if k := len(n.Extents); k > 0 {
		last := &n.Extents[k-1]
		if last.Blob == e.Blob && (e.Blob == Hole || last.Offset+last.Length == e.Offset) {
			last.Length += e.Length
			return
		}
	}
	n.Extents = append(n.Extents, e)
}

// Lookup returns the node at the path, whose components are separated by "/"; empty components and
// "." are passed over, ".." and symbolic links are not followed. It returns nil where nothing has that name.
func (t *Tree) Lookup(path string) *Node {
	n := t.Root
	for part := range strings.SplitSeq(path, "/") {
		if part == "" || part == "." {
			continue
		}
		if n = n.Child(part); n == nil {
			return nil
		}
	}
	return n
}

// Walk calls fn for the root, with path "", and then for every entry in depth-first order, each
// directory before its entries and those in the order of their names. A node with several names is
// visited once for each. An error from fn ends the walk and is returned.
func (t *Tree) Walk(fn func(path string, n *Node) error) error {
	return walk("", t.Root, fn)
}

func walk(path string, n *Node, fn func(string, *Node) error) error {
	if err := fn(path, n); err != nil {
		return err
	}
	for _, e := range n.Entries {
		p := e.Name
		if path != "" {
			p = path + "/" + e.Name
		}
		if err := walk(p, e.Node, fn); err != nil {
			return err
		}
	}
	return nil
}

// Nodes calls fn once for every node, parents before children.
func (t *Tree) Nodes(fn func(n *Node) error) error {
	seen := make(map[*Node]struct{}) // nodes with several names only
	var visit func(n *Node) error
	visit = func(n *Node) error {
		if err := fn(n); err != nil {
			return err
		}
		for _, e := range n.Entries {
			if !e.Node.IsDir() && e.Node.Nlink != 1 {
				if _, ok := seen[e.Node]; ok {
					continue
				}
				seen[e.Node] = struct{}{}
			}
			if err := visit(e.Node); err != nil {
				return err
			}
		}
		return nil
	}
	return visit(t.Root)
}

// CountLinks sets Nlink of every node from the names that it has.
func (t *Tree) CountLinks() {
	var reset, count func(n *Node)
	reset = func(n *Node) {
		n.Nlink = 0
		for _, e := range n.Entries {
			reset(e.Node)
		}
	}
	count = func(n *Node) {
		n.Nlink = 2
		for _, e := range n.Entries {
			if e.Node.IsDir() {
				n.Nlink++
				count(e.Node)
			} else {
				e.Node.Nlink++
			}
		}
	}
	reset(t.Root)
	count(t.Root)
}

// MapBlobs replaces the blob number of every extent but holes by fn's answer. Nlink must be right.
func (t *Tree) MapBlobs(fn func(uint32) uint32) {
	_ = t.Nodes(func(n *Node) error {
		for i := range n.Extents {
			if n.Extents[i].Blob != Hole {
				n.Extents[i].Blob = fn(n.Extents[i].Blob)
			}
		}
		return nil
	})
}

// ErrInvalid describes a tree that breaks an invariant of this package.
type ErrInvalid struct{ Path, Reason string }

func (e *ErrInvalid) Error() string { return fmt.Sprintf("invalid tree: %q: %s", e.Path, e.Reason) }

// Validate checks the invariants of the package: names, order, types, limits, and that extents cover
// each file exactly. blobs is the number of blobs that extents may name; plainSize gives their sizes.
func (t *Tree) Validate(plainSize []int64) error {
	return t.Walk(func(path string, n *Node) error {
		bad := func(format string, args ...any) error { return &ErrInvalid{path, fmt.Sprintf(format, args...)} }
		if len(n.Entries) > 0 && !n.IsDir() {
			return bad("has entries but is no directory")
		}
		for i, e := range n.Entries {
			if err := CheckName(e.Name); err != nil {
				return bad("entry %q: %v", e.Name, err)
			}
			if i > 0 && n.Entries[i-1].Name >= e.Name {
				return bad("entry %q is out of order", e.Name)
			}
		}
		if !n.IsRegular() {
			return nil
		}
		var sum int64
		for _, x := range n.Extents {
			if x.Length <= 0 || x.Offset < 0 || sum+x.Length < sum {
				return bad("extent %+v", x)
			}
			sum += x.Length
			if x.Blob == Hole {
				continue
			}
			if int64(x.Blob) >= int64(len(plainSize)) || x.Offset > plainSize[x.Blob]-x.Length {
				return bad("extent %+v lies outside the blobs", x)
			}
		}
		if sum != n.Size {
			return bad("extents cover %d of %d bytes", sum, n.Size)
		}
		return nil
	})
}

// CheckName says what is wrong with the name of a directory entry: empty, "." or "..", longer than
// [MaxName], or with a slash or NUL in it.
func CheckName(name string) error {
	switch {
	case name == "":
		return fmt.Errorf("empty name")
	case name == "." || name == "..":
		return fmt.Errorf("reserved name %q", name)
	case len(name) > MaxName:
		return fmt.Errorf("name of %d bytes, at most %d are possible", len(name), MaxName)
	case strings.IndexByte(name, '/') >= 0:
		return fmt.Errorf("name with a slash")
	case strings.IndexByte(name, 0) >= 0:
		return fmt.Errorf("name with a NUL byte")
	}
	return nil
}
