package rafs6

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"io"
	"math/bits"
	"slices"

	"github.com/lazuli-project/lazuli/disk"
	"github.com/lazuli-project/lazuli/disk/erofs/ondisk"
	"github.com/lazuli-project/lazuli/formats/nydus/nydusblob"
	"github.com/lazuli-project/lazuli/tree"
)

func roundUp(n, unit uint64) uint64 { return (n + unit - 1) &^ (unit - 1) }

// layOut finds the places of the bootstrap's areas once every inode has its own.
func (p *Plan) layOut() error {
	b, s := p.b, p.b.spec
	blobs := uint64(len(s.Blobs))
	p.sb = superblock{blockBits: uint8(b.blockBits), inodes: uint64(len(b.inodes)), devices: uint16(blobs), chunkSize: s.ChunkSize, flags: encryptionFlag(s.Blobs)}
	sb := &p.sb
	if !s.NoOwners {
		sb.flags |= FlagExplicitOwner
	}
	sb.flags |= compressorFlags[s.Compressor]
	if s.Digester == nydusblob.DigesterSHA256 {
		sb.flags |= FlagSHA256
	} else {
		sb.flags |= FlagBlake3
	}
	if s.Tarfs {
		sb.flags |= FlagTarfs
	}
	if b.hasXattr {
		sb.flags |= FlagHasXattr
	}
	if !slices.ContainsFunc(s.Blobs, func(x Blob) bool { return x.Info.Features&nydusblob.FeatureInlinedDigest == 0 }) {
		sb.flags |= FlagInlinedDigest
	}
	sb.blobTable = region{roundUp(slotsAt+blobs*slotSize, blockSize), blobs * blobSize}
	if blobs > 0 {
		p.prefetch = b.prefetch()
		end := sb.blobTable.off + sb.blobTable.size
		if len(p.prefetch) > 0 {
			sb.prefetch = region{end, uint64(len(p.prefetch)) * 4}
			end += sb.prefetch.size
		}
		b.meta = roundUp(end, blockSize)
	}
	// The metadata area begins with an empty block, so that of an image without blobs may begin at 0.
	sb.metaBlock = uint32(b.meta / b.block)
	sb.rootNid = uint16(b.inodes[0].nid)
	sb.chunkTable.off = roundUp(b.meta+b.space.off, blockSize)
	for i := range b.chunks {
		for _, u := range b.chunks[i].used {
			if !s.NoChunks && !s.Tarfs && (u != 0 || s.AllChunks) {
				sb.chunkTable.size += chunkSize
			}
		}
	}
	p.size = max(roundUp(sb.chunkTable.off+sb.chunkTable.size, blockSize), minSize)
	pos := p.size
	for i := range s.Blobs {
		info := &s.Blobs[i].Info
		pos = roundUp(pos, deviceAlign)
		if (pos+info.PlainSize)/b.block > 1<<32-1 {
			return fmt.Errorf("blobs of more than 16 TiB: %w", ErrTree)
		}
		blocks := info.PlainSize / b.block
		pos += blocks * b.block
		sb.blocks += uint32(blocks)
	}
	return nil
}

func encryptionFlag(blobs []Blob) uint64 {
	if slices.ContainsFunc(blobs, func(b Blob) bool { return b.Info.Features&nydusblob.FeatureEncrypted != 0 }) {
		return FlagEncrypted
	}
	return FlagNoEncryption
}

// head returns what stands before the metadata area, or in its empty first block.
func (p *Plan) head() []byte {
	sb, blobs := &p.sb, p.b.spec.Blobs
	end := max(slotsAt, sb.blobTable.off+sb.blobTable.size)
	h := make([]byte, max(end, sb.prefetch.off+sb.prefetch.size))
	pos := p.size
	for i := range blobs {
		info := &blobs[i].Info
		blocks := info.PlainSize / p.b.block
		pos = roundUp(pos, deviceAlign)
		encodeSlot(h[slotsAt+i*slotSize:], info.ID, uint32(blocks), uint32(pos/p.b.block))
		encodeBlob(h[sb.blobTable.off+uint64(i)*blobSize:], i, info)
		pos += blocks * p.b.block
	}
	sb.encode(h)
	for i, nid := range p.prefetch {
		binary.LittleEndian.PutUint32(h[sb.prefetch.off+uint64(i)*4:], nid)
	}
	return h
}

// WriteTo writes the bootstrap from its beginning to its end, without ever having all of it. It implements [io.WriterTo]. The
// same Spec gives the same bytes.
func (p *Plan) WriteTo(w io.Writer) (int64, error) {
	e := &encoder{builder: p.b, w: bufio.NewWriterSize(w, writeSize)}
	e.write(p.head())
	for _, part := range p.b.parts {
		e.pad(p.b.meta + uint64(part>>32)*nidSize)
		e.part(uint32(part), uint32(part>>32))
		if e.err != nil {
			return int64(e.off), e.err
		}
	}
	e.pad(p.sb.chunkTable.off)
	e.chunkTable()
	e.pad(p.size)
	if e.err == nil {
		e.err = e.w.Flush()
	}
	return int64(e.off), e.err
}

// writeSize is in what pieces a bootstrap is written.
const writeSize = 64 << 10

// encoder writes a bootstrap.
type encoder struct {
	*builder
	w       *bufio.Writer
	off     uint64
	err     error // sticky
	scratch []byte
	dirents []ondisk.Dirent
}

// write writes the next bytes.
func (e *encoder) write(p []byte) {
	if e.err == nil {
		_, e.err = e.w.Write(p)
	}
	e.off += uint64(len(p))
}

var zeros [blockSize]byte

// pad writes zeros up to an offset.
func (e *encoder) pad(to uint64) {
	for e.off < to && e.err == nil {
		e.write(zeros[:min(to-e.off, blockSize)])
	}
}

// zeroed returns n zeros to write into, valid until the next call.
func (e *encoder) zeroed(n uint64) []byte {
	if uint64(cap(e.scratch)) < n {
		e.scratch = make([]byte, n)
	}
	p := e.scratch[:n]
	clear(p)
	return p
}

// part writes the part of an inode that is at a place in units of nidSize.
func (e *encoder) part(at, place uint32) {
	p := &e.inodes[at]
	switch p.node.Type() {
	case tree.TypeDir:
		e.data(p, place, uint64(ondisk.DirentsSize(p.node, int64(e.block))), func(dst []byte, from uint64) { e.entries(p, dst, from) })
	case tree.TypeSymlink:
		e.data(p, place, uint64(len(p.node.Target)), func(dst []byte, from uint64) { copy(dst, p.node.Target[from:]) })
	case tree.TypeRegular:
		e.file(p)
	default:
		u, _ := ondisk.EncodeDevice(p.node.Rdev) // checked when it was placed
		e.write(e.inode(p, ondisk.Inode{Layout: ondisk.LayoutPlain, U: u}, 0))
	}
}

// inode returns an inode with attributes and room for what comes behind these, to be filled in.
func (e *encoder) inode(p *placed, in ondisk.Inode, behind uint64) []byte {
	n := p.node
	in.Mode, in.UID, in.GID, in.Number = uint16(n.Mode), n.UID, n.GID, p.number
	if e.spec.NoOwners {
		in.UID, in.GID = 0, 0
	}
	in.Mtime, in.Links = ondisk.Stamp{Sec: n.Mtime, Nsec: n.MtimeNsec}, n.Nlink
	in.XattrLen, _ = ondisk.XattrLen(n.Xattrs) // checked when it was placed
	dst := e.zeroed(uint64(in.Head()) + behind)
	ondisk.AppendXattrs(in.AppendTo(dst[:0]), n.Xattrs)
	return dst
}

// data writes the inode of a directory or link with the rest of its n bytes, or the blocks of it. content writes what it has
// from an offset on.
func (e *encoder) data(p *placed, place uint32, n uint64, content func(dst []byte, from uint64)) {
	x, _ := ondisk.XattrLen(p.node.Xattrs)
	in, full := ondisk.Inode{Layout: ondisk.LayoutPlain, Size: int64(n)}, n
	if e.inline(uint64(ondisk.ExtendedSize+x), n) {
		in.Layout, full = ondisk.LayoutInline, n&^(e.block-1)
	}
	if place != p.nid {
		dst := e.zeroed(full)
		content(dst, 0)
		e.write(dst)
		return
	}
	in.U = uint32(e.meta/e.block) + p.block
	dst := e.inode(p, in, n-full)
	if full < n {
		content(dst[ondisk.ExtendedSize+x:], full)
	}
	e.write(dst)
}

// entries writes the entries of a directory from the block at an offset on, as far as dst has room.
func (e *encoder) entries(p *placed, dst []byte, from uint64) {
	skip := int64(from / e.block) // blocks
	e.dirents = e.dirents[:0]
	packer := ondisk.DirentPacker{Block: int64(e.block)}
	// The packer says where a block is full.
	flush := func() {
		switch {
		case skip > 0:
			skip--
		case len(dst) > 0:
			n := min(len(dst), int(e.block))
			ondisk.AppendDirentBlock(dst[:0:n], e.dirents)
			dst = dst[n:]
		}
		e.dirents = e.dirents[:0]
	}
	ondisk.ForNames(p.node, func(name string, entry int) {
		if packer.Add(name) {
			flush()
		}
		d := ondisk.Dirent{Name: name, Type: disk.TypeDir}
		switch entry {
		case ondisk.Self:
			d.Nid = uint64(p.nid)
		case ondisk.Up:
			d.Nid = uint64(e.inodes[p.parent].nid)
		default:
			d.Nid = uint64(e.inodes[p.first+uint32(entry)].nid)
			d.Type = disk.FileType(p.node.Entries[entry].Node.Mode)
		}
		e.dirents = append(e.dirents, d)
	})
	flush()
}

// file writes the inode of a regular file with its chunk indexes.
func (e *encoder) file(p *placed) {
	n := p.node
	x, _ := ondisk.XattrLen(n.Xattrs)
	head := uint64(ondisk.ExtendedSize + x)
	count := uint64(0)
	unit := int64(e.spec.ChunkSize)
	for _, x := range n.Extents {
		count += uint64((x.Length + unit - 1) / unit)
	}
	// Where the array begins is counted from the inode, which is aligned.
	at := e.indexesAt(head)
	dst := e.inode(p, ondisk.Inode{Layout: ondisk.LayoutChunked, Size: n.Size, U: e.chunkFormat(n)}, at-head+count*ondisk.IndexSize)
	rest := dst[at:]
	le := binary.LittleEndian
	err := e.eachChunk(n, func(number uint32, index int, off int64) {
		le.PutUint16(rest, uint16(index))
		rest[2], rest[3] = uint8(number+1), uint8(index>>16)
		le.PutUint32(rest[4:], uint32(off/int64(e.block)))
		rest = rest[ondisk.IndexSize:]
	})
	if err != nil && e.err == nil {
		e.err = err
	}
	e.write(dst)
}

// chunkFormat returns the chunk format of an inode. A file of several chunks that lie one behind the other is one large
// chunk for Linux, which then reads ahead across them.
func (b *builder) chunkFormat(n *tree.Node) uint32 {
	unit := b.chunkBits
	if n.Size > 1<<unit && len(n.Extents) == 1 {
		unit = uint32(bits.Len64(uint64(n.Size - 1)))
	}
	if unit > b.blockBits+ondisk.ChunkBits {
		unit = b.chunkBits
	}
	return ondisk.ChunkIndexes | (unit - b.blockBits)
}

// chunkTable writes the chunk table.
func (e *encoder) chunkTable() {
	if e.spec.NoChunks || e.spec.Tarfs {
		return
	}
	var sorted []usedChunk
	for i := range e.chunks {
		for index, u := range e.chunks[i].used {
			switch {
			case u == 0 && !e.spec.AllChunks:
			case e.spec.Compact:
				e.chunk(uint32(i), uint32(index))
			default:
				sorted = append(sorted, usedChunk{binary.BigEndian.Uint64(e.sum(uint32(i), uint32(index))), uint32(i), uint32(index)})
			}
		}
	}
	slices.SortFunc(sorted, e.compareChunks)
	for _, c := range sorted {
		e.chunk(c.blob, c.index)
	}
}

// usedChunk is a chunk of the chunk table. The key, the beginning of its digest, makes comparing quick.
type usedChunk struct {
	key         uint64
	blob, index uint32
}

func (b *builder) compareChunks(x, y usedChunk) int {
	if c := cmp.Compare(x.key, y.key); c != 0 {
		return c
	}
	return cmp.Or(bytes.Compare(b.sum(x.blob, x.index), b.sum(y.blob, y.index)), cmp.Compare(x.blob, y.blob), cmp.Compare(x.index, y.index))
}

func (b *builder) sum(number, index uint32) []byte {
	return b.spec.Blobs[number].Digests.Sums[int(index)*nydusblob.DigestSize:][:nydusblob.DigestSize]
}

// chunk writes an entry of the chunk table.
func (e *encoder) chunk(number, index uint32) {
	x := &e.spec.Blobs[number]
	c := x.Table.Entry(int(index))
	dst := e.zeroed(chunkSize)
	copy(dst, e.sum(number, index))
	var flags uint32
	if c.Compressed && (!c.InGroup || x.Info.Features&nydusblob.FeatureZran != 0) {
		flags |= chunkFlagCompressed
	}
	if c.Encrypted {
		flags |= chunkFlagEncrypted
	}
	crc := c.CRC32C
	if x.Digests.CRC32C != nil {
		crc = x.Digests.CRC32C[index]
	}
	if e.spec.Compact {
		crc = 0
	}
	if crc != 0 {
		flags |= chunkFlagCRC32
	}
	le := binary.LittleEndian
	le.PutUint32(dst[32:], number)
	le.PutUint32(dst[36:], flags)
	// Of chunks in an inflate context the place is of no use; in compact tables it is left out, as everybody does with batches.
	if !c.InGroup || x.Info.Features&nydusblob.FeatureZran != 0 && !e.spec.Compact {
		le.PutUint32(dst[40:], uint32(c.Stored.Len))
		le.PutUint64(dst[48:], uint64(c.Stored.Off))
	}
	le.PutUint32(dst[44:], uint32(c.Plain.Len))
	le.PutUint64(dst[56:], uint64(c.Plain.Off))
	le.PutUint64(dst[64:], uint64(max(e.chunks[number].used[index], 1)-1)*uint64(e.spec.ChunkSize))
	le.PutUint32(dst[72:], index)
	le.PutUint32(dst[76:], crc)
	e.write(dst)
}
