package rafs5

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"

	"github.com/lazuli-project/lazuli/formats/nydus/nydusblob"
	"github.com/lazuli-project/lazuli/tree"
)

const (
	recordSize = 128
	chunkSize  = 80
	// maxXattrs bounds the attributes of a node, in bytes: Linux lists no more than 64 KiB of names.
	maxXattrs = 16 << 20
)

// Flags of inodes. What is a hard link is told by the number of links.
const (
	inodeSymlink = 1 << iota
	inodeHardlink
	inodeXattr
	inodeHoles
)

// Inode record. Name, target and attributes follow, each padded with zeros to a multiple of 8, then the chunk records.
//
//	0 digest, 32 bytes | 32 u64 number of the parent | 40 u64 number | 48 u32 uid | 52 u32 gid | 56 u32 project | 60 u32 mode
//	64 u64 size | 72 u64 blocks of 512 bytes | 80 u64 flags | 88 u32 links | 92 u32 index of the first child
//	96 u32 children, or chunks | 100 u16 size of the name | 102 u16 size of the target | 104 u32 device
//	108 u32 nanoseconds and 112 u64 seconds of the mtime | 120 zeros
type inode struct {
	digest         [nydusblob.DigestSize]byte
	parent, number uint64
	uid, gid       uint32
	mode           uint32
	size, blocks   uint64
	flags          uint64
	nlink          uint32
	first, count   uint32
	rdev           uint32
	nsec           uint32
	mtime          int64

	name, target []byte
	xattrs       []byte // pairs, without their size
	chunks       []byte // records
}

func (n *inode) encode(p []byte) {
	le := binary.LittleEndian
	copy(p, n.digest[:])
	le.PutUint64(p[32:], n.parent)
	le.PutUint64(p[40:], n.number)
	le.PutUint32(p[48:], n.uid)
	le.PutUint32(p[52:], n.gid)
	le.PutUint32(p[60:], n.mode)
	le.PutUint64(p[64:], n.size)
	le.PutUint64(p[72:], n.blocks)
	le.PutUint64(p[80:], n.flags)
	le.PutUint32(p[88:], n.nlink)
	le.PutUint32(p[92:], n.first)
	le.PutUint32(p[96:], n.count)
	le.PutUint16(p[100:], uint16(len(n.name)))
	le.PutUint16(p[102:], uint16(len(n.target)))
	le.PutUint32(p[104:], n.rdev)
	le.PutUint32(p[108:], n.nsec)
	le.PutUint64(p[112:], uint64(n.mtime))
}

// decodeInode decodes the record at the beginning of p with all that belongs to it, and returns its length.
func decodeInode(p []byte) (*inode, uint64, error) {
	le := binary.LittleEndian
	if len(p) < recordSize {
		return nil, 0, corrupt("record beyond the end")
	}
	n := &inode{digest: [nydusblob.DigestSize]byte(p), parent: le.Uint64(p[32:]), number: le.Uint64(p[40:]), uid: le.Uint32(p[48:]), gid: le.Uint32(p[52:]),
		mode: le.Uint32(p[60:]), size: le.Uint64(p[64:]), blocks: le.Uint64(p[72:]), flags: le.Uint64(p[80:]), nlink: le.Uint32(p[88:]),
		first: le.Uint32(p[92:]), count: le.Uint32(p[96:]), rdev: le.Uint32(p[104:]), nsec: le.Uint32(p[108:]), mtime: int64(le.Uint64(p[112:]))}
	at := uint64(recordSize)
	take := func(size uint64) []byte {
		if rest := uint64(len(p)) - at; size > rest || align(size) > rest {
			return nil
		}
		part := p[at:][:size:size]
		at += align(size)
		return part
	}
	if n.name = take(uint64(le.Uint16(p[100:]))); len(n.name) == 0 {
		return nil, 0, corrupt("name of %d bytes", le.Uint16(p[100:]))
	}
	if n.target = take(uint64(le.Uint16(p[102:]))); n.target == nil {
		return nil, 0, corrupt("link target beyond the end")
	}
	if n.flags&inodeXattr != 0 {
		size := take(8)
		if size == nil || le.Uint64(size) > maxXattrs {
			return nil, 0, corrupt("attributes beyond the end")
		}
		if n.xattrs = take(le.Uint64(size)); n.xattrs == nil {
			return nil, 0, corrupt("attributes beyond the end")
		}
	}
	if n.mode&tree.TypeMask == tree.TypeRegular {
		if n.chunks = take(uint64(n.count) * chunkSize); n.chunks == nil {
			return nil, 0, corrupt("chunks beyond the end")
		}
	}
	if n.nsec >= 1e9 || n.nlink == 0 || n.mode > 0xffff {
		return nil, 0, corrupt("inode with mode %#o, %d links, %d ns", n.mode, n.nlink, n.nsec)
	}
	return n, at, nil
}

// Attributes are pairs, not aligned: 0 u32 size of what follows | name | NUL | value

// xattrSize returns what the pairs of a node take, without padding.
func xattrSize(xattrs []tree.Xattr) (uint64, error) {
	var size uint64
	for _, x := range xattrs {
		if x.Name == "" || len(x.Name) > tree.MaxXattrName || len(x.Value) > tree.MaxXattrValue || strings.IndexByte(x.Name, 0) >= 0 {
			return 0, unsupported("extended attribute %q", x.Name)
		}
		size += uint64(4 + len(x.Name) + 1 + len(x.Value))
	}
	if size > maxXattrs {
		return 0, unsupported("extended attributes of %d bytes", size)
	}
	return size, nil
}

func appendXattrs(p []byte, xattrs []tree.Xattr) []byte {
	for _, x := range xattrs {
		p = binary.LittleEndian.AppendUint32(p, uint32(len(x.Name)+1+len(x.Value)))
		p = append(p, x.Name...)
		p = append(p, 0)
		p = append(p, x.Value...)
	}
	return p
}

// decodeXattrs passes pairs without a NUL over, as the reference reader does.
func decodeXattrs(p []byte) ([]tree.Xattr, error) {
	var xattrs []tree.Xattr
	for len(p) > 0 {
		if len(p) < 4 {
			return nil, corrupt("attribute of %d bytes", len(p))
		}
		size := uint64(binary.LittleEndian.Uint32(p))
		if p = p[4:]; size > uint64(len(p)) {
			return nil, corrupt("attribute of %d bytes beyond the end", size)
		}
		name, value, ok := bytes.Cut(p[:size], []byte{0})
		p = p[size:]
		if !ok {
			continue
		}
		if len(name) == 0 || len(name) > tree.MaxXattrName || len(value) > tree.MaxXattrValue+1 {
			return nil, corrupt("attribute %.300q with %d bytes", name, len(value))
		}
		xattrs = append(xattrs, tree.Xattr{Name: string(name), Value: bytes.Clone(value)})
	}
	slices.SortFunc(xattrs, func(a, b tree.Xattr) int { return strings.Compare(a.Name, b.Name) })
	for i := 1; i < len(xattrs); i++ {
		if xattrs[i].Name == xattrs[i-1].Name {
			return nil, corrupt("attribute %q twice", xattrs[i].Name)
		}
	}
	return xattrs, nil
}

// Device numbers have Linux's 32-bit encoding: major 12 bits, minor 20 bits.

func encodeDevice(d tree.Device) uint32 { return d.Minor&0xff | d.Major<<8 | d.Minor&^0xff<<12 }

func decodeDevice(v uint32) tree.Device {
	return tree.Device{Major: v >> 8 & 0xfff, Minor: v&0xff | v>>12&0xfff00}
}

// Chunk record, 80 bytes.
//
//	0 digest, 32 bytes | 32 u32 blob | 36 u32 flags | 40 u32 stored size | 44 u32 size | 48 u64 stored offset
//	56 u64 plain offset | 64 u64 offset in the file | 72 u32 index in the blob | 76 u32 CRC32C
const (
	chunkCompressed = 0x1
	chunkCRC32      = 0x10
)

// dirSize is what a directory says its size is.
func dirSize(n *tree.Node) uint64 {
	var size uint64
	for _, e := range n.Entries {
		size += uint64(len(e.Name)) + 8
	}
	return max(4096, (size+4095)&^4095)
}
