package ext4

import (
	"cmp"
	"slices"

	"github.com/lazuli-project/lazuli/disk"
)

// frame is a step on the way through a directory's index: a node, and which of its entries leads on.
type frame struct {
	block   int // of the directory
	entries indexEntries
	at      int
}

// indexNode returns the index entries of a block of the directory, to be changed or not.
func (d *directory) indexNode(block int, edit bool) (indexEntries, error) {
	get := d.f.block
	if edit {
		get = d.f.blocks.edit
	}
	p, err := get(d.blocks[block])
	if err != nil {
		return nil, err
	}
	at, limit := indexNodeAt, indexNodeLimit
	if block == 0 {
		at, limit = indexRootAt, indexRootLimit
	}
	e := indexEntries(p[at:])
	if e.limit() != limit || e.count() < 1 || e.count() > limit {
		return nil, corrupt("index of a directory with %d of %d entries", e.count(), e.limit())
	}
	for i := range e.count() {
		if b := e.block(i); b < 1 || b >= int64(len(d.blocks)) {
			return nil, corrupt("index of a directory leads to block %d of %d", b, len(d.blocks))
		}
	}
	return e, nil
}

// probe returns a name's hash, and the way to the leaf of the first names with that hash.
func (d *directory) probe(name string) (uint32, []frame, error) {
	p, err := d.f.block(d.blocks[0])
	if err != nil {
		return 0, nil, err
	}
	version, levels := p[indexRootInfo+4], int(p[indexRootInfo+6])
	if version >= hashVersions || p[indexRootInfo+5] != 8 || levels > 1 {
		return 0, nil, unsupported("index of a directory with hash %d and %d levels", version, levels)
	}
	hash := nameHash(name, indexVersion(&d.f.sb, version), d.f.sb.hashSeed)
	var way []frame
	block := 0
	for range levels + 1 {
		e, err := d.indexNode(block, false)
		if err != nil {
			return 0, nil, err
		}
		at := e.find(hash)
		way = append(way, frame{block, e, at})
		block = int(e.block(at))
	}
	return hash, way, nil
}

// leaf returns the block of the directory that a way leads to.
func leaf(way []frame) int {
	last := way[len(way)-1]
	return int(last.entries.block(last.at))
}

// next goes on to the leaf behind, if it has names of that hash too.
func (d *directory) next(way []frame, hash uint32) (bool, error) {
	i := len(way) - 1
	for ; i >= 0 && way[i].at+1 >= way[i].entries.count(); i-- {
	}
	if i < 0 {
		return false, nil
	}
	way[i].at++
	if way[i].entries.hash(way[i].at)&^1 != hash {
		return false, nil
	}
	for ; i+1 < len(way); i++ {
		block := int(way[i].entries.block(way[i].at))
		e, err := d.indexNode(block, false)
		if err != nil {
			return false, err
		}
		way[i+1] = frame{block, e, 0}
	}
	return true, nil
}

// findIndexed is find for directories with an index.
func (d *directory) findIndexed(name string) (block, at, before int, err error) {
	hash, way, err := d.probe(name)
	if err != nil {
		return 0, 0, 0, err
	}
	for more := true; more; {
		block = leaf(way)
		if at, before, err = d.findIn(block, name); at >= 0 || err != nil {
			return block, at, before, err
		}
		if more, err = d.next(way, hash); err != nil {
			return 0, 0, 0, err
		}
	}
	return -1, -1, -1, nil
}

// insertIndexed puts a new entry into its leaf, which is split if it is full.
func (d *directory) insertIndexed(e dirent) error {
	for {
		_, way, err := d.probe(e.name)
		if err != nil {
			return err
		}
		p, err := d.f.blocks.edit(d.blocks[leaf(way)])
		if err != nil {
			return err
		}
		if ok, err := insertDirent(p, e); ok || err != nil {
			return err
		}
		packed, err := direntsOf(p)
		if err != nil {
			return err
		}
		// Removed entries may have left enough room in pieces.
		if size := direntSize(len(e.name)) + sizeOf(packed); size <= disk.BlockSize {
			packDirents(p, append(packed, e))
			return nil
		}
		if err := d.split(way, p, packed); err != nil {
			return err
		}
	}
}

func sizeOf(entries []dirent) int {
	size := 0
	for _, e := range entries {
		size += direntSize(len(e.name))
	}
	return size
}

// split moves the upper half of a leaf's entries into a new leaf.
func (d *directory) split(way []frame, p []byte, packed []dirent) error {
	root, err := d.f.block(d.blocks[0])
	if err != nil {
		return err
	}
	version := indexVersion(&d.f.sb, root[indexRootInfo+4])
	all := make([]hashed, len(packed))
	for i, e := range packed {
		all[i] = hashed{e, nameHash(e.name, version, d.f.sb.hashSeed)}
	}
	slices.SortStableFunc(all, func(a, b hashed) int { return cmp.Compare(a.hash, b.hash) })
	half, size := 1, direntSize(len(all[0].name))
	for ; half < len(all)-1 && size < sizeOf(packed)/2; half++ {
		size += direntSize(len(all[half].name))
	}
	hash := all[half].hash
	if all[half-1].hash == hash {
		hash |= 1
	}
	// The index first: it may need blocks of its own, and then another way leads to the leaf.
	ready, err := d.makeRoom(way)
	if err != nil || !ready {
		return err
	}
	upper, block, err := d.grow()
	if err != nil {
		return err
	}
	packDirents(p, plain(all[:half]))
	packDirents(upper, plain(all[half:]))
	last := way[len(way)-1]
	e, err := d.indexNode(last.block, true)
	if err != nil {
		return err
	}
	e.insert(last.at+1, hash, int64(block))
	return nil
}

// makeRoom sees to it that the last node of a way has room for an entry. If it changes the index it returns false, and the way is not right any more.
func (d *directory) makeRoom(way []frame) (bool, error) {
	last := way[len(way)-1]
	if last.entries.count() < last.entries.limit() {
		return true, nil
	}
	root, err := d.indexNode(0, true)
	if err != nil {
		return false, err
	}
	if len(way) == 1 {
		// The root's entries go into a node below it.
		p, block, err := d.grow()
		if err != nil {
			return false, err
		}
		node := newIndexNode(p)
		copy(node[4:], root[4:8*root.count()])
		node.setHeader(indexNodeLimit, root.count())
		clear(root[8:])
		root.setBlock(0, int64(block))
		root.setCount(1)
		first, err := d.f.blocks.edit(d.blocks[0])
		if err != nil {
			return false, err
		}
		first[indexRootInfo+6] = 1
		return false, nil
	}
	if root.count() == root.limit() {
		return false, unsupported("directory with so many entries")
	}
	p, block, err := d.grow()
	if err != nil {
		return false, err
	}
	node, err := d.indexNode(last.block, true)
	if err != nil {
		return false, err
	}
	upper := newIndexNode(p)
	half := node.count() / 2
	for i := half; i < node.count(); i++ {
		upper.append(node.hash(i), node.block(i))
	}
	root.insert(way[0].at+1, node.hash(half), int64(block))
	clear(node[8*half:])
	node.setCount(half)
	return false, nil
}
