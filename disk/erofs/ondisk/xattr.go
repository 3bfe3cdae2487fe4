package ondisk

import (
	"encoding/binary"
	"slices"
	"strings"

	"github.com/lazuli-project/lazuli/tree"
)

// Attributes are a header of 12 bytes (0 u32 filter of names, 0 here: any may be there | 4 u8 number of shared ones | 5 zeros), the u32
// numbers of shared ones, and entries, each padded to 4 bytes:
// 0 u8 length of the name | 1 u8 prefix | 2 u16 length of the value | name without prefix | value
//
// A shared attribute is such an entry too. Its number is its place in the area of shared ones, in units of 4 bytes.
const (
	xattrHeader = 12
	longPrefix  = 0x80
	// XattrEntry is what of an entry says its size.
	XattrEntry = 4
	// MaxXattrs is how many bytes of attributes an inode may have.
	MaxXattrs = xattrHeader + 4*(1<<16-2)
)

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

// XattrLen returns what the attributes of a node take.
func XattrLen(xattrs []tree.Xattr) (int, error) {
	if len(xattrs) == 0 {
		return 0, nil
	}
	size := xattrHeader
	for _, x := range xattrs {
		_, suffix, ok := splitXattr(x.Name)
		if !ok || len(x.Name) > tree.MaxXattrName || len(x.Value) > tree.MaxXattrValue {
			return 0, unsupported("extended attribute " + x.Name)
		}
		size += (XattrEntry + len(suffix) + len(x.Value) + 3) &^ 3
	}
	if size > MaxXattrs {
		return 0, unsupported("extended attributes of more than 256 KiB")
	}
	return size, nil
}

// AppendXattrs appends attributes that XattrLen has checked to dst, which has a multiple of 4 bytes.
func AppendXattrs(dst []byte, xattrs []tree.Xattr) []byte {
	if len(xattrs) == 0 {
		return dst
	}
	dst = append(dst, make([]byte, xattrHeader)...)
	for _, x := range xattrs {
		index, suffix, _ := splitXattr(x.Name)
		dst = append(dst, uint8(len(suffix)), index)
		dst = binary.LittleEndian.AppendUint16(dst, uint16(len(x.Value)))
		dst = append(dst, suffix...)
		dst = append(dst, x.Value...)
		dst = append(dst, make([]byte, -len(dst)&3)...)
	}
	return dst
}

// DecodeXattrs decodes the attributes behind an inode; shared gives a shared one.
func DecodeXattrs(p []byte, shared func(number uint32) (tree.Xattr, error)) ([]tree.Xattr, error) {
	if len(p) == 0 {
		return nil, nil
	}
	count := int(p[4])
	p = p[xattrHeader:]
	if count*4 > len(p) {
		return nil, corrupt("%d shared attributes beyond the end", count)
	}
	var xattrs []tree.Xattr
	for ; count > 0; count-- {
		x, err := shared(binary.LittleEndian.Uint32(p))
		if err != nil {
			return nil, err
		}
		xattrs, p = append(xattrs, x), p[4:]
	}
	for len(p) > 0 {
		// Builders reserve room for attributes, which is zeros.
		if binary.LittleEndian.Uint32(p) == 0 {
			p = p[4:]
			continue
		}
		size := XattrSize(p)
		if size > len(p) {
			return nil, corrupt("attribute of %d bytes beyond the end", size)
		}
		x, err := DecodeXattr(p[:size])
		if err != nil {
			return nil, err
		}
		xattrs, p = append(xattrs, x), p[min((size+3)&^3, len(p)):]
	}
	slices.SortFunc(xattrs, func(a, b tree.Xattr) int { return strings.Compare(a.Name, b.Name) })
	for i := 1; i < len(xattrs); i++ {
		if xattrs[i].Name == xattrs[i-1].Name {
			return nil, corrupt("attribute %q twice", xattrs[i].Name)
		}
	}
	return xattrs, nil
}

// XattrSize returns the size of an entry by its first 4 bytes.
func XattrSize(p []byte) int {
	return XattrEntry + int(p[0]) + int(binary.LittleEndian.Uint16(p[2:]))
}

// DecodeXattr decodes an entry, all of which p is.
func DecodeXattr(p []byte) (tree.Xattr, error) {
	index, end := int(p[1]), XattrEntry+int(p[0])
	if index&longPrefix != 0 {
		return tree.Xattr{}, unsupported("attribute with a long prefix")
	}
	if index >= len(xattrPrefixes) || xattrPrefixes[index] == "" {
		return tree.Xattr{}, corrupt("attribute with prefix %d", index)
	}
	name := xattrPrefixes[index] + string(p[XattrEntry:end])
	if i, suffix, ok := splitXattr(name); !ok || int(i) != index || len(suffix) != end-XattrEntry || strings.IndexByte(name, 0) >= 0 || len(name) > tree.MaxXattrName {
		return tree.Xattr{}, corrupt("attribute %q", name)
	}
	return tree.Xattr{Name: name, Value: slices.Clone(p[end:])}, nil
}
