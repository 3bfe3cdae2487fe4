package converter

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
)

// Compressor says how an entry of a blob is stored.
type Compressor = uint32

// Compressors.
const (
	CompressorNone     Compressor = 0x0001
	CompressorZstd     Compressor = 0x0002
	CompressorLz4Block Compressor = 0x0004
	CompressorMask     Compressor = 0x000f // the bits of [TOCEntry.Flags] that say it
)

const (
	tocEntrySize = 128
	maxTOC       = 1 << 20 // bytes
)

// TOCEntry is an entry of a blob's table of contents: 128 bytes, little endian, fields in this order, of which the last 4 are not
// here.
type TOCEntry struct {
	Flags              uint32 // compressor
	Reserved1          uint32
	Name               [16]byte // padded with NUL
	UncompressedDigest [32]byte // SHA-256; zeros where it is not known. That of EntryBlob is over the tar header, too
	CompressedOffset   uint64   // in the blob
	CompressedSize     uint64   // bytes
	UncompressedSize   uint64   // bytes; that of EntryBlob is of all chunks
	Reserved2          [44]byte
}

// decodeTOCEntry decodes an entry of tocEntrySize bytes.
func decodeTOCEntry(p []byte) *TOCEntry {
	le := binary.LittleEndian
	return &TOCEntry{Flags: le.Uint32(p), Reserved1: le.Uint32(p[4:]), Name: [16]byte(p[8:24]), UncompressedDigest: [32]byte(p[24:56]),
		CompressedOffset: le.Uint64(p[56:]), CompressedSize: le.Uint64(p[64:]), UncompressedSize: le.Uint64(p[72:]), Reserved2: [44]byte(p[80:124])}
}

// GetCompressor returns how the entry is stored.
func (e *TOCEntry) GetCompressor() (Compressor, error) {
	switch c := e.Flags & CompressorMask; c {
	case CompressorNone, CompressorZstd, CompressorLz4Block:
		return c, nil
	}
	return 0, fmt.Errorf("unsupported compressor, entry flags %x", e.Flags)
}

// GetName returns the entry's name.
func (e *TOCEntry) GetName() string {
	name, _, _ := bytes.Cut(e.Name[:], []byte{0})
	return string(name)
}

// GetUncompressedDigest returns the SHA-256 of the plain content in hex.
func (e *TOCEntry) GetUncompressedDigest() string { return hex.EncodeToString(e.UncompressedDigest[:]) }

// GetCompressedOffset returns where the entry lies in the blob.
func (e *TOCEntry) GetCompressedOffset() uint64 { return e.CompressedOffset }

// GetCompressedSize returns the stored size in bytes.
func (e *TOCEntry) GetCompressedSize() uint64 { return e.CompressedSize }

// GetUncompressedSize returns the plain size in bytes.
func (e *TOCEntry) GetUncompressedSize() uint64 { return e.UncompressedSize }
