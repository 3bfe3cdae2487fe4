package nydus

import (
	"crypto/sha256"
	"hash"
	"io"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/formats/nydus/nydusblob"
)

// sectionWriter writes the sections of a blob and keeps its table of contents. What is written directly is data.
type sectionWriter struct {
	w      io.Writer
	offset int64
	data   hash.Hash // of the data section
	toc    []byte
}

func newSectionWriter(w io.Writer) *sectionWriter { return &sectionWriter{w: w, data: sha256.New()} }

// Write writes data.
func (s *sectionWriter) Write(p []byte) (int, error) {
	s.data.Write(p)
	return len(p), s.write(p)
}

func (s *sectionWriter) write(p []byte) error {
	n, err := s.w.Write(p)
	s.offset += int64(n)
	return err
}

func (s *sectionWriter) entry(e nydusblob.TOCEntry) { s.toc = e.AppendTo(s.toc) }

// header writes the header of a section of n stored bytes.
func (s *sectionWriter) header(name string, n int64) error {
	return s.write(nydusblob.AppendTarHeader(nil, name, n))
}

// endData ends the data section, whose digest covers its header.
func (s *sectionWriter) endData(plain int64) error {
	n := s.offset
	h := nydusblob.AppendTarHeader(nil, nydusblob.SectionData, n)
	s.data.Write(h)
	s.entry(nydusblob.TOCEntry{Name: nydusblob.SectionData, Digest: [32]byte(s.data.Sum(nil)), Stored: blob.Range{Len: n}, Size: plain})
	return s.write(h)
}

// meta writes the chunk table and its header, which have one section and two entries.
func (s *sectionWriter) meta(raw, stored []byte, codec nydusblob.Compressor, header []byte) error {
	s.entry(nydusblob.TOCEntry{Name: nydusblob.SectionMeta, Codec: codec, Digest: sha256.Sum256(raw),
		Stored: blob.Range{Off: s.offset, Len: int64(len(stored))}, Size: int64(len(raw))})
	if err := s.write(stored); err != nil {
		return err
	}
	s.entry(nydusblob.TOCEntry{Name: nydusblob.SectionMetaHeader, Digest: sha256.Sum256(header),
		Stored: blob.Range{Off: s.offset, Len: int64(len(header))}, Size: int64(len(header))})
	if err := s.write(header); err != nil {
		return err
	}
	return s.header(nydusblob.SectionMeta, int64(len(stored)+len(header)))
}

// section writes a section, compressed with enc unless that is nil or makes it no shorter.
func (s *sectionWriter) section(name string, p []byte, enc *nydusblob.Encoder, codec nydusblob.Compressor) error {
	stored := p
	if enc != nil {
		stored = enc.Append(nil, p)
	}
	e := nydusblob.TOCEntry{Name: name, Digest: sha256.Sum256(p), Stored: blob.Range{Off: s.offset, Len: int64(len(stored))}, Size: int64(len(p))}
	if len(stored) < len(p) {
		e.Codec = codec
	}
	s.entry(e)
	if err := s.write(stored); err != nil {
		return err
	}
	return s.header(name, int64(len(stored)))
}

// writeTOC ends the blob.
func (s *sectionWriter) writeTOC() error {
	if err := s.write(s.toc); err != nil {
		return err
	}
	return s.header(nydusblob.SectionTOC, int64(len(s.toc)))
}
