package lsmt

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/lazuli-project/lazuli/blob"
)

// Sizes in bytes.
const (
	SectorSize = 512
	// HeaderSize is the size of a layer's header and of its trailer. Data begins behind the header.
	HeaderSize = 4096

	headerUsed   = 390 // what of a header is not zero
	uuidSize     = 37  // 36 characters and a zero
	uuidLength   = 36
	tagSize      = 256
	firstSector  = HeaderSize / SectorSize
	maxSize      = 1 << 59 // of a device: what 50 bits of sectors hold
	versionMajor = 1
	versionMinor = 1
)

// ZeroUUID stands in layers for "none".
const ZeroUUID = "00000000-0000-0000-0000-000000000000"

// Flags of headers and trailers. A header with flagData is of a file with data; one without is of an index file.
const (
	flagHeader = 1 << iota
	flagData
	flagSealed
	_
	flagSparse
)

// magic is "LSMT\0\1\2\0" and 16 bytes that overlaybd chose by chance.
const magic = "LSMT\x00\x01\x02\x00\x65\x7e\x63\xd2\x94\x44\x08\x4c\xa2\xd2\xc8\xec\x4f\xcf\xae\x8a"

// Info says which layer it is.
type Info struct {
	// VirtualSize is the size of the disk in bytes, from this layer on upwards. 0: that of the layer below.
	VirtualSize int64
	// UUID and Parent are texts of the form 8-4-4-4-12 in upper-case hexadecimal digits; empty is the zero UUID. What is
	// longer is cut. Readers do not insist on what they say.
	UUID, Parent string
	// UserTag is free text of at most 256 bytes; what is longer is cut.
	UserTag string
}

// slot is a header or a trailer, 390 bytes in 4096, the rest zeros:
//
//	0 magic, 24 bytes | 24 u32 390 | 28 u32 flags | 32 u64 index offset | 40 u64 index size in entries | 48 u64 virtual size
//	56 UUID, 36 characters and 0 | 93 parent, the same | 130 u16 0 | 132 u8 1, version | 133 u8 1, minor version
//	134 user tag, 256 bytes
type slot struct {
	Info
	flags                  uint32
	indexOffset, indexSize uint64
}

// appendTo appends the slot's 4096 bytes.
func (s *slot) appendTo(dst []byte) []byte {
	at := len(dst)
	dst = append(dst, make([]byte, HeaderSize)...)
	p, le := dst[at:], binary.LittleEndian
	copy(p, magic)
	le.PutUint32(p[24:], headerUsed)
	le.PutUint32(p[28:], s.flags)
	le.PutUint64(p[32:], s.indexOffset)
	le.PutUint64(p[40:], s.indexSize)
	le.PutUint64(p[48:], uint64(s.VirtualSize))
	putUUID(p[56:], s.UUID)
	putUUID(p[93:], s.Parent)
	p[132], p[133] = versionMajor, versionMinor
	copy(p[134:134+tagSize], s.UserTag)
	return dst
}

func putUUID(p []byte, text string) {
	if text == "" {
		text = ZeroUUID
	}
	copy(p[:uuidLength], text)
}

// parseSlot decodes a header or a trailer of 4096 bytes. The flags among mask must be want.
func parseSlot(p []byte, mask, want uint32) (*slot, error) {
	le := binary.LittleEndian
	if string(p[:len(magic)]) != magic {
		return nil, fmt.Errorf("no magic number: %w", blob.ErrCorrupt)
	}
	s := &slot{flags: le.Uint32(p[28:]), indexOffset: le.Uint64(p[32:]), indexSize: le.Uint64(p[40:])}
	if s.flags&mask != want {
		return nil, fmt.Errorf("flags %#x: %w", s.flags, blob.ErrCorrupt)
	}
	if v := p[132]; v != versionMajor {
		return nil, fmt.Errorf("version %d: %w", v, blob.ErrUnsupported)
	}
	size := le.Uint64(p[48:])
	if size > maxSize {
		return nil, fmt.Errorf("disk of %d bytes: %w", size, blob.ErrCorrupt)
	}
	s.VirtualSize = int64(size)
	s.UUID, s.Parent = uuid(p[56:93]), uuid(p[93:130])
	s.UserTag = string(bytes.TrimRight(p[134:134+tagSize], "\x00"))
	return s, nil
}

func uuid(p []byte) string {
	text, _, _ := bytes.Cut(p[:uuidLength], []byte{0})
	if string(text) == ZeroUUID {
		return ""
	}
	return string(text)
}

// AppendHeader appends the 4096 bytes with which a layer begins.
func AppendHeader(dst []byte, i Info) []byte {
	s := slot{Info: i, flags: flagHeader | flagData | flagSealed}
	return s.appendTo(dst)
}

// AppendTail appends what stands behind a layer's data: the index, and the trailer. indexOffset is where that is, in bytes from
// the layer's first on, a multiple of 512. segs are as [Normalize] returns them. With pad the index has a multiple of 256
// entries, as in native layers; without, as in those of turboOCI, it has as many as there are segments.
func AppendTail(dst []byte, i Info, indexOffset int64, segs []Segment, pad bool) []byte {
	n := len(segs)
	if pad {
		n = (n + paddedEntries - 1) / paddedEntries * paddedEntries
	}
	data := indexOffset / SectorSize
	for _, s := range segs {
		if s.Zero {
			// Where zeros lie does not matter, but readers refuse what is not within the data.
			s.Source = min(max(s.Source, firstSector), data)
		}
		dst = s.appendTo(dst)
	}
	for range n - len(segs) {
		dst = appendPadding(dst)
	}
	s := slot{Info: i, flags: flagData | flagSealed, indexOffset: uint64(indexOffset), indexSize: uint64(n)}
	return s.appendTo(dst)
}
