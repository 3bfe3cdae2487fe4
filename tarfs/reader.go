package tarfs

import (
	"errors"
	"fmt"
	"io"
	"math"
	"strings"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/tree"
)

// Reader reads the entries of a layer's tar in their order. It is for one goroutine at a time.
//
// It needs memory for one extension header and a buffer of 128 KiB at most, whatever the layer's size, and makes about
// one allocation an entry.
type Reader struct {
	// Concatenated makes the reader go on behind zero blocks, up to the end of the stream, as GNU tar does with
	// --ignore-zeros. Container runtimes do not, and so it is false by default. Set it before the first Next.
	Concatenated bool

	s   stream
	ext extension
	err error // sticky

	index int   // number of the next entry
	start int64 // first header block of the current entry

	extents   []tree.Extent // content of the current entry that has not been read; in extentBuf
	extentBuf []tree.Extent
	left      int64 // stored bytes of it, with padding

	// Entries and their extents are handed out of these, many to an allocation.
	freeEntries []Entry
	freeExtents []tree.Extent
}

// NewReader reads a tar from r. If r has the method of [Pieces], as the readers of package flate have it, its bytes
// are used without a copy.
func NewReader(r io.Reader) *Reader {
	t := &Reader{s: newStream(r)}
	t.ext.reset()
	return t
}

// Next passes over what is left of the current entry's content and returns the next entry, which stays valid. At the end
// it returns io.EOF; then everything of the underlying reader has been read, so that digests over it are complete.
// Any other error is an [*Error], and every later call returns it again.
func (r *Reader) Next() (*Entry, error) {
	if r.err != nil {
		return nil, r.err
	}
	e, err := r.next()
	if err != nil {
		r.extents, r.left = nil, 0
		r.err = err
		return nil, err
	}
	r.index++
	return e, nil
}

func (r *Reader) next() (*Entry, error) {
	err := r.s.skip(r.left)
	if err != nil {
		return nil, r.fail("", r.s.off, err)
	}
	r.left, r.extents = 0, nil
	r.ext.reset()
	r.start = -1
	for zeros := 0; ; {
		at := r.s.off
		block, err := r.s.next()
		if errors.Is(err, io.EOF) && r.start < 0 {
			return nil, io.EOF // without the zero blocks at the end; runtimes accept that
		}
		if err != nil {
			return nil, r.fail("", at, r.s.cut())
		}
		h := (*header)(block)
		if r.start < 0 && h.isZero() {
			if zeros++; zeros < 2 || r.Concatenated {
				continue
			}
			if err := r.s.drain(); err != nil {
				return nil, r.fail("", r.s.off, err)
			}
			return nil, io.EOF
		}
		zeros = 0
		if r.start < 0 {
			r.start = at
		}
		if !h.checksumOK() {
			return nil, r.fail("", at, corrupt("checksum of the header"))
		}
		extended, err := r.extend(h)
		if err != nil {
			return nil, r.fail(h.name(), r.start, err)
		}
		if extended {
			continue
		}
		if r.index >= MaxEntries {
			return nil, r.fail("", r.start, fmt.Errorf("%w: more than %d entries", ErrTooLarge, MaxEntries))
		}
		// The block is overwritten by what is read from now on.
		own := *h
		e, name, err := r.entry(&own)
		if err != nil {
			return nil, r.fail(name, r.start, err)
		}
		return e, nil
	}
}

func (r *Reader) fail(name string, off int64, err error) error {
	return &Error{Entry: r.index, Offset: off, Name: name, Err: err}
}

// extend reads an extension header and reports whether h is one.
func (r *Reader) extend(h *header) (bool, error) {
	kind := h[156]
	switch kind {
	case typePAX, typeGlobal, typeLongName, typeLongLink:
	default:
		return false, nil
	}
	size, ok := number(h[124:136])
	if !ok || size < 0 {
		return true, corrupt("size of an extension header")
	}
	if size > MaxHeader {
		return true, fmt.Errorf("%w: extension header of %d bytes", ErrTooLarge, size)
	}
	p, err := r.s.read(nil, size)
	if err != nil {
		return true, err
	}
	if err := r.s.skip(padding(size)); err != nil {
		return true, err
	}
	switch kind {
	case typePAX:
		r.ext.resetPAX()
		return true, r.ext.parse(p)
	case typeGlobal:
		return true, records(p, func(_, _ []byte) error { return nil })
	case typeLongName:
		r.ext.longName = text(p)
	case typeLongLink:
		r.ext.longLink = text(p)
	}
	return true, nil
}

// padding returns how many bytes are missing to a whole block.
func padding(size int64) int64 { return -size & (blockSize - 1) }

// entry makes the entry of its header and extensions. name is for errors.
func (r *Reader) entry(h *header) (e *Entry, name string, err error) {
	x := &r.ext
	name, link := h.name(), text(h[157:257])
	for _, s := range [...]string{x.path, x.longName} {
		if s != "" {
			name = s
		}
	}
	if x.sparse.name != "" && x.sparse.version() >= 0 {
		name = x.sparse.name
	}
	for _, s := range [...]string{x.linkpath, x.longLink} {
		if s != "" {
			link = s
		}
	}
	e = r.newEntry()
	e.Index, e.Offset, e.Xattrs = r.index, r.start, x.xattrs
	if e.Name, err = clean(name); err != nil {
		return nil, name, err
	}
	stored, err := r.attributes(e, h)
	if err != nil {
		return nil, name, err
	}
	kind := h[156]
	if kind == typeOldFile && strings.HasSuffix(name, "/") {
		kind = typeDir
	}
	if e.Name == "" && kind != typeDir {
		return nil, name, fmt.Errorf("%w: the root is a directory", ErrPath)
	}
	switch kind {
	case typeFile, typeOldFile, typeContig, typeSparse:
		e.Mode |= tree.TypeRegular
		err = r.content(e, h, stored)
	case typeHardlink:
		e.Mode |= tree.TypeRegular
		err = e.setHardlink(link)
	case typeSymlink:
		e.Mode |= tree.TypeSymlink
		err = e.setTarget(link)
	case typeChar:
		e.Mode |= tree.TypeChar
		err = e.setDevice(h)
	case typeBlock:
		e.Mode |= tree.TypeBlock
		err = e.setDevice(h)
	case typeDir:
		e.Mode |= tree.TypeDir
	case typeFIFO:
		e.Mode |= tree.TypeFIFO
	default:
		err = fmt.Errorf("%w: tar entry of type %q", blob.ErrUnsupported, kind)
	}
	if err != nil {
		return nil, name, err
	}
	return e, name, nil
}

func (r *Reader) newEntry() *Entry {
	if len(r.freeEntries) == 0 {
		r.freeEntries = make([]Entry, 64)
	}
	e := &r.freeEntries[0]
	r.freeEntries = r.freeEntries[1:]
	return e
}

// attributes sets permissions, owner and time, and returns the size of what is stored.
func (r *Reader) attributes(e *Entry, h *header) (stored int64, err error) {
	x := &r.ext
	mode, ok1 := number(h[100:108])
	uid, ok2 := number(h[108:116])
	gid, ok3 := number(h[116:124])
	stored, ok4 := number(h[124:136])
	mtime, ok5 := number(h[136:148])
	if !ok1 || !ok2 || !ok3 || !ok4 || !ok5 {
		return 0, corrupt("number in the header")
	}
	if x.uid >= 0 {
		uid = x.uid
	}
	if x.gid >= 0 {
		gid = x.gid
	}
	if x.size >= 0 {
		stored = x.size
	}
	if uid < 0 || uid > math.MaxUint32 || gid < 0 || gid > math.MaxUint32 {
		return 0, corrupt("owner %d:%d", uid, gid)
	}
	if stored < 0 {
		return 0, corrupt("negative size")
	}
	e.Mode = uint32(mode) & tree.PermMask
	e.UID, e.GID = uint32(uid), uint32(gid)
	e.Mtime = mtime
	if x.hasMtime {
		e.Mtime, e.MtimeNsec = x.mtime, x.mtimeNsec
	}
	return stored, nil
}

// content sets the size and extents of a regular file.
func (r *Reader) content(e *Entry, h *header, stored int64) error {
	if stored > MaxFile {
		return fmt.Errorf("%w: file of %d bytes", ErrTooLarge, stored)
	}
	e.Size = stored
	pad := padding(stored)
	var pieces []piece
	var err error
	switch {
	case h[156] == typeSparse:
		pieces, err = r.oldSparse(e, h)
	case r.ext.sparse.seen:
		pieces, stored, err = r.paxSparse(e, stored)
	}
	if err != nil {
		return err
	}
	if pieces != nil {
		e.Data, err = layOut(pieces, e.Size, stored, r.s.off)
		if err != nil {
			return err
		}
	} else if stored > 0 {
		if len(r.freeExtents) == 0 {
			r.freeExtents = make([]tree.Extent, 64)
		}
		e.Data, r.freeExtents = r.freeExtents[:1:1], r.freeExtents[1:]
		e.Data[0] = tree.Extent{Offset: r.s.off, Length: stored}
	}
	r.left = stored + pad
	// A copy, since e belongs to the caller.
	r.extentBuf = append(r.extentBuf[:0], e.Data...)
	r.extents = r.extentBuf
	return nil
}

func (e *Entry) setHardlink(link string) (err error) {
	if e.Hardlink, err = clean(link); err != nil {
		return fmt.Errorf("target of the hard link, %q: %w", link, err)
	}
	if e.Hardlink == "" {
		return fmt.Errorf("%w: no target or the root", ErrLink)
	}
	return nil
}

func (e *Entry) setTarget(link string) error {
	switch {
	case link == "":
		return fmt.Errorf("%w: symbolic link without a target", ErrPath)
	case len(link) > tree.MaxTarget:
		return fmt.Errorf("%w: target of %d bytes", ErrName, len(link))
	}
	e.Target = link
	return nil
}

func (e *Entry) setDevice(h *header) error {
	if !h.isPOSIX() && !h.isGNU() {
		return nil // Version 7 has no device numbers
	}
	major, ok1 := number(h[329:337])
	minor, ok2 := number(h[337:345])
	if !ok1 || !ok2 || major < 0 || major > math.MaxUint32 || minor < 0 || minor > math.MaxUint32 {
		return corrupt("device number")
	}
	e.Rdev = tree.Device{Major: uint32(major), Minor: uint32(minor)}
	return nil
}

// zeros is what holes read as.
var zeros [64 << 10]byte

// Data returns the next bytes of the current entry's content, holes as zeros, without a copy: they are valid until
// the next call of a method and may not be changed. At the content's end it returns io.EOF and no bytes.
func (r *Reader) Data() ([]byte, error) { return r.data(math.MaxInt64) }

func (r *Reader) data(limit int64) ([]byte, error) {
	if r.err != nil && !errors.Is(r.err, io.EOF) {
		return nil, r.err
	}
	if len(r.extents) == 0 {
		return nil, io.EOF
	}
	x := &r.extents[0]
	n := min(limit, x.Length)
	var p []byte
	if x.Blob == tree.Hole {
		p = zeros[:min(n, int64(len(zeros)))]
	} else {
		if p = r.s.take(n); p == nil {
			r.err = &Error{Entry: r.index - 1, Offset: r.s.off, Err: r.s.cut()}
			return nil, r.err
		}
		r.left -= int64(len(p))
	}
	x.Length -= int64(len(p))
	if x.Length == 0 {
		r.extents = r.extents[1:]
	}
	return p, nil
}

// Read reads from the content of the current entry, holes as zeros. It returns io.EOF at the content's end.
func (r *Reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	piece, err := r.data(int64(len(p)))
	return copy(p, piece), err
}

// Offset returns how many bytes of the tar have been used. After io.EOF it is the size of the tar.
func (r *Reader) Offset() int64 { return r.s.off }
