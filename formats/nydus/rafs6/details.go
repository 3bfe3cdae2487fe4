package rafs6

import (
	"encoding/binary"

	"github.com/lazuli-project/lazuli/disk/erofs/ondisk"
	"github.com/lazuli-project/lazuli/tree"
)

// Details are facts that only who inspects a bootstrap needs. Offsets and sizes are in bytes.
type Details struct {
	Nids   map[*tree.Node]uint64
	Inodes uint64 // as the superblock says: paths
	// Tables; those that are not there have size 0.
	BlobTableOffset, BlobTableSize         uint64
	ChunkTableOffset, ChunkTableSize       uint64
	PrefetchTableOffset, PrefetchTableSize uint64
	// Mapped are the addresses of the blobs in the space of all devices, in blocks of 4096 bytes.
	Mapped []uint32
}

// BlockSize is the unit of addresses, in bytes.
const BlockSize = blockSize

// Inspect is [Parse] with details.
func Inspect(p []byte) (*Bootstrap, *Details, error) {
	d := &Details{Nids: make(map[*tree.Node]uint64)}
	b, err := parse(p, d.Nids)
	if err != nil {
		return nil, nil, err
	}
	s, err := decodeSuperblock(p)
	if err != nil {
		return nil, nil, err
	}
	d.Inodes = s.inodes
	d.BlobTableOffset, d.BlobTableSize = s.blobTable.off, s.blobTable.size
	d.ChunkTableOffset, d.ChunkTableSize = s.chunkTable.off, s.chunkTable.size
	d.PrefetchTableOffset, d.PrefetchTableSize = s.prefetch.off, s.prefetch.size
	for i := range b.Blobs {
		d.Mapped = append(d.Mapped, binary.LittleEndian.Uint32(p[slotsAt+i*slotSize+68:]))
	}
	return b, d, nil
}

// FlagNames lists the flags of the superblock by the names that the reference tools print.
func (b *Bootstrap) FlagNames() []string {
	var names []string
	for _, f := range []struct {
		bit  uint64
		name string
	}{
		{FlagNone, "COMPRESSION_NONE"}, {FlagLZ4, "COMPRESSION_LZ4"}, {FlagBlake3, "HASH_BLAKE3"}, {FlagSHA256, "HASH_SHA256"},
		{FlagExplicitOwner, "EXPLICIT_UID_GID"}, {FlagHasXattr, "HAS_XATTR"}, {FlagGzip, "COMPRESSION_GZIP"}, {FlagZstd, "COMPRESSION_ZSTD"},
		{FlagInlinedDigest, "INLINED_CHUNK_DIGEST"}, {FlagTarfs, "TARTFS_MODE"},
		{FlagNoEncryption, "ENCRYPTION_NONE"}, {FlagEncrypted, "ENCRYPTION_ASE_128_XTS"},
	} {
		if b.Flags&f.bit != 0 {
			names = append(names, f.name)
		}
	}
	return names
}

// DirSize is the size of a directory as its inode tells it, in bytes.
func DirSize(n *tree.Node) int64 { return ondisk.DirentsSize(n, blockSize) }
