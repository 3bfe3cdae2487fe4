package ext4

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"

	"github.com/lazuli-project/lazuli/disk"
	"github.com/lazuli-project/lazuli/tree"
)

// FS is a file system that layers are applied to: its tree, and those blocks of metadata that were changed. Memory is some
// 300 bytes for every file, and the blocks. It is used by one goroutine.
type FS struct {
	volume
	blocks *changedBlocks
	size   int64 // of the disk

	tree  *tree.Tree // without a lost+found that nobody asked for
	files map[*tree.Node]fileState
	dirs  map[*tree.Node]*dirState
	// lostFound is the inode of the directory lost+found as mkfs makes it, or 0.
	lostFound uint32

	fixed []span // blocks that never change hands: tables of the groups, and blocks of reserved inodes
	next  int64  // where the search for free blocks goes on
	wrap  bool   // the search has begun again from the disk's beginning

	nextInode uint32
	wrapInode bool

	demand int64 // bytes of disk that the layer needs at least, for SpaceError
}

var _ disk.FileSystem = (*FS)(nil)

// fileState is what is known of an inode that is no directory.
type fileState struct {
	ino, links uint32
}

// dirState is a directory as it is on the disk.
type dirState struct {
	ino, parent uint32
	entries     []tree.Entry
	attributes  tree.Node // mode, owner, time and extended attributes only
}

// setDir notes that the directory is on the disk as it is in the tree.
func (f *FS) setDir(n *tree.Node, ino, parent uint32) {
	f.dirs[n] = &dirState{ino: ino, parent: parent, entries: n.Entries, attributes: attributesOf(n)}
}

func attributesOf(n *tree.Node) tree.Node {
	return tree.Node{Mode: n.Mode, UID: n.UID, GID: n.GID, Mtime: n.Mtime, MtimeNsec: n.MtimeNsec, Xattrs: n.Xattrs}
}

// Size implements [disk.FileSystem].
func (f *FS) Size() int64 { return f.size }

// SpaceError says that a layer needs more blocks or inodes than the disk has.
type SpaceError struct {
	Size   int64 // of the disk, in bytes
	Needed int64 // size of a disk that has room, in bytes; an estimate
}

// Error says what to do about it.
func (e *SpaceError) Error() string {
	return fmt.Sprintf("no room in a file system of %d bytes: raise the virtual size to %d GiB", e.Size, (e.Needed+1<<30-1)>>30)
}

func (f *FS) noSpace() error {
	return &SpaceError{Size: f.size, Needed: max(f.demand, f.size+f.size/8)}
}

// editInode returns an inode to be changed.
func (f *FS) editInode(number uint32) (inode, error) {
	block, offset, err := f.inodePlace(number)
	if err != nil {
		return nil, err
	}
	p, err := f.blocks.edit(block)
	if err != nil {
		return nil, fmt.Errorf("inode %d: %w", number, err)
	}
	return inode(p[offset : offset+f.sb.inodeSize]), nil
}

// needFeature notes in the superblock that something is in use. word is 0, 1 or 2 for compat, incompat and ro_compat.
func (f *FS) needFeature(word int, bit uint32) { f.sb.features[word] |= bit }

// commit writes the descriptors of changed groups and the superblock, and returns all blocks that differ from what they held before.
func (f *FS) commit() ([]disk.Block, error) {
	if err := f.writeCounts(); err != nil {
		return nil, err
	}
	var changed []disk.Block
	for _, number := range slices.Sorted(maps.Keys(f.blocks.before)) {
		p, old := f.blocks.held[number], f.blocks.before[number]
		if old == nil || string(old) != string(p) {
			changed = append(changed, disk.Block{Number: number, Data: p})
		}
	}
	clear(f.blocks.before)
	return changed, nil
}

// writeCounts writes what is known of groups and of the whole.
func (f *FS) writeCounts() error {
	le := binary.LittleEndian
	var blocks, inodes int64
	for i := range f.groups {
		g := &f.groups[i]
		blocks += int64(g.freeBlocks)
		inodes += int64(g.freeInodes)
		if !g.changed {
			continue
		}
		at := int64(i) * f.sb.descSize
		p, err := f.blocks.edit(f.sb.firstData + 1 + at/disk.BlockSize)
		if err != nil {
			return fmt.Errorf("descriptor of group %d: %w", i, err)
		}
		g.encode(&f.sb, uint32(i), p[at%disk.BlockSize:][:f.sb.descSize])
		g.changed = false
	}
	p, err := f.blocks.edit(0)
	if err != nil {
		return fmt.Errorf("superblock: %w", err)
	}
	p = p[superOffset:]
	le.PutUint32(p[0x0C:], uint32(blocks))
	if f.sb.incompat(incompat64bit) {
		le.PutUint32(p[0x158:], uint32(blocks>>32))
	}
	le.PutUint32(p[0x10:], uint32(inodes))
	for i, word := range f.sb.features {
		le.PutUint32(p[0x5C+4*i:], word)
	}
	return nil
}
