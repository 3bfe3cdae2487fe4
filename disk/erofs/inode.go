package erofs

import (
	"encoding/binary"
	"math"

	"github.com/lazuli-project/lazuli/tree"
)

// Data layouts of inodes, bits 1 to 3 of the format; bit 0 says that the inode has 64 bytes instead of 32.
const (
	layoutPlain   = 0 // content in whole blocks, one behind the other
	layoutInline  = 2 // whole blocks, and the rest behind the inode
	layoutChunked = 4 // addresses of chunks behind the inode
	formatLong    = 1

	compactSize  = 32
	extendedSize = 64

	chunkBitsMask = 0x1f // of the chunk format: log2 of blocks in a chunk
	chunkIndexes  = 0x20 // of the chunk format: indexes of 8 bytes, not addresses of 4
	maxChunkBits  = chunkBitsMask
	indexSize     = 8
	addressSize   = 4
)

// inode of 64 bytes; the compact one of 32 bytes stands in brackets.
//
//	0 u16 format | 2 u16 attributes: 0, or 1 + bytes after their header/4 | 4 u16 mode | [6 u16 links] | 8 u64 [u32] size
//	[12 u32 seconds since the superblock's time] | 16 u32 first block of content, chunk format, or device | 20 u32 number
//	24 u32 [u16] uid | 28 u32 [26 u16] gid | 32 i64 mtime | 40 u32 its nanoseconds | 44 u32 links | 48 zeros
//
// A compact inode has the superblock's time; that it may have another one is news of Linux 6.15. The number is not read by Linux
// and left 0 here, as most of what is written compresses better then.
type inode struct {
	compact  bool
	layout   uint8
	xattrLen int // bytes of attributes behind the inode
	mode     uint16
	links    uint32
	size     int64
	u        uint32
	uid, gid uint32
	mtime    stamp
}

// newInode returns a node's inode without what its content needs. It is compact if that can say everything and the node is no
// directory: one of these changes, and must have room for it.
func newInode(n *tree.Node, epoch stamp) inode {
	in := inode{mode: uint16(n.Mode), links: n.Nlink, uid: n.UID, gid: n.GID, mtime: stamp{n.Mtime, n.MtimeNsec}}
	in.compact = !n.IsDir() && in.mtime == epoch && n.Nlink <= math.MaxUint16 && n.UID <= math.MaxUint16 && n.GID <= math.MaxUint16 && n.Size <= math.MaxUint32
	return in
}

// len returns the size of the inode itself.
func (in *inode) len() int {
	if in.compact {
		return compactSize
	}
	return extendedSize
}

// head returns the size of the inode with its attributes.
func (in *inode) head() int64 { return int64(in.len() + in.xattrLen) }

// appendTo appends the inode to dst.
func (in *inode) appendTo(dst []byte) []byte {
	le := binary.LittleEndian
	var icount uint16
	if in.xattrLen > 0 {
		icount = uint16(1 + (in.xattrLen-xattrHeader)/4)
	}
	format := uint16(in.layout) << 1
	if !in.compact {
		format |= formatLong
	}
	dst = le.AppendUint16(dst, format)
	dst = le.AppendUint16(dst, icount)
	dst = le.AppendUint16(dst, in.mode)
	if in.compact {
		dst = le.AppendUint16(dst, uint16(in.links))
		dst = le.AppendUint32(dst, uint32(in.size))
		dst = le.AppendUint32(dst, 0)
		dst = le.AppendUint32(dst, in.u)
		dst = le.AppendUint32(dst, 0)
		dst = le.AppendUint16(dst, uint16(in.uid))
		dst = le.AppendUint16(dst, uint16(in.gid))
		return le.AppendUint32(dst, 0)
	}
	dst = le.AppendUint16(dst, 0)
	dst = le.AppendUint64(dst, uint64(in.size))
	dst = le.AppendUint32(dst, in.u)
	dst = le.AppendUint32(dst, 0)
	dst = le.AppendUint32(dst, in.uid)
	dst = le.AppendUint32(dst, in.gid)
	dst = le.AppendUint64(dst, uint64(in.mtime.sec))
	dst = le.AppendUint32(dst, in.mtime.nsec)
	dst = le.AppendUint32(dst, in.links)
	return append(dst, make([]byte, 16)...)
}

// linksField returns where the number of links is in an inode, and its bytes.
func linksField(compact bool, links uint32) (at int64, p []byte) {
	if compact {
		return 6, binary.LittleEndian.AppendUint16(nil, uint16(links))
	}
	return 44, binary.LittleEndian.AppendUint32(nil, links)
}

// decodeInode decodes an inode; p has 32 bytes of a compact one and 64 of another, see inodeLen.
func decodeInode(p []byte, epoch stamp) (inode, error) {
	le := binary.LittleEndian
	format := le.Uint16(p)
	in := inode{compact: format&formatLong == 0, layout: uint8(format >> 1), mode: le.Uint16(p[4:]), u: le.Uint32(p[16:])}
	switch {
	case format&^0x1f != 0:
		return in, corrupt("inode format %#x", format)
	case format&0x10 != 0:
		return in, unsupported("inode of 48-bit addresses")
	case in.layout == 1 || in.layout == 3:
		return in, unsupported("compressed file")
	case in.layout > layoutChunked:
		return in, corrupt("inode format %#x", format)
	}
	if c := int(le.Uint16(p[2:])); c > 0 {
		in.xattrLen = xattrHeader + 4*(c-1)
	}
	var size uint64
	if in.compact {
		in.links, size = uint32(le.Uint16(p[6:])), uint64(le.Uint32(p[8:]))
		in.mtime = stamp{epoch.sec + int64(le.Uint32(p[12:])), epoch.nsec}
		in.uid, in.gid = uint32(le.Uint16(p[24:])), uint32(le.Uint16(p[26:]))
	} else {
		size, in.uid, in.gid = le.Uint64(p[8:]), le.Uint32(p[24:]), le.Uint32(p[28:])
		in.mtime, in.links = stamp{int64(le.Uint64(p[32:])), le.Uint32(p[40:])}, le.Uint32(p[44:])
	}
	if in.mtime.nsec >= 1e9 || in.links == 0 {
		return in, corrupt("inode with %d links, %d ns", in.links, in.mtime.nsec)
	}
	if size > maxFileSize {
		return in, corrupt("file of %d bytes", size)
	}
	in.size = int64(size)
	return in, nil
}

// maxFileSize keeps sums of sizes and offsets in 64 bits.
const maxFileSize = 1 << 60

// inodeLen returns the size of an inode by its first bytes.
func inodeLen(p []byte) int {
	if p[0]&formatLong != 0 {
		return extendedSize
	}
	return compactSize
}

// Device numbers have Linux's 32-bit encoding: major 12 bits, minor 20 bits.

func encodeDevice(d tree.Device) (uint32, bool) {
	return d.Minor&0xff | d.Major<<8 | d.Minor&^0xff<<12, d.Major < 1<<12 && d.Minor < 1<<20
}

func decodeDevice(v uint32) tree.Device {
	return tree.Device{Major: v >> 8 & 0xfff, Minor: v&0xff | v>>12&0xfff00}
}

// appendAddresses appends the addresses of chunks.
func appendAddresses(dst []byte, chunks []uint32) []byte {
	for _, c := range chunks {
		dst = binary.LittleEndian.AppendUint32(dst, c)
	}
	return dst
}
