package zfile

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/lazuli-project/lazuli/blob"
)

// Sizes in bytes.
const (
	// HeaderSize is the size of a header and of a trailer.
	HeaderSize = 512
	// MinBlockSize and MaxBlockSize bound the size of blocks, a power of two.
	MinBlockSize = 4096
	MaxBlockSize = 65536

	crcSize   = 4
	entrySize = 4 // of the jump table
	// storedSlack is how much longer than a block its stored form may be.
	storedSlack = 512
	headerUsed  = 96
	// maxBlocks is what readers take.
	maxBlocks = 1_000_000_000
)

// Algorithm says how blocks are compressed.
type Algorithm uint8

// The algorithms. 0 is one that nobody has.
const (
	LZ4  Algorithm = 1
	Zstd Algorithm = 2
)

// String returns the algorithm's name as in options.
func (a Algorithm) String() string {
	switch a {
	case LZ4:
		return "lz4"
	case Zstd:
		return "zstd"
	}
	return fmt.Sprintf("algorithm %d", uint8(a))
}

// ParseAlgorithm returns the algorithm of a name.
func ParseAlgorithm(name string) (Algorithm, error) {
	for _, a := range []Algorithm{LZ4, Zstd} {
		if name == a.String() {
			return a, nil
		}
	}
	return 0, fmt.Errorf("algorithm %q: lz4 and zstd are possible", name)
}

// Flags of headers and trailers. There are others in files that were written before flagDigest: these hold whatever was in memory.
const (
	flagHeader = 1 << iota
	flagData
	flagSealed
	flagOverwritten // the header says what the trailer says
	flagDigest
	flagCompressed // the jump table is compressed: nobody writes that
)

// magic is "ZFile\0\1\0" and "tuji.yyf@Alibaba".
const magic = "ZFile\x00\x01\x00tuji.yyf@Alibaba"

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// blockSeed is what the checksums of blocks begin with; others begin with 0.
const blockSeed = 100007

// CRC returns a CRC-32C that begins with a seed and is not inverted.
func CRC(seed uint32, p []byte) uint32 { return ^crc32.Update(^seed, castagnoli, p) }

// header is a header or a trailer, 96 bytes in 512:
//
//	0 magic, 24 bytes | 24 u32 96 | 28 u32 digest of all 512 bytes with these 4 zero | 32 u64 flags | 40 u64 index offset
//	48 u64 blocks | 56 u64 plain size | 64 u32 checksum of the jump table | 68 u32 0 | 72 u32 block size | 76 u8 algorithm
//	77 u8 level, not used | 78 u8 1: there is a dictionary | 79 zeros | 84 u32 size of the dictionary | 88 u8 1: blocks have checksums
type header struct {
	flags       uint64
	indexOffset uint64
	blocks      uint64
	plain       uint64
	indexCRC    uint32
	blockSize   uint32
	algorithm   Algorithm
	dictionary  bool
	dictSize    uint32
	verify      bool
}

func (h *header) encode() (p [HeaderSize]byte) {
	le := binary.LittleEndian
	copy(p[:], magic)
	le.PutUint32(p[24:], headerUsed)
	le.PutUint64(p[32:], h.flags)
	le.PutUint64(p[40:], h.indexOffset)
	le.PutUint64(p[48:], h.blocks)
	le.PutUint64(p[56:], h.plain)
	le.PutUint32(p[64:], h.indexCRC)
	le.PutUint32(p[72:], h.blockSize)
	p[76] = uint8(h.algorithm)
	if h.dictionary {
		p[78] = 1
	}
	le.PutUint32(p[84:], h.dictSize)
	if h.verify {
		p[88] = 1
	}
	le.PutUint32(p[28:], CRC(0, p[:]))
	return p
}

// IsZFile reports whether a file that begins with p, at least 24 bytes, is a ZFile.
func IsZFile(p []byte) bool { return len(p) >= len(magic) && string(p[:len(magic)]) == magic }

// parseHeader decodes a header or a trailer of 512 bytes. The flags among mask must be want.
func parseHeader(p []byte, mask, want uint64) (*header, error) {
	if !IsZFile(p) {
		return nil, fmt.Errorf("no magic number: %w", blob.ErrCorrupt)
	}
	le := binary.LittleEndian
	h := &header{
		flags: le.Uint64(p[32:]), indexOffset: le.Uint64(p[40:]), blocks: le.Uint64(p[48:]), plain: le.Uint64(p[56:]),
		indexCRC: le.Uint32(p[64:]), blockSize: le.Uint32(p[72:]), algorithm: Algorithm(p[76]), dictionary: p[78] != 0,
		dictSize: le.Uint32(p[84:]), verify: p[88] != 0,
	}
	if h.flags&mask != want {
		return nil, fmt.Errorf("flags %#x: %w", h.flags, blob.ErrCorrupt)
	}
	if h.flags&flagDigest == 0 {
		return h, nil
	}
	var zeroed [HeaderSize]byte
	copy(zeroed[:], p)
	clear(zeroed[28:32])
	if digest := CRC(0, zeroed[:]); digest != le.Uint32(p[28:]) {
		return nil, fmt.Errorf("digest %#x instead of %#x: %w", digest, le.Uint32(p[28:]), blob.ErrCorrupt)
	}
	return h, nil
}

// dataBegin is where the first block lies.
func (h *header) dataBegin() int64 { return HeaderSize + int64(h.dictSize) }

// check checks what a complete header says of a file of size bytes.
func (h *header) check(size int64) error {
	switch {
	case h.flags&flagDigest != 0 && h.flags&flagCompressed != 0:
		return fmt.Errorf("compressed jump table: %w", blob.ErrUnsupported)
	case h.dictionary:
		return fmt.Errorf("dictionary: %w", blob.ErrUnsupported)
	case h.algorithm != LZ4 && h.algorithm != Zstd:
		return fmt.Errorf("%s: %w", h.algorithm, blob.ErrUnsupported)
	case h.blockSize < MinBlockSize || h.blockSize > MaxBlockSize || h.blockSize&(h.blockSize-1) != 0:
		return fmt.Errorf("block size %d: %w", h.blockSize, blob.ErrUnsupported)
	case h.blocks > maxBlocks:
		return fmt.Errorf("%d blocks: %w", h.blocks, blob.ErrUnsupported)
	case h.blocks != (h.plain+uint64(h.blockSize)-1)/uint64(h.blockSize) || h.plain > maxBlocks*MaxBlockSize:
		return fmt.Errorf("%d bytes in %d blocks of %d: %w", h.plain, h.blocks, h.blockSize, blob.ErrCorrupt)
	case h.indexOffset < uint64(h.dataBegin()) || h.indexOffset > uint64(size) || h.blocks*entrySize > uint64(size)-h.indexOffset:
		return fmt.Errorf("jump table of %d blocks at %d of %d: %w", h.blocks, h.indexOffset, size, blob.ErrCorrupt)
	}
	return nil
}
