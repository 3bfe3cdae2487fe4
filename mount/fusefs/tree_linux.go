package fusefs

import (
	"context"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/fetch"
	"github.com/lazuli-project/lazuli/tree"
)

// forever is how long the kernel may keep what it has been told.
const forever = 365 * 24 * time.Hour

// blockSize is what stat tells.
const blockSize = 4096

// fileSystem answers requests. Node i of nodes has node id and inode number i+1; the root is the first.
type fileSystem struct {
	fuse.RawFileSystem // answers ENOSYS to what is not here
	image              *fetch.Image
	nodes              []*tree.Node
	parents            []uint64 // node ids of directories' parents, by node
	ids                map[*tree.Node]uint64
	xattrs, acls       bool // whether any node has some
	content            int64
	onError            func(path string, off int64, err error)
	ctx                context.Context //nolint:containedctx // of all reads: the mount's life
}

func newFileSystem(ctx context.Context, im *fetch.Image, onError func(string, int64, error)) *fileSystem {
	fs := &fileSystem{ctx: ctx, RawFileSystem: fuse.NewDefaultRawFileSystem(), image: im, ids: make(map[*tree.Node]uint64), onError: onError}
	fs.add(im.Tree.Root, 1)
	return fs
}

// add numbers a node and all that is below it.
func (fs *fileSystem) add(n *tree.Node, parent uint64) {
	if fs.ids[n] != 0 {
		return
	}
	fs.nodes = append(fs.nodes, n)
	fs.parents = append(fs.parents, parent)
	id := uint64(len(fs.nodes))
	fs.ids[n] = id
	fs.content += n.Size
	for _, x := range n.Xattrs {
		fs.xattrs = true
		fs.acls = fs.acls || x.Name == "system.posix_acl_access" || x.Name == "system.posix_acl_default"
	}
	for _, e := range n.Entries {
		fs.add(e.Node, id)
	}
}

// String implements [fuse.RawFileSystem].
func (fs *fileSystem) String() string { return "lazuli" }

// node returns the node with that id, or nil.
func (fs *fileSystem) node(id uint64) *tree.Node {
	if id == 0 || id > uint64(len(fs.nodes)) {
		return nil
	}
	return fs.nodes[id-1]
}

func (fs *fileSystem) attr(id uint64, n *tree.Node, out *fuse.Attr) {
	*out = fuse.Attr{
		Ino: id, Mode: n.Mode, Nlink: max(n.Nlink, 1), Owner: fuse.Owner{Uid: n.UID, Gid: n.GID}, Blksize: blockSize,
		// Seconds before 1970 are negative in two's complement.
		Mtime: uint64(n.Mtime), Mtimensec: n.MtimeNsec,
	}
	out.Atime, out.Atimensec, out.Ctime, out.Ctimensec = out.Mtime, out.Mtimensec, out.Mtime, out.Mtimensec
	switch n.Type() {
	case tree.TypeRegular:
		out.Size = uint64(n.Size)
	case tree.TypeSymlink:
		out.Size = uint64(len(n.Target))
	case tree.TypeDir:
		out.Size = blockSize
	case tree.TypeChar, tree.TypeBlock:
		out.Rdev = uint32(unix.Mkdev(n.Rdev.Major, n.Rdev.Minor))
	}
	out.Blocks = (out.Size + 511) / 512
}

func (fs *fileSystem) entry(n *tree.Node, out *fuse.EntryOut) {
	id := fs.ids[n]
	out.NodeId = id
	out.SetEntryTimeout(forever)
	out.SetAttrTimeout(forever)
	fs.attr(id, n, &out.Attr)
}

// Lookup implements [fuse.RawFileSystem]. Names that are not there are remembered by the kernel, too: node id 0.
func (fs *fileSystem) Lookup(_ <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	n := fs.node(h.NodeId)
	if n == nil {
		return fuse.ENOENT
	}
	child := n.Child(name)
	if child == nil {
		out.SetEntryTimeout(forever)
		return fuse.OK
	}
	fs.entry(child, out)
	return fuse.OK
}

// Forget implements [fuse.RawFileSystem].
func (fs *fileSystem) Forget(uint64, uint64) {}

// GetAttr implements [fuse.RawFileSystem].
func (fs *fileSystem) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	n := fs.node(in.NodeId)
	if n == nil {
		return fuse.ENOENT
	}
	out.SetTimeout(forever)
	fs.attr(in.NodeId, n, &out.Attr)
	return fuse.OK
}

// Readlink implements [fuse.RawFileSystem].
func (fs *fileSystem) Readlink(_ <-chan struct{}, h *fuse.InHeader) ([]byte, fuse.Status) {
	n := fs.node(h.NodeId)
	if n == nil || !n.IsSymlink() {
		return nil, fuse.EINVAL
	}
	return []byte(n.Target), fuse.OK
}

// GetXAttr implements [fuse.RawFileSystem].
func (fs *fileSystem) GetXAttr(_ <-chan struct{}, h *fuse.InHeader, name string, dest []byte) (uint32, fuse.Status) {
	n := fs.node(h.NodeId)
	if n == nil {
		return 0, fuse.ENOENT
	}
	v, ok := n.Xattr(name)
	if !ok {
		return 0, fuse.ENOATTR
	}
	if len(v) > len(dest) {
		return uint32(len(v)), fuse.ERANGE
	}
	return uint32(copy(dest, v)), fuse.OK
}

// ListXAttr implements [fuse.RawFileSystem].
func (fs *fileSystem) ListXAttr(_ <-chan struct{}, h *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	n := fs.node(h.NodeId)
	if n == nil {
		return 0, fuse.ENOENT
	}
	size := 0
	for _, x := range n.Xattrs {
		size += len(x.Name) + 1
	}
	if size > len(dest) {
		return uint32(size), fuse.ERANGE
	}
	at := 0
	for _, x := range n.Xattrs {
		at += copy(dest[at:], x.Name)
		dest[at] = 0
		at++
	}
	return uint32(at), fuse.OK
}

// Open implements [fuse.RawFileSystem]. ENOSYS tells the kernel that there is nothing to open: it keeps pages and does
// not ask again, nor tell of closing.
func (fs *fileSystem) Open(_ <-chan struct{}, in *fuse.OpenIn, _ *fuse.OpenOut) fuse.Status {
	if in.Flags&syscall.O_ACCMODE != syscall.O_RDONLY {
		return fuse.EROFS
	}
	return fuse.ENOSYS
}

// OpenDir implements [fuse.RawFileSystem]; see Open.
func (fs *fileSystem) OpenDir(_ <-chan struct{}, _ *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	out.OpenFlags = fuse.FOPEN_KEEP_CACHE | fuse.FOPEN_CACHE_DIR
	return fuse.OK
}

// Read implements [fuse.RawFileSystem]. A signal to the reader, of whatever kind, does not end it: a read that gave up would be an I/O
// error to a program that expects none.
func (fs *fileSystem) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	n := fs.node(in.NodeId)
	if n == nil || !n.IsRegular() {
		return nil, fuse.EINVAL
	}
	k, err := fs.image.ReadAt(fs.ctx, n, buf, int64(in.Offset), blob.Demand)
	if err == nil {
		return fuse.ReadResultData(buf[:k]), fuse.OK
	}
	if fs.onError != nil {
		fs.onError(fs.path(in.NodeId), int64(in.Offset), err)
	}
	return nil, fuse.EIO
}

// path returns a path of the node, for messages.
func (fs *fileSystem) path(id uint64) string {
	path := ""
	for id > 1 {
		n, parent := fs.nodes[id-1], fs.parents[id-1]
		for _, e := range fs.nodes[parent-1].Entries {
			if e.Node == n {
				path = "/" + e.Name + path
				break
			}
		}
		id = parent
	}
	return path
}

// ReadDir implements [fuse.RawFileSystem]. The offset of an entry is the number of entries before it, with "." and ".." first.
func (fs *fileSystem) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return fs.list(in, func(e fuse.DirEntry, _ *tree.Node) bool { return out.AddDirEntry(e) })
}

// ReadDirPlus implements [fuse.RawFileSystem].
func (fs *fileSystem) ReadDirPlus(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return fs.list(in, func(e fuse.DirEntry, n *tree.Node) bool {
		o := out.AddDirLookupEntry(e)
		if o != nil && n != nil {
			fs.entry(n, o)
		}
		return o != nil
	})
}

// list calls add for the entries from the offset on, until it returns false. The node is nil for "." and "..".
func (fs *fileSystem) list(in *fuse.ReadIn, add func(fuse.DirEntry, *tree.Node) bool) fuse.Status {
	n := fs.node(in.NodeId)
	if n == nil || !n.IsDir() {
		return fuse.ENOTDIR
	}
	at := in.Offset
	for ; at < 2; at++ {
		e := fuse.DirEntry{Name: ".", Mode: tree.TypeDir, Ino: in.NodeId, Off: at + 1}
		if at == 1 {
			e.Name, e.Ino = "..", fs.parents[in.NodeId-1]
		}
		if !add(e, nil) {
			return fuse.OK
		}
	}
	for ; at-2 < uint64(len(n.Entries)); at++ {
		e := n.Entries[at-2]
		if !add(fuse.DirEntry{Name: e.Name, Mode: e.Node.Mode, Ino: fs.ids[e.Node], Off: at + 1}, e.Node) {
			return fuse.OK
		}
	}
	return fuse.OK
}

// StatFs implements [fuse.RawFileSystem].
func (fs *fileSystem) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	out.Blocks = uint64(fs.content+blockSize-1) / blockSize
	out.Bsize, out.Frsize = blockSize, blockSize
	out.Files = uint64(len(fs.nodes))
	out.NameLen = tree.MaxName
	return fuse.OK
}
