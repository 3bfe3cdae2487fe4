package tarfs

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/lazuli-project/lazuli/tree"
)

const (
	maxName = tree.MaxName

	schilyXattr     = "SCHILY.xattr."
	libarchiveXattr = "LIBARCHIVE.xattr."
	gnuSparse       = "GNU.sparse."

	// privatePrefix begins the names of the attributes that this package keeps in layer trees.
	privatePrefix = "trusted.lazuli."
)

// extension collects what extension headers say about the next entry.
type extension struct {
	longName, longLink string // GNU
	path, linkpath     string // PAX, "" where not given
	size, uid, gid     int64  // -1 where not given
	mtime              int64
	mtimeNsec          uint32
	hasMtime           bool
	xattrs             []tree.Xattr
	sparse             sparseRecords
}

// sparseRecords are the GNU.sparse records.
type sparseRecords struct {
	major, minor, name, size, realSize, pieces string
	seen                                       bool
}

func (x *extension) reset() {
	*x = extension{size: -1, uid: -1, gid: -1}
}

// resetPAX forgets the records of an earlier PAX header: the last one before an entry counts.
func (x *extension) resetPAX() {
	name, link := x.longName, x.longLink
	x.reset()
	x.longName, x.longLink = name, link
}

// records calls fn for each record of a PAX header: "<length> <key>=<value>\n", where the length in decimal digits counts
// the whole record.
func records(p []byte, fn func(key, value []byte) error) error {
	for len(p) > 0 {
		space := bytes.IndexByte(p[:min(len(p), 10)], ' ')
		if space < 1 {
			return corrupt("PAX record without a length")
		}
		n := 0
		for _, c := range p[:space] {
			if c < '0' || c > '9' {
				return corrupt("PAX record with length %q", p[:space])
			}
			n = n*10 + int(c-'0')
		}
		if n < space+4 || n > len(p) || p[n-1] != '\n' {
			return corrupt("PAX record of %d bytes, where %d are left", n, len(p))
		}
		key, value, ok := bytes.Cut(p[space+1:n-1], []byte{'='})
		if !ok || len(key) == 0 || bytes.IndexByte(key, 0) >= 0 {
			return corrupt("PAX record without a key")
		}
		if err := fn(key, value); err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

// parse takes the records of a PAX header. A record with an empty value leaves what the entry's own header says.
func (x *extension) parse(p []byte) error {
	var archive []tree.Xattr // of libarchive, which writes both kinds; the other one needs no decoding
	var pieces []string
	err := records(p, func(key, value []byte) error {
		switch k := string(key); {
		case strings.HasPrefix(k, schilyXattr):
			x.xattrs = append(x.xattrs, tree.Xattr{Name: k[len(schilyXattr):], Value: bytes.Clone(value)})
		case strings.HasPrefix(k, libarchiveXattr):
			a, err := decodeXattr(k[len(libarchiveXattr):], value)
			if err != nil {
				return err
			}
			archive = append(archive, a)
		case strings.HasPrefix(k, gnuSparse):
			return x.sparse.record(k[len(gnuSparse):], string(value), &pieces)
		case len(value) == 0:
			x.clear(k)
		default:
			return x.record(k, string(value))
		}
		return nil
	})
	if err != nil {
		return err
	}
	if len(pieces) > 0 {
		x.sparse.pieces = strings.Join(pieces, ",")
	}
	return x.sortXattrs(archive)
}

func (x *extension) clear(key string) {
	switch key {
	case "path":
		x.path = ""
	case "linkpath":
		x.linkpath = ""
	case "size":
		x.size = -1
	case "uid":
		x.uid = -1
	case "gid":
		x.gid = -1
	case "mtime":
		x.hasMtime = false
	}
}

// record takes one of the records that POSIX defines. Names of owners, other times and comments are not used.
func (x *extension) record(key, value string) error {
	ok := true
	switch key {
	case "path":
		x.path = value
		ok = strings.IndexByte(value, 0) < 0
	case "linkpath":
		x.linkpath = value
		ok = strings.IndexByte(value, 0) < 0
	case "size":
		x.size, ok = decimal(value)
		ok = ok && x.size >= 0
	case "uid":
		x.uid, ok = decimal(value)
		ok = ok && x.uid >= 0
	case "gid":
		x.gid, ok = decimal(value)
		ok = ok && x.gid >= 0
	case "mtime":
		x.mtime, x.mtimeNsec, ok = paxTime(value)
		x.hasMtime = ok
	}
	if ok {
		return nil
	}
	if key == "path" || key == "linkpath" {
		return fmt.Errorf("%w: NUL byte in PAX record %s", ErrName, key)
	}
	return corrupt("PAX record %s=%q", key, value)
}

// paxTime parses seconds with an optional fraction, of which 9 digits count. Fractions of negative times go away from 0.
func paxTime(s string) (sec int64, nsec uint32, ok bool) {
	whole, fraction, _ := strings.Cut(s, ".")
	if sec, ok = decimal(whole); !ok {
		return 0, 0, false
	}
	for i := range 9 {
		nsec *= 10
		if i < len(fraction) {
			nsec += uint32(fraction[i]) - '0'
		}
	}
	if strings.Trim(fraction, "0123456789") != "" {
		return 0, 0, false
	}
	if nsec > 0 && whole[0] == '-' {
		if sec--; sec >= 0 {
			return 0, 0, false // the least number has no predecessor
		}
		nsec = 1e9 - nsec
	}
	return sec, nsec, true
}

// decodeXattr decodes the two encodings of libarchive: the name is URL-encoded, the value is base64, often
// without padding.
func decodeXattr(name string, value []byte) (tree.Xattr, error) {
	decoded, err := url.PathUnescape(name)
	if err != nil {
		return tree.Xattr{}, corrupt("name of PAX record %s%s", libarchiveXattr, name)
	}
	value = bytes.TrimRight(value, "=")
	plain := make([]byte, base64.RawStdEncoding.DecodedLen(len(value)))
	n, err := base64.RawStdEncoding.Decode(plain, value)
	if err != nil {
		return tree.Xattr{}, corrupt("value of PAX record %s%s", libarchiveXattr, name)
	}
	return tree.Xattr{Name: decoded, Value: plain[:n]}, nil
}

// sortXattrs checks the attributes, sorts them, and takes of several with one name the last.
func (x *extension) sortXattrs(archive []tree.Xattr) error {
	if len(archive)+len(x.xattrs) == 0 {
		return nil
	}
	x.xattrs = append(archive, x.xattrs...)
	for _, a := range x.xattrs {
		switch {
		case a.Name == "" || len(a.Name) > tree.MaxXattrName || strings.IndexByte(a.Name, 0) >= 0:
			return fmt.Errorf("%w: name %q", ErrXattr, a.Name)
		case strings.HasPrefix(a.Name, privatePrefix):
			return fmt.Errorf("%w: %q is reserved", ErrXattr, a.Name)
		case len(a.Value) > tree.MaxXattrValue:
			return fmt.Errorf("%w: %q has %d bytes", ErrXattr, a.Name, len(a.Value))
		}
	}
	slices.SortStableFunc(x.xattrs, func(a, b tree.Xattr) int { return cmp.Compare(a.Name, b.Name) })
	last := x.xattrs[:0]
	for _, a := range x.xattrs {
		if k := len(last); k > 0 && last[k-1].Name == a.Name {
			last[k-1] = a
			continue
		}
		last = append(last, a)
	}
	x.xattrs = last
	return nil
}
