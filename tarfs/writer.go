package tarfs

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/lazuli-project/lazuli/tree"
)

// WriteTar writes a tree as one tar in pax format. Regular files come in the order in which their content is stored, so that
// blobs which can only be streamed are read once. Before them come directories and all that has no content, in the order of
// [tree.Tree.Walk], the root as "./"; behind them the hard links, and then the directories once more. They stand there twice
// because tar programs set the time and permissions of a directory when they are done with it, and GNU tar has to know a
// directory before symbolic links in it. The same tree gives the same bytes. Of a node with several names the first is the
// file, the others are hard links to it.
//
// In a layer's tree, the marks of this package become what they stand for: implied directories have no entries, and links into
// lower layers are hard links again. Whiteouts come first in their directory.
//
// content writes the content of a regular file with a size, exactly n.Size bytes of it, to w; path is the file's
// path without a slash in front. It is called once for each node. n.Nlink must be right for files.
func WriteTar(w io.Writer, t *tree.Tree, content func(path string, n *tree.Node, w io.Writer) error) error {
	tw := tarWriter{w: bufio.NewWriterSize(w, 64<<10), content: content}
	for _, part := range tarOrder(t) {
		for _, e := range part {
			if err := tw.entry(&e); err != nil {
				return fmt.Errorf("write %q to the tar: %w", e.path, err)
			}
		}
	}
	var end [2 * blockSize]byte
	if _, err := tw.w.Write(end[:]); err != nil {
		return fmt.Errorf("write the tar's end: %w", err)
	}
	if err := tw.w.Flush(); err != nil {
		return fmt.Errorf("write the tar's end: %w", err)
	}
	return nil
}

// tarEntry is what an entry of a tar is made of.
type tarEntry struct {
	path string
	node *tree.Node
	link string // the node's first path, where this is a further one
	// first: a directory to which files will be added, also by users who may not write into it once it is done
	first bool
}

// tarOrder lists the entries of a tree, in parts.
func tarOrder(t *tree.Tree) [4][]tarEntry {
	var begin, files, links, dirs []tarEntry
	names := make(map[*tree.Node]string) // first path of what has several
	_ = t.Walk(func(path string, n *tree.Node) error {
		e := tarEntry{path: path, node: n}
		if _, implied := n.Xattr(XattrImplied); implied {
			begin = appendWhiteouts(begin, path, n)
			return nil
		}
		if target, ok := n.Xattr(XattrHardlink); ok {
			e.link = string(target)
			links = append(links, e)
			return nil
		}
		if !n.IsDir() && n.Nlink != 1 {
			if first, ok := names[n]; ok {
				e.link = first
				links = append(links, e)
				return nil
			}
			names[n] = path
		}
		switch {
		case n.IsDir():
			dirs = append(dirs, e)
			e.first = true
			begin = append(begin, e)
			begin = appendWhiteouts(begin, path, n)
		case isWhiteout(path, n):
		case n.IsRegular():
			files = append(files, e)
		default:
			begin = append(begin, e)
		}
		return nil
	})
	slices.SortStableFunc(files, func(a, b tarEntry) int {
		x, y := firstStored(a.node), firstStored(b.node)
		return cmp.Or(cmp.Compare(x.Blob, y.Blob), cmp.Compare(x.Offset, y.Offset))
	})
	return [4][]tarEntry{begin, files, links, dirs}
}

// appendWhiteouts appends the whiteouts of a directory. They stand before everything else in it, as some programs that extract
// layers know no better than to apply them where they come.
func appendWhiteouts(entries []tarEntry, dir string, n *tree.Node) []tarEntry {
	for _, e := range n.Entries {
		path := e.Name
		if dir != "" {
			path = dir + "/" + e.Name
		}
		if isWhiteout(path, e.Node) {
			entries = append(entries, tarEntry{path: path, node: e.Node})
		}
	}
	return entries
}

// isWhiteout reports whether an entry is a whiteout, or marks a directory as opaque: an empty file with one name.
func isWhiteout(path string, n *tree.Node) bool {
	name := path[strings.LastIndexByte(path, '/')+1:]
	return strings.HasPrefix(name, WhiteoutPrefix) && n.IsRegular() && n.Size == 0 && n.Nlink == 1
}

// firstStored returns the first extent that is not a hole; a file without one is before all others.
func firstStored(n *tree.Node) tree.Extent {
	for _, x := range n.Extents {
		if x.Blob != tree.Hole {
			return x
		}
	}
	return tree.Extent{Offset: -1}
}

type tarWriter struct {
	w       *bufio.Writer
	content func(path string, n *tree.Node, w io.Writer) error
}

func (tw *tarWriter) entry(e *tarEntry) error {
	path, n := e.path, e.node
	if e.link != "" {
		return tw.header(path, e.link, typeHardlink, n)
	}
	switch n.Type() {
	case tree.TypeRegular:
		if err := tw.header(path, "", typeFile, n); err != nil {
			return err
		}
		return tw.data(path, n)
	case tree.TypeDir:
		if path == "" {
			path = "."
		}
		if e.first {
			open := *n
			open.Mode |= 0o700
			n = &open
		}
		return tw.header(path+"/", "", typeDir, n)
	case tree.TypeSymlink:
		return tw.header(path, n.Target, typeSymlink, n)
	case tree.TypeChar:
		return tw.header(path, "", typeChar, n)
	case tree.TypeBlock:
		return tw.header(path, "", typeBlock, n)
	case tree.TypeFIFO:
		return tw.header(path, "", typeFIFO, n)
	case tree.TypeSocket:
		return errors.New("a tar cannot hold sockets")
	}
	return fmt.Errorf("unknown type %o", n.Type())
}

func (tw *tarWriter) data(path string, n *tree.Node) error {
	if n.Size == 0 {
		return nil
	}
	lw := limitWriter{w: tw.w, left: n.Size}
	if err := tw.content(path, n, &lw); err != nil {
		return err
	}
	if lw.left != 0 {
		return fmt.Errorf("%d of %d bytes are missing: %w", lw.left, n.Size, io.ErrUnexpectedEOF)
	}
	var pad [blockSize]byte
	_, err := tw.w.Write(pad[:padding(n.Size)])
	return err
}

// limitWriter refuses more than it was told to expect.
type limitWriter struct {
	w    io.Writer
	left int64
}

func (lw *limitWriter) Write(p []byte) (int, error) {
	if int64(len(p)) > lw.left {
		return 0, fmt.Errorf("more content than the file's size: %w", io.ErrShortWrite)
	}
	n, err := lw.w.Write(p)
	lw.left -= int64(n)
	return n, err
}

// paxRecords collects records; keys are unique.
type paxRecords []tree.Xattr

func (p *paxRecords) add(key, value string) {
	*p = append(*p, tree.Xattr{Name: key, Value: []byte(value)})
}

// appendTo appends the records sorted by key, each with its length in front, which counts its own digits.
func (p paxRecords) appendTo(dst []byte) []byte {
	slices.SortFunc(p, func(a, b tree.Xattr) int { return strings.Compare(a.Name, b.Name) })
	for _, r := range p {
		rest := len(r.Name) + len(r.Value) + len(" =\n")
		n := rest + len(strconv.Itoa(rest))
		n = rest + len(strconv.Itoa(n))
		dst = strconv.AppendInt(dst, int64(n), 10)
		dst = append(dst, ' ')
		dst = append(dst, r.Name...)
		dst = append(dst, '=')
		dst = append(dst, r.Value...)
		dst = append(dst, '\n')
	}
	return dst
}

// header writes an entry's header, after a PAX header with what it has no room for.
func (tw *tarWriter) header(path, link string, kind byte, n *tree.Node) error {
	var h header
	var pax paxRecords
	field := func(off, size int, key, value string) {
		if len(value) > size || !isASCII(value) {
			pax.add(key, value)
		}
		copy(h[off:off+size], value)
	}
	number := func(off, size int, key string, value int64) {
		if value < 0 || value >= 1<<(3*(size-1)) {
			pax.add(key, strconv.FormatInt(value, 10))
			value = 0
		}
		h.octal(off, size, value)
	}
	field(0, 100, "path", path)
	field(157, 100, "linkpath", link)
	h.octal(100, 8, int64(n.Mode&tree.PermMask))
	number(108, 8, "uid", int64(n.UID))
	number(116, 8, "gid", int64(n.GID))
	size := int64(0)
	if kind == typeFile {
		size = n.Size
	}
	number(124, 12, "size", size)
	if n.MtimeNsec != 0 || n.Mtime < 0 || n.Mtime >= 1<<33 {
		pax.add("mtime", formatTime(n.Mtime, n.MtimeNsec))
	}
	h.octal(136, 12, min(max(0, n.Mtime), 1<<33-1))
	h[156] = kind
	copy(h[257:], "ustar\x0000")
	if kind == typeChar || kind == typeBlock {
		h.device(329, n.Rdev.Major)
		h.device(337, n.Rdev.Minor)
	}
	if kind != typeHardlink {
		for _, x := range n.Xattrs {
			if strings.Contains(x.Name, "=") {
				return fmt.Errorf("%w: %q has a sign that a tar cannot hold", ErrXattr, x.Name)
			}
			pax.add(schilyXattr+x.Name, string(x.Value))
		}
	}
	if len(pax) > 0 {
		if err := tw.extension(pax); err != nil {
			return err
		}
	}
	h.seal()
	_, err := tw.w.Write(h[:])
	return err
}

// extension writes a PAX header. Its own name and time mean nothing.
func (tw *tarWriter) extension(pax paxRecords) error {
	records := pax.appendTo(nil)
	var h header
	copy(h[:], "PaxHeaders/0")
	h.octal(100, 8, 0o644)
	h.octal(108, 8, 0)
	h.octal(116, 8, 0)
	h.octal(124, 12, int64(len(records)))
	h.octal(136, 12, 0)
	h[156] = typePAX
	copy(h[257:], "ustar\x0000")
	h.seal()
	records = append(records, make([]byte, padding(int64(len(records))))...)
	if _, err := tw.w.Write(h[:]); err != nil {
		return err
	}
	_, err := tw.w.Write(records)
	return err
}

// octal writes a number of size-1 digits and a NUL.
func (h *header) octal(off, size int, v int64) {
	for i := off + size - 2; i >= off; i-- {
		h[i] = '0' + byte(v&7)
		v >>= 3
	}
}

// device writes a device number; numbers over 7 digits, for which pax has no record, in binary.
func (h *header) device(off int, v uint32) {
	if v < 1<<21 {
		h.octal(off, 8, int64(v))
		return
	}
	h[off] = 0x80
	for i := range 4 {
		h[off+4+i] = byte(v >> (24 - 8*i))
	}
}

// seal sets the checksum.
func (h *header) seal() {
	copy(h[checksumOff:], "        ")
	sum := int64(0)
	for _, b := range h {
		sum += int64(b)
	}
	h.octal(checksumOff, 7, sum)
	h[checksumOff+6] = 0
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

// formatTime writes seconds as a decimal number that [paxTime] parses to the same.
func formatTime(sec int64, nsec uint32) string {
	if nsec == 0 {
		return strconv.FormatInt(sec, 10)
	}
	sign := ""
	if sec < 0 {
		// -2 s + 0.75 s is -1.25 s
		sign = "-"
		sec = -(sec + 1)
		nsec = 1e9 - nsec
	}
	return sign + strconv.FormatInt(sec, 10) + "." + strings.TrimRight(fmt.Sprintf("%09d", nsec), "0")
}
