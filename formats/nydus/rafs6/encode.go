package rafs6

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/bits"
	"slices"

	"github.com/lazuli-project/lazuli/formats/nydus/nydusblob"
	"github.com/lazuli-project/lazuli/tree"
)

func roundUp(n, unit uint64) uint64 { return (n + unit - 1) &^ (unit - 1) }

// encode writes the bootstrap once every inode has its place.
func (b *builder) encode() ([]byte, error) {
	s := b.spec
	blobs := uint64(len(s.Blobs))
	sb := superblock{inodes: b.names, devices: uint16(blobs), chunkSize: s.ChunkSize, flags: FlagNoEncryption | FlagExplicitOwner}
	sb.flags |= compressorFlags[s.Compressor]
	if s.Digester == nydusblob.DigesterSHA256 {
		sb.flags |= FlagSHA256
	} else {
		sb.flags |= FlagBlake3
	}
	if b.hasXattr {
		sb.flags |= FlagHasXattr
	}
	if !slices.ContainsFunc(s.Blobs, func(x Blob) bool { return x.Info.Features&nydusblob.FeatureInlinedDigest == 0 }) {
		sb.flags |= FlagInlinedDigest
	}

	var prefetch []uint32
	sb.blobTable = region{roundUp(slotsAt+blobs*slotSize, blockSize), blobs * blobSize}
	if blobs > 0 {
		prefetch = b.prefetch()
		end := sb.blobTable.off + sb.blobTable.size
		if len(prefetch) > 0 {
			sb.prefetch = region{end, uint64(len(prefetch)) * 4}
			end += sb.prefetch.size
		}
		b.meta = roundUp(end, blockSize)
	}
	// The metadata area begins with an empty block, so that of an image without blobs may begin at 0.
	sb.metaBlock = uint32(b.meta / blockSize)
	sb.rootNid = uint16(b.inodes[0].nid)
	sb.chunkTable.off = roundUp(b.meta+b.space.off, blockSize)
	chunks := b.usedChunks()
	sb.chunkTable.size = uint64(len(chunks)) * chunkSize
	size := roundUp(sb.chunkTable.off+sb.chunkTable.size, blockSize)

	b.buf = make([]byte, max(size, minSize))
	pos := uint64(len(b.buf))
	for i := range s.Blobs {
		info := &s.Blobs[i].Info
		blocks := info.PlainSize / blockSize
		pos = roundUp(pos, deviceAlign)
		if (pos+info.PlainSize)/blockSize > 1<<32-1 {
			return nil, fmt.Errorf("blobs of more than 16 TiB: %w", ErrTree)
		}
		encodeSlot(b.buf[slotsAt+i*slotSize:], info.ID, uint32(blocks), uint32(pos/blockSize))
		encodeBlob(b.buf[sb.blobTable.off+uint64(i)*blobSize:], i, info)
		pos += blocks * blockSize
		sb.blocks += uint32(blocks)
	}
	sb.encode(b.buf)
	for i, nid := range prefetch {
		binary.LittleEndian.PutUint32(b.buf[sb.prefetch.off+uint64(i)*4:], nid)
	}
	if err := b.encodeDir(s.Tree.Root, 0, 0); err != nil {
		return nil, err
	}
	b.encodeChunks(b.buf[sb.chunkTable.off:], chunks)
	return b.buf, nil
}

// at returns the bootstrap from an inode on.
func (b *builder) at(nid uint32) []byte { return b.buf[b.meta+uint64(nid)*nidSize:] }

// encodeHead writes inode and attributes, and returns what is behind them.
func (b *builder) encodeHead(n *tree.Node, p *placed, in inode) []byte {
	in.mode, in.uid, in.gid, in.number = uint16(n.Mode), n.UID, n.GID, p.number
	in.mtime, in.nsec, in.nlink = n.Mtime, n.MtimeNsec, n.Nlink
	in.xattrLen, _ = xattrSize(n.Xattrs) // checked when it was placed
	dst := b.at(p.nid)
	in.encode(dst)
	if in.xattrLen > 0 {
		encodeXattrs(dst[inodeSize:], n.Xattrs)
	}
	return dst[inodeSize+in.xattrLen:]
}

// content returns the inode's layout for content of n bytes, where it has its whole blocks and where the rest.
func (b *builder) content(node *tree.Node, p *placed, n uint64) (in inode, blocks []byte) {
	x, _ := xattrSize(node.Xattrs)
	in = inode{layout: layoutPlain, size: n}
	full := n
	if inline(uint64(inodeSize+x), n) {
		in.layout = layoutInline
		full = n &^ (blockSize - 1)
	}
	at := b.meta + uint64(p.block)*blockSize
	in.u = uint32(at / blockSize)
	if full > 0 {
		blocks = b.buf[at:][:full]
	}
	return in, blocks
}

func (b *builder) encodeDir(n *tree.Node, at, parent uint32) error {
	p := &b.inodes[at]
	var packer direntPacker
	forNames(n, func(name string, _ int) { packer.add(len(name)) })
	in, blocks := b.content(n, p, uint64(packer.size()))
	rest := b.encodeHead(n, p, in)

	// Entries are written block by block, as the packer cuts them.
	var block []dirent
	flush := func(last bool) {
		switch {
		case !last:
			encodeDirents(blocks[:blockSize], block)
			blocks = blocks[blockSize:]
		case len(blocks) > 0:
			encodeDirents(blocks, block)
		default:
			encodeDirents(rest, block)
		}
		block = block[:0]
	}
	packer = direntPacker{}
	forNames(n, func(name string, entry int) {
		if packer.add(len(name)) {
			flush(false)
		}
		d := dirent{name: name, kind: direntTypes[tree.TypeDir]}
		switch entry {
		case -1:
			d.nid = uint64(p.nid)
		case -2:
			d.nid = uint64(b.inodes[parent].nid)
		default:
			d.nid = uint64(b.inodes[p.first+uint32(entry)].nid)
			d.kind = direntTypes[n.Entries[entry].Node.Type()]
		}
		block = append(block, d)
	})
	flush(true)

	for k, e := range n.Entries {
		child := p.first + uint32(k)
		var err error
		if e.Node.IsDir() {
			err = b.encodeDir(e.Node, child, at)
		} else if e.Node.Nlink < 2 || b.linked[e.Node] == child {
			err = b.encodeFile(e.Node, &b.inodes[child])
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (b *builder) encodeFile(n *tree.Node, p *placed) error {
	switch n.Type() {
	case tree.TypeRegular:
		rest := b.encodeHead(n, p, inode{layout: layoutChunked, size: uint64(n.Size), u: b.chunkFormat(n)})
		// Where the array begins is counted from the inode, which is aligned.
		x, _ := xattrSize(n.Xattrs)
		head := uint64(inodeSize + x)
		rest = rest[b.indexesAt(head)-head:]
		le := binary.LittleEndian
		return b.eachChunk(n, func(number uint32, index int, off int64) {
			le.PutUint16(rest, uint16(index))
			rest[2], rest[3] = uint8(number+1), uint8(index>>16)
			le.PutUint32(rest[4:], uint32(off/blockSize))
			rest = rest[indexSize:]
		})
	case tree.TypeSymlink:
		in, blocks := b.content(n, p, uint64(len(n.Target)))
		rest := b.encodeHead(n, p, in)
		// At most one block: it is either apart or behind the inode.
		if len(blocks) > 0 {
			copy(blocks, n.Target)
		} else {
			copy(rest, n.Target)
		}
	default:
		b.encodeHead(n, p, inode{layout: layoutPlain, u: encodeDevice(n.Rdev)})
	}
	return nil
}

// chunkFormat returns the chunk format of an inode. A file of several chunks that lie one behind the other is one large
// chunk for Linux, which then reads ahead across them.
func (b *builder) chunkFormat(n *tree.Node) uint32 {
	unit := b.chunkBits
	if n.Size > 1<<unit && len(n.Extents) == 1 {
		unit = uint32(bits.Len64(uint64(n.Size - 1)))
	}
	if unit > blockBits+0x1f {
		unit = b.chunkBits
	}
	return chunkIndexes | (unit - blockBits)
}

// usedChunk is a chunk of the chunk table. The key, the beginning of its digest, makes comparing quick.
type usedChunk struct {
	key         uint64
	blob, index uint32
}

// usedChunks returns the chunks of the chunk table in its order.
func (b *builder) usedChunks() []usedChunk {
	n := 0
	for i := range b.chunks {
		n += len(b.chunks[i].used)
	}
	chunks := make([]usedChunk, 0, n)
	for i := range b.chunks {
		for index, u := range b.chunks[i].used {
			if u != 0 || b.spec.AllChunks {
				chunks = append(chunks, usedChunk{binary.BigEndian.Uint64(b.sum(uint32(i), uint32(index))), uint32(i), uint32(index)})
			}
		}
	}
	if b.spec.Compact {
		return chunks
	}
	slices.SortFunc(chunks, func(x, y usedChunk) int {
		switch {
		case x.key < y.key:
			return -1
		case x.key > y.key:
			return 1
		}
		if c := bytes.Compare(b.sum(x.blob, x.index), b.sum(y.blob, y.index)); c != 0 {
			return c
		}
		if x.blob != y.blob {
			return int(x.blob) - int(y.blob)
		}
		return int(x.index) - int(y.index)
	})
	return chunks
}

func (b *builder) sum(number, index uint32) []byte {
	return b.spec.Blobs[number].Digests.Sums[int(index)*nydusblob.DigestSize:][:nydusblob.DigestSize]
}

func (b *builder) encodeChunks(p []byte, chunks []usedChunk) {
	le := binary.LittleEndian
	for i, c := range chunks {
		x := &b.spec.Blobs[c.blob]
		e := x.Table.Entry(int(c.index))
		dst := p[i*chunkSize:]
		copy(dst, b.sum(c.blob, c.index))
		var flags uint32
		if e.Compressed && !e.InBatch {
			flags |= chunkFlagCompressed
		}
		crc := e.CRC32C
		if x.Digests.CRC32C != nil {
			crc = x.Digests.CRC32C[c.index]
		}
		if b.spec.Compact {
			crc = 0
		}
		if crc != 0 {
			flags |= chunkFlagCRC32
		}
		le.PutUint32(dst[32:], c.blob)
		le.PutUint32(dst[36:], flags)
		if !e.InBatch {
			le.PutUint32(dst[40:], uint32(e.Stored.Len))
			le.PutUint64(dst[48:], uint64(e.Stored.Off))
		}
		le.PutUint32(dst[44:], uint32(e.Plain.Len))
		le.PutUint64(dst[56:], uint64(e.Plain.Off))
		le.PutUint64(dst[64:], uint64(max(b.chunks[c.blob].used[c.index], 1)-1)*uint64(b.spec.ChunkSize))
		le.PutUint32(dst[72:], c.index)
		le.PutUint32(dst[76:], crc)
	}
}
