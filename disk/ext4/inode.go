package ext4

import (
	"encoding/binary"

	"github.com/lazuli-project/lazuli/tree"
)

// Inodes (offset, size, name in the kernel's struct ext4_inode):
//
//	0x00 2 i_mode        0x14 4 i_dtime         0x68 4 i_file_acl_lo         0x80 2 i_extra_isize
//	0x02 2 i_uid         0x18 2 i_gid           0x6c 4 i_size_high           0x84 4 i_ctime_extra
//	0x04 4 i_size_lo     0x1a 2 i_links_count   0x74 2 l_i_blocks_high       0x88 4 i_mtime_extra
//	0x08 4 i_atime       0x1c 4 i_blocks_lo     0x76 2 l_i_file_acl_high     0x8c 4 i_atime_extra
//	0x0c 4 i_ctime       0x20 4 i_flags         0x78 2 l_i_uid_high
//	0x10 4 i_mtime       0x28 60 i_block        0x7a 2 l_i_gid_high
//
// The extra fields are there where i_extra_isize, which counts from 0x80, covers them. Behind them lie extended attributes.
const (
	inodeRoot       = 2
	inodeBootLoader = 5

	inodeFlagIndex      = 0x1000 // a directory with a hashed index
	inodeFlagHugeFile   = 0x40000
	inodeFlagExtents    = 0x80000
	inodeFlagInlineData = 0x10000000
	inodeFlagEncrypt    = 0x800

	goodOldSize  = 128
	extraSize    = 32 // i_extra_isize of what is written here
	blockAreaLen = 60 // bytes of i_block
	maxLinks     = 65000

	// The range of times: 34 bits, of which the lower 32 are signed.
	minTime = -1 << 31
	maxTime = 1<<34 - 1<<31 - 1
)

// inode is the bytes of one inode.
type inode []byte

func (p inode) u16(at int) uint32 { return uint32(binary.LittleEndian.Uint16(p[at:])) }
func (p inode) u32(at int) uint32 { return binary.LittleEndian.Uint32(p[at:]) }
func (p inode) set16(at int, v uint32) {
	binary.LittleEndian.PutUint16(p[at:], uint16(v))
}
func (p inode) set32(at int, v uint32) { binary.LittleEndian.PutUint32(p[at:], v) }

func (p inode) mode() uint32  { return p.u16(0) }
func (p inode) links() uint32 { return p.u16(0x1A) }
func (p inode) flags() uint32 { return p.u32(0x20) }
func (p inode) area() []byte  { return p[0x28 : 0x28+blockAreaLen] }
func (p inode) isDir() bool   { return p.mode()&tree.TypeMask == tree.TypeDir }

func (p inode) size() int64 { return int64(p.u32(4)) | int64(p.u32(0x6C))<<32 }

func (p inode) setSize(n int64) {
	p.set32(4, uint32(n))
	p.set32(0x6C, uint32(n>>32))
}

// xattrBlock returns the number of the block of extended attributes, or 0.
func (p inode) xattrBlock() int64 { return int64(p.u32(0x68)) | int64(p.u16(0x76))<<32 }

func (p inode) setXattrBlock(b int64) {
	p.set32(0x68, uint32(b))
	p.set16(0x76, uint32(b>>32))
}

// setBlocks sets how many blocks the inode has, which is counted in sectors.
func (p inode) setBlocks(n int64) {
	n *= sectorsPerBlock
	p.set32(0x1C, uint32(n))
	p.set16(0x74, uint32(n>>32))
	p.set32(0x20, p.flags()&^inodeFlagHugeFile)
}

// fastSymlink reports whether a symbolic link's target stands in the inode itself.
func (p inode) fastSymlink() bool { return p.size() < blockAreaLen && p.flags()&inodeFlagExtents == 0 }

// unmapped reports whether i_block says something else than where blocks are.
func (p inode) unmapped() bool {
	switch p.mode() & tree.TypeMask {
	case tree.TypeDir, tree.TypeRegular:
		return false
	case tree.TypeSymlink:
		return p.fastSymlink()
	}
	return true
}

// extra returns how many bytes behind the first 128 are fields.
func (p inode) extra() (int, error) {
	if len(p) <= goodOldSize {
		return 0, nil
	}
	n := int(p.u16(0x80))
	if n&3 != 0 || n > len(p)-goodOldSize {
		return 0, corrupt("inode with %d bytes of extra fields", n)
	}
	return n, nil
}

// modTime returns the time of modification.
func (p inode) modTime() (sec int64, nsec uint32) {
	sec = int64(int32(p.u32(0x10)))
	if n, err := p.extra(); err != nil || n < 0x8C-goodOldSize {
		return sec, 0
	}
	extra := p.u32(0x88)
	return sec + int64(extra&3)<<32, min(extra>>2, 999_999_999)
}

// setTimes sets all times but that of creation.
func (p inode) setTimes(n *tree.Node) {
	sec, nsec := n.Mtime, n.MtimeNsec
	if sec < minTime {
		sec, nsec = minTime, 0
	}
	if sec > maxTime {
		sec, nsec = maxTime, 0
	}
	extra := uint32((sec-int64(int32(sec)))>>32)&3 | nsec<<2
	for _, at := range []int{0x08, 0x0C, 0x10} {
		p.set32(at, uint32(sec))
	}
	for _, at := range []int{0x84, 0x88, 0x8C} {
		p.set32(at, extra)
	}
}

// setAttributes sets mode, owner and times. Extended attributes must be set afterwards, as the room of the extra fields may grow.
func (p inode) setAttributes(n *tree.Node) {
	p.set16(0, n.Mode)
	p.set16(0x02, n.UID)
	p.set16(0x78, n.UID>>16)
	p.set16(0x18, n.GID)
	p.set16(0x7A, n.GID>>16)
	if p.u16(0x80) < extraSize {
		clear(p[0x80+p.u16(0x80):])
		p.set16(0x80, extraSize)
	}
	p.setTimes(n)
}

// attributes sets a node's mode, owner and time.
func (p inode) attributes(n *tree.Node) {
	n.Mode = p.mode()
	n.UID = p.u16(0x02) | p.u16(0x78)<<16
	n.GID = p.u16(0x18) | p.u16(0x7A)<<16
	n.Mtime, n.MtimeNsec = p.modTime()
}

// Device numbers stand in i_block: in its first word with 8 bits for each half, or in the second with 12 and 20.

func (p inode) device() tree.Device {
	if v := p.u32(0x28); v != 0 {
		return tree.Device{Major: v >> 8 & 0xFF, Minor: v & 0xFF}
	}
	v := p.u32(0x2C)
	return tree.Device{Major: v >> 8 & 0xFFF, Minor: v&0xFF | v>>12&0xFFF00}
}

func (p inode) setDevice(d tree.Device) error {
	switch {
	case d.Major < 256 && d.Minor < 256:
		p.set32(0x28, d.Major<<8|d.Minor)
	case d.Major < 1<<12 && d.Minor < 1<<20:
		p.set32(0x2C, d.Minor&0xFF|d.Major<<8|d.Minor&0xFFF00<<12)
	default:
		return unsupported("device number %d:%d", d.Major, d.Minor)
	}
	return nil
}
