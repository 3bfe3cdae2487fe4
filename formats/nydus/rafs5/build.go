package rafs5

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/lazuli-project/lazuli/formats/nydus/nydusblob"
	"github.com/lazuli-project/lazuli/tree"
)

// Spec is what a bootstrap is made of.
type Spec struct {
	// Tree has extents that refer to chunks of Blobs. Its links must be counted.
	Tree *tree.Tree
	// Blobs are written with the features in their Info. With nydusblob.FeatureAligned the chunks of a table that has all of
	// them are placed at multiples of 4 KiB, else one behind the other.
	Blobs []Blob
	// ChunkSize is that of all blobs, in bytes.
	ChunkSize uint32
	// Compressor and Digester are those of all blobs.
	Compressor nydusblob.Compressor
	Digester   nydusblob.Digester
	// NoOwners leaves owners and groups out.
	NoOwners bool
	// Prefetch are paths for the prefetch table. Those that the tree does not have, or that lie below another
	// one, are passed over.
	Prefetch []string
}

// Plan is a bootstrap in which everything has its place. It is for one goroutine at a time.
type Plan struct {
	spec     *Spec
	sb       superblock
	entries  []entry // in the order of their indexes
	linked   map[*tree.Node]uint32
	last     []int // by blob: where its next chunk is expected in the table
	places   [][]Place
	numbers  []uint32 // of the prefetch table
	blobs    []byte
	extended []byte
	size     uint64
	path     []string // of the node at hand, for errors
	scratch  []byte
}

// entry is one name. All entries of a directory stand together.
type entry struct {
	node           *tree.Node
	number, parent uint32
	first          uint32 // of a directory: index of its first entry
	unit           uint32 // place of its record
	digest         [nydusblob.DigestSize]byte
}

// NewPlan finds places for all that a bootstrap has, and computes its digests. The Plan uses the Spec, which may not be changed
// while it does. It takes about 60 bytes of memory for each path and 16 for each chunk of the blobs.
func NewPlan(s *Spec) (*Plan, error) {
	p := &Plan{spec: s, linked: make(map[*tree.Node]uint32), last: make([]int, len(s.Blobs))}
	p.sb = superblock{chunkSize: s.ChunkSize, flags: compressorFlags[s.Compressor]}
	if s.Digester == nydusblob.DigesterSHA256 {
		p.sb.flags |= FlagSHA256
	} else {
		p.sb.flags |= FlagBlake3
	}
	if !s.NoOwners {
		p.sb.flags |= FlagExplicitOwner
	}
	p.placeBlobs()
	p.entries = append(p.entries, entry{node: s.Tree.Root, number: 1})
	if err := p.number(0); err != nil {
		return nil, err
	}
	p.prefetch()
	p.tables()
	off := p.sb.extended.off + p.sb.extended.size
	if err := p.place(0, "/", &off); err != nil {
		return nil, fmt.Errorf("%q: %w", strings.Join(p.path, "/"), err)
	}
	p.size = off
	return p, nil
}

// placeBlobs completes what the blob tables say.
func (p *Plan) placeBlobs() {
	blobs := slices.Clone(p.spec.Blobs)
	p.places = make([][]Place, len(blobs))
	for i := range blobs {
		b := &blobs[i]
		p.places[i] = b.Places
		if b.Places != nil {
			continue
		}
		n := b.Table.Len()
		places := make([]Place, n)
		var next uint64
		for k := range places {
			places[k] = Place{uint32(k), next}
			next += uint64(b.Table.Entry(k).Plain.Len)
			if b.Info.Features&nydusblob.FeatureAligned != 0 {
				next = (next + nydusblob.Align - 1) &^ (nydusblob.Align - 1)
			}
		}
		p.places[i], b.Chunks, b.PlainEnd = places, uint32(n), next
	}
	p.blobs, p.extended = encodeBlobs(blobs)
}

// number gives the entries of a directory their indexes, and then those of the directories in it.
func (p *Plan) number(at uint32) error {
	n := p.entries[at].node
	first := uint32(len(p.entries))
	if len(n.Entries) > maxEntries-len(p.entries) {
		return fmt.Errorf("more than %d names: %w", maxEntries, ErrTree)
	}
	p.entries[at].first = first + 1
	for k, e := range n.Entries {
		x := entry{node: e.Node, number: first + uint32(k) + 1, parent: p.entries[at].number}
		if e.Node.IsRegular() && e.Node.Nlink > 1 {
			if known, ok := p.linked[e.Node]; ok {
				x.number = known
			} else {
				p.linked[e.Node] = x.number
			}
		}
		if x.number == first+uint32(k)+1 {
			p.sb.inodes++
		}
		p.entries = append(p.entries, x)
	}
	for k, e := range n.Entries {
		if e.Node.IsDir() {
			if err := p.number(first + uint32(k)); err != nil {
				return err
			}
		}
	}
	return nil
}

// tables finds the places of what is before the records.
func (p *Plan) tables() {
	sb := &p.sb
	sb.inodes++ // the root
	sb.entries = uint32(len(p.entries))
	sb.table = region{superSize, uint64(sb.entries) * 4}
	sb.prefetch = region{align(sb.table.off + sb.table.size), uint64(len(p.numbers)) * 4}
	sb.blobs = region{align(sb.prefetch.off + sb.prefetch.size), uint64(len(p.blobs))}
	sb.extended = region{sb.blobs.off + sb.blobs.size, uint64(len(p.extended))}
}

// place finds the place of an entry's record and of all below it, and computes their digests.
func (p *Plan) place(at uint32, name string, off *uint64) error {
	e := &p.entries[at]
	n := e.node
	size, err := p.recordSize(n, name)
	if err != nil {
		return err
	}
	e.unit = uint32(*off / unit)
	if *off += size; *off > maxSize {
		return fmt.Errorf("more than %d bytes: %w", int64(maxSize), ErrTree)
	}
	switch n.Type() {
	case tree.TypeDir:
		for k, c := range n.Entries {
			p.path = append(p.path, c.Name)
			if err := p.place(e.first-1+uint32(k), c.Name, off); err != nil {
				return err
			}
			p.path = p.path[:len(p.path)-1]
		}
		p.scratch = p.scratch[:0]
		for k := range n.Entries {
			p.scratch = append(p.scratch, p.entries[int(e.first)-1+k].digest[:]...)
		}
	case tree.TypeRegular:
		p.scratch = p.scratch[:0]
		err = p.eachChunk(n, func(number uint32, index int) {
			p.scratch = append(p.scratch, p.spec.Blobs[number].Digests.Sums[index*nydusblob.DigestSize:][:nydusblob.DigestSize]...)
		})
	case tree.TypeSymlink:
		p.scratch = append(p.scratch[:0], n.Target...)
	default:
		p.scratch = p.scratch[:0]
	}
	e.digest = p.spec.Digester.Sum(p.scratch)
	return err
}

// recordSize checks a node and returns what its record takes.
func (p *Plan) recordSize(n *tree.Node, name string) (uint64, error) {
	x, err := xattrSize(n.Xattrs)
	if err != nil {
		return 0, err
	}
	size := recordSize + align(uint64(len(name)))
	if x > 0 {
		p.sb.flags |= FlagHasXattr
		size += 8 + align(x)
	}
	switch n.Type() {
	case tree.TypeRegular:
		size += p.chunkCount(n) * chunkSize
	case tree.TypeSymlink:
		if n.Target == "" || len(n.Target) > tree.MaxTarget {
			return 0, fmt.Errorf("link target of %d bytes: %w", len(n.Target), ErrTree)
		}
		size += align(uint64(len(n.Target)))
	case tree.TypeChar, tree.TypeBlock:
		if n.Rdev.Major >= 1<<12 || n.Rdev.Minor >= 1<<20 {
			return 0, fmt.Errorf("device %d:%d: %w", n.Rdev.Major, n.Rdev.Minor, ErrTree)
		}
	case tree.TypeDir, tree.TypeFIFO, tree.TypeSocket:
	default:
		return 0, fmt.Errorf("mode %#o: %w", n.Mode, ErrTree)
	}
	if n.MtimeNsec >= 1e9 {
		return 0, fmt.Errorf("%d nanoseconds: %w", n.MtimeNsec, ErrTree)
	}
	return size, nil
}

func (p *Plan) chunkCount(n *tree.Node) uint64 {
	return uint64(n.Size+int64(p.spec.ChunkSize)-1) / uint64(p.spec.ChunkSize)
}

// eachChunk calls fn for each chunk of a file with its blob and its place in the blob's table.
func (p *Plan) eachChunk(n *tree.Node, fn func(number uint32, index int)) error {
	whole := int64(p.spec.ChunkSize)
	var done int64
	for _, x := range n.Extents {
		if x.Blob == tree.Hole || int(x.Blob) >= len(p.spec.Blobs) {
			return fmt.Errorf("extent %+v: %w", x, ErrTree)
		}
		table, last := p.spec.Blobs[x.Blob].Table, &p.last[x.Blob]
		for x.Length > 0 {
			size := min(whole, x.Length)
			if *last >= table.Len() || table.Entry(*last).Plain.Off != x.Offset {
				*last = table.Find(x.Offset)
			}
			if e := table.Entry(*last); e.Plain.Off != x.Offset || e.Plain.Len != size || done%whole != 0 {
				return fmt.Errorf("%d bytes at %d of blob %d are no chunk: %w", size, x.Offset, x.Blob, ErrTree)
			}
			fn(x.Blob, *last)
			*last++
			x.Offset, x.Length, done = x.Offset+size, x.Length-size, done+size
		}
	}
	if done != n.Size {
		return fmt.Errorf("content of %d bytes in %d: %w", n.Size, done, ErrTree)
	}
	return nil
}

// prefetch finds the numbers for the prefetch table.
func (p *Plan) prefetch() {
	var kept [][]string
	for _, path := range p.spec.Prefetch {
		parts := strings.FieldsFunc(path, func(r rune) bool { return r == '/' })
		below := slices.ContainsFunc(kept, func(k []string) bool { return len(k) <= len(parts) && slices.Equal(k, parts[:len(k)]) })
		number := p.find(parts)
		if number == 0 || below {
			continue
		}
		kept, p.numbers = append(kept, parts), append(p.numbers, number)
	}
}

// find returns the number of a path, or 0.
func (p *Plan) find(parts []string) uint32 {
	at := uint32(0)
	for _, part := range parts {
		n := p.entries[at].node
		i, ok := slices.BinarySearchFunc(n.Entries, part, func(e tree.Entry, s string) int { return strings.Compare(e.Name, s) })
		if !ok {
			return 0
		}
		at = p.entries[at].first - 1 + uint32(i)
	}
	return p.entries[at].number
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

// WriteTo writes the bootstrap from its beginning to its end, without ever having all of it. It implements [io.WriterTo]. The
// same Spec gives the same bytes.
func (p *Plan) WriteTo(w io.Writer) (int64, error) {
	e := &encoder{Plan: p, w: bufio.NewWriterSize(w, writeSize)}
	head := make([]byte, superSize)
	p.sb.encode(head)
	e.write(head)
	for i := range p.entries {
		e.words(p.entries[i].unit)
	}
	e.pad()
	e.words(p.numbers...)
	e.pad()
	e.write(p.blobs)
	e.write(p.extended)
	e.record(0, "/")
	if e.err == nil {
		e.err = e.w.Flush()
	}
	return e.off, e.err
}

// writeSize is in what pieces a bootstrap is written.
const writeSize = 64 << 10

// encoder writes a bootstrap.
type encoder struct {
	*Plan
	w   *bufio.Writer
	off int64
	err error // sticky
	buf []byte
}

func (e *encoder) write(p []byte) {
	if e.err == nil {
		_, e.err = e.w.Write(p)
	}
	e.off += int64(len(p))
}

func (e *encoder) words(list ...uint32) {
	for _, v := range list {
		e.write(binary.LittleEndian.AppendUint32(e.buf[:0], v))
	}
}

func (e *encoder) pad() {
	var zeros [unit]byte
	e.write(zeros[:int64(align(uint64(e.off)))-e.off])
}

// record writes the record of an entry and of all below it.
func (e *encoder) record(at uint32, name string) {
	x := &e.entries[at]
	n := x.node
	in := inode{digest: x.digest, parent: uint64(x.parent), number: uint64(x.number), uid: n.UID, gid: n.GID, mode: n.Mode, nlink: 1,
		nsec: n.MtimeNsec, mtime: n.Mtime, name: []byte(name)}
	if e.spec.NoOwners {
		in.uid, in.gid = 0, 0
	}
	if len(n.Xattrs) > 0 {
		in.flags |= inodeXattr
		in.xattrs = appendXattrs(nil, n.Xattrs)
	}
	switch n.Type() {
	case tree.TypeDir:
		in.size, in.nlink, in.first, in.count = dirSize(n), n.Nlink, x.first, uint32(len(n.Entries))
	case tree.TypeRegular:
		in.size, in.nlink, in.count = uint64(n.Size), n.Nlink, uint32(e.chunkCount(n))
	case tree.TypeSymlink:
		in.target, in.size = []byte(n.Target), uint64(len(n.Target))
		in.flags |= inodeSymlink
	case tree.TypeChar, tree.TypeBlock:
		in.rdev = encodeDevice(n.Rdev)
	}
	// The reference counts attributes too, but one of its readers then refuses regular files.
	in.blocks = (in.size + 511) / 512
	var head [recordSize]byte
	in.encode(head[:])
	e.write(head[:])
	e.write(in.name)
	e.pad()
	e.write(in.target)
	e.pad()
	if in.xattrs != nil {
		e.write(binary.LittleEndian.AppendUint64(nil, uint64(len(in.xattrs))))
		e.write(in.xattrs)
		e.pad()
	}
	if n.IsRegular() {
		e.chunks(n)
		return
	}
	for k, c := range n.Entries {
		e.record(x.first-1+uint32(k), c.Name)
	}
}

// chunks writes the chunk records of a file.
func (e *encoder) chunks(n *tree.Node) {
	le := binary.LittleEndian
	var done uint64
	err := e.eachChunk(n, func(number uint32, index int) {
		b := &e.spec.Blobs[number]
		c, place := b.Table.Entry(index), e.places[number][index]
		var p [chunkSize]byte
		copy(p[:], b.Digests.Sums[index*nydusblob.DigestSize:][:nydusblob.DigestSize])
		var flags, crc uint32
		if c.Compressed {
			flags |= chunkCompressed
		}
		if b.Digests.CRC32C != nil {
			crc = b.Digests.CRC32C[index]
		}
		if crc != 0 {
			flags |= chunkCRC32
		}
		le.PutUint32(p[32:], number)
		le.PutUint32(p[36:], flags)
		le.PutUint32(p[40:], uint32(c.Stored.Len))
		le.PutUint32(p[44:], uint32(c.Plain.Len))
		le.PutUint64(p[48:], uint64(c.Stored.Off))
		le.PutUint64(p[56:], place.Plain)
		le.PutUint64(p[64:], done)
		le.PutUint32(p[72:], place.Index)
		le.PutUint32(p[76:], crc)
		e.write(p[:])
		done += uint64(e.spec.ChunkSize)
	})
	if err != nil && e.err == nil {
		e.err = err
	}
}
