package ext4

import (
	"encoding/binary"
	"fmt"
	"math/bits"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/disk"
)

// The superblock lies at byte 1024 of the disk. Of its fields these are used here (offset, size, name in the kernel's struct ext4_super_block;
// all are little-endian):
//
//	0x000 4 s_inodes_count          0x05a 2 s_block_group_nr       0x154 4 s_r_blocks_count_hi
//	0x004 4 s_blocks_count_lo       0x05c 4 s_feature_compat       0x158 4 s_free_blocks_count_hi
//	0x008 4 s_r_blocks_count_lo     0x060 4 s_feature_incompat     0x15c 2 s_min_extra_isize
//	0x00c 4 s_free_blocks_count_lo  0x064 4 s_feature_ro_compat    0x15e 2 s_want_extra_isize
//	0x010 4 s_free_inodes_count     0x068 16 s_uuid                0x160 4 s_flags
//	0x014 4 s_first_data_block      0x0ce 2 s_reserved_gdt_blocks  0x24c 8 s_backup_bgs
//	0x018 4 s_log_block_size        0x0e8 4 s_last_orphan
//	0x01c 4 s_log_cluster_size      0x0ec 16 s_hash_seed
//	0x020 4 s_blocks_per_group      0x0fc 1 s_def_hash_version
//	0x024 4 s_clusters_per_group    0x0fe 2 s_desc_size
//	0x028 4 s_inodes_per_group      0x100 4 s_default_mount_opts
//	0x036 2 s_max_mnt_count         0x150 4 s_blocks_count_hi
//	0x038 2 s_magic   0x03a 2 s_state   0x03c 2 s_errors   0x04c 4 s_rev_level   0x054 4 s_first_ino   0x058 2 s_inode_size
const (
	superOffset = 1024
	superSize   = 1024
	superMagic  = 0xEF53

	stateClean  = 1
	stateErrors = 2

	flagSignedHash   = 1
	flagUnsignedHash = 2
)

// Features by the names that mke2fs has for them.
const (
	compatExtAttr      = 0x8
	compatDirIndex     = 0x20
	compatSparseSuper2 = 0x200

	incompatFiletype = 0x2
	incompatRecover  = 0x4
	incompatExtents  = 0x40
	incompat64bit    = 0x80
	incompatFlexBG   = 0x200

	roSparseSuper = 0x1
	roLargeFile   = 0x2
	roHugeFile    = 0x8
	roGdtCsum     = 0x10
	roDirNlink    = 0x20
	roExtraIsize  = 0x40
)

// feature is a bit of one of the three words of features.
type feature struct {
	bit  uint32
	name string
}

// What Open extends. Any other bit is refused.
var extendable = [3]uint32{
	0x1 | 0x4 | compatExtAttr | 0x10 | compatDirIndex | compatSparseSuper2, // dir_prealloc, has_journal, resize_inode
	incompatFiletype | incompatExtents | incompat64bit | incompatFlexBG,
	roSparseSuper | roLargeFile | roHugeFile | roGdtCsum | roDirNlink | roExtraIsize,
}

// What Read can't read. Unknown bits of incompat are refused too.
var unreadable = [3]uint32{
	0,
	0x1 | incompatRecover | 0x8 | 0x10 | 0x400 | 0x1000 | 0x8000 | 0x10000 | 0x20000,
	0x200,
}

const knownIncompat = 0x3F7DF

// featureNames by word and bit, of those that may be refused.
var featureNames = [3][]feature{
	{{0x40, "sparse_super (compat)"}, {0x400, "fast_commit"}, {0x800, "stable_inodes"}, {0x1000, "orphan_file"}},
	{
		{0x1, "compression"}, {incompatRecover, "needs_recovery"}, {0x8, "journal_dev"}, {0x10, "meta_bg"}, {0x100, "mmp"}, {0x400, "ea_inode"},
		{0x1000, "dirdata"}, {0x2000, "metadata_csum_seed"}, {0x4000, "large_dir"}, {0x8000, "inline_data"}, {0x10000, "encrypt"}, {0x20000, "casefold"},
	},
	{
		{0x4, "btree_dir"}, {0x80, "snapshot"}, {0x100, "quota"}, {0x200, "bigalloc"}, {0x400, "metadata_csum"}, {0x800, "replica"},
		{0x1000, "read-only"}, {0x2000, "project"}, {0x4000, "shared_blocks"}, {0x8000, "verity"}, {0x10000, "orphan_present"},
	},
}

// superblock is what is known of a file system as a whole.
type superblock struct {
	inodes         uint32
	blocks         int64
	firstData      int64 // the block of the superblock
	blockSize      int64
	blocksPerGroup int64
	inodesPerGroup uint32
	inodeSize      int64
	descSize       int64
	firstInode     uint32
	features       [3]uint32 // compat, incompat, ro_compat
	uuid           [16]byte
	reservedGDT    int64
	backups        [2]uint32
	state          uint16
	lastOrphan     uint32
	hashSeed       [4]uint32
	hashVersion    uint8
	flags          uint32
}

func (s *superblock) compat(bit uint32) bool   { return s.features[0]&bit != 0 }
func (s *superblock) incompat(bit uint32) bool { return s.features[1]&bit != 0 }
func (s *superblock) roCompat(bit uint32) bool { return s.features[2]&bit != 0 }

// groups returns the number of block groups.
func (s *superblock) groups() int64 {
	return (s.blocks - s.firstData + s.blocksPerGroup - 1) / s.blocksPerGroup
}

// descBlocks returns how many blocks the group descriptors take.
func (s *superblock) descBlocks() int64 {
	return (s.groups()*s.descSize + s.blockSize - 1) / s.blockSize
}

// tableBlocks returns how many blocks the inode table of a group takes.
func (s *superblock) tableBlocks() int64 {
	return (int64(s.inodesPerGroup)*s.inodeSize + s.blockSize - 1) / s.blockSize
}

// hasSuper reports whether a group begins with the superblock or a backup of it, and so with the group descriptors.
func (s *superblock) hasSuper(group int64) bool {
	switch {
	case group == 0:
		return true
	case s.compat(compatSparseSuper2):
		return group == int64(s.backups[0]) || group == int64(s.backups[1])
	case group == 1 || !s.roCompat(roSparseSuper):
		return true
	}
	for _, base := range []int64{3, 5, 7} {
		n := base
		for n < group {
			n *= base
		}
		if n == group {
			return true
		}
	}
	return false
}

// decodeSuper reads a superblock of a disk of size bytes, refuses what Read can't read, and checks that numbers in it are possible.
func decodeSuper(p []byte, size int64) (*superblock, error) {
	le := binary.LittleEndian
	if le.Uint16(p[0x38:]) != superMagic {
		return nil, corrupt("no ext4 file system: magic %#04x", le.Uint16(p[0x38:]))
	}
	logBlock := le.Uint32(p[0x18:])
	if logBlock > 2 {
		return nil, unsupported("blocks of 2^%d KiB", logBlock)
	}
	s := &superblock{
		inodes:         le.Uint32(p),
		blocks:         int64(le.Uint32(p[0x4:])),
		firstData:      int64(le.Uint32(p[0x14:])),
		blockSize:      1024 << logBlock,
		blocksPerGroup: int64(le.Uint32(p[0x20:])),
		inodesPerGroup: le.Uint32(p[0x28:]),
		inodeSize:      128,
		descSize:       32,
		firstInode:     11,
		state:          le.Uint16(p[0x3A:]),
		reservedGDT:    int64(le.Uint16(p[0xCE:])),
		lastOrphan:     le.Uint32(p[0xE8:]),
		hashVersion:    p[0xFC],
		flags:          le.Uint32(p[0x160:]),
		backups:        [2]uint32{le.Uint32(p[0x24C:]), le.Uint32(p[0x250:])},
	}
	copy(s.uuid[:], p[0x68:])
	for i := range s.features {
		s.features[i] = le.Uint32(p[0x5C+4*i:])
	}
	for i := range s.hashSeed {
		s.hashSeed[i] = le.Uint32(p[0xEC+4*i:])
	}
	if le.Uint32(p[0x4C:]) > 0 {
		s.firstInode, s.inodeSize = le.Uint32(p[0x54:]), int64(le.Uint16(p[0x58:]))
	}
	if s.incompat(incompat64bit) {
		s.blocks |= int64(le.Uint32(p[0x150:])) << 32
		s.descSize = int64(le.Uint16(p[0xFE:]))
	}
	if err := s.checkReadable(); err != nil {
		return nil, err // before numbers that mean something else then
	}
	return s, s.check(size)
}

func (s *superblock) check(size int64) error {
	wantFirst := int64(0)
	if s.blockSize == 1024 {
		wantFirst = 1
	}
	switch {
	case s.blocks <= s.firstData || s.blocks > size/s.blockSize:
		return corrupt("file system of %d blocks of %d bytes on a disk of %d bytes", s.blocks, s.blockSize, size)
	case s.firstData != wantFirst:
		return corrupt("first data block %d", s.firstData)
	case s.blocksPerGroup < 256 || s.blocksPerGroup > 8*s.blockSize || s.blocksPerGroup%8 != 0:
		return corrupt("%d blocks in a group", s.blocksPerGroup)
	case s.inodesPerGroup < 1 || int64(s.inodesPerGroup) > 8*s.blockSize:
		return corrupt("%d inodes in a group", s.inodesPerGroup)
	case s.inodeSize < 128 || s.inodeSize > s.blockSize || bits.OnesCount64(uint64(s.inodeSize)) != 1:
		return corrupt("inodes of %d bytes", s.inodeSize)
	case s.descSize < 32 || s.descSize > s.blockSize || bits.OnesCount64(uint64(s.descSize)) != 1 || s.incompat(incompat64bit) && s.descSize < 64:
		return corrupt("group descriptors of %d bytes", s.descSize)
	case int64(s.inodes) != s.groups()*int64(s.inodesPerGroup):
		return corrupt("%d inodes in %d groups of %d", s.inodes, s.groups(), s.inodesPerGroup)
	case s.firstInode < 11 || s.firstInode > s.inodes:
		return corrupt("first inode %d", s.firstInode)
	case s.firstData+1+s.descBlocks() > s.blocks:
		return corrupt("no room for %d group descriptors", s.groups())
	}
	return nil
}

// refuse returns an error that names the first feature which is among those.
func (s *superblock) refuse(refused [3]uint32) error {
	for word, all := range featureNames {
		found := s.features[word] & refused[word]
		if found == 0 {
			continue
		}
		for _, f := range all {
			if found&f.bit != 0 {
				return unsupported("ext4 with the feature %s", f.name)
			}
		}
		return unsupported("ext4 with unknown features %#x", found)
	}
	return nil
}

// checkReadable refuses what Read can't read.
func (s *superblock) checkReadable() error {
	refused := unreadable
	refused[1] |= ^uint32(knownIncompat)
	return s.refuse(refused)
}

// checkExtendable refuses what Open can't extend.
func (s *superblock) checkExtendable() error {
	var refused [3]uint32
	for i, ok := range extendable {
		refused[i] = ^ok
	}
	if err := s.refuse(refused); err != nil {
		return err
	}
	needed := incompatFiletype | incompatExtents
	switch {
	case s.blockSize != disk.BlockSize:
		return unsupported("extending ext4 with blocks of %d bytes", s.blockSize)
	case s.inodeSize < 256:
		return unsupported("extending ext4 with inodes of %d bytes", s.inodeSize)
	case s.features[1]&uint32(needed) != uint32(needed):
		return unsupported("extending ext4 without the features filetype and extents")
	case s.state&stateClean == 0 || s.state&stateErrors != 0 || s.lastOrphan != 0:
		return unsupported("extending ext4 that was not unmounted cleanly, or has errors")
	}
	return nil
}

func corrupt(format string, args ...any) error {
	return fmt.Errorf("%w: %s", blob.ErrCorrupt, fmt.Sprintf(format, args...))
}

func unsupported(format string, args ...any) error {
	return fmt.Errorf("%w: %s", blob.ErrUnsupported, fmt.Sprintf(format, args...))
}
