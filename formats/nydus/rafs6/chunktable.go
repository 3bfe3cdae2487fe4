package rafs6

import (
	"encoding/binary"

	"github.com/lazuli-project/lazuli/formats/nydus/nydusblob"
)

// Chunk table entry, 80 bytes, sorted by digest, blob, index in the real tool's output; no reader asks for the order. There is one for every chunk that a file uses.
//
//	0 digest, 32 bytes | 32 u32 blob | 36 u32 flags | 40 u32 stored size | 44 u32 size | 48 u64 stored offset
//	56 u64 plain offset | 64 u64 offset in some file | 72 u32 index in the blob | 76 u32 CRC32C
//
// Chunks in batches have stored offset and size 0: where data lie is for the blob's own table to say.
const (
	chunkFlagCompressed = 0x1
	chunkFlagEncrypted  = 0x4
	chunkFlagBatch      = 0x8
	chunkFlagCRC32      = 0x10
	chunkFlags          = chunkFlagCompressed | 0x2 | chunkFlagEncrypted | chunkFlagBatch | chunkFlagCRC32
)

// checkChunks checks that the entries name chunks of the blobs.
func (b *Bootstrap) checkChunks() error {
	le := binary.LittleEndian
	for p := b.chunks; len(p) > 0; p = p[chunkSize:] {
		number, index := le.Uint32(p[32:]), le.Uint32(p[72:])
		if uint64(number) >= uint64(len(b.Blobs)) || index >= b.Blobs[number].ChunkCount {
			return corrupt("chunk table: chunk %d of blob %d", index, number)
		}
		if flags := le.Uint32(p[36:]); flags&^chunkFlags != 0 {
			return corrupt("chunk table: flags %#x", flags)
		}
	}
	return nil
}

// Check compares what the files and the chunk table of the bootstrap say about the blob with the blob's own table.
func (b *Bootstrap) Check(number int, t *nydusblob.Table) error {
	for _, r := range b.refs[number] {
		e := t.Entry(int(r.index))
		if e.Plain.Off != int64(r.block)*blockSize || e.Plain.Len != int64(r.size) {
			return corrupt("a file has %d bytes at %d in chunk %d of blob %d, which has %d at %d",
				r.size, int64(r.block)*blockSize, r.index, number, e.Plain.Len, e.Plain.Off)
		}
	}
	le := binary.LittleEndian
	for p := b.chunks; len(p) > 0; p = p[chunkSize:] {
		if le.Uint32(p[32:]) != uint32(number) {
			continue
		}
		index := le.Uint32(p[72:])
		size, off := le.Uint32(p[44:]), le.Uint64(p[56:])
		if e := t.Entry(int(index)); uint64(e.Plain.Off) != off || e.Plain.Len != int64(size) {
			return corrupt("chunk table: chunk %d of blob %d has %d bytes at %d, not %d at %d", index, number, e.Plain.Len, e.Plain.Off, size, off)
		}
	}
	return nil
}

// Digests returns the digests that the chunk table has for the chunks of a blob with n chunks. Its Sums are nil where
// it has none.
func (b *Bootstrap) Digests(number, n int) nydusblob.Digests {
	var d nydusblob.Digests
	le := binary.LittleEndian
	for p := b.chunks; len(p) > 0; p = p[chunkSize:] {
		if le.Uint32(p[32:]) != uint32(number) {
			continue
		}
		if d.Sums == nil {
			d = nydusblob.Digests{Sums: make([]byte, n*nydusblob.DigestSize), CRC32C: make([]uint32, n)}
		}
		index := int(le.Uint32(p[72:]))
		copy(d.Sums[index*nydusblob.DigestSize:], p[:nydusblob.DigestSize])
		if le.Uint32(p[36:])&chunkFlagCRC32 != 0 {
			d.CRC32C[index] = le.Uint32(p[76:])
		}
	}
	return d
}
