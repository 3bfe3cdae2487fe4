package recompress

import (
	"bytes"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"

	"github.com/lazuli-project/lazuli/tarfs"
)

var layers = flag.String("layers", "", "pattern of gzip layers to measure instead of generated data")

const (
	benchChunk = 1 << 20  // bytes
	benchLayer = 80 << 20 // bytes of each layer that are measured
)

// benchChunks are the chunks of what -layers names, cut as nydus does: at the borders of files and at each MiB of these.
// Without, they are generated, half of them small.
func benchChunks(b *testing.B) (chunks []content, size int) {
	b.Helper()
	add := func(c content) {
		chunks = append(chunks, c)
		size += len(c.plain)
	}
	names, err := filepath.Glob(*layers)
	if err != nil {
		b.Fatal(err)
	}
	if len(names) == 0 {
		all := compressed(b, words(1, 8<<20), 6)
		for a := 0; a < len(all.plain); a += benchChunk {
			add(all.chunk(a, a+benchChunk))
		}
		for a := 0; a < len(all.plain); a += 8 << 10 {
			add(all.chunk(a, a+8<<10))
		}
	}
	for _, name := range names {
		f, err := os.Open(name)
		if err != nil {
			b.Fatal(err)
		}
		all := inflated(b, f, benchLayer)
		f.Close()
		r := tarfs.NewReader(bytes.NewReader(all.plain))
		for {
			e, err := r.Next()
			if err != nil {
				if !errors.Is(err, io.EOF) && len(all.plain) < benchLayer {
					b.Fatal(err)
				}
				break
			}
			for _, x := range e.Data {
				for from, end := int(x.Offset), int(x.Offset+x.Length); from < end && end <= len(all.plain); from += benchChunk {
					add(all.chunk(from, min(from+benchChunk, end)))
				}
			}
		}
	}
	return chunks, size
}

// BenchmarkChunks measures this package and, for comparison, encoders that search. The ratio is of what is stored, that is a
// chunk itself where its compressed form is not shorter. -layers=PATTERN takes real layers.
func BenchmarkChunks(b *testing.B) {
	chunks, size := benchChunks(b)
	e, noSearch := NewEncoder(Options{}), NewEncoder(Options{NoSearch: true})
	fastest, usual := benchZstd(b, zstd.SpeedFastest), benchZstd(b, zstd.SpeedDefault)
	var peer lz4.Compressor
	for _, m := range []struct {
		name string
		form func(dst []byte, c content) []byte
	}{
		{"zstd/ours", func(dst []byte, c content) []byte { return e.AppendZstd(dst, c.plain, c.matches) }},
		{"zstd/no-search", func(dst []byte, c content) []byte { return noSearch.AppendZstd(dst, c.plain, c.matches) }},
		{"zstd/no-matches", func(dst []byte, c content) []byte { return e.AppendZstd(dst, c.plain, nil) }},
		{"zstd/klauspost-default", func(dst []byte, c content) []byte { return usual.EncodeAll(c.plain, dst) }},
		{"zstd/klauspost-fastest", func(dst []byte, c content) []byte { return fastest.EncodeAll(c.plain, dst) }},
		{"lz4/ours", func(dst []byte, c content) []byte { return e.AppendLZ4(dst, c.plain, c.matches) }},
		{"lz4/pierrec", func(dst []byte, c content) []byte {
			n, err := peer.CompressBlock(c.plain, dst[:cap(dst)])
			if err != nil {
				b.Fatal(err)
			}
			if n == 0 {
				n = len(c.plain)
			}
			return dst[:n]
		}},
	} {
		b.Run(m.name, func(b *testing.B) {
			buf := make([]byte, lz4.CompressBlockBound(benchChunk))
			b.SetBytes(int64(size))
			b.ReportAllocs()
			stored := 0
			for b.Loop() {
				stored = 0
				for _, c := range chunks {
					stored += min(len(m.form(buf[:0], c)), len(c.plain))
				}
			}
			b.ReportMetric(float64(stored)/float64(size), "ratio")
		})
	}
}

func benchZstd(b *testing.B, level zstd.EncoderLevel) *zstd.Encoder {
	b.Helper()
	w, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(level), zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { w.Close() })
	return w
}
