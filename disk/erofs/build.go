package erofs

import (
	"fmt"
	"math/bits"
	"strings"

	"github.com/lazuli-project/lazuli/disk/erofs/ondisk"
	"github.com/lazuli-project/lazuli/tree"
)

const (
	// maxDevices is how many devices an inode's chunks can name.
	maxDevices = 1<<16 - 2
	slotsAt    = superAt + superSize
	// maxImage bounds a metadata image in bytes.
	maxImage = 1 << 31
)

// Build makes the metadata of a tree whose links are counted and whose content lies in blobs, to be mounted with a device for each: device
// number i+1 is the plain space of blob i, which has blobSizes[i] bytes. Blocks have 4096 bytes if that is how content lies and blobs end,
// otherwise 512, which Linux 6.4 and newer mount. Equal trees give equal images.
//
// Linux reads whole blocks, and fails to where a device ends inside of one. So the device of a blob whose size is no multiple of 512 must
// have some bytes more, zeros for instance, where a file ends with the blob: up to that multiple, which the device slots have too.
//
// Content that does not lie at multiples of 512 bytes, and other things that EROFS cannot say, give an error that wraps [blob.ErrUnsupported]
// and names the path: such a tree has to be mounted in another way.
func Build(t *tree.Tree, blobSizes []int64) ([]byte, error) {
	if len(blobSizes) > maxDevices {
		return nil, unsupported(fmt.Sprintf("EROFS with %d devices", len(blobSizes)))
	}
	b := &builder{blobs: blobSizes, bits: 12, places: make(map[*tree.Node]int), epoch: commonTime(t)}
	if err := b.collect(t.Root, -1); err != nil {
		return nil, fmt.Errorf("%q: %w", strings.Join(b.path, "/"), err)
	}
	b.block = 1 << b.bits
	if err := b.layOut(); err != nil {
		return nil, err
	}
	return b.encode()
}

// builder makes an image of a tree with devices.
type builder struct {
	blobs  []int64
	bits   int // log2 of block
	block  int64
	nodes  []builtNode
	places map[*tree.Node]int // in nodes
	epoch  ondisk.Stamp
	meta   int64 // of the metadata area
	end    int64 // of what has its place
	path   []string
}

// builtNode is an inode of the image.
type builtNode struct {
	node   *tree.Node
	parent int // of a directory, in nodes; -1 of the root
	in     ondisk.Inode
	at     int64
	// blocks is how many bytes of content are in blocks of their own; the rest is behind the inode.
	blocks int64
	// chunkBits is log2 of the size of a file's chunks.
	chunkBits int
}

// collect notes a node and what is below it: a directory, its files, then the directories in it.
func (b *builder) collect(n *tree.Node, parent int) error {
	xattrs, err := check(n)
	if err != nil {
		return err
	}
	if n.IsRegular() {
		if err := b.checkContent(n); err != nil {
			return err
		}
	}
	at := len(b.nodes)
	in := newInode(n, b.epoch)
	in.XattrLen = xattrs
	b.nodes = append(b.nodes, builtNode{node: n, parent: parent, in: in})
	b.places[n] = at
	for _, dirs := range [...]bool{false, true} {
		for _, e := range n.Entries {
			if _, ok := b.places[e.Node]; ok || e.Node.IsDir() != dirs {
				continue
			}
			b.path = append(b.path, e.Name)
			if err := b.collect(e.Node, at); err != nil {
				return err
			}
			b.path = b.path[:len(b.path)-1]
		}
	}
	return nil
}

// checkContent checks the extents of a file, and makes blocks small where they ask for that.
func (b *builder) checkContent(n *tree.Node) error {
	var off int64
	for _, x := range n.Extents {
		if x.Length <= 0 || x.Length > n.Size-off {
			return fmt.Errorf("%w: extent of %d bytes at %d of %d", errTree, x.Length, off, n.Size)
		}
		if x.Blob != tree.Hole {
			if int64(x.Blob) >= int64(len(b.blobs)) || x.Offset < 0 || x.Offset > b.blobs[x.Blob]-x.Length {
				return fmt.Errorf("%w: extent %+v lies outside the blobs", errTree, x)
			}
			if roundUp(x.Offset+x.Length, pageSize) > b.blobs[x.Blob] {
				b.bits = minBlockBits
			}
		}
		off += x.Length
	}
	if off != n.Size {
		return fmt.Errorf("%w: extents of %d bytes in a file of %d", errTree, off, n.Size)
	}
	edges := forRuns(n, func(int64) {})
	switch {
	case edges&(1<<minBlockBits-1) != 0:
		return unsupported("content that does not lie at multiples of 512 bytes")
	case edges&(1<<b.bits-1) != 0:
		b.bits = minBlockBits
	}
	return nil
}

// forRuns calls fn for the offsets in a file where a new run of content begins, other than its first. It returns all bits that are set in such an
// offset or in the place of a run in its blob.
func forRuns(n *tree.Node, fn func(off int64)) (edges int64) {
	var off int64
	for i, x := range n.Extents {
		fresh := true
		if i > 0 {
			last := n.Extents[i-1]
			fresh = last.Blob != x.Blob || x.Blob != tree.Hole && last.Offset+last.Length != x.Offset
		}
		if fresh {
			if edges |= off; x.Blob != tree.Hole {
				edges |= x.Offset
			}
			if off > 0 {
				fn(off)
			}
		}
		off += x.Length
	}
	return edges
}

// layOut gives all inodes and blocks their places.
func (b *builder) layOut() error {
	b.meta = roundUp(slotsAt+int64(len(b.blobs))*slotSize, b.block)
	b.end = b.meta + ondisk.NidSize // a directory's entry with the number 0 is not shown by C libraries
	for i := range b.nodes {
		size, together := b.placeNode(&b.nodes[i])
		if b.end%b.block+together > b.block {
			b.end = roundUp(b.end, b.block)
		}
		b.nodes[i].at = b.end
		if b.end += roundUp(size, ondisk.NidSize); b.end > maxImage {
			return unsupported(fmt.Sprintf("EROFS metadata of more than %d bytes", int64(maxImage)))
		}
	}
	b.end = roundUp(b.end, b.block)
	for i := range b.nodes {
		if n := &b.nodes[i]; n.blocks > 0 {
			n.in.U = uint32(b.end >> b.bits)
			b.end += roundUp(n.blocks, b.block)
		}
	}
	b.end = roundUp(b.end, pageSize)
	if b.end > maxImage {
		return unsupported(fmt.Sprintf("EROFS metadata of %d bytes", b.end))
	}
	return nil
}

// placeNode finds out how many bytes an inode takes with what is behind it, and how many of them must be in one block.
func (b *builder) placeNode(p *builtNode) (size, together int64) {
	n, in := p.node, &p.in
	size, together = in.Head(), int64(in.Len())
	switch n.Type() {
	case tree.TypeDir, tree.TypeSymlink:
		if in.Size = int64(len(n.Target)); n.IsDir() {
			in.Size = ondisk.DirentsSize(n, b.block)
		}
		if p.blocks = in.Size; inline(size, in.Size, b.block) {
			in.Layout, p.blocks = ondisk.LayoutInline, in.Size&^(b.block-1)
			size += in.Size - p.blocks
			together = size
		}
	case tree.TypeRegular:
		in.Size = n.Size
		if n.Size == 0 {
			break
		}
		edges := int64(0)
		forRuns(n, func(off int64) { edges |= off })
		p.chunkBits = min(max(bits.Len64(uint64(n.Size-1)), b.bits), bits.TrailingZeros64(uint64(edges)), b.bits+ondisk.ChunkBits)
		in.Layout, in.U = ondisk.LayoutChunked, ondisk.ChunkIndexes|uint32(p.chunkBits-b.bits)
		size = roundUp(size, ondisk.IndexSize) + ((n.Size-1)>>p.chunkBits+1)*ondisk.IndexSize
	case tree.TypeChar, tree.TypeBlock:
		in.U, _ = ondisk.EncodeDevice(n.Rdev)
	}
	return size, together
}

// encode writes the image.
func (b *builder) encode() ([]byte, error) {
	img := make([]byte, b.end)
	sb := superblock{blockBits: uint8(b.bits), rootNid: uint16(b.nid(0)), inodes: uint64(len(b.nodes)), epoch: b.epoch,
		blocks: uint32(b.end >> b.bits), metaBlock: uint32(b.meta >> b.bits), incompat: incompatChunked}
	if len(b.blobs) > 0 {
		sb.incompat |= incompatDevices
		sb.devices, sb.slots = uint16(len(b.blobs)), slotsAt/slotSize
	}
	sb.encode(img[superAt:])
	for i, size := range b.blobs {
		blocks := roundUp(size, b.block) >> b.bits
		if size < 0 || blocks > maxBlocks {
			return nil, unsupported(fmt.Sprintf("blob of %d bytes", size))
		}
		encodeSlot(img[slotsAt+i*slotSize:], uint32(blocks))
	}
	for i := range b.nodes {
		b.encodeNode(img, &b.nodes[i])
	}
	return img, nil
}

func (b *builder) nid(at int) uint64 { return uint64(b.nodes[at].at-b.meta) / ondisk.NidSize }

func (b *builder) encodeNode(img []byte, p *builtNode) {
	n := p.node
	record := ondisk.AppendXattrs(p.in.AppendTo(nil), n.Xattrs)
	var content []byte
	switch n.Type() {
	case tree.TypeDir:
		content = ondisk.AppendDirents(nil, n, b.block, func(entry int) uint64 {
			switch {
			case entry >= 0:
				return b.nid(b.places[n.Entries[entry].Node])
			case entry == ondisk.Up && p.parent >= 0:
				return b.nid(p.parent)
			}
			return b.nid(b.places[n])
		})
	case tree.TypeSymlink:
		content = []byte(n.Target)
	case tree.TypeRegular:
		record = b.appendIndexes(record, p)
	}
	if p.blocks > 0 {
		copy(img[int64(p.in.U)<<b.bits:], content[:p.blocks])
	}
	copy(img[p.at:], append(record, content[p.blocks:]...))
}

// appendIndexes appends the indexes of a file's chunks: 0 u16 0 | 2 u16 device | 4 u32 block.
func (b *builder) appendIndexes(dst []byte, p *builtNode) []byte {
	if p.node.Size == 0 {
		return dst
	}
	dst = append(dst, make([]byte, -len(dst)&(ondisk.IndexSize-1))...)
	i, off := 0, int64(0) // extent and where it begins in the file
	for at := int64(0); at < p.node.Size; at += 1 << p.chunkBits {
		for off+p.node.Extents[i].Length <= at {
			off += p.node.Extents[i].Length
			i++
		}
		device, block := uint32(0), uint32(ondisk.NullBlock)
		if x := p.node.Extents[i]; x.Blob != tree.Hole {
			device, block = x.Blob+1, uint32((x.Offset+at-off)>>b.bits)
		}
		dst = append(dst, 0, 0, byte(device), byte(device>>8), byte(block), byte(block>>8), byte(block>>16), byte(block>>24))
	}
	return dst
}
