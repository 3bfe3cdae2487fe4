package ext4

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"unsafe"

	"github.com/lazuli-project/lazuli/disk"
	"github.com/lazuli-project/lazuli/tarfs"
	"github.com/lazuli-project/lazuli/tree"
)

// Apply implements [disk.FileSystem]. The data of the change's blocks belongs to the model and must not be changed. It costs as much as the layer and the directories that it changes, and a look at every
// directory. An error wraps [*SpaceError] where the disk is too small, [blob.ErrUnsupported] for what ext4 cannot hold, and
// [blob.ErrCorrupt] for damage of a disk that was opened.
func (f *FS) Apply(layer *tree.Tree) (*disk.Change, error) {
	if err := f.rewind(); err != nil {
		return nil, err
	}
	if err := tarfs.Overlay(f.tree, layer); err != nil {
		return nil, err
	}
	p := f.plan()
	if err := p.remove(); err != nil {
		return nil, err
	}
	f.setDemand(p)
	data, err := p.create()
	if err != nil {
		return nil, err
	}
	for i := range p.changed {
		if err := p.changeDir(&p.changed[i]); err != nil {
			return nil, fmt.Errorf("directory %q: %w", f.pathOf(p.changed[i].node), err)
		}
	}
	p.settle()
	blocks, err := f.commit()
	if err != nil {
		return nil, err
	}
	return &disk.Change{Blocks: blocks, Data: data}, nil
}

// plan is what a layer changes: the difference between the tree and what the disk has.
type plan struct {
	f       *FS
	nodes   []newNode // each before what is in it
	changed []changedDir
	touched map[*tree.Node]struct{} // files with more or fewer names than before
	gone    map[*tree.Node]struct{} // directories
	lost    uint32                  // a lost+found that makes room for the layer's, or 0
}

// newNode is a node that the disk does not have.
type newNode struct {
	node   *tree.Node
	ino    uint32
	parent *tree.Node // of its first name
	m      mapping    // of regular files
}

// changedDir is a directory of the disk whose entries or attributes change.
type changedDir struct {
	node    *tree.Node
	state   *dirState
	removed []string
	set     []tree.Entry
}

// plan compares the tree with the disk.
func (f *FS) plan() *plan {
	p := &plan{f: f, touched: make(map[*tree.Node]struct{}), gone: make(map[*tree.Node]struct{})}
	for n, s := range f.dirs {
		if !sameEntries(n.Entries, s.entries) || !sameAttributes(n, &s.attributes) {
			p.changed = append(p.changed, changedDir{node: n, state: s})
		}
	}
	slices.SortFunc(p.changed, func(a, b changedDir) int { return cmp.Compare(a.state.ino, b.state.ino) })
	dropped := make([][]*tree.Node, len(p.changed)) // nodes that lose a name there
	for i := range p.changed {
		dropped[i] = p.changed[i].compare()
		for _, n := range dropped[i] {
			p.drop(n)
		}
	}
	for dir := range p.gone {
		for _, e := range f.dirs[dir].entries {
			p.unname(e.Node)
		}
	}
	kept := p.changed[:0]
	for i, c := range p.changed {
		if _, ok := p.gone[c.node]; ok {
			continue
		}
		kept = append(kept, c)
		for _, n := range dropped[i] {
			p.unname(n)
		}
		for _, e := range c.set {
			p.name(e.Node, c.node)
			if c.node == f.tree.Root && e.Name == lostFoundName {
				p.lost, f.lostFound = f.lostFound, 0
			}
		}
	}
	p.changed = kept
	return p
}

// sameEntries reports whether a directory's entries are those that it had. Overlay gives every directory that it looks into a new list.
func sameEntries(a, b []tree.Entry) bool {
	return len(a) == len(b) && (unsafe.SliceData(a) == unsafe.SliceData(b) || slices.Equal(a, b))
}

func sameAttributes(a, b *tree.Node) bool {
	return a.Mode == b.Mode && a.UID == b.UID && a.GID == b.GID && a.Mtime == b.Mtime && a.MtimeNsec == b.MtimeNsec &&
		slices.EqualFunc(a.Xattrs, b.Xattrs, func(x, y tree.Xattr) bool { return x.Name == y.Name && string(x.Value) == string(y.Value) })
}

// compare finds out which names went and which stand for something else now, and returns the nodes that had them.
func (c *changedDir) compare() (dropped []*tree.Node) {
	old := c.state.entries
	for _, e := range c.node.Entries {
		for len(old) > 0 && old[0].Name < e.Name {
			c.removed, dropped = append(c.removed, old[0].Name), append(dropped, old[0].Node)
			old = old[1:]
		}
		if len(old) > 0 && old[0].Name == e.Name {
			before := old[0].Node
			old = old[1:]
			if before == e.Node {
				continue
			}
			dropped = append(dropped, before)
		}
		c.set = append(c.set, e)
	}
	for _, e := range old {
		c.removed, dropped = append(c.removed, e.Name), append(dropped, e.Node)
	}
	return dropped
}

// drop notes that a directory is gone, with all that was in it.
func (p *plan) drop(n *tree.Node) {
	s := p.f.dirs[n]
	if _, ok := p.gone[n]; s == nil || ok {
		return
	}
	p.gone[n] = struct{}{}
	for _, e := range s.entries {
		p.drop(e.Node)
	}
}

// unname takes a name from a file.
func (p *plan) unname(n *tree.Node) {
	if s, ok := p.f.files[n]; ok {
		s.links--
		p.f.files[n] = s
		p.touched[n] = struct{}{}
	}
}

// name gives a name in the directory parent to a node. New nodes are added to the plan.
func (p *plan) name(n, parent *tree.Node) {
	if s, ok := p.f.files[n]; ok {
		s.links++
		p.f.files[n] = s
		if s.ino != 0 {
			p.touched[n] = struct{}{}
		}
		return
	}
	p.nodes = append(p.nodes, newNode{node: n, parent: parent})
	if !n.IsDir() {
		p.f.files[n] = fileState{links: 1}
		return
	}
	for _, e := range n.Entries {
		p.name(e.Node, n)
	}
}

// remove frees what has no name any more, and writes how many names the others have.
func (p *plan) remove() error {
	f := p.f
	if p.lost != 0 {
		if err := f.freeInode(p.lost, true); err != nil {
			return err
		}
	}
	for n := range p.gone {
		if err := f.freeInode(f.dirs[n].ino, true); err != nil {
			return err
		}
		delete(f.dirs, n)
	}
	for n := range p.touched {
		s := f.files[n]
		if s.links == 0 {
			delete(f.files, n)
			if err := f.freeInode(s.ino, false); err != nil {
				return err
			}
			continue
		}
		if err := f.checkLinks(n, s.links); err != nil {
			return err
		}
		q, err := f.editInode(s.ino)
		if err != nil {
			return err
		}
		q.set16(0x1A, s.links)
	}
	return nil
}

func (f *FS) checkLinks(n *tree.Node, links uint32) error {
	if links > maxLinks {
		return fmt.Errorf("%q: %w", f.pathOf(n), unsupported("file with %d names, ext4 can count %d", links, maxLinks))
	}
	return nil
}

// create numbers the new nodes, finds room for the content of files, and writes inodes and directories.
func (p *plan) create() ([]disk.Extent, error) {
	f := p.f
	for i := range p.nodes {
		n := &p.nodes[i]
		var err error
		if n.ino, err = f.newInode(n.node.IsDir()); err != nil {
			return nil, err
		}
		if n.node.IsDir() {
			f.setDir(n.node, n.ino, f.dirs[n.parent].ino)
			continue
		}
		s := f.files[n.node]
		s.ino = n.ino
		f.files[n.node] = s
	}
	data, err := p.placeContent()
	if err != nil {
		return nil, err
	}
	for i := range p.nodes {
		if err := f.writeNode(&p.nodes[i]); err != nil {
			return nil, fmt.Errorf("%q: %w", f.pathOf(p.nodes[i].node), err)
		}
	}
	return data, nil
}

// dirent returns the entry of the disk's directory for one of the tree.
func (f *FS) dirent(e tree.Entry) dirent {
	ino := f.files[e.Node].ino
	if s := f.dirs[e.Node]; s != nil {
		ino = s.ino
	}
	return dirent{e.Name, ino, disk.FileType(e.Node.Mode)}
}

func (f *FS) dirents(entries []tree.Entry) []dirent {
	out := make([]dirent, len(entries))
	for i, e := range entries {
		out[i] = f.dirent(e)
	}
	return out
}

// writeNode writes a new node.
func (f *FS) writeNode(n *newNode) error {
	if n.node.IsDir() {
		return f.writeDir(n.node, n.ino, f.dirs[n.parent].ino, f.dirents(n.node.Entries))
	}
	p, err := f.editInode(n.ino)
	if err != nil {
		return err
	}
	clear(p)
	links := f.files[n.node].links
	if err := f.checkLinks(n.node, links); err != nil {
		return err
	}
	p.set16(0x1A, links)
	var m *mapping
	switch n.node.Type() {
	case tree.TypeRegular:
		p.setSize(n.node.Size)
		m = &n.m
	case tree.TypeSymlink:
		if m, err = f.writeTarget(p, n.node.Target); err != nil {
			return err
		}
	case tree.TypeChar, tree.TypeBlock:
		if err := p.setDevice(n.node.Rdev); err != nil {
			return err
		}
	case tree.TypeFIFO, tree.TypeSocket:
	default:
		return unsupported("node of type %o", n.node.Type())
	}
	return f.finishInode(p, n.node, m)
}

// writeTarget writes a link's target into the inode, or, if it is long, into a block.
func (f *FS) writeTarget(p inode, target string) (*mapping, error) {
	if target == "" || len(target) > tree.MaxTarget {
		return nil, unsupported("link target of %d bytes", len(target))
	}
	p.setSize(int64(len(target)))
	if len(target) < blockAreaLen {
		copy(p.area(), target)
		return nil, nil
	}
	b, err := f.newBlock()
	if err != nil {
		return nil, err
	}
	copy(f.blocks.fresh(b), target)
	return &mapping{extents: []extent{{physical: b, count: 1}}}, nil
}

// changeDir brings a directory of the disk up to date.
func (p *plan) changeDir(c *changedDir) error {
	f := p.f
	if len(c.removed) > 0 || len(c.set) > 0 {
		d, err := f.openDir(c.state.ino)
		if err != nil {
			return err
		}
		if err := d.change(c.removed, f.dirents(c.set)); err != nil {
			return err
		}
		if err := d.close(); err != nil {
			return err
		}
	}
	q, err := f.editInode(c.state.ino)
	if err != nil {
		return err
	}
	f.setDirLinks(q, f.subdirs(c.node))
	if sameAttributes(c.node, &c.state.attributes) {
		return nil
	}
	m, err := f.mapping(q)
	if err != nil {
		return err
	}
	q.setAttributes(c.node)
	blocks, err := f.setXattrs(q, c.node)
	if err != nil {
		return err
	}
	q.setBlocks(blocks + m.blocks())
	return nil
}

// subdirs counts the directories in a directory of the disk.
func (f *FS) subdirs(n *tree.Node) uint32 {
	var count uint32
	for _, e := range n.Entries {
		if e.Node.IsDir() {
			count++
		}
	}
	if n == f.tree.Root && f.lostFound != 0 {
		count++
	}
	return count
}

// settle notes that the disk is as the tree, and gives up what is not needed any more.
func (p *plan) settle() {
	for _, c := range p.changed {
		p.f.setDir(c.node, c.state.ino, c.state.parent)
	}
	for i := range p.nodes {
		if n := p.nodes[i].node; !n.IsDir() {
			n.Extents, n.Xattrs = nil, nil
		}
	}
}

// pathOf finds a node's first path, for errors.
func (f *FS) pathOf(wanted *tree.Node) string {
	found := "?"
	_ = f.tree.Walk(func(path string, n *tree.Node) error {
		if n != wanted {
			return nil
		}
		found = "/" + path
		return errFound
	})
	return found
}

var errFound = errors.New("found")

// setDemand estimates how large a disk the layer needs, for the error where this one is too small.
func (f *FS) setDemand(p *plan) {
	blocks, inodes := int64(0), int64(len(p.nodes))
	for i := range p.nodes {
		switch n := p.nodes[i].node; n.Type() {
		case tree.TypeDir:
			blocks += 1 + int64(len(n.Entries))/50
		case tree.TypeRegular:
			for _, e := range n.Extents {
				if e.Blob != tree.Hole {
					blocks += e.Length/disk.BlockSize + 1
				}
			}
		}
	}
	for _, g := range f.groups {
		blocks -= int64(g.freeBlocks)
		inodes -= int64(g.freeInodes)
	}
	more := max(blocks*disk.BlockSize, inodes*bytesPerInode)
	f.demand = f.size + max(more, 0) + max(more, 0)/16
}

// bytesPerInode is how much disk brings one more inode.
const bytesPerInode = groupBlocks / groupInodes * disk.BlockSize
