package erofs

import (
	"fmt"
	"hash/maphash"
	"io"
	"maps"
	"math"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/disk"
	"github.com/lazuli-project/lazuli/disk/erofs/ondisk"
	"github.com/lazuli-project/lazuli/tarfs"
	"github.com/lazuli-project/lazuli/tree"
)

// Units and places of disks that layers are applied to.
const (
	blockBits = 12
	blockSize = 1 << blockBits
	// rootAt is where Create puts the root's inode, and firstBlock the first block behind all that this may grow to.
	rootAt     = superAt + superSize
	firstBlock = (rootAt + ondisk.ExtendedSize + ondisk.MaxXattrs + blockSize - 1) / blockSize
)

// Options says what file system [Create] makes.
type Options struct {
	// Size of the disk in bytes: a multiple of 4096, at least 1 MiB and at most 16 TiB less one block.
	Size int64
	// UUID may be zeros.
	UUID [16]byte
}

// FS is an EROFS on a virtual disk; see [disk.FileSystem]. It takes some 200 bytes of memory for each file, beside its tree.
type FS struct {
	root  *tree.Tree
	disk  *pages
	sb    superblock
	fresh bool // nothing is on the disk
	// rootRoom is how many bytes the root's inode may take with what is behind it.
	rootRoom int64
	filesAt  map[*tree.Node]*filePlace
	dirsAt   map[*tree.Node]*dirPlace
	round    uint32 // counts layers
	seed     maphash.Seed
	err      error // of the Apply that failed
}

var _ disk.FileSystem = (*FS)(nil)

// filePlace is where the inode of anything but a directory is. Of these, only the number of links ever changes.
type filePlace struct {
	at      int64
	links   uint32
	compact bool
	round   uint32 // in which it was last found in the tree
}

// dirPlace is where a directory is.
type dirPlace struct {
	at     int64
	room   int64 // of the inode with what is behind it
	size   int64 // of the content
	start  uint32
	inline bool
	round  uint32
	// state is a digest of all that the inode and the content say.
	state uint64
}

// blocks returns how many blocks of its own the directory has.
func (p *dirPlace) blocks() int64 {
	if p.inline {
		return p.size / blockSize
	}
	return roundUp(p.size, blockSize) / blockSize
}

// Create begins an empty file system. The first layer makes what is on its disk, which begins as zeros.
func Create(opt Options) (*FS, error) {
	if opt.Size < 1<<20 || opt.Size%blockSize != 0 || opt.Size/blockSize > maxBlocks {
		return nil, fmt.Errorf("EROFS disk of %d bytes: %w", opt.Size, blob.ErrUnsupported)
	}
	f := newFS(newPages(nil, opt.Size))
	f.root, f.fresh = tree.New(), true
	f.sb = superblock{blockBits: blockBits, rootNid: rootAt / ondisk.NidSize, blocks: firstBlock, uuid: opt.UUID}
	f.rootRoom = firstBlock*blockSize - rootAt
	return f, nil
}

func newFS(d *pages) *FS {
	return &FS{disk: d, filesAt: make(map[*tree.Node]*filePlace), dirsAt: make(map[*tree.Node]*dirPlace), seed: maphash.MakeSeed()}
}

// Open takes up a file system of size bytes, made by [FS] or by another builder, to apply more layers to it. It reads as [Read] does, with
// the same errors; a file system that can be read but not extended gives one that wraps [blob.ErrUnsupported], too: one whose blocks do not have
// 4096 bytes. dev is read by Apply, too.
func Open(dev io.ReaderAt, size int64) (*FS, error) {
	r, err := newReader(newPages(dev, size))
	if err != nil {
		return nil, err
	}
	if r.sb.blockBits != blockBits {
		return nil, unsupported(fmt.Sprintf("adding to an EROFS with blocks of %d bytes", r.sb.block()))
	}
	o := &opening{f: newFS(r.disk), rootAt: r.sb.meta() + int64(r.sb.rootNid)*ondisk.NidSize, first: firstBlock * blockSize, end: firstBlock * blockSize}
	r.found = o.found
	f := o.f
	if f.root, err = r.tree(); err != nil {
		return nil, err
	}
	f.sb = r.sb
	f.rootRoom = o.first - o.rootAt
	f.sb.blocks = max(f.sb.blocks, uint32(min(roundUp(o.end, blockSize)/blockSize, maxBlocks)))
	for n, p := range f.dirsAt {
		p.state = f.state(n)
	}
	return f, nil
}

// opening takes up what a reader finds.
type opening struct {
	f      *FS
	rootAt int64
	first  int64 // the first byte behind the root's inode that something else has, at most firstBlock's
	end    int64 // of all that is used
}

func (o *opening) use(at, n int64) {
	if at > o.rootAt {
		o.first = min(o.first, at)
	}
	o.end = max(o.end, at+n)
}

func (o *opening) found(n *tree.Node, at int64, in *ondisk.Inode) {
	p := dirPlace{at: at, room: roundUp(in.Head(), ondisk.NidSize), size: in.Size, start: in.U, inline: in.Layout == ondisk.LayoutInline}
	if p.inline {
		p.room = roundUp(in.Head()+in.Size%blockSize, ondisk.NidSize)
	}
	o.use(at, p.room)
	for _, x := range n.Extents {
		if x.Blob != tree.Hole {
			o.use(x.Offset, x.Length)
		}
	}
	if (n.IsDir() || n.IsSymlink()) && p.blocks() > 0 {
		o.use(int64(p.start)*blockSize, p.blocks()*blockSize)
	}
	if n.IsDir() {
		o.f.dirsAt[n] = &p
	} else {
		o.f.filesAt[n] = &filePlace{at: at, links: in.Links, compact: in.Compact}
	}
}

// Size implements [disk.FileSystem].
func (f *FS) Size() int64 { return f.disk.size }

// Apply implements [disk.FileSystem]. Content is placed in the order of blobs and of offsets in them, each file's from a block on. What is
// not written stays as it was, which is zeros, so there are no extents of [disk.Zero].
//
// A layer with what EROFS cannot say gives an error that wraps [blob.ErrUnsupported] and names the path: content that does not lie at
// multiples of 512 bytes, attributes with unknown prefixes, device numbers of more than 12 and 20 bits.
func (f *FS) Apply(layer *tree.Tree) (*disk.Change, error) {
	if f.err != nil {
		return nil, fmt.Errorf("file system after an error: %w", f.err)
	}
	var c *disk.Change
	c, f.err = f.apply(layer)
	return c, f.err
}

func (f *FS) apply(layer *tree.Tree) (*disk.Change, error) {
	if err := tarfs.Overlay(f.root, layer); err != nil {
		return nil, err
	}
	f.root.CountLinks()
	if f.fresh {
		f.sb.epoch = commonTime(f.root)
	}
	f.round++
	u := &update{FS: f, next: int64(f.sb.blocks)}
	if err := u.collectDir(f.root.Root, -1); err != nil {
		return nil, err
	}
	if err := u.place(); err != nil {
		return nil, err
	}
	f.forget()
	if err := u.write(); err != nil {
		return nil, err
	}
	return &disk.Change{Blocks: f.disk.changed(), Data: u.data}, nil
}

// forget removes the places of nodes that the tree does not have any more.
func (f *FS) forget() {
	maps.DeleteFunc(f.dirsAt, func(_ *tree.Node, p *dirPlace) bool { return p.round != f.round })
	maps.DeleteFunc(f.filesAt, func(_ *tree.Node, p *filePlace) bool { return p.round != f.round })
}

// nid returns the number of a node that has its place.
func (f *FS) nid(n *tree.Node) uint64 {
	var at int64
	if n.IsDir() {
		at = f.dirsAt[n].at
	} else {
		at = f.filesAt[n].at
	}
	return uint64(at-f.sb.meta()) / ondisk.NidSize
}

// state returns a digest of a directory, whose entries have their places. What ".." is has no part in it: Linux does not
// read that, and where a directory moves, those below it stay as they are.
func (f *FS) state(n *tree.Node) uint64 {
	var h maphash.Hash
	h.SetSeed(f.seed)
	number := func(v uint64) {
		var p [8]byte
		for i := range p {
			p[i] = byte(v >> (8 * i))
		}
		_, _ = h.Write(p[:])
	}
	text := func(s string) {
		number(uint64(len(s)))
		_, _ = h.WriteString(s)
	}
	number(uint64(n.Mode)<<32 | uint64(n.Nlink))
	number(uint64(n.UID)<<32 | uint64(n.GID))
	number(uint64(n.Mtime))
	number(uint64(n.MtimeNsec)<<32 | uint64(len(n.Xattrs)))
	for _, x := range n.Xattrs {
		text(x.Name)
		text(string(x.Value))
	}
	for _, e := range n.Entries {
		text(e.Name)
		number(f.nid(e.Node)<<8 | uint64(disk.FileType(e.Node.Mode)))
	}
	return h.Sum64()
}

// commonTime returns the time that most nodes have that are no directories, the earliest of several: their inodes can be compact.
func commonTime(t *tree.Tree) ondisk.Stamp {
	counts := make(map[ondisk.Stamp]int)
	_ = t.Nodes(func(n *tree.Node) error {
		if !n.IsDir() && n.Mtime >= 0 {
			counts[ondisk.Stamp{Sec: n.Mtime, Nsec: n.MtimeNsec}]++
		}
		return nil
	})
	best, most := ondisk.Stamp{}, 0
	for s, count := range counts {
		earlier := s.Sec < best.Sec || s.Sec == best.Sec && s.Nsec < best.Nsec
		if count > most || count == most && earlier {
			best, most = s, count
		}
	}
	return best
}

// newInode returns a node's inode without what its content needs. It is compact if that can say everything and the node is no
// directory: one of these changes, and must have room for it. Its number is 0, as most of what is written compresses better then.
func newInode(n *tree.Node, epoch ondisk.Stamp) ondisk.Inode {
	in := ondisk.Inode{Mode: uint16(n.Mode), Links: n.Nlink, UID: n.UID, GID: n.GID, Mtime: ondisk.Stamp{Sec: n.Mtime, Nsec: n.MtimeNsec}}
	in.Compact = !n.IsDir() && in.Mtime == epoch && n.Nlink <= math.MaxUint16 && n.UID <= math.MaxUint16 && n.GID <= math.MaxUint16 && n.Size <= math.MaxUint32
	return in
}

// check says what of a node's attributes EROFS cannot say, and returns the size of the extended ones.
func check(n *tree.Node) (xattrs int, err error) {
	if xattrs, err = ondisk.XattrLen(n.Xattrs); err != nil {
		return 0, err
	}
	if n.MtimeNsec >= 1e9 {
		return 0, unsupported(fmt.Sprintf("time with %d ns", n.MtimeNsec))
	}
	switch n.Type() {
	case tree.TypeRegular:
		if n.Size > ondisk.MaxFileSize {
			return 0, unsupported(fmt.Sprintf("file of %d bytes", n.Size))
		}
	case tree.TypeSymlink:
		if n.Target == "" || len(n.Target) > tree.MaxTarget {
			return 0, unsupported(fmt.Sprintf("link target of %d bytes", len(n.Target)))
		}
	case tree.TypeChar, tree.TypeBlock:
		if _, ok := ondisk.EncodeDevice(n.Rdev); !ok {
			return 0, unsupported(fmt.Sprintf("device %d:%d", n.Rdev.Major, n.Rdev.Minor))
		}
	case tree.TypeDir, tree.TypeFIFO, tree.TypeSocket:
	default:
		return 0, unsupported(fmt.Sprintf("mode %#o", n.Mode))
	}
	return xattrs, nil
}

// linksFit reports whether an inode can have a number of links.
func (p *filePlace) linksFit(links uint32) bool { return !p.compact || links <= math.MaxUint16 }
