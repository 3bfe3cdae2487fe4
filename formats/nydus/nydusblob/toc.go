package nydusblob

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"strconv"

	"github.com/lazuli-project/lazuli/blob"
)

// Names of sections.
const (
	SectionData       = "image.blob"
	SectionMeta       = "blob.meta"
	SectionMetaHeader = "blob.meta.header"
	SectionDigest     = "blob.digest"
	SectionBootstrap  = "image.boot"
	SectionTOC        = "rafs.blob.toc"
)

// TarHeaderSize is the size of the header that follows a section.
const TarHeaderSize = 512

// AppendTarHeader appends the GNU tar header of a section: mode, owner and group are NUL bytes.
func AppendTarHeader(dst []byte, name string, size int64) []byte {
	var h [TarHeaderSize]byte
	copy(h[:100], name)
	if size < 1<<33 {
		copy(h[124:136], fmt.Sprintf("%011o", size))
	} else {
		binary.BigEndian.PutUint64(h[128:136], uint64(size))
		h[124] = 0x80
	}
	copy(h[136:148], "00000000000")
	h[156] = '0'
	copy(h[257:265], "ustar  \x00")
	copy(h[148:156], "        ")
	var sum int
	for _, b := range h {
		sum += int(b)
	}
	copy(h[148:156], fmt.Sprintf("%07o\x00", sum))
	return append(dst, h[:]...)
}

// parseTarHeader returns name and size of a section.
func parseTarHeader(h []byte) (string, int64, error) {
	if len(h) != TarHeaderSize || string(h[257:265]) != "ustar  \x00" || h[156] != '0' {
		return "", 0, fmt.Errorf("no tar header: %w", blob.ErrCorrupt)
	}
	name, _, _ := bytes.Cut(h[:100], []byte{0})
	if h[124]&0x80 != 0 {
		size := binary.BigEndian.Uint64(h[128:136])
		if h[124] != 0x80 || size > MaxStoredSize {
			return "", 0, fmt.Errorf("section of %d bytes: %w", size, blob.ErrCorrupt)
		}
		return string(name), int64(size), nil
	}
	size, err := strconv.ParseInt(string(bytes.Trim(h[124:136], " \x00")), 8, 64)
	if err != nil || size < 0 {
		return "", 0, fmt.Errorf("section size %q: %w", h[124:136], blob.ErrCorrupt)
	}
	return string(name), size, nil
}

// TOCEntry is an entry of a blob's table of contents, 128 bytes.
//
//	0 u32 codec: 1 none, 2 zstd, 4 lz4 | 4 u32 0 | 8 name, 16 bytes, padded with NUL | 24 SHA-256 of the plain content
//	56 u64 offset | 64 u64 stored size | 72 u64 size | 80 reserved, 48 bytes: ignored, as old builders left garbage there
type TOCEntry struct {
	Name   string
	Codec  Compressor
	Digest [sha256.Size]byte // for SectionData over data and tar header; zeros where it is not known
	Stored blob.Range
	Size   int64 // of the plain content; for SectionData of the plain space
}

var tocCodecs = map[Compressor]uint32{CompressorNone: 1, CompressorZstd: 2, CompressorLZ4: 4}

const (
	tocEntrySize = 128
	// maxTOC is the largest table that the reference reader takes, header included.
	maxTOC = 65536
	// tailSize is how much is read at a blob's end to find what it is.
	tailSize = 4096
)

// AppendTo appends the stored form.
func (e *TOCEntry) AppendTo(dst []byte) []byte {
	var p [tocEntrySize]byte
	le := binary.LittleEndian
	le.PutUint32(p[0:], tocCodecs[e.Codec])
	copy(p[8:24], e.Name)
	copy(p[24:56], e.Digest[:])
	le.PutUint64(p[56:], uint64(e.Stored.Off))
	le.PutUint64(p[64:], uint64(e.Stored.Len))
	le.PutUint64(p[72:], uint64(e.Size))
	return append(dst, p[:]...)
}

// decodeTOC decodes entries of a blob of the given size.
func decodeTOC(p []byte, blobSize int64) ([]TOCEntry, error) {
	if len(p)%tocEntrySize != 0 {
		return nil, fmt.Errorf("table of contents of %d bytes: %w", len(p), blob.ErrCorrupt)
	}
	entries := make([]TOCEntry, 0, len(p)/tocEntrySize)
	for ; len(p) > 0; p = p[tocEntrySize:] {
		le := binary.LittleEndian
		name, _, _ := bytes.Cut(p[8:24], []byte{0})
		e := TOCEntry{Name: string(name), Digest: [32]byte(p[24:56])}
		off, stored, size := le.Uint64(p[56:]), le.Uint64(p[64:]), le.Uint64(p[72:])
		if off > MaxStoredSize || stored > MaxStoredSize || size > MaxPlainSize {
			return nil, fmt.Errorf("table of contents: %q: %d bytes stored as %d at %d: %w", name, size, stored, off, blob.ErrCorrupt)
		}
		e.Stored, e.Size = blob.Range{Off: int64(off), Len: int64(stored)}, int64(size)
		// Builders before 2.2.0 wrote a wrong offset for the data, which nobody reads by its entry.
		if err := blob.CheckRange(e.Stored.Off, e.Stored.Len, blobSize); err != nil && e.Name != SectionData {
			return nil, fmt.Errorf("table of contents: %q: %w", name, err)
		}
		flags, known := le.Uint32(p), false
		for codec, f := range tocCodecs {
			if f == flags {
				e.Codec, known = codec, true
			}
		}
		if !known {
			return nil, fmt.Errorf("table of contents: %q: flags %#x: %w", name, flags, blob.ErrUnsupported)
		}
		entries = append(entries, e)
	}
	return entries, nil
}

// Section is a found section of a blob.
type Section struct {
	TOCEntry
	checked bool // whether Digest is one of the content
}

// FindSection looks for a section from the blob's end: in its table of contents, or, in blobs without one, as
// the last section. It returns nil where there is none.
func FindSection(ctx context.Context, src blob.Source, name string) (*Section, error) {
	tail := make([]byte, min(tailSize, src.Size()))
	start := src.Size() - int64(len(tail))
	if err := src.ReadRange(ctx, tail, start, blob.Demand); err != nil {
		return nil, fmt.Errorf("read the blob's end: %w", err)
	}
	if len(tail) < TarHeaderSize {
		return nil, nil
	}
	last, size, err := parseTarHeader(tail[len(tail)-TarHeaderSize:])
	if err != nil {
		return nil, nil //nolint:nilerr // a blob without sections
	}
	end := src.Size() - TarHeaderSize
	if size > end {
		return nil, fmt.Errorf("section %q of %d bytes in a blob of %d: %w", last, size, src.Size(), blob.ErrCorrupt)
	}
	if last == name {
		return &Section{TOCEntry: TOCEntry{Name: name, Stored: blob.Range{Off: end - size, Len: size}, Size: size}}, nil
	}
	if last != SectionTOC {
		return nil, nil
	}
	if size > maxTOC-TarHeaderSize {
		return nil, fmt.Errorf("table of contents of %d bytes: %w", size, blob.ErrCorrupt)
	}
	toc := make([]byte, size)
	if at := end - size; at >= start {
		copy(toc, tail[at-start:])
	} else if err := src.ReadRange(ctx, toc, at, blob.Demand); err != nil {
		return nil, fmt.Errorf("read the table of contents: %w", err)
	}
	entries, err := decodeTOC(toc, src.Size())
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if e.Name == name {
			return &Section{e, e.Digest != [32]byte{}}, nil
		}
	}
	return nil, nil
}

// Read reads a section of at most limit plain bytes and checks its digest, if it has one.
func (s *Section) Read(ctx context.Context, src blob.Source, d *Decoder, limit int64) ([]byte, error) {
	if s.Size > limit || s.Stored.Len > limit {
		return nil, fmt.Errorf("section %q of %d bytes, the limit is %d: %w", s.Name, s.Size, limit, blob.ErrCorrupt)
	}
	p := make([]byte, s.Stored.Len)
	if err := src.ReadRange(ctx, p, s.Stored.Off, blob.Demand); err != nil {
		return nil, fmt.Errorf("read section %q: %w", s.Name, err)
	}
	if s.Codec != CompressorNone {
		if s.Size/maxRatio > s.Stored.Len {
			return nil, fmt.Errorf("section %q of %d bytes in %d: %w", s.Name, s.Size, s.Stored.Len, blob.ErrCorrupt)
		}
		stored := p
		p = make([]byte, s.Size)
		if err := d.Decode(p, stored, s.Codec); err != nil {
			return nil, fmt.Errorf("section %q: %w", s.Name, err)
		}
	} else if s.Size != s.Stored.Len {
		return nil, fmt.Errorf("section %q: %d raw bytes stored as %d: %w", s.Name, s.Size, s.Stored.Len, blob.ErrCorrupt)
	}
	if s.checked && sha256.Sum256(p) != s.Digest {
		return nil, fmt.Errorf("section %q: %w", s.Name, blob.ErrDigest)
	}
	return p, nil
}
