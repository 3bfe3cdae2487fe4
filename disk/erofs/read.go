package erofs

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strings"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/disk"
	"github.com/lazuli-project/lazuli/disk/erofs/ondisk"
	"github.com/lazuli-project/lazuli/tree"
)

// Limits to what a disk may make a reader do. Every structure but shared attributes and names belongs to one inode only.
const (
	maxNames   = 16 << 20
	maxIndexes = 16 << 20 // of chunks
	maxPath    = 4095
	maxShared  = 64 << 20 // bytes
)

// Read reads the tree of a file system of the given size in bytes, whose devices are dev alone. Extents of files are those of blob 0,
// which is dev. Reads are of 4 KiB, at multiples of it, and each is done once.
//
// Data that are not what the format allows give an error that wraps [blob.ErrCorrupt]; a feature that is missing here gives one that wraps
// [blob.ErrUnsupported] and names it: compression, more devices, long prefixes of attributes, 48-bit addresses.
func Read(dev io.ReaderAt, size int64) (*tree.Tree, error) {
	r, err := newReader(newPages(dev, size))
	if err != nil {
		return nil, err
	}
	return r.tree()
}

// reader walks the directories of a disk.
type reader struct {
	disk   *pages
	sb     superblock
	inodes map[int64]*tree.Node // by place; nil for a directory
	claims map[int64]*[2]uint64 // by page, what is taken, in units of an inode's place
	shared map[uint32]tree.Xattr
	// sharedLen is the size of those.
	sharedLen int64
	names     int
	indexes   int64
	queue     []directory
	// found is told where nodes are, if it is not nil.
	found func(n *tree.Node, at int64, in *ondisk.Inode)
}

// directory waits to be read.
type directory struct {
	node *tree.Node
	in   ondisk.Inode
	at   int64 // of the inode
	from int   // place of the parent in the queue
	name string
	path int // bytes
}

func newReader(d *pages) (*reader, error) {
	p, err := d.bytes(superAt, superSize)
	if err != nil {
		return nil, fmt.Errorf("superblock: %w", err)
	}
	r := &reader{disk: d, inodes: make(map[int64]*tree.Node), claims: make(map[int64]*[2]uint64), shared: make(map[uint32]tree.Xattr)}
	if r.sb, err = decodeSuperblock(p); err != nil {
		return nil, err
	}
	if r.sb.compat&compatChecksum != 0 {
		p, err := d.bytes(superAt, r.sb.checksumLen())
		if err != nil {
			return nil, fmt.Errorf("superblock: %w", err)
		}
		if sum := superChecksum(p); sum != le32(p[4:]) {
			return nil, corrupt("superblock: checksum %#x instead of %#x", sum, le32(p[4:]))
		}
	}
	return r, nil
}

func (r *reader) tree() (*tree.Tree, error) {
	root, err := r.node("", uint64(r.sb.rootNid), -1)
	if err != nil {
		return nil, fmt.Errorf("root: %w", err)
	}
	if !root.IsDir() {
		return nil, corrupt("the root is no directory")
	}
	for i := 0; i < len(r.queue); i++ {
		if err := r.readDir(i); err != nil {
			return nil, fmt.Errorf("directory %q: %w", r.path(i), err)
		}
	}
	t := &tree.Tree{Root: root}
	t.CountLinks()
	return t, nil
}

// path returns the path of a directory of the queue.
func (r *reader) path(i int) string {
	var parts []string
	for ; i > 0; i = r.queue[i].from {
		parts = append(parts, r.queue[i].name)
	}
	slices.Reverse(parts)
	return strings.Join(parts, "/")
}

// claim takes bytes of the disk for one inode. That keeps crafted disks from using the same bytes again and again.
func (r *reader) claim(at, n int64) error {
	if err := blob.CheckRange(at, n, r.disk.size); err != nil {
		return err
	}
	for unit, end := at/ondisk.NidSize, (at+n+ondisk.NidSize-1)/ondisk.NidSize; unit < end; unit++ {
		page := unit / (pageSize / ondisk.NidSize)
		c := r.claims[page]
		if c == nil {
			c = new([2]uint64)
			r.claims[page] = c
		}
		word, bit := unit/64%2, uint64(1)<<(unit%64)
		if c[word]&bit != 0 {
			return corrupt("metadata at %d is used twice", unit*ondisk.NidSize)
		}
		c[word] |= bit
	}
	return nil
}

// node reads the inode with that nid, which a directory of the queue names. Directories are put into the queue.
func (r *reader) node(name string, nid uint64, from int) (*tree.Node, error) {
	if nid > math.MaxInt64/ondisk.NidSize/2 {
		return nil, corrupt("inode %d lies outside", nid)
	}
	at := r.sb.meta() + int64(nid)*ondisk.NidSize
	if n, ok := r.inodes[at]; ok {
		if n == nil {
			return nil, corrupt("directory %d has two names", nid)
		}
		return n, nil
	}
	in, err := r.inode(at)
	if err != nil {
		return nil, fmt.Errorf("inode %d: %w", nid, err)
	}
	n := &tree.Node{Mode: uint32(in.Mode), UID: in.UID, GID: in.GID, Mtime: in.Mtime.Sec, MtimeNsec: in.Mtime.Nsec}
	if n.Xattrs, err = r.xattrs(at, &in); err != nil {
		return nil, fmt.Errorf("inode %d: %w", nid, err)
	}
	r.inodes[at] = n
	switch n.Type() {
	case tree.TypeDir:
		r.inodes[at] = nil
		d := directory{node: n, in: in, at: at, from: from, name: name, path: len(name)}
		if from >= 0 {
			d.path += 1 + r.queue[from].path
		}
		if d.path > maxPath {
			return nil, corrupt("path of more than %d bytes", maxPath)
		}
		r.queue = append(r.queue, d)
	case tree.TypeRegular:
		n.Size = in.Size
		err = r.content(n, at, &in)
	case tree.TypeSymlink:
		err = r.target(n, at, &in)
	case tree.TypeChar, tree.TypeBlock:
		n.Rdev = ondisk.DecodeDevice(in.U)
	case tree.TypeFIFO, tree.TypeSocket:
	default:
		err = corrupt("mode %#o", in.Mode)
	}
	if err != nil {
		return nil, fmt.Errorf("inode %d: %w", nid, err)
	}
	if r.found != nil {
		r.found(n, at, &in)
	}
	return n, nil
}

// inode reads the inode at a place.
func (r *reader) inode(at int64) (ondisk.Inode, error) {
	p, err := r.disk.bytes(at, ondisk.CompactSize)
	if err != nil {
		return ondisk.Inode{}, err
	}
	if n := ondisk.InodeLen(p[0]); n > ondisk.CompactSize {
		if p, err = r.disk.bytes(at, int64(n)); err != nil {
			return ondisk.Inode{}, err
		}
	}
	in, err := ondisk.DecodeInode(p, r.sb.epoch)
	if err != nil {
		return ondisk.Inode{}, err
	}
	return in, r.claim(at, in.Head())
}

// xattrs reads the attributes of an inode.
func (r *reader) xattrs(at int64, in *ondisk.Inode) ([]tree.Xattr, error) {
	p, err := r.disk.bytes(at+int64(in.Len()), int64(in.XattrLen))
	if err != nil {
		return nil, err
	}
	return ondisk.DecodeXattrs(p, r.sharedXattr)
}

// sharedXattr reads a shared attribute.
func (r *reader) sharedXattr(number uint32) (tree.Xattr, error) {
	if x, ok := r.shared[number]; ok {
		return x, nil
	}
	at := int64(r.sb.xattrBlock)<<r.sb.blockBits + 4*int64(number)
	p, err := r.disk.bytes(at, ondisk.XattrEntry)
	if err != nil {
		return tree.Xattr{}, fmt.Errorf("shared attribute %d: %w", number, err)
	}
	size := int64(ondisk.XattrSize(p))
	if r.sharedLen += size; r.sharedLen > maxShared {
		return tree.Xattr{}, corrupt("shared attributes of more than %d bytes", maxShared)
	}
	if p, err = r.disk.bytes(at, size); err != nil {
		return tree.Xattr{}, fmt.Errorf("shared attribute %d: %w", number, err)
	}
	x, err := ondisk.DecodeXattr(p)
	if err != nil {
		return tree.Xattr{}, fmt.Errorf("shared attribute %d: %w", number, err)
	}
	r.shared[number] = x
	return x, nil
}

// tail returns where the last bytes of an inode's content are, in the layout that has them behind the inode, and how many; the others
// are whole blocks.
func (r *reader) tail(at int64, in *ondisk.Inode) (tail, n int64, err error) {
	if in.Layout != ondisk.LayoutInline {
		return 0, 0, nil
	}
	n, tail = in.Size%r.sb.block(), at+in.Head()
	if n == 0 {
		return 0, 0, nil
	}
	// Linux wants them in the block where they begin, and the inode as well.
	if tail%r.sb.block()+n > r.sb.block() {
		return 0, 0, corrupt("inline content beyond the end of its block")
	}
	return tail, n, r.claim(roundUp(tail, ondisk.NidSize), max(0, n-(roundUp(tail, ondisk.NidSize)-tail)))
}

// whole returns where the whole blocks of content are.
func (r *reader) whole(in *ondisk.Inode, n int64) (int64, error) {
	at := int64(in.U) << r.sb.blockBits
	return at, blob.CheckRange(at, n, r.disk.size)
}

// target reads the target of a symbolic link.
func (r *reader) target(n *tree.Node, at int64, in *ondisk.Inode) error {
	if in.Size == 0 || in.Size > tree.MaxTarget || in.Layout == ondisk.LayoutChunked {
		return corrupt("link target of %d bytes with layout %d", in.Size, in.Layout)
	}
	tail, rest, err := r.tail(at, in)
	if err != nil {
		return err
	}
	var text []byte
	if full := in.Size - rest; full > 0 {
		from, err := r.whole(in, full)
		if err != nil {
			return err
		}
		if err := r.claim(from, full); err != nil {
			return err
		}
		p, err := r.disk.bytes(from, full)
		if err != nil {
			return err
		}
		text = append(text, p...)
	}
	p, err := r.disk.bytes(tail, rest)
	if err != nil {
		return err
	}
	n.Target = string(append(text, p...))
	if strings.IndexByte(n.Target, 0) >= 0 {
		return corrupt("link target %q", n.Target)
	}
	return nil
}

// content finds the extents of a regular file.
func (r *reader) content(n *tree.Node, at int64, in *ondisk.Inode) error {
	if in.Size == 0 {
		return nil
	}
	if in.Layout == ondisk.LayoutChunked {
		return r.chunks(n, at, in)
	}
	if in.Layout == ondisk.LayoutPlain && in.U == ondisk.NullBlock {
		n.AppendExtent(tree.Extent{Blob: tree.Hole, Length: in.Size})
		return nil
	}
	tail, rest, err := r.tail(at, in)
	if err != nil {
		return err
	}
	if full := in.Size - rest; full > 0 {
		from, err := r.whole(in, full)
		if err != nil {
			return err
		}
		n.AppendExtent(tree.Extent{Offset: from, Length: full})
	}
	if rest > 0 {
		n.AppendExtent(tree.Extent{Offset: tail, Length: rest})
	}
	return nil
}

// chunks reads the addresses of chunks, which are behind the inode at a multiple of their size: u32 block, or an index of 8 bytes:
// 0 u16 0 | 2 u16 device | 4 u32 block. The address 2^32-1 is that of a hole.
func (r *reader) chunks(n *tree.Node, at int64, in *ondisk.Inode) error {
	if in.U&^uint32(ondisk.ChunkBits|ondisk.ChunkIndexes) != 0 {
		return unsupported(fmt.Sprintf("chunk format %#x", in.U))
	}
	unit := int64(ondisk.AddressSize)
	if in.U&ondisk.ChunkIndexes != 0 {
		unit = ondisk.IndexSize
	}
	bits := uint(in.U&ondisk.ChunkBits) + uint(r.sb.blockBits)
	count := (in.Size-1)>>bits + 1
	array := roundUp(at+in.Head(), unit)
	if count > (r.disk.size-min(array, r.disk.size))/unit {
		return corrupt("%d chunks beyond the end", count)
	}
	if r.indexes += count; r.indexes > maxIndexes {
		return corrupt("more than %d chunks", maxIndexes)
	}
	from := roundUp(at+in.Head(), ondisk.NidSize)
	if err := r.claim(from, max(0, array+count*unit-from)); err != nil {
		return err
	}
	for i := range count {
		p, err := r.disk.bytes(array+i*unit, unit)
		if err != nil {
			return err
		}
		if unit == ondisk.IndexSize && le16(p[2:]) != 0 {
			return corrupt("chunk of device %d", le16(p[2:]))
		}
		length := min(int64(1)<<bits, in.Size-i<<bits)
		block := le32(p[unit-4:])
		if block == ondisk.NullBlock {
			n.AppendExtent(tree.Extent{Blob: tree.Hole, Length: length})
			continue
		}
		off := int64(block) << r.sb.blockBits
		if err := blob.CheckRange(off, length, r.disk.size); err != nil {
			return err
		}
		n.AppendExtent(tree.Extent{Offset: off, Length: length})
	}
	return nil
}

// readDir reads the entries of a directory of the queue.
func (r *reader) readDir(i int) error {
	d := r.queue[i] // the queue grows meanwhile
	if d.in.Layout == ondisk.LayoutChunked {
		return corrupt("directory of chunks")
	}
	tail, rest, err := r.tail(d.at, &d.in)
	if err != nil {
		return err
	}
	full := d.in.Size - rest
	if full > 0 {
		from, err := r.whole(&d.in, full)
		if err != nil {
			return err
		}
		for ; full > 0; full -= r.sb.block() {
			n := min(full, r.sb.block())
			if err := r.claim(from, n); err != nil {
				return err
			}
			if err := r.entries(i, from, n); err != nil {
				return err
			}
			from += n
		}
	}
	if rest > 0 {
		return r.entries(i, tail, rest)
	}
	return nil
}

// entries reads a block of a directory.
func (r *reader) entries(i int, at, n int64) error {
	p, err := r.disk.bytes(at, n)
	if err != nil {
		return err
	}
	d := r.queue[i]
	return ondisk.DecodeDirents(p, func(e ondisk.Dirent) error {
		switch e.Name {
		case ".":
			if r.sb.meta()+int64(e.Nid)*ondisk.NidSize != d.at {
				return corrupt("%q is inode %d", e.Name, e.Nid)
			}
			return nil
		case "..":
			return nil // builders that move a directory leave it behind in what is below
		}
		if err := tree.CheckName(e.Name); err != nil {
			return corrupt("%v", err)
		}
		if k := len(d.node.Entries); k > 0 && e.Name <= d.node.Entries[k-1].Name {
			return corrupt("entry %q after %q", e.Name, d.node.Entries[k-1].Name)
		}
		if r.names++; r.names > maxNames {
			return corrupt("more than %d names", maxNames)
		}
		child, err := r.node(e.Name, e.Nid, i)
		if err != nil {
			return fmt.Errorf("entry %q: %w", e.Name, err)
		}
		if e.Type != 0 && e.Type != disk.FileType(child.Mode) {
			return corrupt("entry %q: type %d of a node with mode %#o", e.Name, e.Type, child.Mode)
		}
		d.node.Entries = append(d.node.Entries, tree.Entry{Name: e.Name, Node: child})
		return nil
	})
}
