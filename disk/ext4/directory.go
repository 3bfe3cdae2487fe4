package ext4

import (
	"encoding/binary"
	"fmt"

	"github.com/lazuli-project/lazuli/disk"
	"github.com/lazuli-project/lazuli/tree"
)

// directory is a directory of the disk while entries go and come. What stays in it stays where it is.
type directory struct {
	f       *FS
	ino     uint32
	m       mapping
	blocks  []int64 // of the disk, in the order of the directory
	indexed bool
	// places says in which block a name is, for directories of many blocks without an index; nil before it is needed.
	places map[string]int
	// room has the size of the largest entry that there is room for in each block; nil before it is needed.
	room []int
	// changed says that blocks were added.
	changed bool
}

// openDir reads where a directory's blocks are.
func (f *FS) openDir(ino uint32) (*directory, error) {
	p, err := f.inode(ino)
	if err != nil {
		return nil, err
	}
	m, err := f.mapping(p)
	if err != nil {
		return nil, err
	}
	d := &directory{f: f, ino: ino, m: m, indexed: p.flags()&inodeFlagIndex != 0 && f.sb.compat(compatDirIndex)}
	if size := p.size(); m.end() != (size+disk.BlockSize-1)/disk.BlockSize || size == 0 {
		return nil, corrupt("directory of %d bytes with %d blocks", size, m.end())
	}
	for _, e := range m.extents {
		if e.logical != int64(len(d.blocks)) || e.unwritten {
			return nil, corrupt("directory with a hole")
		}
		for i := range e.count {
			d.blocks = append(d.blocks, e.physical+i)
		}
	}
	return d, nil
}

// change takes names out of the directory, and sets what others stand for, new ones and such that are there.
func (d *directory) change(removed []string, set []dirent) error {
	for _, name := range removed {
		block, at, before, err := d.find(name)
		if err != nil {
			return err
		}
		if block < 0 {
			return corrupt("no entry %q in the directory", name)
		}
		p, err := d.f.blocks.edit(d.blocks[block])
		if err != nil {
			return err
		}
		removeDirent(p, at, before)
		delete(d.places, name)
		d.room = nil
	}
	var added []dirent
	for _, e := range set {
		block, at, _, err := d.find(e.name)
		if err != nil {
			return err
		}
		if block < 0 {
			added = append(added, e)
			continue
		}
		p, err := d.f.blocks.edit(d.blocks[block])
		if err != nil {
			return err
		}
		binary.LittleEndian.PutUint32(p[at:], e.ino)
		p[at+7] = e.kind
	}
	for i, e := range added {
		if d.indexed {
			if err := d.insertIndexed(e); err != nil {
				return err
			}
			continue
		}
		ok, err := d.insertPlain(e)
		if err != nil {
			return err
		}
		if ok {
			continue
		}
		if len(d.blocks) == 1 && d.f.sb.compat(compatDirIndex) {
			return d.index(added[i:])
		}
		if err := d.appendPlain(e); err != nil {
			return err
		}
	}
	return nil
}

// find returns in which block of the directory a name is, or -1, where in it, and where the entry before begins, or -1.
func (d *directory) find(name string) (block, at, before int, err error) {
	if d.indexed {
		return d.findIndexed(name)
	}
	if len(d.blocks) == 1 {
		at, before, err = d.findIn(0, name)
		if at < 0 {
			return -1, -1, -1, err
		}
		return 0, at, before, err
	}
	if d.places == nil {
		d.places = make(map[string]int)
		for i, b := range d.blocks {
			p, err := d.f.block(b)
			if err != nil {
				return 0, 0, 0, err
			}
			entries, err := direntsOf(p)
			if err != nil {
				return 0, 0, 0, err
			}
			for _, e := range entries {
				d.places[e.name] = i
			}
		}
	}
	block, ok := d.places[name]
	if !ok {
		return -1, -1, -1, nil
	}
	at, before, err = d.findIn(block, name)
	return block, at, before, err
}

// findIn returns where in a block of the directory a name is, and where the entry before begins; -1 for none.
func (d *directory) findIn(block int, name string) (at, before int, err error) {
	p, err := d.f.block(d.blocks[block])
	if err != nil {
		return -1, -1, err
	}
	at, before = -1, -1
	err = eachDirent(p, func(a, b, _ int, n []byte) bool {
		if direntIno(p[a:]) == 0 || string(n) != name {
			return true
		}
		at, before = a, b
		return false
	})
	return at, before, err
}

// insertPlain puts an entry where there is room in a directory without an index.
func (d *directory) insertPlain(e dirent) (bool, error) {
	if d.room == nil {
		d.room = make([]int, len(d.blocks))
		for i, b := range d.blocks {
			p, err := d.f.block(b)
			if err != nil {
				return false, err
			}
			if d.room[i], err = roomIn(p); err != nil {
				return false, err
			}
		}
	}
	for i, room := range d.room {
		if room < direntSize(len(e.name)) {
			continue
		}
		p, err := d.f.blocks.edit(d.blocks[i])
		if err != nil {
			return false, err
		}
		if _, err := insertDirent(p, e); err != nil {
			return false, err
		}
		if d.places != nil {
			d.places[e.name] = i
		}
		d.room[i], err = roomIn(p)
		return true, err
	}
	return false, nil
}

// appendPlain puts an entry into a new block.
func (d *directory) appendPlain(e dirent) error {
	p, block, err := d.grow()
	if err != nil {
		return err
	}
	packDirents(p, []dirent{e})
	if d.places != nil {
		d.places[e.name] = block
	}
	d.room = append(d.room, disk.BlockSize-direntSize(len(e.name)))
	return nil
}

// grow adds a block and returns its content and number in the directory.
func (d *directory) grow() ([]byte, int, error) {
	b, err := d.f.newBlock()
	if err != nil {
		return nil, 0, err
	}
	n := len(d.blocks)
	d.m.add(extent{logical: int64(n), physical: b, count: 1})
	d.blocks = append(d.blocks, b)
	d.changed = true
	return d.f.blocks.fresh(b), n, nil
}

// index makes a directory of one block an indexed one, with more entries.
func (d *directory) index(added []dirent) error {
	first, err := d.f.blocks.edit(d.blocks[0])
	if err != nil {
		return err
	}
	entries, err := direntsOf(first)
	if err != nil {
		return err
	}
	parent := uint32(0)
	err = eachDirent(first, func(at, _, _ int, name []byte) bool {
		if string(name) == ".." {
			parent = direntIno(first[at:])
		}
		return parent == 0
	})
	if err != nil {
		return err
	}
	blocks, indexed, err := dirBlocks(&d.f.sb, d.ino, parent, append(entries, added...))
	if err != nil {
		return err
	}
	copy(first, blocks[0])
	for _, content := range blocks[1:] {
		p, _, err := d.grow()
		if err != nil {
			return err
		}
		copy(p, content)
	}
	d.indexed, d.changed = indexed, true
	return nil
}

// close writes the inode of a directory that has grown.
func (d *directory) close() error {
	if !d.changed {
		return nil
	}
	p, err := d.f.editInode(d.ino)
	if err != nil {
		return err
	}
	if err := d.f.setMapping(p, &d.m); err != nil {
		return err
	}
	p.setSize(int64(len(d.blocks)) * disk.BlockSize)
	xattrs := int64(0)
	if p.xattrBlock() != 0 {
		xattrs = 1
	}
	p.setBlocks(d.m.blocks() + xattrs)
	if d.indexed {
		p.set32(0x20, p.flags()|inodeFlagIndex)
	}
	return nil
}

// writeDir writes a new directory.
func (f *FS) writeDir(n *tree.Node, ino, parent uint32, entries []dirent) error {
	blocks, indexed, err := dirBlocks(&f.sb, ino, parent, entries)
	if err != nil {
		return err
	}
	runs, err := f.allocate(int64(len(blocks)))
	if err != nil {
		return err
	}
	var m mapping
	for _, r := range runs {
		m.add(extent{logical: m.end(), physical: r.start, count: r.count})
		for b := r.start; b < r.end(); b++ {
			copy(f.blocks.fresh(b), blocks[0])
			blocks = blocks[1:]
		}
	}
	p, err := f.editInode(ino)
	if err != nil {
		return err
	}
	clear(p)
	p.setSize(m.end() * disk.BlockSize)
	if indexed {
		p.set32(0x20, inodeFlagIndex)
	}
	subdirs := uint32(0)
	for _, e := range entries {
		if e.kind == disk.TypeDir {
			subdirs++
		}
	}
	f.setDirLinks(p, subdirs)
	return f.finishInode(p, n, &m)
}

// setDirLinks sets the number of links that a directory has by its entries: more than ext4 can count are 1.
func (f *FS) setDirLinks(p inode, subdirs uint32) {
	links := 2 + subdirs
	if links > maxLinks {
		links = 1
		f.needFeature(2, roDirNlink)
	}
	p.set16(0x1A, links)
}

// finishInode sets a node's attributes and where its blocks are.
func (f *FS) finishInode(p inode, n *tree.Node, m *mapping) error {
	p.setAttributes(n)
	if m != nil {
		if err := f.setMapping(p, m); err != nil {
			return fmt.Errorf("extents: %w", err)
		}
	}
	blocks, err := f.setXattrs(p, n)
	if err != nil {
		return err
	}
	if m != nil {
		blocks += m.blocks()
	}
	p.setBlocks(blocks)
	if n.IsRegular() && n.Size > 1<<31-1 {
		f.needFeature(2, roLargeFile)
	}
	if len(n.Xattrs) > 0 {
		f.needFeature(0, compatExtAttr)
	}
	if blocks*sectorsPerBlock > 1<<32-1 {
		f.needFeature(2, roHugeFile)
	}
	return nil
}
