package erofs

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/disk/erofs/ondisk"
)

// Places and sizes in bytes.
const (
	superAt   = 1024
	superSize = 128
	slotSize  = 128  // of a device, and the unit of the slots' place
	pageSize  = 4096 // the largest unit that is read
)

const (
	magic = 0xe0f5e1e2

	compatChecksum  = 0x1
	incompatChunked = 0x4
	incompatDevices = 0x8

	minBlockBits = 9
	maxBlockBits = 16

	// maxBlocks is how many blocks there are addresses for.
	maxBlocks = 1<<32 - 1
)

// incompatNames are features that a reader must know, which this one does not.
var incompatNames = map[uint32]string{
	0x1: "zero-padded compression", 0x2: "compression configurations", 0x10: "inline tails of compressed files",
	0x20: "fragments of files", 0x40: "long attribute prefixes", 0x80: "48-bit addresses", 0x100: "metadata box",
}

// superblock has 128 bytes:
//
//	0 u32 magic | 4 u32 CRC32C of the rest of the block, if feature 1 | 8 u32 compatible features | 12 u8 log2 of the block size
//	13 u8 extension slots | 14 u16 root nid | 16 u64 inodes | 24 i64 time, 32 u32 its nanoseconds | 36 u32 blocks
//	40 u32 block of the metadata area | 44 u32 block of shared attributes | 48 UUID | 64 name, 16 bytes
//	80 u32 incompatible features | 84 u16 compression | 86 u16 devices | 88 u16 device slots in 128 bytes
//	90 u8 log2 of directory blocks in blocks | 91 u8, 92 u32 attribute prefixes | 96 u64 nid of fragments | 104 zeros
type superblock struct {
	compat     uint32
	blockBits  uint8
	rootNid    uint16
	inodes     uint64
	epoch      ondisk.Stamp // of compact inodes
	blocks     uint32
	metaBlock  uint32
	xattrBlock uint32
	uuid       [16]byte
	incompat   uint32
	devices    uint16
	slots      uint16
}

func (s *superblock) block() int64 { return 1 << s.blockBits }

// meta is where nids are counted from.
func (s *superblock) meta() int64 { return int64(s.metaBlock) << s.blockBits }

func (s *superblock) encode(p []byte) {
	le := binary.LittleEndian
	clear(p[:superSize])
	le.PutUint32(p[0:], magic)
	le.PutUint32(p[8:], s.compat)
	p[12] = s.blockBits
	le.PutUint16(p[14:], s.rootNid)
	le.PutUint64(p[16:], s.inodes)
	le.PutUint64(p[24:], uint64(s.epoch.Sec))
	le.PutUint32(p[32:], s.epoch.Nsec)
	le.PutUint32(p[36:], s.blocks)
	le.PutUint32(p[40:], s.metaBlock)
	le.PutUint32(p[44:], s.xattrBlock)
	copy(p[48:], s.uuid[:])
	le.PutUint32(p[80:], s.incompat)
	le.PutUint16(p[86:], s.devices)
	le.PutUint16(p[88:], s.slots)
}

// update writes what layers change into a superblock that is there. A checksum is taken away.
func (s *superblock) update(p []byte) {
	le := binary.LittleEndian
	le.PutUint32(p[4:], 0)
	le.PutUint32(p[8:], s.compat&^compatChecksum)
	le.PutUint64(p[16:], s.inodes)
	le.PutUint32(p[36:], s.blocks)
	le.PutUint32(p[80:], s.incompat)
}

func decodeSuperblock(p []byte) (superblock, error) {
	le := binary.LittleEndian
	if m := le.Uint32(p); m != magic {
		return superblock{}, corrupt("superblock: magic %#x", m)
	}
	s := superblock{
		compat: le.Uint32(p[8:]), blockBits: p[12], rootNid: le.Uint16(p[14:]), inodes: le.Uint64(p[16:]),
		epoch: ondisk.Stamp{Sec: int64(le.Uint64(p[24:])), Nsec: le.Uint32(p[32:])}, blocks: le.Uint32(p[36:]), metaBlock: le.Uint32(p[40:]),
		xattrBlock: le.Uint32(p[44:]), uuid: [16]byte(p[48:64]), incompat: le.Uint32(p[80:]),
		devices: le.Uint16(p[86:]), slots: le.Uint16(p[88:]),
	}
	switch {
	case s.blockBits < minBlockBits || s.blockBits > maxBlockBits:
		return s, corrupt("superblock: blocks of 2^%d bytes", s.blockBits)
	case p[90] != 0:
		return s, unsupported(fmt.Sprintf("directory blocks of 2^%d blocks", p[90]))
	case s.epoch.Nsec >= 1e9:
		return s, corrupt("superblock: time with %d ns", s.epoch.Nsec)
	}
	for bit := uint32(1); bit != 0; bit <<= 1 {
		switch {
		case s.incompat&bit == 0 || bit == incompatChunked:
		case bit == incompatDevices:
			if s.devices > 0 {
				return s, unsupported(fmt.Sprintf("EROFS with %d devices beside its own", s.devices))
			}
		case incompatNames[bit] != "":
			return s, unsupported("EROFS with " + incompatNames[bit])
		default:
			return s, unsupported(fmt.Sprintf("EROFS feature %#x", bit))
		}
	}
	if c := le.Uint16(p[84:]); c != 0 {
		return s, unsupported("compressed EROFS")
	}
	return s, nil
}

// checksumLen returns how many bytes from the superblock on its checksum covers: a block, without what is before the superblock.
func (s *superblock) checksumLen() int64 {
	if s.block() > superAt {
		return s.block() - superAt
	}
	return s.block()
}

// superChecksum returns the checksum of a superblock and what is behind it.
func superChecksum(p []byte) uint32 {
	table := crc32.MakeTable(crc32.Castagnoli)
	// The format's CRC begins with all bits set, as usual, and is not inverted at the end.
	crc := crc32.Update(0, table, p[:4])
	crc = crc32.Update(crc, table, make([]byte, 4))
	return ^crc32.Update(crc, table, p[8:])
}

// encodeSlot writes what Linux reads of a device slot of 128 bytes: 0 tag, 64 bytes | 64 u32 blocks | 68 u32 address in the space of
// all devices, 0 for one that is named by its number only | 72 zeros
func encodeSlot(p []byte, blocks uint32) { binary.LittleEndian.PutUint32(p[64:], blocks) }

func corrupt(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, blob.ErrCorrupt)...)
}

func unsupported(what string) error { return fmt.Errorf("%s: %w", what, blob.ErrUnsupported) }

func roundUp(n, unit int64) int64 { return (n + unit - 1) &^ (unit - 1) }

func le16(p []byte) uint16 { return binary.LittleEndian.Uint16(p) }
func le32(p []byte) uint32 { return binary.LittleEndian.Uint32(p) }
