package overlaybdtools

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/disk"
	"github.com/lazuli-project/lazuli/tarfs"
	"github.com/lazuli-project/lazuli/tree"
)

// The headers of a tar are its header blocks and the contents of extension headers, in their order, without the content of files.
// Headers of regular files have the offset of the content in the tar in place of the major device number, as u64 in little-endian
// order; checksums are not adapted (overlaybd's libtar.cpp, dump_tar_headers).

// Fields of a tar header: where they begin and end.
const (
	tarBlock                    = 512
	tarSize, tarSizeEnd         = 124, 136
	tarSum, tarSumEnd           = 148, 156
	tarType                     = 156
	tarDevMajor, tarDevMajorEnd = 329, 337
)

// ExportTar writes the headers of a tar, maybe compressed by gzip, to a file. gzipIndex is the path for the index of a gzip
// layer, "" for none.
func ExportTar(ctx context.Context, input, path, gzipIndex string) (err error) {
	in, err := openInput(ctx, input, inputOptions{index: gzipIndex != ""})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, in.close()) }()
	out, err := createOutput(path, true)
	if err != nil {
		return err
	}
	defer out.abort()
	if err := exportTar(out, in); err != nil {
		return fmt.Errorf("input %s: %w", input, err)
	}
	if _, err := io.Copy(io.Discard, in); err != nil { // up to the end of the index
		return fmt.Errorf("input %s: %w", input, err)
	}
	if in.index != nil {
		if err := writeFile(gzipIndex, in.index); err != nil {
			return err
		}
	}
	return out.commit()
}

func exportTar(w io.Writer, r io.Reader) error {
	h := &headers{r: r}
	for {
		entry, err := h.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if !h.checked() {
			return fmt.Errorf("tar header at %d: checksum: %w", h.at-tarBlock, blob.ErrCorrupt)
		}
		if entry.content {
			binary.LittleEndian.PutUint64(h.block[tarDevMajor:], uint64(h.at))
		}
		if _, err := w.Write(h.block[:]); err != nil {
			return err
		}
		if _, err := w.Write(entry.extension); err != nil {
			return err
		}
		if err := h.skip(padded(entry.size)); err != nil {
			return err
		}
	}
}

// headers reads the header blocks of a tar.
type headers struct {
	r       io.Reader
	at      int64
	block   [tarBlock]byte
	paxSize int64 // of the next entry; 0 for what its header says
}

// header is what a header block says.
type header struct {
	content   bool   // it is of a regular file
	size      int64  // of the content that follows
	extension []byte // that is applied to the entry behind it, in whole blocks
}

// next reads a header block, and an extension header to its end. At the archive's end it returns io.EOF.
func (h *headers) next() (header, error) {
	for zeros := 0; ; zeros++ {
		n, err := io.ReadFull(h.r, h.block[:])
		if errors.Is(err, io.EOF) && n == 0 {
			return header{}, io.EOF
		}
		if err != nil {
			return header{}, fmt.Errorf("tar header at %d: %w", h.at, damaged(err))
		}
		h.at += tarBlock
		if h.block != [tarBlock]byte{} {
			break
		}
		if zeros == 1 {
			return header{}, io.EOF
		}
	}
	size, err := number(h.block[tarSize:tarSizeEnd])
	if err != nil {
		return header{}, fmt.Errorf("tar header at %d: %w", h.at-tarBlock, err)
	}
	switch kind := h.block[tarType]; kind {
	case 'x', 'g', 'L', 'K':
		p, err := h.extension(size)
		if err == nil && kind == 'x' {
			h.paxSize, err = paxSize(p[:size])
		}
		if err != nil {
			return header{}, fmt.Errorf("extension header at %d: %w", h.at, err)
		}
		return header{extension: p}, nil
	case '1', '2', '3', '4', '5', '6':
		h.paxSize = 0
		return header{}, nil
	case '0', 0, '7':
		if h.paxSize > 0 {
			size, h.paxSize = h.paxSize, 0
		}
		if size > tarfs.MaxFile {
			return header{}, fmt.Errorf("file of %d bytes at %d: %w", size, h.at, tarfs.ErrTooLarge)
		}
		return header{content: true, size: size}, nil
	default:
		return header{}, errRefused(fmt.Sprintf("the headers alone of a tar with an entry of type %q at %d", kind, h.at-tarBlock))
	}
}

// extension reads the content of an extension header.
func (h *headers) extension(size int64) ([]byte, error) {
	if size > tarfs.MaxHeader {
		return nil, fmt.Errorf("%d bytes: %w", size, tarfs.ErrTooLarge)
	}
	p := make([]byte, padded(size))
	if _, err := io.ReadFull(h.r, p); err != nil {
		return nil, damaged(err)
	}
	h.at += int64(len(p))
	return p, nil
}

// skip passes over content.
func (h *headers) skip(n int64) error {
	if _, err := io.CopyN(io.Discard, h.r, n); err != nil {
		return fmt.Errorf("content at %d: %w", h.at, damaged(err))
	}
	h.at += n
	return nil
}

// checked reports whether the checksum of the block is right.
func (h *headers) checked() bool {
	sum, err := number(h.block[tarSum:tarSumEnd])
	unsigned, signed := checksums(&h.block)
	return err == nil && (sum == unsigned || sum == signed)
}

// checksums returns the sums of a header's bytes, with spaces in place of the checksum.
func checksums(p *[tarBlock]byte) (unsigned, signed int64) {
	for i, b := range p {
		if i >= tarSum && i < tarSumEnd {
			b = ' '
		}
		unsigned, signed = unsigned+int64(b), signed+int64(int8(b))
	}
	return unsigned, signed
}

// padded returns the size with what fills up the last block.
func padded(size int64) int64 { return (size + tarBlock - 1) &^ (tarBlock - 1) }

// damaged says of a tar that ends too early that it is damaged.
func damaged(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: %w", io.ErrUnexpectedEOF, blob.ErrCorrupt)
	}
	return err
}

// number decodes a field: octal digits, or a big-endian number whose highest bit is set.
func number(p []byte) (int64, error) {
	if p[0]&0x80 != 0 {
		v := int64(p[0] & 0x7f)
		for _, b := range p[1:] {
			if v > math.MaxInt64>>8 {
				return 0, fmt.Errorf("number % x: %w", p, blob.ErrCorrupt)
			}
			v = v<<8 | int64(b)
		}
		return v, nil
	}
	text := bytes.Trim(p, " \x00")
	if len(text) == 0 {
		return 0, nil
	}
	v, err := strconv.ParseInt(string(text), 8, 64)
	if err != nil || v < 0 {
		return 0, fmt.Errorf("number %q: %w", text, blob.ErrCorrupt)
	}
	return v, nil
}

// paxSize returns the size that pax records say, 0 for none. Records of sparse files are refused: their content does not lie as the
// tar's headers say.
func paxSize(p []byte) (int64, error) {
	size := int64(0)
	for len(p) > 0 {
		digits, rest, _ := bytes.Cut(p, []byte{' '})
		n, err := strconv.Atoi(string(digits))
		if err != nil || n > len(p) || n < len(digits)+2 || p[n-1] != '\n' {
			return 0, fmt.Errorf("pax record: %w", blob.ErrCorrupt)
		}
		record := rest[:n-len(digits)-2]
		if text, ok := bytes.CutPrefix(record, []byte("size=")); ok {
			if size, err = strconv.ParseInt(string(text), 10, 64); err != nil || size < 0 {
				return 0, fmt.Errorf("size %q: %w", text, blob.ErrCorrupt)
			}
		}
		if bytes.HasPrefix(record, []byte("GNU.sparse.")) {
			return 0, errRefused("the headers alone of a tar with sparse files")
		}
		p = p[n:]
	}
	return size, nil
}

// metaReader makes of the headers of a tar a tar again, whose files are zeros, and knows where their content lies in the original.
type metaReader struct {
	headers headers
	pieces  [][]byte // to be returned next
	zeros   int64    // that follow them
	at      int64    // where the next piece goes in the new tar
	ended   bool
	offsets map[int64]int64 // in the original, by those in the new tar
	rest    []byte
}

var _ tarfs.Pieces = (*metaReader)(nil)

func newMetaReader(r io.Reader) *metaReader {
	return &metaReader{headers: headers{r: r}, offsets: make(map[int64]int64)}
}

var zeroPiece [256 << 10]byte

// Next implements [tarfs.Pieces].
func (m *metaReader) Next() ([]byte, error) {
	for {
		if len(m.pieces) > 0 {
			p := m.pieces[0]
			m.pieces = m.pieces[1:]
			if len(p) > 0 {
				m.at += int64(len(p))
				return p, nil
			}
			continue
		}
		if m.zeros > 0 {
			p := zeroPiece[:min(m.zeros, int64(len(zeroPiece)))]
			m.zeros -= int64(len(p))
			m.at += int64(len(p))
			return p, nil
		}
		if m.ended {
			return nil, io.EOF
		}
		if err := m.entry(); err != nil {
			return nil, err
		}
	}
}

// entry reads an entry's header.
func (m *metaReader) entry() error {
	e, err := m.headers.next()
	if errors.Is(err, io.EOF) {
		m.zeros, m.ended = 2*tarBlock, true
		return nil
	}
	if err != nil {
		return err
	}
	block := &m.headers.block
	if e.content {
		m.offsets[m.at+tarBlock] = int64(binary.LittleEndian.Uint64(block[tarDevMajor:]))
	}
	if e.content || e.extension != nil {
		clear(block[tarDevMajor:tarDevMajorEnd])
	}
	sum, _ := checksums(block)
	copy(block[tarSum:tarSumEnd], fmt.Sprintf("%06o\x00 ", sum))
	m.pieces, m.zeros = [][]byte{block[:], e.extension}, padded(e.size)
	return nil
}

// Read implements [io.Reader].
func (m *metaReader) Read(p []byte) (int, error) {
	for len(m.rest) == 0 {
		var err error
		if m.rest, err = m.Next(); err != nil {
			return 0, err
		}
	}
	n := copy(p, m.rest)
	m.rest = m.rest[n:]
	return n, nil
}

// extents returns where the content of a file lies in the original tar.
func (m *metaReader) extents(e *tarfs.Entry) ([]tree.Extent, error) {
	if len(e.Data) != 1 || e.Data[0].Blob == tree.Hole {
		return nil, errRefused("the headers alone of a tar with sparse files")
	}
	off, ok := m.offsets[e.Data[0].Offset]
	delete(m.offsets, e.Data[0].Offset)
	if !ok || off < 0 || off%disk.SectorSize != 0 || off > math.MaxInt64/2 {
		return nil, fmt.Errorf("content at %d of the tar: %w", off, blob.ErrCorrupt)
	}
	return []tree.Extent{{Blob: blobInput, Offset: off, Length: e.Size}}, nil
}
