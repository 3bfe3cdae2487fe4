package rafs6

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"math/bits"
	"slices"
	"strings"

	"github.com/lazuli-project/lazuli/disk/erofs/ondisk"
	"github.com/lazuli-project/lazuli/formats/nydus/nydusblob"
	"github.com/lazuli-project/lazuli/tree"
)

// Spec is what a bootstrap is made of.
type Spec struct {
	// Tree has extents that refer to chunks of Blobs. Its links must be counted.
	Tree  *tree.Tree
	Blobs []Blob
	// ChunkSize is that of all blobs, in bytes.
	ChunkSize uint32
	// Compressor and Digester are what the superblock says; blobs have their own.
	Compressor nydusblob.Compressor
	Digester   nydusblob.Digester
	// AllChunks puts all chunks of the blobs into the chunk table, not only those that files use: a layer that is
	// taken up again may be merged with others whose files use them.
	AllChunks bool
	// Compact leaves the CRC32Cs out of the chunk table and puts it in the order of the blobs and their chunks, not of the
	// digests. Readers ask for neither, and the table packs a seventh smaller, for which every start of a container waits.
	Compact bool
	// Tarfs makes a bootstrap whose blobs are tars: blocks have 512 bytes, extents are places in the tars, and blobs need no tables.
	Tarfs bool
	// NoChunks leaves the chunk table out, which Linux does not read.
	NoChunks bool
	// NoOwners leaves owners and groups out; readers show 0.
	NoOwners bool
	// Prefetch are paths for the prefetch table. Those that the tree does not have, or that lie below another
	// one, are passed over.
	Prefetch []string
}

// Blob is a data blob.
type Blob = nydusblob.Blob

// ErrTree says that a tree cannot be stored in a bootstrap.
var ErrTree = errors.New("not possible in RAFS v6")

// Plan is a bootstrap in which everything has its place. It is for one goroutine at a time.
type Plan struct {
	b        *builder
	sb       superblock
	prefetch []uint32
	size     uint64
}

// NewPlan finds places for all that a bootstrap has. The Plan uses the Spec, which may not be changed while it does. It takes
// about 40 bytes of memory for each path and 4 for each chunk.
func NewPlan(s *Spec) (*Plan, error) {
	if len(s.Blobs) > MaxBlobs {
		return nil, fmt.Errorf("%d blobs, at most %d: %w", len(s.Blobs), MaxBlobs, ErrTree)
	}
	b := &builder{spec: s, blockBits: blockBits, linked: make(map[*tree.Node]uint32), chunks: make([]chunkUse, len(s.Blobs)), chunkBits: uint32(bits.TrailingZeros32(s.ChunkSize))}
	if s.Tarfs {
		b.blockBits = tarfsBlockBits
		b.numberTars()
	}
	b.block = 1 << b.blockBits
	b.space.block = b.block
	for i := range s.Blobs {
		b.chunks[i].used = make([]uint32, b.chunkCount(i))
	}
	names := countNames(s.Tree.Root)
	if names > math.MaxInt32 {
		return nil, fmt.Errorf("more than %d names: %w", math.MaxInt32, ErrTree)
	}
	b.inodes = append(make([]placed, 0, names), placed{node: s.Tree.Root, number: 1})
	b.parts = make([]part, 0, names)
	b.numbers = 1
	b.space.off = blockSize // no inode may have nid 0
	if err := b.placeDir(0); err != nil {
		return nil, fmt.Errorf("%q: %w", strings.Join(b.path, "/"), err)
	}
	if b.space.off > maxNids*nidSize {
		return nil, fmt.Errorf("more metadata than inode numbers: %w", ErrTree)
	}
	slices.Sort(b.parts)
	p := &Plan{b: b}
	return p, p.layOut()
}

// Size returns the size of the bootstrap in bytes.
func (p *Plan) Size() int64 { return int64(p.size) }

// Build makes a bootstrap. The same Spec gives the same bytes.
func Build(s *Spec) ([]byte, error) {
	p, err := NewPlan(s)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	out.Grow(int(p.size))
	if _, err := p.WriteTo(&out); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// countNames returns the number of paths in a tree.
func countNames(n *tree.Node) int {
	names := 1
	for _, e := range n.Entries {
		if e.Node.IsDir() {
			names += countNames(e.Node)
		} else {
			names++
		}
	}
	return names
}

// placed is where an inode goes. All children of a directory stand together.
type placed struct {
	node   *tree.Node
	nid    uint32
	number uint32
	first  uint32 // of a directory: its first child
	parent uint32 // of a directory, in inodes
	block  uint32 // of the content outside of the inode, counted in the metadata area
}

// part is something that is written in one go: an inode with what is behind it, or the blocks of one. The upper half is its
// place in units of nidSize, so that parts are sorted as they stand in the bootstrap; the lower half is the inode's place in
// inodes.
type part uint64

type builder struct {
	spec      *Spec
	blockBits uint32 // of addresses
	block     uint64
	tars      [][]int64 // by blob: where chunks begin in a tar, in order
	inodes    []placed
	parts     []part
	linked    map[*tree.Node]uint32 // nodes with several names, and the first one's place in inodes
	space     space
	numbers   uint32
	hasXattr  bool
	chunkBits uint32
	chunks    []chunkUse
	path      []string // of the node at hand, for errors
	meta      uint64   // offset of the metadata area
}

// put notes that a part of an inode goes to an offset of the metadata area.
func (b *builder) put(at uint32, off uint64) uint32 {
	unit := uint32(off / nidSize)
	b.parts = append(b.parts, part(unit)<<32|part(at))
	return unit
}

// chunkUse notes which chunks of a blob are used.
type chunkUse struct {
	used []uint32 // by index: 1 + the chunk's number in the last file that has it; 0 for an unused chunk
	last int      // where the next one is expected
}

// inline reports whether the rest of n bytes of content goes behind the inode, which has head bytes with its attributes:
// both must be in one block.
func (b *builder) inline(head, n uint64) bool {
	rest := n % b.block
	return rest != 0 && head+rest <= b.block
}

// placeDir gives inodes their places: a directory, then what it holds except directories, then these in turn. Numbers go
// to all children before that, in the order of their names.
func (b *builder) placeDir(at uint32) error {
	n := b.inodes[at].node
	head, err := b.head(n)
	if err != nil {
		return err
	}
	b.placeData(at, head, uint64(ondisk.DirentsSize(n, int64(b.block))))

	first := uint32(len(b.inodes))
	b.inodes[at].first = first
	for _, e := range n.Entries {
		p := placed{node: e.Node, parent: at}
		if e.Node.IsDir() || e.Node.Nlink < 2 {
			b.numbers++
			p.number = b.numbers
		} else if i, ok := b.linked[e.Node]; ok {
			p.number = b.inodes[i].number
		} else {
			b.linked[e.Node] = uint32(len(b.inodes))
			b.numbers++
			p.number = b.numbers
		}
		b.inodes = append(b.inodes, p)
	}
	for k, e := range n.Entries {
		if e.Node.IsDir() {
			continue
		}
		if err := b.placeFile(e.Node, first+uint32(k)); err != nil {
			b.path = append(b.path, e.Name)
			return err
		}
	}
	for k, e := range n.Entries {
		if !e.Node.IsDir() {
			continue
		}
		b.path = append(b.path, e.Name)
		if err := b.placeDir(first + uint32(k)); err != nil {
			return err
		}
		b.path = b.path[:len(b.path)-1]
	}
	return nil
}

func (b *builder) placeFile(n *tree.Node, at uint32) error {
	if n.Nlink > 1 {
		if i := b.linked[n]; i != at {
			b.inodes[at].nid = b.inodes[i].nid
			if b.inodes[i].nid == 0 {
				// The first name is in a directory that comes later; it takes the place that is made now.
				if err := b.placeFile(n, i); err != nil {
					return err
				}
				b.inodes[at].nid = b.inodes[i].nid
			}
			return nil
		}
		if b.inodes[at].nid != 0 {
			return nil
		}
	}
	head, err := b.head(n)
	if err != nil {
		return err
	}
	switch n.Type() {
	case tree.TypeRegular:
		count, err := b.useChunks(n)
		if err != nil {
			return err
		}
		b.inodes[at].nid = b.put(at, b.space.take(b.indexesAt(head)+count*ondisk.IndexSize, false))
	case tree.TypeSymlink:
		if n.Target == "" || len(n.Target) > tree.MaxTarget {
			return fmt.Errorf("link target of %d bytes: %w", len(n.Target), ErrTree)
		}
		b.placeData(at, head, uint64(len(n.Target)))
	case tree.TypeChar, tree.TypeBlock, tree.TypeFIFO, tree.TypeSocket:
		if _, ok := ondisk.EncodeDevice(n.Rdev); !ok {
			return fmt.Errorf("device %d:%d: %w", n.Rdev.Major, n.Rdev.Minor, ErrTree)
		}
		b.inodes[at].nid = b.put(at, b.space.take(head, false))
	default:
		return fmt.Errorf("mode %#o: %w", n.Mode, ErrTree)
	}
	return nil
}

// head returns the size of an inode with its attributes.
func (b *builder) head(n *tree.Node) (uint64, error) {
	if b.space.off >= maxNids*nidSize {
		return 0, fmt.Errorf("more metadata than inode numbers: %w", ErrTree)
	}
	if n.MtimeNsec >= 1e9 {
		return 0, fmt.Errorf("%d nanoseconds: %w", n.MtimeNsec, ErrTree)
	}
	x, err := ondisk.XattrLen(n.Xattrs)
	b.hasXattr = b.hasXattr || x > 0
	return uint64(ondisk.ExtendedSize + x), err
}

// indexesAt returns where the chunk indexes of a file are behind the begin of its inode.
func (b *builder) indexesAt(head uint64) uint64 { return roundUp(head, ondisk.IndexSize) }

// placeData places a directory or link with its content: whole blocks apart, the rest behind the inode if it fits.
func (b *builder) placeData(at uint32, head, size uint64) {
	p := &b.inodes[at]
	rest := size % b.block
	if b.inline(head, size) {
		p.nid = b.put(at, b.space.take(head+rest, true))
		size -= rest
	} else {
		p.nid = b.put(at, b.space.take(head, false))
	}
	if size > 0 {
		p.block = b.put(at, b.space.takeBlocks(size)) / uint32(b.block/nidSize)
	} else {
		// Nobody reads it; it is what the reference builder writes.
		p.block = uint32((b.space.off - 1) / b.block)
	}
}

// useChunks notes the chunks of a file and returns their number.
func (b *builder) useChunks(n *tree.Node) (uint64, error) {
	var count uint64
	err := b.eachChunk(n, func(number uint32, index int, _ int64) {
		count++
		b.chunks[number].used[index] = uint32(count)
	})
	return count, err
}

// eachChunk calls fn for each chunk of a file with its blob, index and plain offset.
func (b *builder) eachChunk(n *tree.Node, fn func(number uint32, index int, off int64)) error {
	unit := int64(b.spec.ChunkSize)
	var done int64
	for _, x := range n.Extents {
		if x.Blob == tree.Hole || int(x.Blob) >= len(b.spec.Blobs) {
			return fmt.Errorf("extent %+v: %w", x, ErrTree)
		}
		table, use := b.spec.Blobs[x.Blob].Table, &b.chunks[x.Blob]
		for x.Length > 0 {
			size := min(unit, x.Length)
			if b.spec.Tarfs {
				index, ok := slices.BinarySearch(b.tars[x.Blob], x.Offset)
				if !ok || x.Offset%int64(b.block) != 0 || done%unit != 0 {
					return fmt.Errorf("%d bytes at %d of tar %d: %w", size, x.Offset, x.Blob, ErrTree)
				}
				fn(x.Blob, index, x.Offset)
				x.Offset, x.Length, done = x.Offset+size, x.Length-size, done+size
				continue
			}
			if use.last >= table.Len() || table.Entry(use.last).Plain.Off != x.Offset {
				use.last = table.Find(x.Offset)
			}
			if e := table.Entry(use.last); e.Plain.Off != x.Offset || e.Plain.Len != size || done%unit != 0 {
				return fmt.Errorf("%d bytes at %d of blob %d are no chunk: %w", size, x.Offset, x.Blob, ErrTree)
			}
			fn(x.Blob, use.last, x.Offset)
			use.last++
			x.Offset, x.Length, done = x.Offset+size, x.Length-size, done+size
		}
	}
	if done != n.Size {
		return fmt.Errorf("content of %d bytes in %d: %w", n.Size, done, ErrTree)
	}
	return nil
}

// prefetch returns the nids of the prefetch table.
func (b *builder) prefetch() []uint32 {
	var kept [][]string
	var nids []uint32
	split := func(path string) []string { return strings.FieldsFunc(path, func(r rune) bool { return r == '/' }) }
	for _, path := range b.spec.Prefetch {
		parts := split(path)
		below := slices.ContainsFunc(b.spec.Prefetch, func(other string) bool {
			o := split(other)
			return len(o) < len(parts) && slices.Equal(o, parts[:len(o)]) && b.find(o) != 0
		})
		nid := b.find(parts)
		if nid == 0 || below || slices.ContainsFunc(kept, func(k []string) bool { return slices.Equal(k, parts) }) {
			continue
		}
		kept, nids = append(kept, parts), append(nids, nid)
	}
	return nids
}

// find returns the nid of a path, or 0.
func (b *builder) find(parts []string) uint32 {
	n, at := b.spec.Tree.Root, uint32(0)
	for _, part := range parts {
		i, ok := slices.BinarySearchFunc(n.Entries, part, func(e tree.Entry, s string) int { return strings.Compare(e.Name, s) })
		if !ok {
			return 0
		}
		at = b.inodes[at].first + uint32(i)
		n = n.Entries[i].Node
	}
	return b.inodes[at].nid
}

// numberTars finds the chunks of tars: files are cut where they lie.
func (b *builder) numberTars() {
	b.tars = make([][]int64, len(b.spec.Blobs))
	_ = b.spec.Tree.Nodes(func(n *tree.Node) error {
		for _, x := range n.Extents {
			for off := x.Offset; off < x.Offset+x.Length && int64(x.Blob) < int64(len(b.tars)); off += int64(b.spec.ChunkSize) {
				b.tars[x.Blob] = append(b.tars[x.Blob], off)
			}
		}
		return nil
	})
	for i, t := range b.tars {
		slices.Sort(t)
		b.tars[i] = slices.Compact(t)
	}
}

// chunkCount returns how many chunks of a blob there are.
func (b *builder) chunkCount(number int) int {
	if b.spec.Tarfs {
		return len(b.tars[number])
	}
	return b.spec.Blobs[number].Table.Len()
}
