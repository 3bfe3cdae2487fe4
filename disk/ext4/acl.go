package ext4

import (
	"encoding/binary"
	"fmt"
)

// Access control lists have two forms. In system calls, and so in tars: u32 version 2, then entries of u16 tag, u16 permissions,
// u32 id. On disk: u32 version 1, then entries of u16 tag, u16 permissions, and, only for named users and groups, u32 id.
const (
	aclAccess  = "system.posix_acl_access"
	aclDefault = "system.posix_acl_default"

	aclVersion     = 2
	aclDiskVersion = 1
	aclNoID        = ^uint32(0)

	aclUser  = 0x02 // a named user
	aclGroup = 0x08 // a named group
)

// aclTags are the kinds of entries: owner, named user, owning group, named group, mask, others.
const aclTags = 0x01 | aclUser | 0x04 | aclGroup | 0x10 | 0x20

// aclTag checks a tag and reports whether it has an id.
func aclTag(tag uint16) (named, ok bool) {
	return tag == aclUser || tag == aclGroup, tag != 0 && tag&(tag-1) == 0 && tag&^aclTags == 0
}

func storeACL(p []byte) ([]byte, error) {
	le := binary.LittleEndian
	if len(p) < 4 || len(p)%8 != 4 || le.Uint32(p) != aclVersion {
		return nil, unsupported("access control list that is none")
	}
	out := le.AppendUint32(nil, aclDiskVersion)
	for p = p[4:]; len(p) > 0; p = p[8:] {
		named, ok := aclTag(le.Uint16(p))
		if !ok {
			return nil, unsupported("access control list with the tag %#x", le.Uint16(p))
		}
		out = append(out, p[:4]...)
		if named {
			out = append(out, p[4:8]...)
		}
	}
	return out, nil
}

func loadACL(p []byte) ([]byte, error) {
	le := binary.LittleEndian
	if len(p) < 4 || le.Uint32(p) != aclDiskVersion {
		return nil, corrupt("access control list")
	}
	out := le.AppendUint32(nil, aclVersion)
	for p = p[4:]; len(p) >= 4; {
		named, ok := aclTag(le.Uint16(p))
		if !ok {
			return nil, corrupt("access control list with the tag %#x", le.Uint16(p))
		}
		out = append(out, p[:4]...)
		p = p[4:]
		if !named {
			out = le.AppendUint32(out, aclNoID)
			continue
		}
		if len(p) < 4 {
			break
		}
		out = append(out, p[:4]...)
		p = p[4:]
	}
	if len(p) > 0 || len(out)%8 != 4 {
		return nil, corrupt("access control list")
	}
	return out, nil
}

func xattrError(name string, err error) error {
	return fmt.Errorf("extended attribute %q: %w", name, err)
}
