package zfile

import (
	"context"
	"encoding/binary"
	"fmt"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"

	"github.com/lazuli-project/lazuli/blob"
)

const (
	// firstRead is what is read first of a file; callers that want more of its beginning have it then.
	firstRead = 4096
	// tableStep is what is read of a jump table at a time, so that no more memory is taken than what is there.
	tableStep = 4 << 20
	// groupSize is how many blocks share a 64-bit offset.
	groupSize = 1 << groupBits
	groupBits = 6
)

// Layout maps the plain bytes of a ZFile, whose spans are its blocks. It keeps 4.2 bytes for a block.
type Layout struct {
	plain     int64
	blockSize int64
	shift     uint // of blockSize
	algorithm Algorithm
	verify    bool
	bases     []int64  // in the object, of every groupSize-th block
	starts    []uint32 // from there on, of each block and of the end
	zstd      *zstd.Decoder
}

var _ blob.Layout = (*Layout)(nil)

// Open reads what says where the blocks of a ZFile are that lies at a range of an object: its first 4096 bytes, its last 512 where the
// header does not tell, and the jump table. What does not hold together gives an error that wraps blob.ErrCorrupt.
func Open(ctx context.Context, src blob.Source, at blob.Range) (*Layout, error) {
	if err := blob.CheckRange(at.Off, at.Len, src.Size()); err != nil {
		return nil, fmt.Errorf("zfile: %w", err)
	}
	if at.Len < 2*HeaderSize {
		return nil, fmt.Errorf("zfile of %d bytes: %w", at.Len, blob.ErrCorrupt)
	}
	h, err := readHeader(ctx, src, at)
	if err != nil {
		return nil, fmt.Errorf("zfile: %w", err)
	}
	l := &Layout{plain: int64(h.plain), blockSize: int64(h.blockSize), algorithm: h.algorithm, verify: h.verify}
	for l.blockSize>>l.shift > 1 {
		l.shift++
	}
	if err := l.readTable(ctx, src, at.Off, h); err != nil {
		return nil, fmt.Errorf("zfile: jump table: %w", err)
	}
	if l.algorithm == Zstd {
		// The decoder starts no goroutines. What a block becomes is bounded by the room for it.
		l.zstd, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderLowmem(true), zstd.WithDecodeAllCapLimit(true))
		if err != nil {
			return nil, fmt.Errorf("zfile: zstd decoder: %w", err)
		}
	}
	return l, nil
}

func readHeader(ctx context.Context, src blob.Source, at blob.Range) (*header, error) {
	p := make([]byte, min(firstRead, at.Len))
	if err := src.ReadRange(ctx, p, at.Off, blob.Demand); err != nil {
		return nil, fmt.Errorf("header: %w", err)
	}
	h, err := parseHeader(p[:HeaderSize], flagHeader, flagHeader)
	if err != nil {
		return nil, fmt.Errorf("header: %w", err)
	}
	what := "header"
	if h.flags&flagOverwritten == 0 {
		what = "trailer"
		p = p[:HeaderSize]
		if err := src.ReadRange(ctx, p, at.End()-HeaderSize, blob.Demand); err != nil {
			return nil, fmt.Errorf("trailer: %w", err)
		}
		if h, err = parseHeader(p, flagHeader|flagData|flagSealed, flagData|flagSealed); err != nil {
			return nil, fmt.Errorf("trailer: %w", err)
		}
	}
	if err := h.check(at.Len - HeaderSize); err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	return h, nil
}

// readTable reads the jump table of a file that begins at an offset of the object.
func (l *Layout) readTable(ctx context.Context, src blob.Source, begin int64, h *header) error {
	from, end := begin+h.dataBegin(), begin+int64(h.indexOffset)
	n := int64(h.blocks)
	l.starts = make([]uint32, 0, min(n+1, tableStep/entrySize+1))
	buf := make([]byte, min(n*entrySize, tableStep))
	crc := uint32(0)
	smallest := uint32(1)
	if l.verify {
		smallest += crcSize
	}
	for at := end; at < end+n*entrySize; at += int64(len(buf)) {
		buf = buf[:min(int64(len(buf)), end+n*entrySize-at)]
		if err := src.ReadRange(ctx, buf, at, blob.Demand); err != nil {
			return err
		}
		crc = CRC(crc, buf)
		for i := 0; i < len(buf); i += entrySize {
			length := binary.LittleEndian.Uint32(buf[i:])
			if length < smallest || length > h.blockSize+storedSlack+crcSize || int64(length) > end-from {
				return fmt.Errorf("block %d of %d bytes: %w", len(l.starts), length, blob.ErrCorrupt)
			}
			l.addStart(from)
			from += int64(length)
		}
	}
	l.addStart(from)
	if h.flags&flagDigest != 0 && crc != h.indexCRC {
		return fmt.Errorf("checksum %#x instead of %#x: %w", crc, h.indexCRC, blob.ErrCorrupt)
	}
	return nil
}

func (l *Layout) addStart(at int64) {
	if len(l.starts)%groupSize == 0 {
		l.bases = append(l.bases, at)
	}
	l.starts = append(l.starts, uint32(at-l.bases[len(l.bases)-1]))
}

func (l *Layout) start(i int) int64 { return l.bases[i>>groupBits] + int64(l.starts[i]) }

// Size implements [blob.Layout].
func (l *Layout) Size() int64 { return l.plain }

// BlockSize returns the size of blocks in bytes.
func (l *Layout) BlockSize() int { return int(l.blockSize) }

// Algorithm returns how blocks are compressed.
func (l *Layout) Algorithm() Algorithm { return l.algorithm }

// NumSpans implements [blob.Layout].
func (l *Layout) NumSpans() int { return len(l.starts) - 1 }

// Span implements [blob.Layout]. Stored is with the checksum.
func (l *Layout) Span(i int) blob.Span {
	off, from := int64(i)<<l.shift, l.start(i)
	return blob.Span{
		Index: i, Plain: blob.Range{Off: off, Len: min(l.blockSize, l.plain-off)}, Stored: blob.Range{Off: from, Len: l.start(i+1) - from},
	}
}

// SpanAt implements [blob.Layout].
func (l *Layout) SpanAt(off int64) int { return int(off >> l.shift) }

// Decode implements [blob.Layout]. Where there is a checksum, it is checked first: a difference is an error that wraps
// blob.ErrDigest.
func (l *Layout) Decode(plain, stored []byte, s blob.Span) error {
	if l.verify {
		if len(stored) < crcSize {
			return fmt.Errorf("zfile: block %d of %d bytes: %w", s.Index, len(stored), blob.ErrCorrupt)
		}
		p := stored[:len(stored)-crcSize]
		want := binary.LittleEndian.Uint32(stored[len(p):])
		if crc := CRC(blockSeed, p); crc != want {
			return fmt.Errorf("zfile: block %d: checksum %#x instead of %#x: %w", s.Index, crc, want, blob.ErrDigest)
		}
		stored = p
	}
	n, err := l.decompress(plain, stored)
	if err != nil {
		return fmt.Errorf("zfile: block %d: %s: %w: %w", s.Index, l.algorithm, blob.ErrCorrupt, err)
	}
	if n != len(plain) {
		return fmt.Errorf("zfile: block %d: %s: %d bytes instead of %d: %w", s.Index, l.algorithm, n, len(plain), blob.ErrCorrupt)
	}
	return nil
}

func (l *Layout) decompress(plain, stored []byte) (int, error) {
	if l.algorithm == Zstd {
		out, err := l.zstd.DecodeAll(stored, plain[:0:len(plain)])
		return len(out), err
	}
	return lz4.UncompressBlock(stored, plain)
}

// Verify implements [blob.Layout]: bytes that Decode gave were checked there, unless the file has no checksums.
func (l *Layout) Verify(_ []byte, s blob.Span) error {
	if l.verify {
		return nil
	}
	return fmt.Errorf("zfile: block %d: %w", s.Index, blob.ErrUnverified)
}
