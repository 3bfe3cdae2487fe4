package ext4

import (
	"encoding/binary"
	"slices"
)

// Group descriptors lie behind the superblock, one behind the other (offset, size, name in the kernel's struct ext4_group_desc; the second
// half is there with the feature 64bit only):
//
//	0x00 4 bg_block_bitmap_lo      0x10 2 bg_used_dirs_count_lo   0x20 4 bg_block_bitmap_hi
//	0x04 4 bg_inode_bitmap_lo      0x12 2 bg_flags                0x24 4 bg_inode_bitmap_hi
//	0x08 4 bg_inode_table_lo       0x1c 2 bg_itable_unused_lo     0x28 4 bg_inode_table_hi
//	0x0c 2 bg_free_blocks_count_lo 0x1e 2 bg_checksum             0x2c 2 bg_free_blocks_count_hi
//	0x0e 2 bg_free_inodes_count_lo                                0x2e 2 bg_free_inodes_count_hi
//	                                                              0x30 2 bg_used_dirs_count_hi   0x32 2 bg_itable_unused_hi
const (
	groupInodeUninit = 1 // the bitmap of inodes is not written: none is in use
	groupBlockUninit = 2 // the bitmap of blocks is not written: only the group's own metadata is in use
	groupInodeZeroed = 4 // the inode table has no bytes of former times
)

// group is a group descriptor.
type group struct {
	blockBitmap, inodeBitmap, inodeTable     int64 // block numbers
	freeBlocks, freeInodes, usedDirs, unused uint32
	flags                                    uint16
	changed                                  bool
}

// decodeGroup reads a descriptor and checks that its tables lie in the file system.
func decodeGroup(s *superblock, p []byte) (group, error) {
	le := binary.LittleEndian
	g := group{
		blockBitmap: int64(le.Uint32(p)), inodeBitmap: int64(le.Uint32(p[4:])), inodeTable: int64(le.Uint32(p[8:])),
		freeBlocks: uint32(le.Uint16(p[0xC:])), freeInodes: uint32(le.Uint16(p[0xE:])), usedDirs: uint32(le.Uint16(p[0x10:])),
		flags: le.Uint16(p[0x12:]), unused: uint32(le.Uint16(p[0x1C:])),
	}
	if s.descSize >= 64 {
		g.blockBitmap |= int64(le.Uint32(p[0x20:])) << 32
		g.inodeBitmap |= int64(le.Uint32(p[0x24:])) << 32
		g.inodeTable |= int64(le.Uint32(p[0x28:])) << 32
		g.freeBlocks |= uint32(le.Uint16(p[0x2C:])) << 16
		g.freeInodes |= uint32(le.Uint16(p[0x2E:])) << 16
		g.usedDirs |= uint32(le.Uint16(p[0x30:])) << 16
		g.unused |= uint32(le.Uint16(p[0x32:])) << 16
	}
	if !s.roCompat(roGdtCsum) {
		// Without checksums of descriptors, their flags and the number of unused inodes mean nothing.
		g.flags, g.unused = 0, 0
	}
	inside := func(b, n int64) bool { return b > s.firstData && b <= s.blocks-n }
	if !inside(g.blockBitmap, 1) || !inside(g.inodeBitmap, 1) || !inside(g.inodeTable, s.tableBlocks()) || g.unused > s.inodesPerGroup {
		return g, corrupt("group descriptor that leads out of the file system")
	}
	return g, nil
}

// encode writes what the model changes of a descriptor, and its checksum. Where the tables lie stands there already.
func (g *group) encode(s *superblock, number uint32, p []byte) {
	le := binary.LittleEndian
	le.PutUint16(p[0xC:], uint16(g.freeBlocks))
	le.PutUint16(p[0xE:], uint16(g.freeInodes))
	le.PutUint16(p[0x10:], uint16(g.usedDirs))
	if s.descSize >= 64 {
		le.PutUint16(p[0x2C:], uint16(g.freeBlocks>>16))
		le.PutUint16(p[0x2E:], uint16(g.freeInodes>>16))
		le.PutUint16(p[0x30:], uint16(g.usedDirs>>16))
	}
	if !s.roCompat(roGdtCsum) {
		return
	}
	le.PutUint16(p[0x12:], g.flags)
	le.PutUint16(p[0x1C:], uint16(g.unused))
	if s.descSize >= 64 {
		le.PutUint16(p[0x32:], uint16(g.unused>>16))
	}
	crc := crc16(0xFFFF, s.uuid[:])
	crc = crc16(crc, le.AppendUint32(nil, number))
	crc = crc16(crc, p[:0x1E])
	crc = crc16(crc, p[0x20:])
	le.PutUint16(p[0x1E:], crc)
}

// crc16 is the checksum of the feature uninit_bg: CRC-16 with the polynomial 0x8005, reflected.
func crc16(crc uint16, p []byte) uint16 {
	for _, c := range p {
		crc ^= uint16(c)
		for range 8 {
			low := crc & 1
			crc >>= 1
			if low != 0 {
				crc ^= 0xA001
			}
		}
	}
	return crc
}

// span is a run of blocks.
type span struct{ start, count int64 }

func (s span) end() int64 { return s.start + s.count }

// fixedSpans returns the blocks of the superblocks, descriptors, bitmaps and inode tables, in their order.
func fixedSpans(s *superblock, groups []group) []span {
	var spans []span
	for i, g := range groups {
		if first := s.firstData + int64(i)*s.blocksPerGroup; s.hasSuper(int64(i)) {
			spans = append(spans, span{first, 1 + s.descBlocks() + s.reservedGDT})
		}
		spans = append(spans, span{g.blockBitmap, 1}, span{g.inodeBitmap, 1}, span{g.inodeTable, s.tableBlocks()})
	}
	return joinSpans(spans)
}

// joinSpans sorts spans, and makes one of neighbours.
func joinSpans(spans []span) []span {
	slices.SortFunc(spans, func(a, b span) int { return int(min(1, max(-1, a.start-b.start))) })
	joined := spans[:0]
	for _, n := range spans {
		if k := len(joined); k > 0 && joined[k-1].end() >= n.start {
			joined[k-1].count = max(joined[k-1].end(), n.end()) - joined[k-1].start
			continue
		}
		joined = append(joined, n)
	}
	return joined
}
