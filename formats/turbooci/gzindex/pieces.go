package gzindex

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/zeebo/blake3"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/flate"
)

// PieceSize is how many plain bytes are verified, and at least read, at once.
const PieceSize = 128 << 10

// The pieces of a layer's tar, which are Lazuli's own, and which other readers pass over:
//
//	0  "lzpieces" | 8 u32 version 1 | 12 u32 size of a piece | 16 u64 plain bytes | 24 u64 stored bytes, 0 for a layer that is not compressed
//	32 for each piece, if the layer is compressed: u32 stored bytes behind the end of the piece before up to which it is decoded
//	   for each piece: 32 bytes of BLAKE3 of its plain bytes
const (
	piecesMagic   = "lzpieces"
	piecesVersion = 1
	piecesHeader  = 32
	sumSize       = 32
)

// PieceBuilder notes the digests of a layer's pieces, and where their stored bytes end, while the layer is inflated. It is for the
// goroutine of the stream.
type PieceBuilder struct {
	stream *flate.Reader
	gzip   bool
	h      *blake3.Hasher
	plain  int64 // bytes so far
	ends   []byte
	last   int64 // stored end of the last piece
	sums   []byte
}

// NewPieceBuilder returns a builder for a stream that has not been read yet, with [flate.TraceIndex] if it is gzip.
func NewPieceBuilder(stream *flate.Reader) *PieceBuilder {
	return &PieceBuilder{stream: stream, gzip: stream.Compression() == flate.Gzip, h: blake3.New()}
}

// Follow takes what the stream returned last.
func (b *PieceBuilder) Follow(p []byte) error {
	for len(p) > 0 {
		n := min(int64(len(p)), PieceSize-b.plain%PieceSize)
		if _, err := b.h.Write(p[:n]); err != nil {
			return fmt.Errorf("digest: %w", err)
		}
		p, b.plain = p[n:], b.plain+n
		if b.plain%PieceSize == 0 {
			if err := b.end(); err != nil {
				return err
			}
		}
	}
	return nil
}

// end ends a piece.
func (b *PieceBuilder) end() error {
	b.sums = b.h.Sum(b.sums)
	b.h.Reset()
	if !b.gzip {
		return nil
	}
	at := b.stream.StoredAt(b.plain)
	if at < b.last || at-b.last > math.MaxUint32 {
		return fmt.Errorf("piece of %d stored bytes: %w", at-b.last, blob.ErrUnsupported)
	}
	b.ends = binary.LittleEndian.AppendUint32(b.ends, uint32(at-b.last))
	b.last = at
	return nil
}

// Finish returns the table of pieces once the stream has returned io.EOF. stored is the size of the gzip stream.
func (b *PieceBuilder) Finish(stored int64) ([]byte, error) {
	if b.plain%PieceSize > 0 {
		if err := b.end(); err != nil {
			return nil, err
		}
	}
	if !b.gzip {
		stored = 0
	}
	p := append(make([]byte, 0, piecesHeader+len(b.ends)+len(b.sums)), piecesMagic...)
	p = binary.LittleEndian.AppendUint32(p, piecesVersion)
	p = binary.LittleEndian.AppendUint32(p, PieceSize)
	p = binary.LittleEndian.AppendUint64(p, uint64(b.plain))
	p = binary.LittleEndian.AppendUint64(p, uint64(stored))
	return append(append(p, b.ends...), b.sums...), nil
}

// pieces is a decoded table.
type pieces struct {
	size, plain, stored int64
	ends                []int64 // of the stored bytes; nil if the layer is not compressed
	sums                []byte
}

// Bounds of the size of a piece.
const minPiece, maxPiece = 4 << 10, 4 << 20

func parsePieces(p []byte) (*pieces, error) {
	if len(p) < piecesHeader || string(p[:len(piecesMagic)]) != piecesMagic {
		return nil, fmt.Errorf("table of pieces: no header: %w", blob.ErrCorrupt)
	}
	le := binary.LittleEndian
	if v := le.Uint32(p[8:]); v != piecesVersion {
		return nil, fmt.Errorf("table of pieces: version %d: %w", v, blob.ErrUnsupported)
	}
	t := &pieces{size: int64(le.Uint32(p[12:])), plain: int64(le.Uint64(p[16:])), stored: int64(le.Uint64(p[24:]))}
	rest := p[piecesHeader:]
	if t.size < minPiece || t.size > maxPiece || t.plain < 0 || t.stored < 0 || t.plain/t.size > int64(len(rest))/sumSize {
		return nil, fmt.Errorf("table of pieces: %d bytes in pieces of %d: %w", t.plain, t.size, blob.ErrCorrupt)
	}
	n := int((t.plain + t.size - 1) / t.size)
	each := sumSize
	if t.stored > 0 {
		each += 4
	}
	if len(rest) != n*each {
		return nil, fmt.Errorf("table of pieces: %d bytes for %d pieces: %w", len(rest), n, blob.ErrCorrupt)
	}
	if t.stored > 0 {
		t.ends = make([]int64, n)
		var at int64
		for i := range t.ends {
			at += int64(le.Uint32(rest[4*i:]))
			t.ends[i] = at
		}
		if at > t.stored {
			return nil, fmt.Errorf("table of pieces: ends at %d of %d stored bytes: %w", at, t.stored, blob.ErrCorrupt)
		}
		rest = rest[4*n:]
	}
	t.sums = rest
	return t, nil
}

// number returns how many pieces there are.
func (t *pieces) number() int { return len(t.sums) / sumSize }

// span returns the plain bytes of a piece.
func (t *pieces) span(i int) blob.Range {
	off := int64(i) * t.size
	return blob.Range{Off: off, Len: min(t.size, t.plain-off)}
}

// verify checks the plain bytes of a piece.
func (t *pieces) verify(plain []byte, i int) error {
	if sum := blake3.Sum256(plain); string(sum[:]) != string(t.sums[i*sumSize:][:sumSize]) {
		return fmt.Errorf("piece %d: %w", i, blob.ErrDigest)
	}
	return nil
}
