package ext4

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/lazuli-project/lazuli/disk"
	"github.com/lazuli-project/lazuli/tarfs"
	"github.com/lazuli-project/lazuli/tree"
)

// maxEntries is how many names a file system may have that is read.
const maxEntries = tarfs.MaxEntries

// Read reads the tree of an ext4 file system on a disk of size bytes, with blocks of 1, 2 or 4 KiB. The extents of its files name
// the disk as blob 0, and holes. Links are counted. An empty lost+found as mkfs makes it is left out, since images do not have it.
//
// Names of files that are in no directory, and whatever a journal has, are not looked at: a file system whose journal must be replayed is refused, as is
// what has features that this package cannot read, with [blob.ErrUnsupported] and the feature's name. Checksums
// are not verified. Bytes are not trusted: damage is [blob.ErrCorrupt], and memory is bound by what the disk can hold.
func Read(dev io.ReaderAt, size int64) (*tree.Tree, error) {
	v, err := openVolume(dev, size)
	if err != nil {
		return nil, err
	}
	v.block = newBlockCache(dev, v.sb.blocks, v.sb.blockSize).read
	l := newLoader(v)
	l.content = true
	t, err := l.load()
	if err != nil {
		return nil, err
	}
	t.CountLinks()
	return t, nil
}

// loader reads a tree.
type loader struct {
	v *volume
	// content says that extents of files and their extended attributes are wanted.
	content bool
	// visit is called for every node once.
	visit     func(n *tree.Node, ino, parent uint32, p inode)
	files     map[uint32]*tree.Node // with several names
	dirs      map[uint32]struct{}
	entries   int
	lostFound uint32 // the inode of a lost+found that is left out
}

func newLoader(v *volume) *loader {
	return &loader{v: v, visit: func(*tree.Node, uint32, uint32, inode) {}, files: make(map[uint32]*tree.Node), dirs: make(map[uint32]struct{})}
}

func (l *loader) load() (*tree.Tree, error) {
	t := tree.New()
	p, err := l.v.inode(inodeRoot)
	if err != nil {
		return nil, fmt.Errorf("root directory: %w", err)
	}
	if !p.isDir() {
		return nil, corrupt("the root is no directory")
	}
	p = slices.Clone(p)
	if err := l.node(t.Root, p); err != nil {
		return nil, fmt.Errorf("root directory: %w", err)
	}
	if err := l.dir("", t.Root, inodeRoot, p); err != nil {
		return nil, err
	}
	if n := t.Root.Child(lostFoundName); n != nil && l.lostFound != 0 {
		t.Root.Remove(lostFoundName)
	}
	l.visit(t.Root, inodeRoot, inodeRoot, p)
	return t, nil
}

// dir reads what is in a directory.
func (l *loader) dir(path string, dir *tree.Node, ino uint32, p inode) error {
	if _, ok := l.dirs[ino]; ok {
		return corrupt("directory %q has two names", path)
	}
	l.dirs[ino] = struct{}{}
	var inodes []uint32
	err := l.eachBlock(p, func(b []byte) error {
		var bad error
		err := eachDirent(b, func(at, _, _ int, name []byte) bool {
			child := direntIno(b[at:])
			if child == 0 || isDot(name) {
				return true
			}
			if err := tree.CheckName(string(name)); err != nil {
				bad = corrupt("%v", err)
				return false
			}
			if l.entries++; l.entries > maxEntries {
				bad = corrupt("more than %d names", maxEntries)
				return false
			}
			dir.Entries = append(dir.Entries, tree.Entry{Name: string(name)})
			inodes = append(inodes, child)
			return true
		})
		return cmp.Or(bad, err)
	})
	if err != nil {
		return fmt.Errorf("directory %q: %w", path, err)
	}
	// In the order of the inodes, the table of which is read from front to back that way.
	order := make([]int, len(inodes))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(inodes[a], inodes[b]) })
	for _, i := range order {
		if err := l.entry(path, dir, i, ino, inodes[i]); err != nil {
			return err
		}
	}
	slices.SortFunc(dir.Entries, func(a, b tree.Entry) int { return strings.Compare(a.Name, b.Name) })
	for i := 1; i < len(dir.Entries); i++ {
		if dir.Entries[i-1].Name == dir.Entries[i].Name {
			return corrupt("directory %q has the name %q twice", path, dir.Entries[i].Name)
		}
	}
	return nil
}

// entry reads the node of the directory's entry i.
func (l *loader) entry(dirPath string, dir *tree.Node, i int, parent, ino uint32) error {
	name := dir.Entries[i].Name
	path := name
	if dirPath != "" {
		path = dirPath + "/" + name
	}
	if len(path) > tarfs.MaxPath {
		return unsupported("path of more than %d bytes", tarfs.MaxPath)
	}
	if n := l.files[ino]; n != nil {
		dir.Entries[i].Node = n
		return nil
	}
	p, err := l.v.inode(ino)
	if err != nil {
		return fmt.Errorf("%q: %w", path, err)
	}
	p = slices.Clone(p) // the block that it lies in need not stay
	n := new(tree.Node)
	dir.Entries[i].Node = n
	if err := l.node(n, p); err != nil {
		return fmt.Errorf("%q: %w", path, err)
	}
	if !n.IsDir() {
		if p.links() > 1 {
			l.files[ino] = n
		}
		l.visit(n, ino, parent, p)
		return nil
	}
	if err := l.dir(path, n, ino, p); err != nil {
		return err
	}
	if dirPath == "" && name == lostFoundName && ino == l.v.sb.firstInode && len(n.Entries) == 0 && n.Mode&tree.PermMask == 0o700 {
		l.lostFound = ino
		return nil
	}
	l.visit(n, ino, parent, p)
	return nil
}

// node reads an inode into a node.
func (l *loader) node(n *tree.Node, p inode) error {
	if p.links() == 0 {
		return corrupt("a name of an inode that is not in use")
	}
	p.attributes(n)
	switch n.Type() {
	case tree.TypeDir, tree.TypeFIFO, tree.TypeSocket:
	case tree.TypeRegular:
		n.Size = p.size()
		if n.Size < 0 || n.Size > maxFileBlocks*l.v.sb.blockSize {
			return corrupt("file of %d bytes", n.Size)
		}
		if l.content {
			if err := l.extents(n, p); err != nil {
				return err
			}
		}
	case tree.TypeSymlink:
		if err := l.target(n, p); err != nil {
			return err
		}
	case tree.TypeChar, tree.TypeBlock:
		n.Rdev = p.device()
	default:
		return corrupt("inode with the mode %o", n.Mode)
	}
	if l.content || n.IsDir() {
		return l.v.xattrs(p, n)
	}
	return nil
}

// extents reads where a file's content is.
func (l *loader) extents(n *tree.Node, p inode) error {
	m, err := l.v.mapping(p)
	if err != nil {
		return err
	}
	at := int64(0)
	hole := func(to int64) {
		if to = min(to, n.Size); to > at {
			n.AppendExtent(tree.Extent{Blob: tree.Hole, Length: to - at})
			at = to
		}
	}
	for _, e := range m.extents {
		hole(e.logical * l.v.sb.blockSize)
		length := min(e.count*l.v.sb.blockSize, n.Size-at)
		if length <= 0 {
			break
		}
		if e.unwritten {
			hole(at + length)
			continue
		}
		n.AppendExtent(tree.Extent{Offset: e.physical * l.v.sb.blockSize, Length: length})
		at += length
	}
	hole(n.Size)
	return nil
}

// target reads a link's target.
func (l *loader) target(n *tree.Node, p inode) error {
	size := p.size()
	if size < 1 || size > tree.MaxTarget {
		return corrupt("link target of %d bytes", size)
	}
	var target []byte
	if p.fastSymlink() {
		target = p.area()[:size]
	} else {
		err := l.eachBlock(p, func(b []byte) error {
			target = append(target, b[:min(int64(len(b)), size-int64(len(target)))]...)
			return nil
		})
		if err != nil {
			return err
		}
	}
	n.Target = string(target)
	if int64(len(target)) != size || strings.IndexByte(n.Target, 0) >= 0 {
		return corrupt("link target of %d bytes", size)
	}
	return nil
}

// eachBlock calls fn for the blocks of a directory or a link's target.
func (l *loader) eachBlock(p inode, fn func(b []byte) error) error {
	m, err := l.v.mapping(p)
	if err != nil {
		return err
	}
	end := (p.size() + l.v.sb.blockSize - 1) / l.v.sb.blockSize
	for _, e := range m.extents {
		if e.unwritten {
			continue
		}
		if err := l.v.spend(e.count); err != nil {
			return err
		}
		for i := range e.count {
			if e.logical+i >= end {
				return nil
			}
			b, err := l.v.block(e.physical + i)
			if err != nil {
				return err
			}
			if err := fn(b); err != nil {
				return err
			}
		}
	}
	return nil
}

// Open reads the model of a file system on a disk of size bytes, to go on with it. What it cannot extend is refused with
// [blob.ErrUnsupported] and the feature's name. The disk must stay readable and the same as long as the model is used.
func Open(dev io.ReaderAt, size int64) (*FS, error) {
	v, err := openVolume(dev, size)
	if err != nil {
		return nil, err
	}
	if err := v.sb.checkExtendable(); err != nil {
		return nil, err
	}
	f := &FS{volume: *v, size: size, files: make(map[*tree.Node]fileState), dirs: make(map[*tree.Node]*dirState)}
	f.blocks = newChangedBlocks(newBlockCache(dev, v.sb.blocks, disk.BlockSize))
	f.block = f.blocks.read
	l := newLoader(&f.volume)
	l.visit = func(n *tree.Node, ino, parent uint32, p inode) {
		if n.IsDir() {
			f.setDir(n, ino, parent)
			return
		}
		f.files[n] = fileState{ino, p.links()}
	}
	if f.tree, err = l.load(); err != nil {
		return nil, err
	}
	f.lostFound = l.lostFound
	f.fixed = fixedSpans(&f.sb, f.groups)
	for ino := uint32(1); ino < f.sb.firstInode; ino++ {
		if ino == inodeRoot {
			continue
		}
		if err := f.fixInode(ino); err != nil {
			return nil, fmt.Errorf("reserved inode %d: %w", ino, err)
		}
	}
	f.fixed = joinSpans(f.fixed)
	f.budget = 1<<63 - 1 // from here on every block is read because a layer changes it
	return f, nil
}

// fixInode adds the blocks of a reserved inode to those that do not change hands.
func (f *FS) fixInode(ino uint32) error {
	p, err := f.inode(ino)
	if err != nil {
		return err
	}
	if ino != 1 && p.mode() == 0 { // inode 1 has no mode, and bad blocks
		return nil
	}
	m, err := f.mapping(p)
	if err != nil {
		return err
	}
	for _, e := range m.extents {
		f.fixed = append(f.fixed, span{e.physical, e.count})
	}
	for _, b := range m.nodes {
		f.fixed = append(f.fixed, span{b, 1})
	}
	return nil
}
