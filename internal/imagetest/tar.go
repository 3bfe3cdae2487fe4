package imagetest

import (
	"archive/tar"
	"bytes"
	"path"
	"testing"
	"time"
)

// Time is the modification time of entries that no option gives another one, in seconds since 1970.
const Time = 1700000000

// Item is one entry of a tar.
type Item struct {
	header tar.Header
	data   []byte
	raw    []byte // stands for header and data
}

// Option changes the header of an item.
type Option func(*tar.Header)

// Mode sets the permission bits, with setuid (0o4000), setgid and sticky.
func Mode(bits int64) Option { return func(h *tar.Header) { h.Mode = bits } }

// Owner sets user and group.
func Owner(uid, gid int) Option { return func(h *tar.Header) { h.Uid, h.Gid = uid, gid } }

// At sets the modification time.
func At(sec, nsec int64) Option { return func(h *tar.Header) { h.ModTime = time.Unix(sec, nsec) } }

// Xattr adds an extended attribute.
func Xattr(name, value string) Option { return PAX("SCHILY.xattr."+name, value) }

// PAX adds a PAX record.
func PAX(key, value string) Option {
	return func(h *tar.Header) {
		if h.PAXRecords == nil {
			h.PAXRecords = make(map[string]string)
		}
		h.PAXRecords[key] = value
	}
}

// GNU writes the entry in the format of GNU tar: long names in entries of their own, large numbers in binary.
func GNU() Option { return func(h *tar.Header) { h.Format = tar.FormatGNU } }

// USTAR writes the entry without extensions: long names are split before a slash.
func USTAR() Option { return func(h *tar.Header) { h.Format = tar.FormatUSTAR } }

func item(kind byte, name string, mode int64, options []Option) Item {
	h := tar.Header{Typeflag: kind, Name: name, Mode: mode, ModTime: time.Unix(Time, 0), Format: tar.FormatPAX}
	for _, o := range options {
		o(&h)
	}
	return Item{header: h}
}

// File is a regular file, 0644.
func File(name, content string, options ...Option) Item {
	i := item(tar.TypeReg, name, 0o644, options)
	i.data = []byte(content)
	i.header.Size = int64(len(content))
	return i
}

// Dir is a directory, 0755.
func Dir(name string, options ...Option) Item { return item(tar.TypeDir, name+"/", 0o755, options) }

// Symlink is a symbolic link, 0777.
func Symlink(name, target string, options ...Option) Item {
	i := item(tar.TypeSymlink, name, 0o777, options)
	i.header.Linkname = target
	return i
}

// Link is a hard link.
func Link(name, target string, options ...Option) Item {
	i := item(tar.TypeLink, name, 0o644, options)
	i.header.Linkname = target
	return i
}

// Char is a character device, 0600.
func Char(name string, major, minor int64, options ...Option) Item {
	i := item(tar.TypeChar, name, 0o600, options)
	i.header.Devmajor, i.header.Devminor = major, minor
	return i
}

// Block is a block device, 0600.
func Block(name string, major, minor int64, options ...Option) Item {
	i := item(tar.TypeBlock, name, 0o600, options)
	i.header.Devmajor, i.header.Devminor = major, minor
	return i
}

// FIFO is a named pipe, 0600.
func FIFO(name string, options ...Option) Item { return item(tar.TypeFifo, name, 0o600, options) }

// Whiteout takes away what has the name in the layers below.
func Whiteout(name string) Item {
	dir, base := path.Split(name)
	return File(dir+".wh."+base, "")
}

// Opaque hides what the directory has in the layers below.
func Opaque(dir string) Item { return File(path.Join(dir, ".wh..wh..opq"), "") }

// Raw is any bytes; they should fill whole blocks of 512.
func Raw(p []byte) Item { return Item{raw: p} }

// Tar writes the items and the two zero blocks at the end.
func Tar(tb testing.TB, items ...Item) []byte {
	tb.Helper()
	return append(Entries(tb, items...), make([]byte, 1024)...)
}

// Entries writes the items without an end.
func Entries(tb testing.TB, items ...Item) []byte {
	tb.Helper()
	var buf bytes.Buffer
	for _, i := range items {
		if i.raw != nil {
			buf.Write(i.raw)
			continue
		}
		// A writer an entry, which is flushed and not closed, leaves room for raw items between them.
		w := tar.NewWriter(&buf)
		if err := w.WriteHeader(&i.header); err != nil {
			tb.Fatalf("tar header of %.100q: %v", i.header.Name, err)
		}
		if _, err := w.Write(i.data); err != nil {
			tb.Fatalf("content of %q: %v", i.header.Name, err)
		}
		if err := w.Flush(); err != nil {
			tb.Fatalf("content of %q: %v", i.header.Name, err)
		}
	}
	return buf.Bytes()
}
