package nydus

import (
	"crypto/sha256"
	"fmt"
	"hash"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/formats/nydus/nydusblob"
)

// sectionWriter writes the sections of a blob and keeps its table of contents. What is written directly is data.
type sectionWriter struct {
	w      io.Writer
	form   Form
	offset int64
	data   hash.Hash // of the data section; nil where w tells, or nobody asks
	toc    []byte

	tocDigest digest.Digest // once it is written
}

func newSectionWriter(w io.Writer, form Form) *sectionWriter {
	s := &sectionWriter{w: w, form: form}
	if _, ok := s.running(); !ok && form.toc() {
		s.data = sha256.New()
	}
	return s
}

// running asks the target for the digest of all that it has got.
func (s *sectionWriter) running() ([sha256.Size]byte, bool) {
	r, ok := s.w.(formats.RunningDigest)
	if !ok {
		return [sha256.Size]byte{}, false
	}
	return r.RunningSHA256()
}

// Write writes data.
func (s *sectionWriter) Write(p []byte) (int, error) {
	if s.data != nil {
		s.data.Write(p)
	}
	return len(p), s.write(p)
}

func (s *sectionWriter) write(p []byte) error {
	n, err := s.w.Write(p)
	s.offset += int64(n)
	return err
}

func (s *sectionWriter) entry(e nydusblob.TOCEntry) { s.toc = e.AppendTo(s.toc) }

// header writes the header of a section of n stored bytes, where the blob has headers.
func (s *sectionWriter) header(name string, n int64) error {
	if s.form == FormData {
		return nil
	}
	return s.write(nydusblob.AppendTarHeader(nil, name, n))
}

// endData ends the data section, whose digest covers its header.
func (s *sectionWriter) endData(plain int64) error {
	if !s.form.toc() {
		return s.header(nydusblob.SectionData, s.offset)
	}
	n := s.offset
	h := nydusblob.AppendTarHeader(nil, nydusblob.SectionData, n)
	if err := s.write(h); err != nil {
		return err
	}
	sum, ok := s.running()
	if !ok {
		s.data.Write(h)
		s.data.Sum(sum[:0])
	}
	s.entry(nydusblob.TOCEntry{Name: nydusblob.SectionData, Digest: sum, Stored: blob.Range{Len: n}, Size: plain})
	return nil
}

// meta writes the chunk table and its header, which have one section and two entries. Both are given as they are and as they
// are stored.
func (s *sectionWriter) meta(t *nydusblob.Table, stored []byte, codec nydusblob.Compressor, header, storedHeader []byte) error {
	plain := sha256.New()
	if _, err := t.WriteTo(plain); err != nil {
		return err
	}
	s.entry(nydusblob.TOCEntry{Name: nydusblob.SectionMeta, Codec: codec, Digest: [sha256.Size]byte(plain.Sum(nil)),
		Stored: blob.Range{Off: s.offset, Len: int64(len(stored))}, Size: t.Size()})
	if err := s.write(stored); err != nil {
		return err
	}
	s.entry(nydusblob.TOCEntry{Name: nydusblob.SectionMetaHeader, Digest: sha256.Sum256(header),
		Stored: blob.Range{Off: s.offset, Len: int64(len(header))}, Size: int64(len(header))})
	if err := s.write(storedHeader); err != nil {
		return err
	}
	return s.header(nydusblob.SectionMeta, int64(len(stored)+len(header)))
}

// section writes a section as it is.
func (s *sectionWriter) section(name string, p []byte) error {
	s.entry(nydusblob.TOCEntry{Name: name, Digest: sha256.Sum256(p), Stored: blob.Range{Off: s.offset, Len: int64(len(p))}, Size: int64(len(p))})
	if err := s.write(p); err != nil {
		return err
	}
	return s.header(name, int64(len(p)))
}

// metaWindow bounds the memory of a stream's encoder. Metadata repeats what is near.
const metaWindow = 1 << 20

// compressed writes a section of n bytes with zstd while it is made.
func (s *sectionWriter) compressed(name string, n int64, content io.WriterTo) error {
	z, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false),
		zstd.WithWindowSize(metaWindow), zstd.WithLowerEncoderMem(true))
	if err != nil {
		return fmt.Errorf("zstd encoder: %w", err)
	}
	from := s.offset
	z.ResetContentSize(rawSection{s}, n)
	plain := sha256.New()
	if _, err := content.WriteTo(io.MultiWriter(plain, z)); err != nil {
		return err
	}
	if err := z.Close(); err != nil {
		return err
	}
	s.entry(nydusblob.TOCEntry{Name: name, Codec: nydusblob.CompressorZstd, Digest: [32]byte(plain.Sum(nil)),
		Stored: blob.Range{Off: from, Len: s.offset - from}, Size: n})
	return s.header(name, s.offset-from)
}

// rawSection writes what is not data.
type rawSection struct{ s *sectionWriter }

func (r rawSection) Write(p []byte) (int, error) { return len(p), r.s.write(p) }

// plain writes a section of n bytes as it is made, in blobs without table of contents.
func (s *sectionWriter) plain(name string, n int64, content io.WriterTo) error {
	if _, err := content.WriteTo(rawSection{s}); err != nil {
		return err
	}
	return s.header(name, n)
}

// writeTOC ends the blob. It returns size and digest of what it wrote, header included.
func (s *sectionWriter) writeTOC() (uint32, [sha256.Size]byte, error) {
	p := nydusblob.AppendTarHeader(s.toc, nydusblob.SectionTOC, int64(len(s.toc)))
	sum := sha256.Sum256(p)
	s.tocDigest = digest.NewDigestFromBytes(digest.SHA256, sum[:])
	return uint32(len(p)), sum, s.write(p)
}
