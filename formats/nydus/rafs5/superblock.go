package rafs5

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/formats/nydus/nydusblob"
)

// Sizes in bytes.
const (
	superSize  = 8192
	unit       = 8 // everything begins at a multiple of it
	extSize    = 64
	maxSize    = 1 << 31
	maxBlobID  = 255
	maxEntries = maxSize / recordSize
)

const (
	magic   = 0x52414653
	version = 0x500
)

// Flags of the superblock.
const (
	FlagNone          = 0x1
	FlagLZ4           = 0x2
	FlagBlake3        = 0x4
	FlagSHA256        = 0x8
	FlagExplicitOwner = 0x10
	FlagHasXattr      = 0x20
	FlagGzip          = 0x40
	FlagZstd          = 0x80
	flagsVersion6     = 0x100 | 0x200 | 0x1000000 | 0x2000000
	flagsPreserved    = 0xfc000000
	flagsKnown        = FlagNone | FlagLZ4 | FlagBlake3 | FlagSHA256 | FlagExplicitOwner | FlagHasXattr | FlagGzip | FlagZstd | flagsVersion6 | flagsPreserved
)

// ErrTree says that a tree cannot be stored in a bootstrap.
var ErrTree = errors.New("not possible in RAFS v5")

func corrupt(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, blob.ErrCorrupt)...)
}

func unsupported(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, blob.ErrUnsupported)...)
}

// region is a part of the bootstrap.
type region struct{ off, size uint64 }

func (r region) valid(file uint64) bool {
	return r.off >= superSize && r.off%unit == 0 && r.off <= file && r.size <= file-r.off
}

func (r region) overlaps(o region) bool {
	return r.size > 0 && o.size > 0 && r.off < o.off+o.size && o.off < r.off+r.size
}

func (r region) of(p []byte) []byte { return p[r.off:][:r.size:r.size] }

// superblock is what is variable in the superblock.
//
//	0 u32 magic | 4 u32 version | 8 u32 size of the superblock | 12 u32 chunk size | 16 u64 flags | 24 u64 inodes
//	32 u64 inode table | 40 u64 prefetch table | 48 u64 blob table | 56 u32 entries of the inode table
//	60 u32 entries of the prefetch table | 64 u32 bytes of the blob table | 68 u32 entries of its extension | 72 u64 extension
//	80 zeros
type superblock struct {
	chunkSize uint32
	flags     uint64
	inodes    uint64
	entries   uint32
	table     region // of inodes
	prefetch  region
	blobs     region
	extended  region
}

func (s *superblock) encode(p []byte) {
	le := binary.LittleEndian
	le.PutUint32(p[0:], magic)
	le.PutUint32(p[4:], version)
	le.PutUint32(p[8:], superSize)
	le.PutUint32(p[12:], s.chunkSize)
	le.PutUint64(p[16:], s.flags)
	le.PutUint64(p[24:], s.inodes)
	le.PutUint64(p[32:], s.table.off)
	le.PutUint64(p[40:], s.prefetch.off)
	le.PutUint64(p[48:], s.blobs.off)
	le.PutUint32(p[56:], s.entries)
	le.PutUint32(p[60:], uint32(s.prefetch.size/4))
	le.PutUint32(p[64:], uint32(s.blobs.size))
	le.PutUint32(p[68:], uint32(s.extended.size/extSize))
	le.PutUint64(p[72:], s.extended.off)
}

// IsBootstrap reports whether a file begins like a bootstrap of RAFS v5.
func IsBootstrap(head []byte) bool {
	return len(head) >= 4 && binary.LittleEndian.Uint32(head) == magic
}

// decodeSuperblock decodes and checks the superblock of a bootstrap.
func decodeSuperblock(p []byte) (*superblock, error) {
	size := uint64(len(p))
	if size <= superSize || size%unit != 0 || size > maxSize {
		return nil, corrupt("bootstrap of %d bytes", size)
	}
	le := binary.LittleEndian
	if !IsBootstrap(p) || le.Uint32(p[4:]) != version || le.Uint32(p[8:]) != superSize {
		return nil, corrupt("superblock: magic %#x, version %#x, size %d", le.Uint32(p), le.Uint32(p[4:]), le.Uint32(p[8:]))
	}
	s := &superblock{
		chunkSize: le.Uint32(p[12:]), flags: le.Uint64(p[16:]), inodes: le.Uint64(p[24:]), entries: le.Uint32(p[56:]),
		table:    region{le.Uint64(p[32:]), uint64(le.Uint32(p[56:])) * 4},
		prefetch: region{le.Uint64(p[40:]), uint64(le.Uint32(p[60:])) * 4},
		blobs:    region{le.Uint64(p[48:]), uint64(le.Uint32(p[64:]))},
		extended: region{le.Uint64(p[72:]), uint64(le.Uint32(p[68:])) * extSize},
	}
	switch {
	case s.chunkSize < nydusblob.MinChunkSize || s.chunkSize > nydusblob.MaxChunkSize || s.chunkSize&(s.chunkSize-1) != 0:
		return nil, corrupt("superblock: chunk size %d", s.chunkSize)
	case s.flags&^flagsKnown != 0:
		return nil, corrupt("superblock: flags %#x", s.flags)
	case s.entries == 0 || s.entries > maxEntries || s.inodes > uint64(s.entries):
		return nil, corrupt("superblock: %d inodes, %d entries", s.inodes, s.entries)
	}
	tables := []struct {
		name string
		region
	}{{"inode", s.table}, {"blob", s.blobs}, {"extended blob", s.extended}, {"prefetch", s.prefetch}}
	for i, t := range tables {
		if t.size > 0 && !t.valid(size) {
			return nil, corrupt("superblock: %s table %d at %d", t.name, t.size, t.off)
		}
		for _, o := range tables[:i] {
			if t.overlaps(o.region) {
				return nil, corrupt("superblock: %s table on %s table", t.name, o.name)
			}
		}
	}
	return s, nil
}

// compressor of all blobs. Where several are named, the first counts, and none means LZ4, as for the reference reader.
func (s *superblock) compressor() nydusblob.Compressor {
	switch {
	case s.flags&FlagNone != 0:
		return nydusblob.CompressorNone
	case s.flags&FlagLZ4 != 0:
		return nydusblob.CompressorLZ4
	case s.flags&FlagGzip != 0:
		return nydusblob.CompressorGzip
	case s.flags&FlagZstd != 0:
		return nydusblob.CompressorZstd
	}
	return nydusblob.CompressorLZ4
}

func (s *superblock) digester() nydusblob.Digester {
	if s.flags&FlagSHA256 != 0 {
		return nydusblob.DigesterSHA256
	}
	return nydusblob.DigesterBlake3
}

var compressorFlags = map[nydusblob.Compressor]uint64{
	nydusblob.CompressorNone: FlagNone, nydusblob.CompressorLZ4: FlagLZ4,
	nydusblob.CompressorGzip: FlagGzip, nydusblob.CompressorZstd: FlagZstd,
}

// The blob table has for each blob 0 u32 read-ahead offset, 4 u32 read-ahead size, the id, and, but for the last one, a NUL byte.
// The extension has 64 bytes for each:
//
//	0 u32 chunks | 4 u32 features | 8 u64 plain size | 16 u64 stored size | 24 zeros

// featuresData are those that give the data another form, which only later versions have.
const featuresData = nydusblob.FeatureZran | nydusblob.FeatureBatch | nydusblob.FeatureEncrypted | nydusblob.FeatureTarfs | nydusblob.FeatureExternal | nydusblob.FeatureSeparate

// decodeBlobs decodes and checks both blob tables.
func decodeBlobs(p []byte, s *superblock) ([]Blob, error) {
	le := binary.LittleEndian
	var blobs []Blob
	if s.blobs.size > 0 {
		for t := s.blobs.of(p); len(t) > 8; {
			b := Blob{ReadAheadOffset: le.Uint32(t), ReadAhead: le.Uint32(t[4:])}
			t = t[8:]
			n := bytes.IndexByte(t, 0)
			if n < 0 {
				n = len(t)
			}
			if n == 0 || n > maxBlobID || !utf8.Valid(t[:n]) {
				return nil, corrupt("blob %d: name of %d bytes", len(blobs), n)
			}
			b.Info = nydusblob.Info{ID: string(t[:n]), ChunkSize: s.chunkSize, Compressor: s.compressor(), Digester: s.digester()}
			blobs = append(blobs, b)
			t = t[min(n+1, len(t)):]
		}
	}
	if s.extended.size == 0 {
		return blobs, nil
	}
	ext := s.extended.of(p)
	if len(ext)/extSize < len(blobs) {
		return nil, corrupt("extended table of %d blobs, there are %d", len(ext)/extSize, len(blobs))
	}
	for i := range blobs {
		e, b := ext[i*extSize:], &blobs[i]
		b.Chunks, b.Info.Features, b.PlainEnd, b.Info.StoredSize = le.Uint32(e), nydusblob.Features(le.Uint32(e[4:])), le.Uint64(e[8:]), le.Uint64(e[16:])
		switch {
		case int32(b.Info.Features) < 0 || b.Info.StoredSize > nydusblob.MaxStoredSize || b.Chunks > nydusblob.MaxChunks || b.PlainEnd > nydusblob.MaxPlainSize:
			return nil, corrupt("blob %d: %d chunks, features %#x, stored size %d", i, b.Chunks, uint32(b.Info.Features), b.Info.StoredSize)
		case b.Info.Features&featuresData != 0:
			return nil, unsupported("blob %d: features %v", i, b.Info.Features.Names())
		}
	}
	return blobs, nil
}

// encodeBlobs makes both blob tables.
func encodeBlobs(blobs []Blob) (table, extended []byte) {
	le := binary.LittleEndian
	for i := range blobs {
		b := &blobs[i]
		if i > 0 {
			table = append(table, 0)
		}
		table = le.AppendUint32(table, b.ReadAheadOffset)
		table = le.AppendUint32(table, b.ReadAhead)
		table = append(table, b.Info.ID...)
		var e [extSize]byte
		le.PutUint32(e[0:], b.Chunks)
		le.PutUint32(e[4:], uint32(b.Info.Features))
		le.PutUint64(e[8:], b.PlainEnd)
		le.PutUint64(e[16:], b.Info.StoredSize)
		extended = append(extended, e[:]...)
	}
	return append(table, make([]byte, align(uint64(len(table)))-uint64(len(table)))...), extended
}

func align(n uint64) uint64 { return (n + unit - 1) &^ (unit - 1) }
