package rafs6

import (
	"encoding/binary"
	"fmt"
	"unicode/utf8"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/formats/nydus/nydusblob"
)

// Sizes and places in bytes.
const (
	blockBits  = 12
	blockSize  = 1 << blockBits
	superAt    = 1024
	extSuperAt = superAt + 128
	slotsAt    = extSuperAt + 256
	slotSize   = 128
	blobSize   = 256
	chunkSize  = 80
	nidSize    = 32
	rootNid    = blockSize / nidSize
	// minSize is what the reference reader reads before it looks at anything.
	minSize = 8192
	// MaxBlobs is the number of blobs that a chunk index can name.
	MaxBlobs = 254
	maxNids  = 1<<32 - 1
	// deviceAlign is the unit of addresses in the space of all devices.
	deviceAlign = 512 << 10
)

// Values of the EROFS superblock.
const (
	magic           = 0xe0f5e1e2
	magicV5         = 0x52414653 // at offset 0
	compatRAFS      = 0x40000000
	incompat        = 0x4 | 0x8 // chunked files, device table
	blocksLegacy    = 4096      // what old builders wrote for an image without blobs
	tarfsBlockBits  = 9
	cipherAES128XTS = 1
)

// Flags of the RAFS superblock.
const (
	FlagNone          = 0x1
	FlagLZ4           = 0x2
	FlagBlake3        = 0x4
	FlagSHA256        = 0x8
	FlagExplicitOwner = 0x10
	FlagHasXattr      = 0x20
	FlagGzip          = 0x40
	FlagZstd          = 0x80
	FlagInlinedDigest = 0x100
	FlagTarfs         = 0x200
	FlagNoEncryption  = 0x1000000
	FlagEncrypted     = 0x2000000
	flagsPreserved    = 0xfc000000
	flagsCompressor   = FlagNone | FlagLZ4 | FlagGzip | FlagZstd
	flagsKnown        = flagsCompressor | FlagBlake3 | FlagSHA256 | FlagExplicitOwner | FlagHasXattr | FlagInlinedDigest |
		FlagTarfs | FlagNoEncryption | FlagEncrypted | flagsPreserved
)

var compressorFlags = map[nydusblob.Compressor]uint64{
	nydusblob.CompressorNone: FlagNone, nydusblob.CompressorLZ4: FlagLZ4,
	nydusblob.CompressorGzip: FlagGzip, nydusblob.CompressorZstd: FlagZstd,
}

// superblock has what is variable in the EROFS superblock (at 1024, 128 bytes) and in the RAFS superblock (at
// 1152, 256 bytes).
//
//	EROFS: 0 u32 magic | 4 u32 checksum 0 | 8 u32 compatible features | 12 u8 log2 of the block size | 13 u8 0
//	14 u16 root nid | 16 u64 inodes | 24 time 0 | 36 u32 blocks of all devices | 40 u32 metadata area in blocks
//	44 zeros | 80 u32 incompatible features | 84 u16 0 | 86 u16 devices | 88 u16 device slots in 128 bytes | 90 zeros
//	RAFS: 0 u64 flags | 8 u64, 16 u32 blob table | 20 u32 chunk size | 24 u64, 32 u64 chunk table
//	40 u64, 48 u32 prefetch table | 52 zeros
type superblock struct {
	blockBits  uint8 // of addresses; tables stand at multiples of blockSize
	rootNid    uint16
	inodes     uint64
	blocks     uint32
	metaBlock  uint32
	devices    uint16
	flags      uint64
	chunkSize  uint32
	blobTable  region
	chunkTable region
	prefetch   region
}

// region is a part of the bootstrap.
type region struct{ off, size uint64 }

func (s *superblock) encode(p []byte) {
	le := binary.LittleEndian
	e, r := p[superAt:], p[extSuperAt:]
	le.PutUint32(e[0:], magic)
	le.PutUint32(e[8:], compatRAFS)
	e[12] = s.blockBits
	le.PutUint16(e[14:], s.rootNid)
	le.PutUint64(e[16:], s.inodes)
	le.PutUint32(e[36:], s.blocks)
	le.PutUint32(e[40:], s.metaBlock)
	le.PutUint32(e[80:], incompat)
	le.PutUint16(e[86:], s.devices)
	le.PutUint16(e[88:], slotsAt/slotSize)
	le.PutUint64(r[0:], s.flags)
	le.PutUint64(r[8:], s.blobTable.off)
	le.PutUint32(r[16:], uint32(s.blobTable.size))
	le.PutUint32(r[20:], s.chunkSize)
	le.PutUint64(r[24:], s.chunkTable.off)
	le.PutUint64(r[32:], s.chunkTable.size)
	le.PutUint64(r[40:], s.prefetch.off)
	le.PutUint32(r[48:], uint32(s.prefetch.size))
}

func corrupt(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, blob.ErrCorrupt)...)
}

func unsupported(what string) error { return fmt.Errorf("%s: %w", what, blob.ErrUnsupported) }

// decodeSuperblock decodes and checks both superblocks of a bootstrap.
func decodeSuperblock(p []byte) (*superblock, error) {
	le := binary.LittleEndian
	if len(p) >= 4 && le.Uint32(p) == magicV5 {
		return nil, unsupported("RAFS v5")
	}
	if len(p) < minSize || len(p)%blockSize != 0 {
		return nil, corrupt("bootstrap of %d bytes", len(p))
	}
	e, r := p[superAt:], p[extSuperAt:]
	if m := le.Uint32(e); m != magic {
		return nil, corrupt("superblock: magic %#x", m)
	}
	s := &superblock{
		blockBits: e[12], rootNid: le.Uint16(e[14:]), inodes: le.Uint64(e[16:]), blocks: le.Uint32(e[36:]), metaBlock: le.Uint32(e[40:]),
		devices: le.Uint16(e[86:]), flags: le.Uint64(r), chunkSize: le.Uint32(r[20:]),
		blobTable:  region{le.Uint64(r[8:]), uint64(le.Uint32(r[16:]))},
		chunkTable: region{le.Uint64(r[24:]), le.Uint64(r[32:])},
		prefetch:   region{le.Uint64(r[40:]), uint64(le.Uint32(r[48:]))},
	}
	return s, s.check(e, uint64(len(p)))
}

func (s *superblock) check(e []byte, size uint64) error {
	le := binary.LittleEndian
	bits := uint64(blockBits)
	if s.flags&FlagTarfs != 0 {
		bits = tarfsBlockBits
	}
	for _, f := range []struct {
		what      string
		got, want uint64
	}{
		{"checksum", uint64(le.Uint32(e[4:])), 0},
		{"RAFS feature", uint64(le.Uint32(e[8:]) & compatRAFS), compatRAFS},
		{"block size bits", uint64(e[12]), bits},
		{"extension slots", uint64(e[13]), 0},
		{"shared attributes", uint64(le.Uint32(e[44:])), 0},
		{"incompatible features", uint64(le.Uint32(e[80:])), incompat},
		{"compression", uint64(le.Uint16(e[84:])), 0},
		{"device slots", uint64(le.Uint16(e[88:])), slotsAt / slotSize},
	} {
		if f.got != f.want {
			return corrupt("superblock: %s is %#x instead of %#x", f.what, f.got, f.want)
		}
	}
	hash, codec, cipher := s.flags&(FlagBlake3|FlagSHA256), s.flags&flagsCompressor, s.flags&(FlagNoEncryption|FlagEncrypted)
	switch {
	case s.flags&^flagsKnown != 0 || hash == 0 || hash&(hash-1) != 0 || codec == 0 || codec&(codec-1) != 0 || cipher&(cipher-1) != 0:
		return corrupt("superblock: flags %#x", s.flags)
	case s.inodes == 0 || s.rootNid == 0:
		return corrupt("superblock: %d inodes, root %d", s.inodes, s.rootNid)
	case uint64(s.metaBlock)<<s.blockBits > size:
		return corrupt("superblock: metadata at block %d", s.metaBlock)
	case s.chunkSize < nydusblob.MinChunkSize || s.chunkSize > nydusblob.MaxChunkSize || s.chunkSize&(s.chunkSize-1) != 0:
		return corrupt("superblock: chunk size %d", s.chunkSize)
	case s.devices == 0 && s.blocks != 0 && s.blocks != blocksLegacy:
		return corrupt("superblock: %d blocks without devices", s.blocks)
	case s.devices > MaxBlobs || uint64(s.devices)*blobSize != s.blobTable.size:
		return corrupt("superblock: %d devices, blob table of %d bytes", s.devices, s.blobTable.size)
	case slotsAt+uint64(s.devices)*slotSize > size:
		return corrupt("superblock: %d devices", s.devices)
	}
	if !s.blobTable.valid(size, blockSize, blobSize) {
		return corrupt("superblock: blob table %d at %d", s.blobTable.size, s.blobTable.off)
	}
	if s.chunkTable.size > 0 && (!s.chunkTable.valid(size, blockSize, chunkSize) || s.chunkTable.overlaps(s.blobTable)) {
		return corrupt("superblock: chunk table %d at %d", s.chunkTable.size, s.chunkTable.off)
	}
	if s.prefetch.size > 0 && s.prefetch.off != 0 &&
		(!s.prefetch.valid(size, 8, 4) || s.prefetch.overlaps(s.blobTable) || s.prefetch.overlaps(s.chunkTable)) {
		return corrupt("superblock: prefetch table %d at %d", s.prefetch.size, s.prefetch.off)
	}
	return nil
}

func (r region) valid(file, align, unit uint64) bool {
	return r.off >= blockSize && r.off%align == 0 && r.size%unit == 0 && r.off <= file && r.size <= file-r.off
}

func (r region) overlaps(o region) bool {
	return r.size > 0 && o.size > 0 && r.off < o.off+o.size && o.off < r.off+r.size
}

// of returns the region's bytes; it must be valid. Tables of size 0 are not checked, and may not be asked for.
func (r region) of(p []byte) []byte { return p[r.off:][:r.size:r.size] }

// Device slot, 128 bytes: 0 blob id, 64 bytes, padded with NUL | 64 u32 blocks | 68 u32 address in the space of all
// devices | 72 zeros

func encodeSlot(p []byte, id string, blocks, mapped uint32) {
	copy(p[:64], id)
	binary.LittleEndian.PutUint32(p[64:], blocks)
	binary.LittleEndian.PutUint32(p[68:], mapped)
}

// Blob table entry, 256 bytes.
//
//	0 id, 64 bytes, padded with NUL | 64 u32 index | 68 u32 chunk size | 72 u32 chunks | 76 u32 codec | 80 u32 digest
//	84 u32 features | 88 u64 stored size | 96 u64 plain size | 104 u32 size of the TOC | 108 u32 codec of the chunk table
//	112 u64 offset, 120 u64 stored size, 128 u64 size of the chunk table | 136 SHA-256 of the TOC
//	168 SHA-256 and 200 u64 size of the object with the chunk table, where that is another one; or, of an encrypted blob, its key
//	and 200 its tweak, 16 bytes | 216 u32 cipher: 1 AES-128-XTS | 220 zeros

func encodeBlob(p []byte, index int, b *nydusblob.Info) {
	le := binary.LittleEndian
	copy(p[:64], b.ID)
	le.PutUint32(p[64:], uint32(index))
	le.PutUint32(p[68:], b.ChunkSize)
	le.PutUint32(p[72:], b.ChunkCount)
	le.PutUint32(p[76:], uint32(b.Compressor))
	le.PutUint32(p[80:], uint32(b.Digester))
	le.PutUint32(p[84:], uint32(b.Features))
	le.PutUint64(p[88:], b.StoredSize)
	le.PutUint64(p[96:], b.PlainSize)
	le.PutUint32(p[104:], b.TOCSize)
	le.PutUint32(p[108:], uint32(b.CICompressor))
	le.PutUint64(p[112:], b.CIOffset)
	le.PutUint64(p[120:], b.CIStoredSize)
	le.PutUint64(p[128:], b.CISize)
	copy(p[136:168], b.TOCDigest[:])
	if b.Features&nydusblob.FeatureEncrypted != 0 {
		copy(p[168:200], b.Key.Key[:])
		copy(p[200:216], b.Key.IV[:])
		le.PutUint32(p[216:], cipherAES128XTS)
		return
	}
	copy(p[168:200], b.MetaDigest[:])
	le.PutUint64(p[200:], b.MetaSize)
}

// decodeBlobs decodes and checks blob table and device slots.
func decodeBlobs(p []byte, s *superblock) ([]nydusblob.Info, error) {
	le := binary.LittleEndian
	blobs := make([]nydusblob.Info, s.devices)
	ids := make(map[string]bool, s.devices)
	for i := range blobs {
		t := s.blobTable.of(p)[i*blobSize:][:blobSize]
		slot := p[slotsAt+i*slotSize:][:slotSize]
		id, ok := decodeID(t[:64])
		if slotID, slotOK := decodeID(slot[:64]); !ok || !slotOK || id != slotID || ids[id] {
			return nil, corrupt("blob %d: name %.64q, device %.64q", i, t[:64], slot[:64])
		}
		ids[id] = true
		if at := le.Uint32(t[64:]); at != uint32(i) {
			return nil, corrupt("blob %d: index %d", i, at)
		}
		b := &blobs[i]
		*b = nydusblob.Info{
			ID: id, ChunkSize: le.Uint32(t[68:]), ChunkCount: le.Uint32(t[72:]),
			Compressor: nydusblob.Compressor(le.Uint32(t[76:])), Digester: nydusblob.Digester(le.Uint32(t[80:])),
			Features: nydusblob.Features(le.Uint32(t[84:])), StoredSize: le.Uint64(t[88:]), PlainSize: le.Uint64(t[96:]),
			TOCSize: le.Uint32(t[104:]), TOCDigest: [32]byte(t[136:168]),
			CICompressor: nydusblob.Compressor(le.Uint32(t[108:])), CIOffset: le.Uint64(t[112:]),
			CIStoredSize: le.Uint64(t[120:]), CISize: le.Uint64(t[128:]),
		}
		if b.Features&nydusblob.FeatureSeparate != 0 {
			b.MetaDigest, b.MetaSize = [32]byte(t[168:200]), le.Uint64(t[200:])
		}
		if tarfs := b.Features&nydusblob.FeatureTarfs != 0; tarfs != (s.flags&FlagTarfs != 0) {
			return nil, corrupt("blob %d: features %#x", i, uint32(b.Features))
		}
		if b.ChunkSize != s.chunkSize {
			return nil, corrupt("blob %d: chunk size %d instead of %d", i, b.ChunkSize, s.chunkSize)
		}
		switch algo, encrypted := le.Uint32(t[216:]), b.Features&nydusblob.FeatureEncrypted != 0; {
		case algo > cipherAES128XTS || encrypted != (algo == cipherAES128XTS) || encrypted && s.flags&FlagEncrypted == 0:
			return nil, corrupt("blob %d: cipher %d, features %#x", i, algo, uint32(b.Features))
		case encrypted:
			b.Key = nydusblob.Key{Key: [nydusblob.KeySize]byte(t[168:200]), IV: [nydusblob.IVSize]byte(t[200:216])}
		}
		if err := b.Validate(); err != nil {
			return nil, fmt.Errorf("blob %d: %w", i, err)
		}
		if blocks := le.Uint32(slot[64:]); blocks == 0 || uint64(blocks) != b.PlainSize>>s.blockBits {
			return nil, corrupt("blob %d: device of %d blocks for %d bytes", i, blocks, b.PlainSize)
		}
	}
	return blobs, nil
}

// decodeID returns a name padded with NUL.
func decodeID(p []byte) (string, bool) {
	n := 0
	for n < len(p) && p[n] != 0 {
		n++
	}
	for _, c := range p[n:] {
		if c != 0 {
			return "", false
		}
	}
	return string(p[:n]), n > 0 && utf8.Valid(p[:n])
}
