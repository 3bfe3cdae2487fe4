package nydusblob

import (
	"fmt"
	"sync"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"

	"github.com/lazuli-project/lazuli/flate"
	"github.com/lazuli-project/lazuli/recompress"
)

// zstdWindow bounds the memory of an encoder; a larger window helps only chunks that are larger.
const zstdWindow = 8 << 20

// Encoder compresses chunks. It may be used concurrently. The output for the same input is the same.
type Encoder struct {
	codec   Compressor
	zstd    *zstd.Encoder
	lz4     sync.Pool
	matched *recompress.Encoder
}

// NewEncoder returns an encoder for up to n chunks at a time, each at most maxChunk bytes long.
func NewEncoder(c Compressor, level zstd.EncoderLevel, n, maxChunk int) (*Encoder, error) {
	e := &Encoder{codec: c, matched: recompress.NewEncoder(recompress.Options{})}
	e.lz4.New = func() any { return new(lz4.Compressor) }
	if c != CompressorZstd {
		return e, nil
	}
	var err error
	e.zstd, err = zstd.NewWriter(nil, zstd.WithEncoderLevel(level), zstd.WithEncoderConcurrency(n), zstd.WithEncoderCRC(false),
		zstd.WithSingleSegment(true), zstd.WithWindowSize(max(zstd.MinWindowSize, min(zstdWindow, maxChunk))))
	if err != nil {
		return nil, fmt.Errorf("zstd encoder: %w", err)
	}
	return e, nil
}

// Append appends the stored form of p, which is not empty. That is p itself where it would not become shorter.
func (e *Encoder) Append(dst, p []byte) []byte {
	at := len(dst)
	switch e.codec {
	case CompressorZstd:
		dst = e.zstd.EncodeAll(p, dst)
	case CompressorLZ4:
		c := e.lz4.Get().(*lz4.Compressor)
		dst = grow(dst, len(p))
		// A destination of less than the input's length makes it give up on what does not shrink.
		n, err := c.CompressBlock(p, dst[at:at+len(p)-1])
		if err != nil {
			n = 0
		}
		e.lz4.Put(c)
		if dst = dst[:at+n]; n == 0 {
			return append(dst, p...)
		}
	default:
		return append(dst, p...)
	}
	if len(dst)-at >= len(p) {
		return append(dst[:at], p...)
	}
	return dst
}

// AppendMatched does what Append does with matches that are known, by which it is several times as fast. Without any it is the
// same as Append.
func (e *Encoder) AppendMatched(dst, p []byte, matches []flate.Match) []byte {
	switch {
	case len(matches) == 0:
	case e.codec == CompressorZstd:
		return e.matched.AppendZstd(dst, p, matches)
	case e.codec == CompressorLZ4:
		return e.matched.AppendLZ4(dst, p, matches)
	}
	return e.Append(dst, p)
}

// grow returns dst with room for n more bytes.
func grow(dst []byte, n int) []byte {
	if cap(dst)-len(dst) >= n {
		return dst
	}
	return append(make([]byte, 0, len(dst)+n), dst...)
}
