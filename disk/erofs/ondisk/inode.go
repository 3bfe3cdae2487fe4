package ondisk

import (
	"encoding/binary"
	"fmt"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/tree"
)

// Data layouts of inodes, bits 1 to 3 of the format; bit 0 says that the inode has 64 bytes instead of 32.
const (
	LayoutPlain   = 0 // content in whole blocks, one behind the other
	LayoutInline  = 2 // whole blocks, and the rest behind the inode
	LayoutChunked = 4 // addresses of chunks behind the inode
	formatLong    = 1
)

// Sizes in bytes.
const (
	CompactSize  = 32
	ExtendedSize = 64
	// NidSize is the unit of an inode's place: its number is that place, counted from the metadata area.
	NidSize = 32
	// IndexSize and AddressSize are those of a chunk's index, and of its address where that is all.
	IndexSize   = 8
	AddressSize = 4
	// MaxFileSize keeps sums of sizes and offsets in 64 bits.
	MaxFileSize = 1 << 60
)

// The chunk format of a file in chunks.
const (
	ChunkBits    = 0x1f // log2 of blocks in a chunk
	ChunkIndexes = 0x20 // there are indexes, not addresses
	// NullBlock is the address of a hole.
	NullBlock = 1<<32 - 1
)

// Stamp is a modification time: seconds since 1970 and nanoseconds.
type Stamp struct {
	Sec  int64
	Nsec uint32
}

// Inode of 64 bytes; the compact one of 32 bytes stands in brackets.
//
//	0 u16 format | 2 u16 attributes: 0, or 1 + bytes after their header/4 | 4 u16 mode | [6 u16 links] | 8 u64 [u32] size
//	[12 u32 seconds since the superblock's time] | 16 u32 first block of content, chunk format, or device | 20 u32 number
//	24 u32 [u16] uid | 28 u32 [26 u16] gid | 32 i64 mtime | 40 u32 its nanoseconds | 44 u32 links | 48 zeros
//
// A compact inode has the superblock's time; that it may have another one is news of Linux 6.15.
type Inode struct {
	Compact  bool
	Layout   uint8
	XattrLen int // bytes of attributes behind the inode
	Mode     uint16
	Links    uint32
	Size     int64
	// U is the first block of content, the chunk format, or the device.
	U uint32
	// Number is for 32-bit programs, and not read by Linux.
	Number   uint32
	UID, GID uint32
	Mtime    Stamp
}

// Len returns the size of the inode itself.
func (in *Inode) Len() int {
	if in.Compact {
		return CompactSize
	}
	return ExtendedSize
}

// Head returns the size of the inode with its attributes.
func (in *Inode) Head() int64 { return int64(in.Len() + in.XattrLen) }

// AppendTo appends the inode to dst. A compact one must have numbers that fit; its time is not said.
func (in *Inode) AppendTo(dst []byte) []byte {
	le := binary.LittleEndian
	var xattrs uint16
	if in.XattrLen > 0 {
		xattrs = uint16(1 + (in.XattrLen-xattrHeader)/4)
	}
	format := uint16(in.Layout) << 1
	if !in.Compact {
		format |= formatLong
	}
	dst = le.AppendUint16(dst, format)
	dst = le.AppendUint16(dst, xattrs)
	dst = le.AppendUint16(dst, in.Mode)
	if in.Compact {
		dst = le.AppendUint16(dst, uint16(in.Links))
		dst = le.AppendUint32(dst, uint32(in.Size))
		dst = le.AppendUint32(dst, 0)
		dst = le.AppendUint32(dst, in.U)
		dst = le.AppendUint32(dst, in.Number)
		dst = le.AppendUint16(dst, uint16(in.UID))
		dst = le.AppendUint16(dst, uint16(in.GID))
		return le.AppendUint32(dst, 0)
	}
	dst = le.AppendUint16(dst, 0)
	dst = le.AppendUint64(dst, uint64(in.Size))
	dst = le.AppendUint32(dst, in.U)
	dst = le.AppendUint32(dst, in.Number)
	dst = le.AppendUint32(dst, in.UID)
	dst = le.AppendUint32(dst, in.GID)
	dst = le.AppendUint64(dst, uint64(in.Mtime.Sec))
	dst = le.AppendUint32(dst, in.Mtime.Nsec)
	dst = le.AppendUint32(dst, in.Links)
	return append(dst, make([]byte, 16)...)
}

// LinksField returns where the number of links is in an inode, and its bytes.
func LinksField(compact bool, links uint32) (at int64, p []byte) {
	if compact {
		return 6, binary.LittleEndian.AppendUint16(nil, uint16(links))
	}
	return 44, binary.LittleEndian.AppendUint32(nil, links)
}

// InodeLen returns the size of an inode by its first byte.
func InodeLen(first byte) int {
	if first&formatLong != 0 {
		return ExtendedSize
	}
	return CompactSize
}

// DecodeInode decodes an inode; p has as many bytes as InodeLen says, or more. epoch is the superblock's time.
func DecodeInode(p []byte, epoch Stamp) (Inode, error) {
	le := binary.LittleEndian
	format := le.Uint16(p)
	in := Inode{Compact: format&formatLong == 0, Layout: uint8(format >> 1), Mode: le.Uint16(p[4:]), U: le.Uint32(p[16:]), Number: le.Uint32(p[20:])}
	switch {
	case format&^0x1f != 0:
		return in, corrupt("inode format %#x", format)
	case format&0x10 != 0:
		return in, unsupported("inode format of 48-bit addresses")
	case in.Layout == 1 || in.Layout == 3:
		return in, unsupported("inode format of compressed content")
	case in.Layout > LayoutChunked:
		return in, corrupt("inode format %#x", format)
	}
	if c := int(le.Uint16(p[2:])); c > 0 {
		in.XattrLen = xattrHeader + 4*(c-1)
	}
	var size uint64
	if in.Compact {
		in.Links, size = uint32(le.Uint16(p[6:])), uint64(le.Uint32(p[8:]))
		in.Mtime = Stamp{epoch.Sec + int64(le.Uint32(p[12:])), epoch.Nsec}
		in.UID, in.GID = uint32(le.Uint16(p[24:])), uint32(le.Uint16(p[26:]))
	} else {
		size, in.UID, in.GID = le.Uint64(p[8:]), le.Uint32(p[24:]), le.Uint32(p[28:])
		in.Mtime, in.Links = Stamp{int64(le.Uint64(p[32:])), le.Uint32(p[40:])}, le.Uint32(p[44:])
	}
	if in.Mtime.Nsec >= 1e9 || in.Links == 0 {
		return in, corrupt("inode with %d links, %d ns", in.Links, in.Mtime.Nsec)
	}
	if size > MaxFileSize {
		return in, corrupt("file of %d bytes", size)
	}
	in.Size = int64(size)
	return in, nil
}

// Device numbers have Linux's 32-bit encoding: major 12 bits, minor 20 bits.

// EncodeDevice returns the number of a device, and whether it can have one.
func EncodeDevice(d tree.Device) (uint32, bool) {
	return d.Minor&0xff | d.Major<<8 | d.Minor&^0xff<<12, d.Major < 1<<12 && d.Minor < 1<<20
}

// DecodeDevice returns the device with a number.
func DecodeDevice(v uint32) tree.Device {
	return tree.Device{Major: v >> 8 & 0xfff, Minor: v&0xff | v>>12&0xfff00}
}

func corrupt(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, blob.ErrCorrupt)...)
}

func unsupported(what string) error { return fmt.Errorf("%s: %w", what, blob.ErrUnsupported) }
