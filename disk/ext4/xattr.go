package ext4

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"slices"
	"strings"

	"github.com/lazuli-project/lazuli/disk"
	"github.com/lazuli-project/lazuli/tree"
)

// Extended attributes lie behind the fields of an inode, after a u32 magic, and in one block, after a header (u32 magic, number of inodes
// that share the block, number of blocks, hash of all entries, checksum; 12 reserved bytes). Both have entries from there on, which four zero bytes end, and
// values at their end. An entry: u8 length of the name, u8 namespace, u16 offset of the value, u32 inode of the value, u32 size of the value,
// u32 hash; the name, padded to 4 bytes. Offsets count from the first entry in inodes, and from the block's beginning in blocks, where
// entries are sorted by namespace, length of the name and name.
const (
	xattrMagic       = 0xEA020000
	xattrEntry       = 16
	xattrBlockHeader = 32
	xattrInodeHeader = 4
)

// xattrPrefixes are the namespaces by their numbers. Attributes of others have number 0 and their full name.
var xattrPrefixes = map[uint8]string{
	0: "", 1: "user.", 2: aclAccess, 3: aclDefault, 4: "trusted.", 6: "security.", 7: "system.", 8: "system.richacl", 10: "gnu.",
}

// storedXattr is an attribute as it is stored.
type storedXattr struct {
	index uint8
	name  string
	value []byte
}

func (x *storedXattr) entrySize() int { return xattrEntry + pad4(len(x.name)) }
func (x *storedXattr) size() int      { return x.entrySize() + pad4(len(x.value)) }

func pad4(n int) int { return (n + 3) &^ 3 }

// storeXattr finds the stored form of an attribute.
func storeXattr(x tree.Xattr) (storedXattr, error) {
	switch x.Name {
	case aclAccess, aclDefault:
		value, err := storeACL(x.Value)
		if x.Name == aclAccess {
			return storedXattr{2, "", value}, err
		}
		return storedXattr{3, "", value}, err
	case "system.richacl":
		return storedXattr{8, "", x.Value}, nil
	}
	for _, index := range []uint8{1, 4, 6, 7} {
		if rest, ok := strings.CutPrefix(x.Name, xattrPrefixes[index]); ok && rest != "" {
			return storedXattr{index, rest, x.Value}, nil
		}
	}
	if x.Name == "" || len(x.Name) > tree.MaxXattrName {
		return storedXattr{}, unsupported("extended attribute with a name of %d bytes", len(x.Name))
	}
	return storedXattr{0, x.Name, x.Value}, nil
}

// xattrs reads all extended attributes of an inode into its node.
func (v *volume) xattrs(p inode, n *tree.Node) error {
	extra, err := p.extra()
	if err != nil {
		return err
	}
	if at := goodOldSize + extra; extra > 0 && at+xattrInodeHeader+4 <= len(p) && p.u32(at) == xattrMagic {
		if err := decodeXattrs(p[at+xattrInodeHeader:], 0, n); err != nil {
			return err
		}
	}
	if block := p.xattrBlock(); block != 0 {
		if err := v.spend(1); err != nil {
			return err
		}
		b, err := v.block(block)
		if err != nil {
			return err
		}
		if binary.LittleEndian.Uint32(b) != xattrMagic {
			return corrupt("block of extended attributes")
		}
		if err := decodeXattrs(b, xattrBlockHeader, n); err != nil {
			return err
		}
	}
	return nil
}

// decodeXattrs reads the entries at the offset of p, from whose beginning offsets count.
func decodeXattrs(p []byte, at int, n *tree.Node) error {
	le := binary.LittleEndian
	for {
		if at+4 > len(p) {
			return corrupt("extended attributes without an end")
		}
		if le.Uint32(p[at:]) == 0 {
			return nil
		}
		if at+xattrEntry > len(p) || at+xattrEntry+int(p[at]) > len(p) {
			return corrupt("extended attribute over the end")
		}
		prefix, ok := xattrPrefixes[p[at+1]]
		if !ok {
			return unsupported("extended attributes of the namespace %d", p[at+1])
		}
		if le.Uint32(p[at+4:]) != 0 {
			return unsupported("ext4 with the feature ea_inode")
		}
		name := prefix + string(p[at+xattrEntry:at+xattrEntry+int(p[at])])
		offset, size := int64(le.Uint16(p[at+2:])), int64(le.Uint32(p[at+8:]))
		if size > 0 && offset+size > int64(len(p)) {
			return corrupt("value of the extended attribute %q over the end", name)
		}
		var value []byte
		if size > 0 {
			value = bytes.Clone(p[offset : offset+size])
		}
		if name == aclAccess || name == aclDefault {
			var err error
			if value, err = loadACL(value); err != nil {
				return err
			}
		}
		if _, ok := n.Xattr(name); ok || name == "" || len(name) > tree.MaxXattrName {
			return corrupt("extended attribute %q", name)
		}
		n.SetXattr(name, value)
		at += xattrEntry + pad4(int(p[at]))
	}
}

// setXattrs stores a node's extended attributes in an inode, and in a block what has no room there. It returns how many blocks it uses.
func (f *FS) setXattrs(p inode, n *tree.Node) (int64, error) {
	at := goodOldSize + int(p.u16(0x80))
	clear(p[at:])
	room := len(p) - at - xattrInodeHeader - 4
	var inside, outside []storedXattr
	outsideSize := xattrBlockHeader + 4
	var last string
	for _, x := range n.Xattrs {
		s, err := storeXattr(x)
		if err != nil {
			return 0, xattrError(x.Name, err)
		}
		if s.size() <= room {
			room -= s.size()
			inside = append(inside, s)
			continue
		}
		outside, last = append(outside, s), x.Name
		outsideSize += s.size()
	}
	if outsideSize > disk.BlockSize {
		return 0, xattrError(last, unsupported("ext4 holds %d bytes of extended attributes, the file has %d more",
			disk.BlockSize, outsideSize-disk.BlockSize))
	}
	if len(inside) > 0 {
		p.set32(at, xattrMagic)
		encodeXattrs(p[at+xattrInodeHeader:], 0, inside)
	}
	return f.setXattrBlock(p, outside)
}

// setXattrBlock stores attributes in the inode's block, which it takes, changes or gives up.
func (f *FS) setXattrBlock(p inode, xattrs []storedXattr) (int64, error) {
	le := binary.LittleEndian
	block, known := p.xattrBlock(), true
	if len(xattrs) == 0 {
		p.setXattrBlock(0)
		return 0, f.releaseXattrBlock(block)
	}
	if block != 0 {
		old, err := f.block(block)
		if err != nil {
			return 0, err
		}
		if le.Uint32(old[4:]) > 1 { // others need it as it is
			if err := f.releaseXattrBlock(block); err != nil {
				return 0, err
			}
			block = 0
		}
	}
	if block == 0 {
		var err error
		if block, err = f.newBlock(); err != nil {
			return 0, err
		}
		known = false
	}
	b, err := f.blocks.take(block, known)
	if err != nil {
		return 0, err
	}
	clear(b)
	slices.SortFunc(xattrs, func(a, b storedXattr) int {
		return cmp.Or(cmp.Compare(a.index, b.index), cmp.Compare(len(a.name), len(b.name)), cmp.Compare(a.name, b.name))
	})
	hash := encodeXattrs(b, xattrBlockHeader, xattrs)
	le.PutUint32(b, xattrMagic)
	le.PutUint32(b[4:], 1)
	le.PutUint32(b[8:], 1)
	le.PutUint32(b[12:], hash)
	p.setXattrBlock(block)
	return 1, nil
}

// releaseXattrBlock takes one inode away from those that share the block. 0 is no block.
func (f *FS) releaseXattrBlock(block int64) error {
	if block == 0 {
		return nil
	}
	old, err := f.block(block)
	if err != nil {
		return err
	}
	if shared := binary.LittleEndian.Uint32(old[4:]); shared > 1 {
		b, err := f.blocks.edit(block)
		if err != nil {
			return err
		}
		binary.LittleEndian.PutUint32(b[4:], shared-1)
		return nil
	}
	return f.freeBlocks(block, 1)
}

// encodeXattrs writes entries from the offset at of p on, and values at its end, and returns the hash of all entries. There is room.
func encodeXattrs(p []byte, at int, xattrs []storedXattr) (hash uint32) {
	le := binary.LittleEndian
	end := len(p) &^ 3
	for _, x := range xattrs {
		p[at], p[at+1] = uint8(len(x.name)), x.index
		if len(x.value) > 0 {
			end -= pad4(len(x.value))
			copy(p[end:], x.value)
			le.PutUint16(p[at+2:], uint16(end))
		}
		le.PutUint32(p[at+8:], uint32(len(x.value)))
		h := x.hash()
		le.PutUint32(p[at+12:], h)
		copy(p[at+xattrEntry:], x.name)
		at += x.entrySize()
		hash = hash<<16 ^ hash>>16 ^ h
	}
	return hash
}

// hash is the entry's hash, of its name and its value in words of 32 bits.
func (x *storedXattr) hash() uint32 {
	var h uint32
	for _, c := range []byte(x.name) {
		h = h<<5 ^ h>>27 ^ uint32(c)
	}
	var word [4]byte
	for at := 0; at < len(x.value); at += 4 {
		word = [4]byte{}
		copy(word[:], x.value[at:])
		h = h<<16 ^ h>>16 ^ binary.LittleEndian.Uint32(word[:])
	}
	return h
}
