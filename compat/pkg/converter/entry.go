package converter

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/klauspost/compress/zstd"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/formats/nydus/nydusblob"
)

const (
	// maxSections bounds the search from header to header. Real blobs have at most six sections.
	maxSections = 1024
	// maxWindow bounds the memory of decompressing an entry, in bytes.
	maxWindow = 128 << 20
	// maxLZ4 bounds entries with LZ4, which are one block, in bytes; and maxRatio is what the format can make of a byte.
	maxLZ4   = 256 << 20
	maxRatio = 255
)

// UnpackEntry writes the plain content of an entry of a layer's blob to target. A blob is
//
//	data | tar header | data | tar header ... [ | table of contents | tar header ]
//
// so that it is searched from its end: first for a table of contents, then from header to header. The result is the entry of the
// table, or nil where the entry was found by its header. An entry that is not there gives an error that wraps [ErrNotFound].
//
// Size and digest, as far as the table has them, are verified; target has then got the content already.
func UnpackEntry(ra content.ReaderAt, targetName string, target io.Writer) (*TOCEntry, error) {
	s, err := findEntry(ra, targetName)
	if err != nil {
		return nil, err
	}
	if err := s.writeTo(target); err != nil {
		return nil, fmt.Errorf("unpack %q: %w", targetName, err)
	}
	return s.toc, nil
}

// section is a found entry of a blob.
type section struct {
	name   string
	stored *io.SectionReader
	size   int64     // of the plain content
	toc    *TOCEntry // or nil
}

// findEntry finds an entry by the table of contents, or by its header.
func findEntry(ra content.ReaderAt, name string) (*section, error) {
	if name != EntryTOC {
		s, err := findInTOC(ra, name)
		if !errors.Is(err, ErrNotFound) {
			return s, err
		}
	}
	return findHeader(ra, name)
}

func findInTOC(ra content.ReaderAt, name string) (*section, error) {
	toc, err := findHeader(ra, EntryTOC)
	if err != nil {
		return nil, err
	}
	if toc.size > maxTOC || toc.size%tocEntrySize != 0 {
		return nil, fmt.Errorf("table of contents of %d bytes: %w", toc.size, blob.ErrCorrupt)
	}
	table := make([]byte, toc.size)
	if _, err := io.ReadFull(toc.stored, table); err != nil {
		return nil, fmt.Errorf("read the table of contents: %w", unexpected(err))
	}
	for ; len(table) > 0; table = table[tocEntrySize:] {
		if e := decodeTOCEntry(table); e.GetName() == name {
			return e.section(ra)
		}
	}
	return nil, notFound(name)
}

// section checks an entry against the blob.
func (e *TOCEntry) section(ra content.ReaderAt) (*section, error) {
	name := e.GetName()
	if _, err := e.GetCompressor(); err != nil {
		return nil, fmt.Errorf("%q: %w", name, err)
	}
	size := uint64(ra.Size())
	if e.CompressedOffset > size || e.CompressedSize > size-e.CompressedOffset || e.UncompressedSize > nydusblob.MaxPlainSize {
		return nil, fmt.Errorf("%q: %d bytes stored as %d at %d in a blob of %d: %w", name, e.UncompressedSize, e.CompressedSize, e.CompressedOffset, size, blob.ErrCorrupt)
	}
	s := &section{name: name, stored: io.NewSectionReader(ra, int64(e.CompressedOffset), int64(e.CompressedSize)), size: int64(e.UncompressedSize), toc: e}
	if name == EntryBlob {
		s.size = int64(e.CompressedSize) // the chunks as they are stored
	}
	return s, nil
}

// findHeader goes from header to header, beginning with the last.
func findHeader(ra content.ReaderAt, name string) (*section, error) {
	end := ra.Size()
	for range maxSections {
		if end == 0 {
			return nil, notFound(name)
		}
		var header [nydusblob.TarHeaderSize]byte
		if end -= int64(len(header)); end < 0 {
			return nil, fmt.Errorf("no tar header at the blob's beginning: %w", blob.ErrCorrupt)
		}
		if _, err := io.ReadFull(io.NewSectionReader(ra, end, int64(len(header))), header[:]); err != nil {
			return nil, fmt.Errorf("read the tar header at %d: %w", end, unexpected(err))
		}
		h, err := tar.NewReader(bytes.NewReader(header[:])).Next()
		switch {
		case err != nil:
			return nil, fmt.Errorf("tar header at %d: %w: %w", end, blob.ErrCorrupt, unexpected(err))
		case h.Size < 0 || h.Size > end:
			return nil, fmt.Errorf("%q of %d bytes ends at %d: %w", h.Name, h.Size, end, blob.ErrCorrupt)
		}
		end -= h.Size
		if h.Name == name {
			return &section{name: name, stored: io.NewSectionReader(ra, end, h.Size), size: h.Size}, nil
		}
	}
	return nil, fmt.Errorf("more than %d entries: %w", maxSections, blob.ErrCorrupt)
}

// writeTo writes the plain content, and verifies it where that is possible.
func (s *section) writeTo(w io.Writer) error {
	r, closed, err := s.plain()
	if err != nil {
		return err
	}
	defer closed()
	h := sha256.New()
	// One byte more, so that longer content is seen, and the frame's checksum is read.
	n, err := io.CopyBuffer(struct{ io.Writer }{io.MultiWriter(&limited{w, s.size}, h)}, io.LimitReader(r, s.size+1), make([]byte, 64<<10))
	switch {
	case err != nil:
		return err
	case n != s.size:
		return fmt.Errorf("%d bytes, %d were announced: %w", n, s.size, blob.ErrCorrupt)
	case s.toc != nil && s.name != EntryBlob && s.toc.UncompressedDigest != [32]byte{} && s.toc.UncompressedDigest != [32]byte(h.Sum(nil)):
		return blob.ErrDigest
	}
	return nil
}

// plain returns a reader of the plain content, which may turn out longer or shorter than announced, and what frees it.
func (s *section) plain() (io.Reader, func(), error) {
	codec := CompressorNone
	if s.toc != nil {
		var err error
		if codec, err = s.toc.GetCompressor(); err != nil {
			return nil, nil, err
		}
	}
	switch codec {
	case CompressorZstd:
		d, err := zstd.NewReader(s.stored, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, nil, err
		}
		return d, d.Close, nil
	case CompressorLz4Block:
		p, err := s.lz4()
		return bytes.NewReader(p), func() {}, err
	}
	return s.stored, func() {}, nil
}

// lz4 decompresses an entry that is one block of LZ4.
func (s *section) lz4() ([]byte, error) {
	if stored := s.stored.Size(); s.size > maxLZ4 || stored > maxLZ4 || s.size/maxRatio > stored {
		return nil, fmt.Errorf("%d bytes stored as %d: %w", s.size, stored, blob.ErrCorrupt)
	}
	stored := make([]byte, s.stored.Size())
	if _, err := io.ReadFull(s.stored, stored); err != nil {
		return nil, unexpected(err)
	}
	d, err := nydusblob.NewDecoder()
	if err != nil {
		return nil, err
	}
	p := make([]byte, s.size)
	return p, d.Decode(p, stored, nydusblob.CompressorLZ4)
}

// limited passes on no more than n bytes, and takes all.
type limited struct {
	w io.Writer
	n int64
}

func (l *limited) Write(p []byte) (int, error) {
	part := p[:min(int64(len(p)), l.n)]
	l.n -= int64(len(part))
	if n, err := l.w.Write(part); err != nil {
		return n, err
	}
	return len(p), nil
}

func notFound(name string) error { return fmt.Errorf("can't find target %s: %w", name, ErrNotFound) }

// unexpected is the error of an end in the middle.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
