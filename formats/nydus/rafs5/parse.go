package rafs5

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
	"sort"
	"strings"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/formats/nydus/nydusblob"
	"github.com/lazuli-project/lazuli/tree"
)

// maxDepth bounds how deep directories are nested: no path of Linux has more components.
const maxDepth = 2048

// Bootstrap is a parsed bootstrap. It may be used concurrently.
type Bootstrap struct {
	// Tree has extents that refer to Blobs by their place.
	Tree  *tree.Tree
	Blobs []Blob
	Flags uint64
	// ChunkSize of the image in bytes.
	ChunkSize  uint32
	Compressor nydusblob.Compressor
	Digester   nydusblob.Digester
	// Prefetch are the paths of the prefetch table, in its order, without slash at the front; "" is the root.
	Prefetch []string
}

// Blob is a data blob. Its table has the chunks that files use, in the order in which they are stored.
type Blob struct {
	nydusblob.Blob
	// Chunks is how many chunks the blob has, used or not, and PlainEnd where they end in the reference's plain space. 0 is unknown.
	Chunks   uint32
	PlainEnd uint64
	// ReadAhead is how many stored bytes at ReadAheadOffset runtimes read in advance.
	ReadAheadOffset, ReadAhead uint32
	// Places say how the bootstrap numbers and places the chunks of the table. Where they are nil, the table has all chunks of
	// the blob, and they have the numbers of the table.
	Places []Place
}

// Place is number and plain offset of a chunk in the reference's plain space.
type Place struct {
	Index uint32
	Plain uint64
}

// Parse decodes a bootstrap and checks all of it, its digests too. Damage gives blob.ErrCorrupt or blob.ErrDigest, variants that cannot
// be read blob.ErrUnsupported. Memory is a small multiple of the bootstrap. p must not change afterwards.
func Parse(p []byte) (*Bootstrap, error) {
	s, err := decodeSuperblock(p)
	if err != nil {
		return nil, err
	}
	blobs, err := decodeBlobs(p, s)
	if err != nil {
		return nil, err
	}
	b := &Bootstrap{Blobs: blobs, Flags: s.flags, ChunkSize: s.chunkSize, Compressor: s.compressor(), Digester: s.digester()}
	t := &parser{b: b, p: p, table: s.table.of(p), entries: s.entries, budget: uint64(len(p)), nodes: make([]*tree.Node, s.entries+1),
		owner: make([]uint32, s.entries+1), depth: make([]uint16, s.entries+1), records: make([][]uint32, len(blobs))}
	for i := uint32(1); i <= s.entries; i++ {
		if err := t.entry(i); err != nil {
			return nil, fmt.Errorf("entry %d: %w", i, err)
		}
	}
	if err := t.tables(); err != nil {
		return nil, err
	}
	for _, f := range t.files {
		t.extents(&f)
	}
	b.Tree = &tree.Tree{Root: t.nodes[1]}
	b.Tree.CountLinks()
	if s.prefetch.size > 0 {
		t.prefetch(s.prefetch.of(p))
	}
	return b, nil
}

// parser reads the records in the order of the inode table, which has directories before what they hold.
type parser struct {
	b       *Bootstrap
	p       []byte
	table   []byte
	entries uint32
	budget  uint64 // bytes of the bootstrap that records may still take
	// By index of the entry, from 1:
	nodes []*tree.Node
	owner []uint32 // the directory; 0 for an entry of none
	depth []uint16
	// records are the chunk records of each blob, by their place in the bootstrap.
	records [][]uint32
	files   []file
	scratch []byte
}

// file has chunks.
type file struct {
	node *tree.Node
	at   uint32 // of its chunk records
}

// offset returns where the record of an entry is.
func (t *parser) offset(i uint32) uint64 {
	return uint64(binary.LittleEndian.Uint32(t.table[(i-1)*4:])) * unit
}

// entry reads an entry of the inode table and puts it into its directory.
func (t *parser) entry(i uint32) error {
	if i > 1 && t.owner[i] == 0 {
		return nil // no directory has it
	}
	at := t.offset(i)
	if at < superSize || at > uint64(len(t.p)) {
		return corrupt("record at %d", at)
	}
	n, size, err := decodeInode(t.p[at:])
	if i == 1 && len(t.p)-int(at) >= recordSize && isEarly(t.p[at:]) {
		return unsupported("the dialect of RAFS v5 from before 2021")
	}
	if err != nil {
		return err
	}
	// No two records share bytes, so that all of them together are bounded by the bootstrap's size; that keeps crafted ones
	// from naming the same bytes again and again.
	if size > t.budget {
		return corrupt("records overlap")
	}
	t.budget -= size
	node, err := t.node(i, n, at+size-uint64(len(n.chunks)))
	if err != nil {
		return err
	}
	t.nodes[i] = node
	if i == 1 {
		return nil
	}
	name := string(n.name)
	if err := tree.CheckName(name); err != nil {
		return corrupt("%v", err)
	}
	parent := t.nodes[t.owner[i]]
	if k := len(parent.Entries); k > 0 && parent.Entries[k-1].Name >= name {
		return corrupt("%q after %q", name, parent.Entries[k-1].Name)
	}
	parent.Entries = append(parent.Entries, tree.Entry{Name: name, Node: node})
	return nil
}

// isEarly recognizes a root whose record has its mode where it was in images of 2020, which have the same magic and version.
func isEarly(p []byte) bool {
	le := binary.LittleEndian
	return le.Uint32(p[52:])&tree.TypeMask == tree.TypeDir && le.Uint32(p[60:])&tree.TypeMask != tree.TypeDir
}

// node makes the node of an entry. Names of one file have the number of the first of them.
func (t *parser) node(i uint32, n *inode, chunks uint64) (*tree.Node, error) {
	if n.number != uint64(i) {
		if n.number == 0 || n.number > uint64(i) || i == 1 {
			return nil, corrupt("inode number %d", n.number)
		}
		first := t.nodes[n.number]
		if first == nil || first.IsDir() || first.Mode&tree.TypeMask != n.mode&tree.TypeMask {
			return nil, corrupt("link to entry %d", n.number)
		}
		return first, nil
	}
	node := &tree.Node{Mode: n.mode, UID: n.uid, GID: n.gid, Mtime: n.mtime, MtimeNsec: n.nsec}
	var err error
	if node.Xattrs, err = decodeXattrs(n.xattrs); err != nil {
		return nil, err
	}
	switch node.Type() {
	case tree.TypeDir:
		err = t.directory(i, n)
	case tree.TypeRegular:
		node.Size = int64(n.size)
		err = t.chunks(node, n, chunks)
	case tree.TypeSymlink:
		if len(n.target) == 0 || len(n.target) > tree.MaxTarget || bytes.IndexByte(n.target, 0) >= 0 {
			return nil, corrupt("link target %.300q", n.target)
		}
		node.Target = string(n.target)
	case tree.TypeChar, tree.TypeBlock:
		node.Rdev = decodeDevice(n.rdev)
	case tree.TypeFIFO, tree.TypeSocket:
	default:
		err = corrupt("mode %#o", n.mode)
	}
	if err == nil && i == 1 && !node.IsDir() {
		err = corrupt("the root is no directory")
	}
	if err != nil {
		return nil, err
	}
	return node, t.verify(n)
}

// directory gives the entries of a directory their owner.
func (t *parser) directory(i uint32, n *inode) error {
	if n.count == 0 {
		return nil
	}
	if n.first <= i || n.first > t.entries || n.count-1 > t.entries-n.first {
		return corrupt("directory of entries %d to %d, there are %d", n.first, uint64(n.first)+uint64(n.count)-1, t.entries)
	}
	if t.depth[i] >= maxDepth {
		return corrupt("directories nested deeper than %d", maxDepth)
	}
	for k := n.first; k < n.first+n.count; k++ {
		if t.owner[k] != 0 {
			return corrupt("entry %d is in two directories", k)
		}
		t.owner[k], t.depth[k] = i, t.depth[i]+1
	}
	return nil
}

// chunks checks the chunk records of a file, which are at that place.
func (t *parser) chunks(node *tree.Node, n *inode, at uint64) error {
	whole := uint64(t.b.ChunkSize)
	count := n.size / whole
	if n.size%whole != 0 {
		count++
	}
	if count != uint64(n.count) {
		return corrupt("%d bytes in %d chunks of %d", n.size, n.count, whole)
	}
	le := binary.LittleEndian
	for k := range count {
		c := n.chunks[k*chunkSize:]
		number, flags, size := le.Uint32(c[32:]), le.Uint32(c[36:]), le.Uint32(c[44:])
		if flags&^(chunkCompressed|chunkCRC32) != 0 {
			return unsupported("chunk %d: flags %#x", k, flags)
		}
		if uint64(number) >= uint64(len(t.b.Blobs)) {
			return corrupt("chunk %d: blob %d of %d", k, number, len(t.b.Blobs))
		}
		if le.Uint64(c[64:]) != k*whole || uint64(size) != min(whole, n.size-k*whole) {
			return corrupt("chunk %d: %d bytes at %d", k, size, le.Uint64(c[64:]))
		}
		stored, off, b := uint64(le.Uint32(c[40:])), le.Uint64(c[48:]), &t.b.Blobs[number]
		if stored == 0 || stored > nydusblob.MaxChunkSize || off > nydusblob.MaxStoredSize || flags&chunkCompressed == 0 && stored != uint64(size) ||
			b.Chunks > 0 && (off > b.Info.StoredSize || stored > b.Info.StoredSize-off || le.Uint32(c[72:]) >= b.Chunks) {
			return corrupt("chunk %d: %d bytes stored as %d at %d of %d", k, size, stored, off, b.Info.StoredSize)
		}
		t.records[number] = append(t.records[number], uint32(at+k*chunkSize))
	}
	if count > 0 {
		t.files = append(t.files, file{node, uint32(at)})
	}
	return nil
}

// verify compares the digest of an inode with what it is over. Numbers of digests that were never made are zeros.
func (t *parser) verify(n *inode) error {
	if n.digest == [nydusblob.DigestSize]byte{} {
		return nil
	}
	t.scratch = t.scratch[:0]
	switch n.mode & tree.TypeMask {
	case tree.TypeRegular:
		for c := n.chunks; len(c) > 0; c = c[chunkSize:] {
			t.scratch = append(t.scratch, c[:nydusblob.DigestSize]...)
		}
	case tree.TypeSymlink:
		t.scratch = append(t.scratch, n.target...)
	case tree.TypeDir:
		for k := n.first; k-n.first < n.count; k++ {
			at := t.offset(k)
			if at > uint64(len(t.p))-nydusblob.DigestSize {
				return corrupt("record at %d", at)
			}
			t.scratch = append(t.scratch, t.p[at:][:nydusblob.DigestSize]...)
		}
	default:
		return nil
	}
	if got := t.b.Digester.Sum(t.scratch); got != n.digest {
		return fmt.Errorf("inode %q: %s %x instead of %x: %w", n.name, t.b.Digester, got, n.digest, blob.ErrDigest)
	}
	return nil
}

// tables makes the chunk tables of the blobs.
func (t *parser) tables() error {
	for i := range t.b.Blobs {
		if err := t.chunkTable(i); err != nil {
			return fmt.Errorf("blob %d: %w", i, err)
		}
	}
	return nil
}

// chunkTable puts the chunks of a blob in the order in which they are stored.
func (t *parser) chunkTable(number int) error {
	le := binary.LittleEndian
	records := t.records[number]
	slices.SortStableFunc(records, func(x, y uint32) int {
		return cmp.Compare(le.Uint64(t.p[x+48:]), le.Uint64(t.p[y+48:]))
	})
	b := &t.b.Blobs[number]
	b.Table = &nydusblob.Table{}
	v2 := t.b.ChunkSize <= nydusblob.MaxStoredV2/2
	if v2 {
		b.Table = nydusblob.NewTableV2()
	}
	var next, end int64
	distinct := records[:0]
	for k, at := range records {
		c := t.p[at:][:chunkSize]
		stored := blob.Range{Off: int64(le.Uint64(c[48:])), Len: int64(le.Uint32(c[40:]))}
		if k > 0 {
			last := t.p[distinct[len(distinct)-1]:]
			if le.Uint64(last[48:]) == le.Uint64(c[48:]) {
				// Digest, sizes, plain offset, index, CRC: all but the offset in the file.
				if !bytes.Equal(last[:64], c[:64]) || !bytes.Equal(last[72:80], c[72:80]) {
					return corrupt("two chunks stored at %d", stored.Off)
				}
				continue
			}
		}
		if stored.End() < end || len(distinct) >= nydusblob.MaxChunks {
			return corrupt("chunk stored at %d to %d in one that ends at %d", stored.Off, stored.End(), end)
		}
		e := nydusblob.Entry{Plain: blob.Range{Off: next, Len: int64(le.Uint32(c[44:]))}, Stored: stored, Compressed: le.Uint32(c[36:])&chunkCompressed != 0}
		if end, next = stored.End(), (e.Plain.End()+nydusblob.Align-1)&^(nydusblob.Align-1); next > nydusblob.MaxPlainSize {
			return corrupt("more than %d bytes of chunks", int64(nydusblob.MaxPlainSize))
		}
		switch {
		case v2:
			b.Table.AppendV2(e)
		case e.Compressed != (e.Plain.Len != stored.Len):
			return unsupported("compressed chunk of %d bytes that is no shorter", stored.Len)
		default:
			b.Table.Append(e)
		}
		distinct = append(distinct, at)
		var crc uint32
		if le.Uint32(c[36:])&chunkCRC32 != 0 {
			crc = le.Uint32(c[76:])
		}
		b.Digests.Sums = append(b.Digests.Sums, c[:nydusblob.DigestSize]...)
		b.Digests.CRC32C = append(b.Digests.CRC32C, crc)
		b.Places = append(b.Places, Place{Index: le.Uint32(c[72:]), Plain: le.Uint64(c[56:])})
	}
	t.records[number] = distinct
	b.Info.ChunkCount, b.Info.PlainSize = uint32(len(distinct)), uint64(next)
	return nil
}

// extents gives a file its places in the plain spaces.
func (t *parser) extents(f *file) {
	le := binary.LittleEndian
	for at, done := f.at, int64(0); done < f.node.Size; at += chunkSize {
		c := t.p[at:]
		number, off := le.Uint32(c[32:]), le.Uint64(c[48:])
		list := t.records[number]
		k := sort.Search(len(list), func(i int) bool { return le.Uint64(t.p[list[i]+48:]) >= off })
		x := t.b.Blobs[number].Table.Entry(k).Plain
		f.node.AppendExtent(tree.Extent{Blob: number, Offset: x.Off, Length: x.Len})
		done += x.Len
	}
}

// prefetch finds the paths of the prefetch table, which has inode numbers and ends at the first 0.
func (t *parser) prefetch(p []byte) {
	wanted := make(map[*tree.Node]int)
	for ; len(p) > 0; p = p[4:] {
		number := binary.LittleEndian.Uint32(p)
		if number == 0 {
			break
		}
		if number <= t.entries && t.nodes[number] != nil {
			if _, ok := wanted[t.nodes[number]]; !ok {
				wanted[t.nodes[number]] = len(wanted)
			}
		}
	}
	found := make([]*string, len(wanted))
	_ = t.b.Tree.Walk(func(path string, n *tree.Node) error {
		if i, ok := wanted[n]; ok && found[i] == nil {
			found[i] = new(strings.Clone(path))
		}
		return nil
	})
	for _, path := range found {
		if path != nil {
			t.b.Prefetch = append(t.b.Prefetch, *path)
		}
	}
}
