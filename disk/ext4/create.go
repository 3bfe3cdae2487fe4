package ext4

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/disk"
	"github.com/lazuli-project/lazuli/tree"
)

// Sizes of what Create makes.
const (
	// DefaultSize is the size of a disk in bytes where none is given.
	DefaultSize = 64 << 30
	// MinSize and MaxSize are the smallest and the largest size of a disk in bytes.
	MinSize = 16 << 20
	MaxSize = 16 << 40

	groupBlocks   = 8 * disk.BlockSize
	groupInodes   = 8192
	inodeSize     = 256
	descSize      = 64
	keptFree      = 1024 // blocks behind the descriptors that nothing may lie in
	mountOptions  = 0xC  // user_xattr, acl: what mke2fs says
	reservedInode = 10
	maxMounts     = 0xFFFF // never checked for the number of mounts
	errorsGoOn    = 1
	lostFoundName = "lost+found"
)

// Options say what file system to make.
type Options struct {
	// Size is the size of the disk in bytes, DefaultSize where it is 0; what a whole number of blocks leaves over is unused.
	Size int64
	// UUID of the file system. Zeros are possible.
	UUID [16]byte
}

// Create makes an empty file system. What it consists of is part of the first layer's change.
func Create(opt Options) (*FS, error) {
	size := opt.Size
	if size == 0 {
		size = DefaultSize
	}
	if size < MinSize || size > MaxSize {
		return nil, fmt.Errorf("disk of %d bytes, %d to %d are possible: %w", size, int64(MinSize), int64(MaxSize), blob.ErrUnsupported)
	}
	f := &FS{size: size, files: make(map[*tree.Node]fileState), dirs: make(map[*tree.Node]*dirState), tree: tree.New()}
	f.sb = newSuper(size, opt.UUID)
	f.budget = math.MaxInt64
	f.blocks = newChangedBlocks(newBlockCache(nil, f.sb.blocks, disk.BlockSize))
	f.block = f.blocks.read
	if err := f.format(); err != nil {
		return nil, fmt.Errorf("empty file system: %w", err)
	}
	return f, nil
}

// newSuper returns the parameters of a file system.
func newSuper(size int64, uuid [16]byte) superblock {
	s := superblock{
		blocks: size / disk.BlockSize, blockSize: disk.BlockSize, blocksPerGroup: groupBlocks, inodesPerGroup: groupInodes,
		inodeSize: inodeSize, descSize: descSize, firstInode: reservedInode + 1, uuid: uuid, state: stateClean,
		features: [3]uint32{
			compatExtAttr | compatDirIndex | compatSparseSuper2,
			incompatFiletype | incompatExtents | incompat64bit | incompatFlexBG,
			roSparseSuper | roLargeFile | roHugeFile | roGdtCsum | roDirNlink | roExtraIsize,
		},
		hashVersion: hashHalfMD4, flags: flagSignedHash,
	}
	if s.blocks < groupBlocks {
		s.inodesPerGroup = uint32(s.blocks/4+15) &^ 15
	}
	// A last group that has room for its tables and nothing else is left out.
	if rest := s.blocks % groupBlocks; s.blocks > groupBlocks && rest < s.tableBlocks()+64 {
		s.blocks -= rest
	}
	s.inodes = uint32(s.groups()) * s.inodesPerGroup
	return s
}

// format writes the empty file system.
func (f *FS) format() error {
	f.groups = make([]group, f.sb.groups())
	for i := range f.groups {
		first, end := f.groupRange(int64(i))
		tables := first
		if i == 0 {
			tables += 1 + f.sb.descBlocks() + keptFree
		}
		f.groups[i] = group{
			blockBitmap: tables, inodeBitmap: tables + 1, inodeTable: tables + 2,
			freeBlocks: uint32(end - first - 2 - f.sb.tableBlocks()), freeInodes: f.sb.inodesPerGroup, unused: f.sb.inodesPerGroup,
			flags: groupBlockUninit | groupInodeUninit | groupInodeZeroed, changed: true,
		}
	}
	kept := span{1 + f.sb.descBlocks(), keptFree}
	f.groups[0].freeBlocks -= uint32(kept.end())
	f.fixed = joinSpans(append(fixedSpans(&f.sb, f.groups), kept))
	if err := f.writeLayout(); err != nil {
		return err
	}
	// The last group's bitmap says where the file system ends.
	if _, err := f.editBlockBitmap(int64(len(f.groups) - 1)); err != nil {
		return err
	}
	for range reservedInode {
		f.nextInode++
		if _, err := f.reserveInode(f.nextInode); err != nil {
			return err
		}
	}
	f.groups[0].usedDirs++
	loader, err := f.editInode(inodeBootLoader)
	if err != nil {
		return err
	}
	loader.set16(0x80, extraSize)
	loader.set16(0, tree.TypeRegular|0o600)
	loader.set16(0x1A, 1)
	loader.setSize(kept.count * disk.BlockSize)
	loader.setBlocks(kept.count)
	if err := f.setMapping(loader, &mapping{extents: []extent{{physical: kept.start, count: kept.count}}}); err != nil {
		return err
	}
	f.next, f.nextInode = kept.end(), reservedInode+1
	if f.lostFound, err = f.newInode(true); err != nil {
		return err
	}
	if err := f.writeDir(f.tree.Root, inodeRoot, inodeRoot, []dirent{{lostFoundName, f.lostFound, disk.TypeDir}}); err != nil {
		return err
	}
	f.setDir(f.tree.Root, inodeRoot, inodeRoot)
	return f.writeDir(&tree.Node{Mode: tree.TypeDir | 0o700}, f.lostFound, inodeRoot, nil)
}

// reserveInode marks an inode of the first group as in use.
func (f *FS) reserveInode(ino uint32) (uint32, error) {
	p, err := f.editInodeBitmap(0)
	if err != nil {
		return 0, err
	}
	setBits(p, int64(ino-1), 1)
	f.groups[0].freeInodes--
	return ino, f.claimInodes(&f.groups[0], ino, ino-1)
}

// writeLayout writes what never changes: the superblock's parameters, and where the tables of the groups are.
func (f *FS) writeLayout() error {
	le := binary.LittleEndian
	s := &f.sb
	p, err := f.blocks.edit(0)
	if err != nil {
		return err
	}
	p = p[superOffset:]
	reserved := s.blocks / 20 // for the superuser, as mke2fs has it
	le.PutUint32(p, s.inodes)
	le.PutUint32(p[0x04:], uint32(s.blocks))
	le.PutUint32(p[0x150:], uint32(s.blocks>>32))
	le.PutUint32(p[0x08:], uint32(reserved))
	le.PutUint32(p[0x154:], uint32(reserved>>32))
	le.PutUint32(p[0x18:], 2) // blocks of 1024 << 2 bytes
	le.PutUint32(p[0x1C:], 2)
	le.PutUint32(p[0x20:], uint32(s.blocksPerGroup))
	le.PutUint32(p[0x24:], uint32(s.blocksPerGroup))
	le.PutUint32(p[0x28:], s.inodesPerGroup)
	le.PutUint16(p[0x36:], maxMounts)
	le.PutUint16(p[0x38:], superMagic)
	le.PutUint16(p[0x3A:], s.state)
	le.PutUint16(p[0x3C:], errorsGoOn)
	le.PutUint32(p[0x4C:], 1) // revision: inodes have any size
	le.PutUint32(p[0x54:], s.firstInode)
	le.PutUint16(p[0x58:], uint16(s.inodeSize))
	copy(p[0x68:], s.uuid[:])
	p[0xFC] = s.hashVersion
	le.PutUint16(p[0xFE:], uint16(s.descSize))
	le.PutUint32(p[0x100:], mountOptions)
	le.PutUint16(p[0x15C:], extraSize)
	le.PutUint16(p[0x15E:], extraSize)
	le.PutUint32(p[0x160:], s.flags)
	for i, g := range f.groups {
		at := int64(i) * s.descSize
		d, err := f.blocks.edit(1 + at/disk.BlockSize)
		if err != nil {
			return err
		}
		d = d[at%disk.BlockSize:]
		le.PutUint32(d, uint32(g.blockBitmap))
		le.PutUint32(d[4:], uint32(g.inodeBitmap))
		le.PutUint32(d[8:], uint32(g.inodeTable))
		le.PutUint32(d[0x20:], uint32(g.blockBitmap>>32))
		le.PutUint32(d[0x24:], uint32(g.inodeBitmap>>32))
		le.PutUint32(d[0x28:], uint32(g.inodeTable>>32))
	}
	return nil
}
