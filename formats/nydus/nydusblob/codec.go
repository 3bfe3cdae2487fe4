package nydusblob

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/zeebo/blake3"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/flate"
)

// Sum returns the digest of p.
func (d Digester) Sum(p []byte) [DigestSize]byte {
	if d == DigesterSHA256 {
		return sha256.Sum256(p)
	}
	return blake3.Sum256(p)
}

// Decoder decompresses chunks and sections. It may be used concurrently.
type Decoder struct {
	zstd    *zstd.Decoder
	resumer *flate.Resumer
}

// NewDecoder returns a decoder. It holds no goroutines.
func NewDecoder() (*Decoder, error) {
	z, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderLowmem(true),
		zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		return nil, fmt.Errorf("zstd decoder: %w", err)
	}
	return &Decoder{z, flate.NewResumer()}, nil
}

// Decode decompresses stored, whose plain form has exactly the length of plain.
func (d *Decoder) Decode(plain, stored []byte, c Compressor) error {
	var n int
	var err error
	switch c {
	case CompressorNone:
		if len(stored) != len(plain) {
			return fmt.Errorf("%d raw bytes stored as %d: %w", len(plain), len(stored), blob.ErrCorrupt)
		}
		n = copy(plain, stored)
	case CompressorLZ4:
		n, err = lz4.UncompressBlock(stored, plain)
	case CompressorZstd:
		// The limit of the destination's capacity keeps the output in place.
		var out []byte
		out, err = d.zstd.DecodeAll(stored, plain[:0:len(plain)])
		n = len(out)
	case CompressorGzip:
		n, err = gunzip(plain, stored)
	default:
		return fmt.Errorf("%s: %w", c, blob.ErrUnsupported)
	}
	if err != nil {
		return fmt.Errorf("%s: %w: %w", c, blob.ErrCorrupt, err)
	}
	if n != len(plain) {
		return fmt.Errorf("%s: %d bytes instead of %d: %w", c, n, len(plain), blob.ErrCorrupt)
	}
	return nil
}

func gunzip(plain, stored []byte) (int, error) {
	r, err := gzip.NewReader(bytes.NewReader(stored))
	if err != nil {
		return 0, err
	}
	n, err := io.ReadFull(r, plain)
	if err != nil {
		return n, err
	}
	var one [1]byte
	if _, err := io.ReadFull(r, one[:]); !errors.Is(err, io.EOF) {
		return n, fmt.Errorf("more than %d bytes", len(plain))
	}
	return n, nil
}
