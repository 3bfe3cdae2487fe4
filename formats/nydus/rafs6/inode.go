package rafs6

import (
	"encoding/binary"
	"slices"
	"strings"

	"github.com/lazuli-project/lazuli/tree"
)

// Data layouts of inodes, bits 1 to 3 of the format; bit 0 says that the inode has 64 bytes instead of 32.
const (
	layoutPlain   = 0 // content in whole blocks
	layoutInline  = 2 // whole blocks, and the rest behind the inode
	layoutChunked = 4 // chunk indexes behind the inode
	inodeExtended = 1

	inodeSize    = 64
	xattrHeader  = 12
	indexSize    = 8
	chunkIndexes = 0x20 // chunk format: there are indexes; bits 0-4 are log2 of blocks in a chunk
)

// Inode of 64 bytes; the compact one of 32 bytes stands in brackets.
//
//	0 u16 format | 2 u16 attributes: 0, or 1 + bytes after their header/4 | 4 u16 mode | [6 u16 links] | 8 u64 [u32] size
//	16 u32 first block of data, chunk format, or device | 20 u32 number | 24 u32 [u16] uid | 28 u32 [26 u16] gid
//	32 i64 mtime | 40 u32 its nanoseconds | 44 u32 links | 48 zeros
type inode struct {
	layout   uint8
	len      int // of the inode itself
	xattrLen int
	mode     uint16
	size     uint64
	u        uint32
	number   uint32
	uid, gid uint32
	mtime    int64
	nsec     uint32
	nlink    uint32
}

func (n *inode) encode(p []byte) {
	le := binary.LittleEndian
	le.PutUint16(p[0:], uint16(n.layout)<<1|inodeExtended)
	if n.xattrLen > 0 {
		le.PutUint16(p[2:], uint16(1+(n.xattrLen-xattrHeader)/4))
	}
	le.PutUint16(p[4:], n.mode)
	le.PutUint64(p[8:], n.size)
	le.PutUint32(p[16:], n.u)
	le.PutUint32(p[20:], n.number)
	le.PutUint32(p[24:], n.uid)
	le.PutUint32(p[28:], n.gid)
	le.PutUint64(p[32:], uint64(n.mtime))
	le.PutUint32(p[40:], n.nsec)
	le.PutUint32(p[44:], n.nlink)
}

// decodeInode decodes the inode at the beginning of p.
func decodeInode(p []byte) (inode, error) {
	le := binary.LittleEndian
	if len(p) < compactInodeLen {
		return inode{}, corrupt("inode beyond the end")
	}
	format := le.Uint16(p)
	n := inode{layout: uint8(format >> 1), len: compactInodeLen, mode: le.Uint16(p[4:]), u: le.Uint32(p[16:]), number: le.Uint32(p[20:])}
	if format > 0xf || n.layout != layoutPlain && n.layout != layoutInline && n.layout != layoutChunked {
		return inode{}, corrupt("inode format %#x", format)
	}
	if c := int(le.Uint16(p[2:])); c > 0 {
		n.xattrLen = xattrHeader + 4*(c-1)
	}
	if format&inodeExtended == 0 {
		n.nlink, n.size = uint32(le.Uint16(p[6:])), uint64(le.Uint32(p[8:]))
		n.uid, n.gid = uint32(le.Uint16(p[24:])), uint32(le.Uint16(p[26:]))
	} else {
		if n.len = inodeSize; len(p) < inodeSize {
			return inode{}, corrupt("inode beyond the end")
		}
		n.size, n.uid, n.gid = le.Uint64(p[8:]), le.Uint32(p[24:]), le.Uint32(p[28:])
		n.mtime, n.nsec, n.nlink = int64(le.Uint64(p[32:])), le.Uint32(p[40:]), le.Uint32(p[44:])
	}
	if len(p)-n.len < n.xattrLen {
		return inode{}, corrupt("attributes beyond the end")
	}
	if n.nsec >= 1e9 || n.nlink == 0 {
		return inode{}, corrupt("inode with %d links, %d ns", n.nlink, n.nsec)
	}
	return n, nil
}

// xattrPrefixes are the prefixes that an attribute may have, by their number. Those of access control lists are
// whole names.
var xattrPrefixes = [...]string{
	1: "user.", 2: "system.posix_acl_access", 3: "system.posix_acl_default", 4: "trusted.", 6: "security.",
}

// splitXattr returns number and rest of an attribute's name; ok is false for a name that the format has no prefix for.
func splitXattr(name string) (index uint8, suffix string, ok bool) {
	for i, prefix := range xattrPrefixes {
		suffix, found := strings.CutPrefix(name, prefix)
		if prefix == "" || !found {
			continue
		}
		if whole := prefix[len(prefix)-1] != '.'; whole != (suffix == "") {
			continue
		}
		return uint8(i), suffix, true
	}
	return 0, "", false
}

// Attributes are a header of 12 bytes, all zeros here (name filter, number of shared ones), and entries padded to 4:
// 0 u8 length of the name | 1 u8 prefix | 2 u16 length of the value | name without prefix | value

// xattrSize returns what the attributes of a node take.
func xattrSize(xattrs []tree.Xattr) (int, error) {
	if len(xattrs) == 0 {
		return 0, nil
	}
	size := xattrHeader
	for _, x := range xattrs {
		_, suffix, ok := splitXattr(x.Name)
		if !ok || len(x.Name) > tree.MaxXattrName || len(x.Value) > tree.MaxXattrValue {
			return 0, unsupported("extended attribute " + x.Name)
		}
		size += (4 + len(suffix) + len(x.Value) + 3) &^ 3
	}
	if (size-xattrHeader)/4 >= 1<<16-1 {
		return 0, unsupported("extended attributes of more than 256 KiB")
	}
	return size, nil
}

func encodeXattrs(p []byte, xattrs []tree.Xattr) {
	p = p[xattrHeader:]
	for _, x := range xattrs {
		index, suffix, _ := splitXattr(x.Name)
		p[0], p[1] = uint8(len(suffix)), index
		binary.LittleEndian.PutUint16(p[2:], uint16(len(x.Value)))
		n := 4 + copy(p[4:], suffix)
		n += copy(p[n:], x.Value)
		p = p[(n+3)&^3:]
	}
}

func decodeXattrs(p []byte) ([]tree.Xattr, error) {
	if len(p) == 0 {
		return nil, nil
	}
	if p[4] != 0 {
		return nil, corrupt("shared attributes")
	}
	var xattrs []tree.Xattr
	for p = p[xattrHeader:]; len(p) > 0; {
		nameLen, index, valueLen := int(p[0]), int(p[1]), int(binary.LittleEndian.Uint16(p[2:]))
		size := 4 + nameLen + valueLen
		if size > len(p) {
			return nil, corrupt("attribute of %d bytes beyond the end", size)
		}
		if index >= len(xattrPrefixes) || xattrPrefixes[index] == "" {
			return nil, corrupt("attribute with prefix %d", index)
		}
		name := xattrPrefixes[index] + string(p[4:4+nameLen])
		if i, suffix, ok := splitXattr(name); !ok || int(i) != index || len(suffix) != nameLen || strings.IndexByte(name, 0) >= 0 || len(name) > tree.MaxXattrName {
			return nil, corrupt("attribute %q", name)
		}
		xattrs = append(xattrs, tree.Xattr{Name: name, Value: slices.Clone(p[4+nameLen : size])})
		p = p[min((size+3)&^3, len(p)):]
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

func encodeDevice(d tree.Device) uint32 {
	return d.Minor&0xff | d.Major<<8 | d.Minor&^0xff<<12
}

func decodeDevice(v uint32) tree.Device {
	return tree.Device{Major: v >> 8 & 0xfff, Minor: v&0xff | v>>12&0xfff00}
}

// Types of directory entries.
var direntTypes = map[uint32]uint8{
	tree.TypeRegular: 1, tree.TypeDir: 2, tree.TypeChar: 3, tree.TypeBlock: 4, tree.TypeFIFO: 5, tree.TypeSocket: 6, tree.TypeSymlink: 7,
}
