package rafs6

import (
	"encoding/binary"

	"github.com/lazuli-project/lazuli/disk/erofs/ondisk"
	"github.com/lazuli-project/lazuli/tree"
)

// decodeInode decodes the inode at the beginning of p, behind which its attributes are.
func decodeInode(p []byte) (ondisk.Inode, error) {
	if len(p) < ondisk.CompactSize || len(p) < ondisk.InodeLen(p[0]) {
		return ondisk.Inode{}, corrupt("inode beyond the end")
	}
	// RAFS compresses chunks, and never what EROFS knows of a file.
	switch format := binary.LittleEndian.Uint16(p); format >> 1 {
	case ondisk.LayoutPlain, ondisk.LayoutInline, ondisk.LayoutChunked:
	default:
		return ondisk.Inode{}, corrupt("inode format %#x", format)
	}
	in, err := ondisk.DecodeInode(p, ondisk.Stamp{})
	if err == nil && len(p)-in.Len() < in.XattrLen {
		err = corrupt("attributes beyond the end")
	}
	return in, err
}

// decodeXattrs decodes the attributes behind an inode.
func decodeXattrs(p []byte) ([]tree.Xattr, error) {
	return ondisk.DecodeXattrs(p, func(uint32) (tree.Xattr, error) { return tree.Xattr{}, corrupt("shared attributes") })
}
