package rafs6

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"slices"
	"strings"

	"github.com/lazuli-project/lazuli/disk"
	"github.com/lazuli-project/lazuli/disk/erofs/ondisk"
	"github.com/lazuli-project/lazuli/formats/nydus/nydusblob"
	"github.com/lazuli-project/lazuli/tree"
)

// maxDepth bounds how deep directories are nested: no path of Linux has more components.
const maxDepth = 2048

// Bootstrap is a parsed bootstrap. It may be used concurrently.
type Bootstrap struct {
	// Tree has extents that refer to Blobs by their place.
	Tree  *tree.Tree
	Blobs []nydusblob.Info
	Flags uint64
	// ChunkSize of the image in bytes.
	ChunkSize uint32
	// BlockSize is the unit of addresses in bytes: 4096, or 512 where blobs are tars.
	BlockSize uint32
	// Prefetch are the paths of the prefetch table, in its order, without slash at the front; "" is the root.
	Prefetch []string
	// Mountable says that Linux reads the bootstrap as EROFS in the same way.
	Mountable bool

	chunks []byte // chunk table
	refs   [][]chunkRef
}

// chunkRef is what a file says about a chunk.
type chunkRef struct {
	index, block, size uint32
}

// Parse decodes a bootstrap and checks all of it. Damage gives blob.ErrCorrupt, variants that cannot be read
// blob.ErrUnsupported. Memory is a small multiple of the bootstrap. p must not change afterwards.
func Parse(p []byte) (*Bootstrap, error) { return parse(p, nil) }

// parse fills numbers with the nids of the nodes, unless it is nil.
func parse(p []byte, numbers map[*tree.Node]uint64) (*Bootstrap, error) {
	s, err := decodeSuperblock(p)
	if err != nil {
		return nil, err
	}
	blobs, err := decodeBlobs(p, s)
	if err != nil {
		return nil, err
	}
	b := &Bootstrap{Blobs: blobs, Flags: s.flags, ChunkSize: s.chunkSize, BlockSize: 1 << s.blockBits, Mountable: true,
		refs: make([][]chunkRef, len(blobs))}
	// That of a tarfs image has one entry without meaning for each blob.
	if s.chunkTable.size > 0 && s.flags&FlagTarfs == 0 {
		b.chunks = s.chunkTable.of(p)
	}
	if err := b.checkChunks(); err != nil {
		return nil, err
	}
	t := &treeParser{b: b, p: p, block: 1 << s.blockBits, meta: uint64(s.metaBlock) << s.blockBits, seen: make([]uint64, len(p)/nidSize/64+1),
		linked: make(map[uint64]*tree.Node), budget: uint64(len(p)), numbers: numbers}
	if s.prefetch.off != 0 && s.prefetch.size > 0 {
		t.want(s.prefetch.of(p))
	}
	if b.Tree, err = t.parse(uint64(s.rootNid)); err != nil {
		return nil, err
	}
	b.Tree.CountLinks()
	// What the tree does not have is passed over; the table is a hint.
	for _, path := range t.found {
		if path != nil {
			b.Prefetch = append(b.Prefetch, *path)
		}
	}
	return b, nil
}

// treeParser walks the directories.
type treeParser struct {
	b      *Bootstrap
	p      []byte
	block  uint64 // size
	meta   uint64
	seen   []uint64              // bitmap of nids
	linked map[uint64]*tree.Node // those with several names
	// numbers are the nids of nodes, where they are asked for.
	numbers map[*tree.Node]uint64
	budget  uint64 // bytes of the bootstrap that inodes and their data may still take
	queue   []directory
	wanted  map[uint64]int // nids of the prefetch table and their places in it
	found   []*string      // their paths
}

// directory waits to be read.
type directory struct {
	node   *tree.Node
	in     ondisk.Inode
	at     uint64 // of the inode
	nid    uint64
	parent uint64 // nid
	from   int    // place of the parent in the queue
	name   string
	depth  int
}

func (t *treeParser) parse(root uint64) (*tree.Tree, error) {
	node, err := t.node("", root, root, -1)
	if err != nil {
		return nil, err
	}
	if !node.IsDir() {
		return nil, corrupt("the root is no directory")
	}
	t.note(root, 0, "")
	for i := 0; i < len(t.queue); i++ {
		if err := t.readDir(i); err != nil {
			return nil, fmt.Errorf("directory %q: %w", t.path(i), err)
		}
	}
	return &tree.Tree{Root: node}, nil
}

// path returns the path of a directory of the queue.
func (t *treeParser) path(i int) string {
	var parts []string
	for ; i > 0; i = t.queue[i].from {
		parts = append(parts, t.queue[i].name)
	}
	slices.Reverse(parts)
	return strings.Join(parts, "/")
}

// spend takes bytes of the bootstrap for an inode. No two inodes share bytes, so all of them together are bounded by
// the bootstrap's size; that keeps crafted ones from naming the same bytes again and again.
func (t *treeParser) spend(n uint64) error {
	if n > t.budget {
		return corrupt("inodes overlap")
	}
	t.budget -= n
	return nil
}

// node reads the inode with that nid, which a directory of the queue names. Directories are put into the queue.
func (t *treeParser) node(name string, nid, parent uint64, from int) (*tree.Node, error) {
	if nid == 0 || nid > maxNids || t.meta+nid*nidSize > uint64(len(t.p)) {
		return nil, corrupt("inode %d lies outside", nid)
	}
	// Places before the metadata area do not exist, so the bitmap is large enough.
	word, bit := &t.seen[nid/64], uint64(1)<<(nid%64)
	if *word&bit != 0 {
		node := t.linked[nid]
		if node == nil {
			return nil, corrupt("inode %d has more names than links", nid)
		}
		return node, nil
	}
	*word |= bit
	at := t.meta + nid*nidSize
	in, err := decodeInode(t.p[at:])
	if err != nil {
		return nil, err
	}
	if err := t.spend(uint64(in.Head())); err != nil {
		return nil, err
	}
	n := &tree.Node{Mode: uint32(in.Mode), UID: in.UID, GID: in.GID, Mtime: in.Mtime.Sec, MtimeNsec: in.Mtime.Nsec}
	if t.numbers != nil {
		t.numbers[n] = nid
	}
	if n.Xattrs, err = decodeXattrs(t.p[at+uint64(in.Len()):][:in.XattrLen]); err != nil {
		return nil, err
	}
	switch n.Type() {
	case tree.TypeDir:
		depth := 0
		if from >= 0 {
			depth = t.queue[from].depth + 1
		}
		if depth > maxDepth {
			return nil, corrupt("directories nested deeper than %d", maxDepth)
		}
		t.queue = append(t.queue, directory{node: n, in: in, at: at, nid: nid, parent: parent, from: from, name: name, depth: depth})
		return n, nil
	case tree.TypeRegular:
		n.Size = in.Size
		err = t.chunks(n, &in, at)
	case tree.TypeSymlink:
		err = t.target(n, &in, at)
	case tree.TypeChar, tree.TypeBlock:
		n.Rdev = ondisk.DecodeDevice(in.U)
		fallthrough
	case tree.TypeFIFO, tree.TypeSocket:
		if in.Layout != ondisk.LayoutPlain || in.Size != 0 {
			err = corrupt("special file with layout %d, size %d", in.Layout, in.Size)
		}
	default:
		err = corrupt("mode %#o", in.Mode)
	}
	if err != nil {
		return nil, err
	}
	if in.Links > 1 {
		t.linked[nid] = n
	}
	return n, nil
}

// data returns the content of a directory or link: whole blocks, and the rest, which may lie behind the inode.
func (t *treeParser) data(in *ondisk.Inode, at uint64) (blocks, rest []byte, err error) {
	size, all := uint64(len(t.p)), uint64(in.Size)
	if in.Layout == ondisk.LayoutChunked || all > size {
		return nil, nil, corrupt("content of %d bytes with layout %d", in.Size, in.Layout)
	}
	if err := t.spend(all); err != nil {
		return nil, nil, err
	}
	full := all
	if in.Layout == ondisk.LayoutInline {
		full = all &^ (t.block - 1)
		tail, n := at+uint64(in.Head()), all-full
		if n > size-tail {
			return nil, nil, corrupt("content beyond the end")
		}
		if n > 0 && at/t.block != (tail+n-1)/t.block {
			t.b.Mountable = false // Linux wants inode and rest in one block
		}
		rest = t.p[tail:][:n]
	}
	if full > 0 {
		first := uint64(in.U) * t.block
		if first > size || full > size-first {
			return nil, nil, corrupt("content beyond the end")
		}
		blocks = t.p[first:][:full]
	}
	return blocks, rest, nil
}

func (t *treeParser) target(n *tree.Node, in *ondisk.Inode, at uint64) error {
	if in.Size == 0 || in.Size > tree.MaxTarget {
		return corrupt("link target of %d bytes", in.Size)
	}
	blocks, rest, err := t.data(in, at)
	if err != nil {
		return err
	}
	n.Target = string(blocks) + string(rest)
	if strings.IndexByte(n.Target, 0) >= 0 {
		return corrupt("link target %q", n.Target)
	}
	return nil
}

// chunks reads the chunk indexes of a file, which are behind the inode at a multiple of 8:
// 0 u16 index | 2 u8 blob+1 | 3 u8 index bits 16-23 | 4 u32 plain offset in blocks
func (t *treeParser) chunks(n *tree.Node, in *ondisk.Inode, at uint64) error {
	if in.Layout != ondisk.LayoutChunked {
		return corrupt("file with layout %d", in.Layout)
	}
	if in.U&^uint32(ondisk.ChunkBits|ondisk.ChunkIndexes) != 0 || in.U&ondisk.ChunkIndexes == 0 {
		return corrupt("chunk format %#x", in.U)
	}
	unit, all := uint64(t.b.ChunkSize), uint64(in.Size)
	array := roundUp(at+uint64(in.Head()), ondisk.IndexSize)
	count := (all + unit - 1) / unit
	if array > uint64(len(t.p)) || count > (uint64(len(t.p))-array)/ondisk.IndexSize {
		return corrupt("chunk indexes beyond the end")
	}
	if err := t.spend(count * ondisk.IndexSize); err != nil {
		return err
	}
	le := binary.LittleEndian
	for i := range count {
		e := t.p[array+i*ondisk.IndexSize:][:ondisk.IndexSize]
		number := int(e[2]) - 1
		index := uint32(le.Uint16(e)) | uint32(e[3])<<16
		block := le.Uint32(e[4:])
		if number < 0 || number >= len(t.b.Blobs) {
			return corrupt("chunk in blob %d of %d", number, len(t.b.Blobs))
		}
		info := &t.b.Blobs[number]
		size := min(unit, all-i*unit)
		if off := uint64(block) * t.block; index >= info.ChunkCount || off+size > info.PlainSize {
			return corrupt("chunk %d with %d bytes at %d outside of blob %d", index, size, off, number)
		}
		t.b.refs[number] = append(t.b.refs[number], chunkRef{index, block, uint32(size)})
		n.AppendExtent(tree.Extent{Blob: uint32(number), Offset: int64(block) * int64(t.block), Length: int64(size)})
	}
	// Linux counts in chunks of the inode's own size, the reference reader in those of the image. Both see the
	// same when they agree, or when the inode's are larger than the file and the file lies in one piece.
	unitBits := in.U&ondisk.ChunkBits + uint32(bits.TrailingZeros64(t.block))
	if same := unitBits == uint32(bits.TrailingZeros32(t.b.ChunkSize)); !same && (all > 1<<unitBits || len(n.Extents) > 1) {
		return corrupt("chunk format %#x of a file of %d bytes in %d pieces", in.U, all, len(n.Extents))
	}
	return nil
}

// readDir reads the entries of a directory of the queue.
func (t *treeParser) readDir(i int) error {
	d := t.queue[i] // the queue grows meanwhile
	blocks, rest, err := t.data(&d.in, d.at)
	if err != nil {
		return err
	}
	var last string
	var self, up bool
	add := func(e ondisk.Dirent) error {
		if e.Name <= last {
			return corrupt("entry %q after %q", e.Name, last)
		}
		last = e.Name
		switch e.Name {
		case ".":
			self = e.Nid == d.nid
			return nil
		case "..":
			up = e.Nid == d.parent
			return nil
		}
		if err := tree.CheckName(e.Name); err != nil {
			return corrupt("%v", err)
		}
		t.note(e.Nid, i, e.Name)
		n, err := t.node(e.Name, e.Nid, d.nid, i)
		if err != nil {
			return fmt.Errorf("entry %q: %w", e.Name, err)
		}
		if e.Type != 0 && e.Type != disk.FileType(n.Mode) {
			return corrupt("entry %q: type %d of a node with mode %#o", e.Name, e.Type, n.Mode)
		}
		d.node.Entries = append(d.node.Entries, tree.Entry{Name: e.Name, Node: n})
		return nil
	}
	read := func(p []byte) error {
		for len(p) > 0 {
			n := min(int(t.block), len(p))
			if err := ondisk.DecodeDirents(p[:n], add); err != nil {
				return err
			}
			p = p[n:]
		}
		return nil
	}
	if err := read(blocks); err != nil {
		return err
	}
	if err := read(rest); err != nil {
		return err
	}
	if !self || !up {
		return corrupt(`"." or ".." is missing or wrong`)
	}
	return nil
}

// want takes up the prefetch table, which ends at the first 0.
func (t *treeParser) want(p []byte) {
	t.wanted = make(map[uint64]int)
	for ; len(p) > 0; p = p[4:] {
		nid := uint64(binary.LittleEndian.Uint32(p))
		if nid == 0 {
			break
		}
		if _, ok := t.wanted[nid]; !ok {
			t.wanted[nid] = len(t.wanted)
		}
	}
	t.found = make([]*string, len(t.wanted))
}

// note keeps the first path of a node that the prefetch table names.
func (t *treeParser) note(nid uint64, dir int, name string) {
	i, ok := t.wanted[nid]
	if !ok || t.found[i] != nil {
		return
	}
	path := name
	if dir > 0 {
		path = t.path(dir) + "/" + name
	}
	t.found[i] = &path
}

// IsBootstrap reports whether a file begins like a bootstrap of RAFS v6 or v5; head is its first 1028 bytes.
func IsBootstrap(head []byte) bool {
	le := binary.LittleEndian
	return len(head) >= superAt+4 && (le.Uint32(head[superAt:]) == magic || le.Uint32(head) == magicV5)
}

// IsTarfs reports whether a bootstrap is one of tars.
func IsTarfs(p []byte) bool {
	return IsBootstrap(p) && len(p) >= minSize && binary.LittleEndian.Uint64(p[extSuperAt:])&FlagTarfs != 0
}

// Compressor returns the codec that the image was made with; blobs may have others.
func (b *Bootstrap) Compressor() nydusblob.Compressor {
	for c, flag := range compressorFlags {
		if b.Flags&flag != 0 {
			return c
		}
	}
	return nydusblob.CompressorNone
}

// Digester returns the hash function that the image was made with; blobs may have others.
func (b *Bootstrap) Digester() nydusblob.Digester {
	if b.Flags&FlagSHA256 != 0 {
		return nydusblob.DigesterSHA256
	}
	return nydusblob.DigesterBlake3
}
