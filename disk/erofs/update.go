package erofs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/disk"
	"github.com/lazuli-project/lazuli/disk/erofs/ondisk"
	"github.com/lazuli-project/lazuli/tree"
)

// errTree says that a tree breaks the rules of package tree.
var errTree = errors.New("invalid tree")

// update is one layer on its way to the disk.
type update struct {
	*FS
	dirs  []updatedDir // parents before children
	files []newFile
	links []*tree.Node // files that were there and have another number of links now
	data  []disk.Extent
	next  int64    // block that is free
	pos   int64    // byte that is free for inodes, in a block before next
	path  []string // of the node at hand, for errors
}

// updatedDir is a directory of the merged tree.
type updatedDir struct {
	node    *tree.Node
	place   *dirPlace
	parent  int // in dirs; -1 of the root
	xattrs  int
	fresh   bool // was not there before
	changed bool
	blocks  int64 // to be had anew
	old     int64 // room that it had
}

// newFile is anything but a directory that was not there before.
type newFile struct {
	node   *tree.Node
	place  *filePlace
	in     ondisk.Inode
	inline bool
	blocks int64 // of a link's target
	// chunkBits is log2 of the size of chunks, flatBits for a file of one; chunks are their addresses.
	chunkBits int
	chunks    []uint32
}

func (u *update) fail(err error) error {
	return fmt.Errorf("%q: %w", strings.Join(u.path, "/"), err)
}

// collectDir notes a directory and what is below it.
func (u *update) collectDir(n *tree.Node, parent int) error {
	xattrs, err := check(n)
	if err != nil {
		return u.fail(err)
	}
	p := u.dirsAt[n]
	d := updatedDir{node: n, place: p, parent: parent, xattrs: xattrs, fresh: p == nil}
	if p == nil {
		d.place = new(dirPlace)
		u.dirsAt[n] = d.place
	}
	d.place.round = u.round
	at := len(u.dirs)
	u.dirs = append(u.dirs, d)
	for _, e := range n.Entries {
		u.path = append(u.path, e.Name)
		if e.Node.IsDir() {
			err = u.collectDir(e.Node, at)
		} else {
			err = u.collectFile(e.Node)
		}
		if err != nil {
			return err
		}
		u.path = u.path[:len(u.path)-1]
	}
	return nil
}

func (u *update) collectFile(n *tree.Node) error {
	p := u.filesAt[n]
	if p != nil {
		if p.round != u.round && p.links != n.Nlink {
			if !p.linksFit(n.Nlink) {
				return u.fail(unsupported(fmt.Sprintf("%d names of a file of a lower layer", n.Nlink)))
			}
			u.links = append(u.links, n)
		}
		p.round = u.round
		return nil
	}
	xattrs, err := check(n)
	if err == nil && n.IsRegular() {
		err = checkContent(n)
	}
	if err != nil {
		return u.fail(err)
	}
	p = &filePlace{links: n.Nlink, round: u.round}
	u.filesAt[n] = p
	f := newFile{node: n, place: p, in: newInode(n, u.sb.epoch)}
	f.in.XattrLen, p.compact = xattrs, f.in.Compact
	u.files = append(u.files, f)
	return nil
}

// place gives places to all that needs one.
func (u *update) place() error {
	u.placeContent()
	u.pos = u.next * blockSize
	for i := range u.dirs {
		if d := &u.dirs[i]; d.fresh {
			u.placeDir(d)
		}
	}
	for i := range u.files {
		u.placeFile(&u.files[i])
	}
	// Those that were there come after all that is in them, which may move.
	for i := len(u.dirs) - 1; i >= 0; i-- {
		d := &u.dirs[i]
		state := u.state(d.node)
		if !d.fresh && state != d.place.state {
			if err := u.replaceDir(d); err != nil {
				return err
			}
		}
		d.place.state = state
	}
	u.next = roundUp(u.pos, blockSize) / blockSize
	take := func(blocks int64) uint32 {
		at := u.next
		u.next += blocks
		return uint32(min(at, ondisk.NullBlock))
	}
	for i := range u.dirs {
		if d := &u.dirs[i]; d.blocks > 0 {
			d.place.start = take(d.blocks)
		}
	}
	for i := range u.files {
		if f := &u.files[i]; f.blocks > 0 {
			f.in.U = take(f.blocks)
		}
	}
	if u.next > u.disk.size/blockSize {
		return fmt.Errorf("%d bytes of content and metadata on a disk of %d: %w", u.next*blockSize, u.disk.size, blob.ErrUnsupported)
	}
	return nil
}

// take returns a place for n bytes that begin with an inode, the first of which must be in one block.
func (u *update) take(n, together int64) int64 {
	if u.pos%blockSize+together > blockSize {
		u.pos = roundUp(u.pos, blockSize)
	}
	at := u.pos
	u.pos += roundUp(n, ondisk.NidSize)
	return at
}

// inline reports whether the rest of n bytes of content goes behind an inode with head bytes: both must be in one block.
func inline(head, n, block int64) bool {
	rest := n % block
	return rest != 0 && head+rest <= block
}

// placeDir gives a place to a directory that has none, or must leave it.
func (u *update) placeDir(d *updatedDir) {
	p := d.place
	d.changed = true
	p.size = ondisk.DirentsSize(d.node, blockSize)
	head := int64(ondisk.ExtendedSize + d.xattrs)
	if d.parent < 0 {
		p.at = rootAt
		p.inline = inline(rootAt%blockSize+head, p.size, blockSize)
	} else {
		p.inline = inline(head, p.size, blockSize)
		if p.inline {
			p.at = u.take(head+p.size%blockSize, head+p.size%blockSize)
		} else {
			p.at = u.take(head, ondisk.ExtendedSize)
		}
	}
	p.start, d.blocks = 0, p.blocks()
	p.room = p.need(head)
}

// need returns how many bytes the inode takes with what is behind it.
func (p *dirPlace) need(head int64) int64 {
	if p.inline {
		head += p.size % blockSize
	}
	return roundUp(head, ondisk.NidSize)
}

// replaceDir finds a place for what a directory has become: its own, as far as that has the room. A directory that has
// to move gets a new number, and so changes the one that it is in.
func (u *update) replaceDir(d *updatedDir) error {
	p := d.place
	d.changed, d.old = true, p.room
	room, head := p.room, int64(ondisk.ExtendedSize+d.xattrs)
	if d.parent < 0 {
		room = u.rootRoom
	}
	was := *p
	p.size = ondisk.DirentsSize(d.node, blockSize)
	if p.inline {
		p.inline = p.size/blockSize == was.size/blockSize && p.size%blockSize > 0 &&
			p.need(head) <= room && p.at%blockSize+head+p.size%blockSize <= blockSize
	}
	if p.need(head) > room || p.at%blockSize+ondisk.ExtendedSize > blockSize {
		if d.parent < 0 {
			return fmt.Errorf("root: %w", unsupported(fmt.Sprintf("%d bytes of attributes in the place of %d", d.xattrs, room)))
		}
		d.old = 0
		u.placeDir(d)
		return nil
	}
	if p.blocks() > was.blocks() {
		p.start, d.blocks = 0, p.blocks()
	}
	p.room = p.need(head)
	return nil
}

// placeFile gives a place to the inode of a file.
func (u *update) placeFile(f *newFile) {
	in, n := &f.in, f.node
	size := in.Head()
	switch n.Type() {
	case tree.TypeRegular:
		in.Size = n.Size
		switch {
		case n.Size == 0:
		case f.chunkBits == flatBits:
			in.U = f.chunks[0]
		default:
			in.Layout, in.U = ondisk.LayoutChunked, uint32(f.chunkBits-blockBits)
			size += int64(len(f.chunks)) * ondisk.AddressSize
			u.sb.incompat |= incompatChunked
		}
	case tree.TypeSymlink:
		in.Size = int64(len(n.Target))
		if f.inline = inline(size, in.Size, blockSize); f.inline {
			in.Layout = ondisk.LayoutInline
			f.place.at = u.take(size+in.Size, size+in.Size)
			return
		}
		f.blocks = 1
	case tree.TypeChar, tree.TypeBlock:
		in.U, _ = ondisk.EncodeDevice(n.Rdev)
	}
	f.place.at = u.take(size, int64(in.Len()))
}

// write writes what has changed.
func (u *update) write() error {
	for i := range u.dirs {
		if d := &u.dirs[i]; d.changed {
			if err := u.writeDir(d); err != nil {
				return err
			}
		}
	}
	for i := range u.files {
		if err := u.writeFile(&u.files[i]); err != nil {
			return err
		}
	}
	for _, n := range u.links {
		p := u.filesAt[n]
		at, field := ondisk.LinksField(p.compact, n.Nlink)
		p.links = n.Nlink
		if err := u.disk.write(p.at+at, field); err != nil {
			return err
		}
	}
	u.sb.inodes, u.sb.blocks = uint64(len(u.dirsAt)+len(u.filesAt)), uint32(u.next)
	p := make([]byte, superSize)
	if u.fresh {
		u.sb.encode(p)
		u.fresh = false
		return u.disk.write(superAt, p)
	}
	old, err := u.disk.bytes(superAt, superSize)
	if err != nil {
		return err
	}
	copy(p, old)
	u.sb.update(p)
	return u.disk.write(superAt, p)
}

// writeDir writes the inode and the content of a directory.
func (u *update) writeDir(d *updatedDir) error {
	n, p := d.node, d.place
	in := newInode(n, u.sb.epoch)
	in.Size, in.U, in.XattrLen = p.size, p.start, d.xattrs
	content := ondisk.AppendDirents(make([]byte, 0, roundUp(p.size, blockSize)), n, blockSize, func(entry int) uint64 {
		switch {
		case entry >= 0:
			return u.nid(n.Entries[entry].Node)
		case entry == ondisk.Up && d.parent >= 0:
			return u.nid(u.dirs[d.parent].node)
		}
		return u.nid(n)
	})
	full := roundUp(p.size, blockSize)
	if p.inline {
		in.Layout, full = ondisk.LayoutInline, p.size&^(blockSize-1)
	}
	record := ondisk.AppendXattrs(in.AppendTo(nil), n.Xattrs)
	if p.inline {
		record = append(record, content[full:]...)
		content = content[:full]
	}
	// What it does not take any more of its room is zeros again.
	if missing := d.old - int64(len(record)); missing > 0 {
		record = append(record, make([]byte, missing)...)
	}
	if err := u.disk.write(p.at, record); err != nil {
		return err
	}
	content = append(content, make([]byte, max(0, full-int64(len(content))))...)
	return u.disk.write(int64(p.start)*blockSize, content)
}

// writeFile writes the inode of a file, and a link's target.
func (u *update) writeFile(f *newFile) error {
	record := ondisk.AppendXattrs(f.in.AppendTo(nil), f.node.Xattrs)
	switch {
	case f.in.Layout == ondisk.LayoutChunked:
		for _, c := range f.chunks {
			record = binary.LittleEndian.AppendUint32(record, c)
		}
	case f.inline:
		record = append(record, f.node.Target...)
	case f.blocks > 0:
		if err := u.disk.write(int64(f.in.U)*blockSize, []byte(f.node.Target)); err != nil {
			return err
		}
	}
	return u.disk.write(f.place.at, record)
}
