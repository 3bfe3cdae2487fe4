package gzindex

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/klauspost/compress/zlib"

	"github.com/lazuli-project/lazuli/blob"
)

const (
	// Span is how many plain bytes lie between access points, about.
	Span = 1 << 20
	// MaxSpan bounds what lies between access points, of plain and of stored bytes: a block of the stream may be larger than Span.
	MaxSpan = 64 << 20
	// maxPoints bounds the access points of an index: of a layer of 16 TiB.
	maxPoints = 16 << 20

	windowSize = 32 << 10
	headerSize = 333
	pointSize  = 29
	level      = 6 // of zlib
	// maxRatio is more than DEFLATE can make of a byte.
	maxRatio = 1032

	magic = "ddgzidx\x00"
	major = 1

	algorithmNone = 0
	algorithmZlib = 1
)

// header of an index, 333 bytes:
//
//	0 magic, 8 bytes | 8 u8 1, major version | 9 u8 0, minor version | 10 u8 1, windows are compressed | 11 u8 level | 12 u8 0, flags
//	13 u32 span | 17 u32 size of a window | 21 u32 size of a point | 25 u64 number of points | 33 u64 size of the gzip stream
//	41 u64 size of the index | 49 u64 plain size | 57 zeros | 313 u64 where the points are | 321 u64 their stored size
//	329 u32 CRC-32C, without the usual inversions, of what is before
type header struct {
	compressed bool
	span       uint32
	points     uint64
	gzipSize   uint64
	size       uint64
	plain      uint64
	start      uint64
	length     uint64
}

// point is an access point, 29 bytes:
//
//	0 u64 plain offset | 8 u64 stored offset of the first whole byte | 16 u64 offset of the window in the index
//	24 u8 unused bits of the byte before | 25 u32 stored size of the window
type point struct {
	plain, stored, window int64
	bits                  uint8
	windowLen             uint32
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// checksum is a CRC-32C that begins with 0 and is not inverted.
func checksum(p []byte) uint32 { return ^crc32.Update(^uint32(0), castagnoli, p) }

func (h *header) appendTo(dst []byte) []byte {
	at := len(dst)
	dst = append(dst, make([]byte, headerSize)...)
	p, le := dst[at:], binary.LittleEndian
	copy(p, magic)
	p[8] = major
	if h.compressed {
		p[10], p[11] = algorithmZlib, level
	}
	le.PutUint32(p[13:], h.span)
	le.PutUint32(p[17:], windowSize)
	le.PutUint32(p[21:], pointSize)
	le.PutUint64(p[25:], h.points)
	le.PutUint64(p[33:], h.gzipSize)
	le.PutUint64(p[41:], h.size)
	le.PutUint64(p[49:], h.plain)
	le.PutUint64(p[313:], h.start)
	le.PutUint64(p[321:], h.length)
	le.PutUint32(p[329:], checksum(p[:329]))
	return dst
}

// parseHeader decodes and checks the header of an index.
func parseHeader(p []byte) (*header, error) {
	if len(p) < headerSize || string(p[:len(magic)]) != magic {
		return nil, fmt.Errorf("no magic number in %d bytes: %w", len(p), blob.ErrCorrupt)
	}
	le := binary.LittleEndian
	if sum := checksum(p[:329]); sum != le.Uint32(p[329:]) {
		return nil, fmt.Errorf("checksum %#x instead of %#x: %w", sum, le.Uint32(p[329:]), blob.ErrCorrupt)
	}
	if p[8] != major || p[10] > algorithmZlib || le.Uint32(p[17:]) != windowSize || le.Uint32(p[21:]) != pointSize {
		return nil, fmt.Errorf("version %d, compression %d, windows of %d, points of %d bytes: %w", p[8], p[10], le.Uint32(p[17:]), le.Uint32(p[21:]), blob.ErrUnsupported)
	}
	h := &header{
		compressed: p[10] == algorithmZlib, span: le.Uint32(p[13:]), points: le.Uint64(p[25:]), gzipSize: le.Uint64(p[33:]),
		size: le.Uint64(p[41:]), plain: le.Uint64(p[49:]), start: le.Uint64(p[313:]), length: le.Uint64(p[321:]),
	}
	const most = 1 << 62
	switch n := uint64(len(p)); {
	case h.size != n || h.start < headerSize || h.start > n || h.length != n-h.start:
		return nil, fmt.Errorf("%d bytes, with %d of points at %d, of %d: %w", h.size, h.length, h.start, n, blob.ErrCorrupt)
	case h.points > maxPoints:
		return nil, fmt.Errorf("%d access points: %w", h.points, blob.ErrUnsupported)
	case h.gzipSize > most || h.plain > most || h.points == 0 && h.plain > 0:
		return nil, fmt.Errorf("%d bytes stored as %d, with %d access points: %w", h.plain, h.gzipSize, h.points, blob.ErrCorrupt)
	}
	return h, nil
}

func (x *point) appendTo(dst []byte) []byte {
	le := binary.LittleEndian
	dst = le.AppendUint64(dst, uint64(x.plain))
	dst = le.AppendUint64(dst, uint64(x.stored))
	dst = le.AppendUint64(dst, uint64(x.window))
	return le.AppendUint32(append(dst, x.bits), x.windowLen)
}

// parsePoint decodes an access point of an index and checks it alone.
func parsePoint(p []byte, h *header) (point, error) {
	le := binary.LittleEndian
	plain, stored, window := le.Uint64(p), le.Uint64(p[8:]), le.Uint64(p[16:])
	bits, n := p[24], le.Uint32(p[25:])
	x := point{int64(plain), int64(stored), int64(window), bits, n}
	if plain > h.plain || stored > h.gzipSize || bits > 7 || stored == 0 {
		return x, fmt.Errorf("at %d of %d plain bytes, %d of %d stored ones, %d bits: %w", plain, h.plain, stored, h.gzipSize, bits, blob.ErrCorrupt)
	}
	if window < headerSize || window > h.start || uint64(n) > h.start-window || !h.compressed && n != windowSize {
		return x, fmt.Errorf("window of %d bytes at %d, before %d: %w", n, window, h.start, blob.ErrCorrupt)
	}
	return x, nil
}

// packer compresses, one piece after the other. Its zero value is ready.
type packer struct{ z *zlib.Writer }

// compress returns a zlib stream.
func (c *packer) compress(p []byte) ([]byte, error) {
	var out bytes.Buffer
	if c.z == nil {
		var err error
		if c.z, err = zlib.NewWriterLevel(&out, level); err != nil {
			return nil, fmt.Errorf("zlib: %w", err)
		}
	} else {
		c.z.Reset(&out)
	}
	if _, err := c.z.Write(p); err != nil {
		return nil, fmt.Errorf("zlib: %w", err)
	}
	if err := c.z.Close(); err != nil {
		return nil, fmt.Errorf("zlib: %w", err)
	}
	return out.Bytes(), nil
}

// inflate decodes a zlib stream of n bytes, which it may be too short for.
func inflate(p []byte, n int64) ([]byte, error) {
	if n > int64(len(p))*maxRatio {
		return nil, fmt.Errorf("%d bytes stored as %d: %w", n, len(p), blob.ErrCorrupt)
	}
	z, err := zlib.NewReader(bytes.NewReader(p))
	if err != nil {
		return nil, fmt.Errorf("zlib: %w: %w", blob.ErrCorrupt, err)
	}
	out := make([]byte, n)
	if _, err := io.ReadFull(z, out); err != nil {
		return nil, fmt.Errorf("zlib: %d bytes: %w: %w", n, blob.ErrCorrupt, err)
	}
	// The stream's checksum is checked at its end.
	var one [1]byte
	if _, err := io.ReadFull(z, one[:]); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("zlib: not %d bytes: %w: %w", n, blob.ErrCorrupt, err)
	}
	return out, nil
}
