package flate

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"flag"
	"io"
	"math/rand/v2"
	"os"
	"testing"

	kgzip "github.com/klauspost/compress/gzip"
)

var layerFile = flag.String("layer", "", "gzip file to measure instead of generated data")

// benchLayer returns gzip data and its plain size: what -layer names, or 32 MB of words and numbers that compress to
// about a third, as programs and libraries do.
func benchLayer(b *testing.B) ([]byte, int64) {
	b.Helper()
	if *layerFile != "" {
		p, err := os.ReadFile(*layerFile)
		if err != nil {
			b.Fatal(err)
		}
		r, err := gzip.NewReader(bytes.NewReader(p))
		if err != nil {
			b.Fatal(err)
		}
		n, err := io.Copy(io.Discard, r)
		if err != nil {
			b.Fatal(err)
		}
		return p, n
	}
	plain := generated(32 << 20)
	return gzipped(b, plain, 6), int64(len(plain))
}

// generated returns n bytes that are like a layer's: words from a vocabulary, repeated structures, noise, zeros.
func generated(n int) []byte {
	rng := rand.New(rand.NewPCG(1, 2))
	words := make([][]byte, 4000)
	for i := range words {
		words[i] = make([]byte, 2+rng.IntN(10))
		for j := range words[i] {
			words[i][j] = byte(rng.ExpFloat64() * 40)
		}
	}
	out := make([]byte, 0, n+64)
	for len(out) < n {
		switch rng.IntN(40) {
		case 0:
			out = append(out, make([]byte, rng.IntN(60))...)
		case 1:
			for range rng.IntN(30) {
				out = append(out, byte(rng.Uint32()))
			}
		default:
			out = append(out, words[int(rng.ExpFloat64()*500)%len(words)]...)
		}
	}
	return out[:n]
}

func gzipped(tb testing.TB, plain []byte, level int) []byte {
	tb.Helper()
	var buf bytes.Buffer
	w, err := gzip.NewWriterLevel(&buf, level)
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := w.Write(plain); err != nil {
		tb.Fatal(err)
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return buf.Bytes()
}

// BenchmarkGzip measures this package and, for comparison, two others. -layer=FILE takes a real layer.
func BenchmarkGzip(b *testing.B) {
	data, n := benchLayer(b)
	for name, open := range map[string]func(io.Reader) (io.Reader, error){
		"ours":      func(r io.Reader) (io.Reader, error) { return NewReader(r) },
		"klauspost": func(r io.Reader) (io.Reader, error) { return kgzip.NewReader(bufio.NewReaderSize(r, 64<<10)) },
		"stdlib":    func(r io.Reader) (io.Reader, error) { return gzip.NewReader(bufio.NewReaderSize(r, 64<<10)) },
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(n)
			b.ReportAllocs()
			for b.Loop() {
				r, err := open(bytes.NewReader(data))
				if err != nil {
					b.Fatal(err)
				}
				if m, err := io.Copy(io.Discard, r); err != nil || m != n {
					b.Fatalf("%d of %d bytes, %v", m, n, err)
				}
			}
		})
	}
}

// BenchmarkTrace measures what noting costs.
func BenchmarkTrace(b *testing.B) {
	data, n := benchLayer(b)
	for name, trace := range map[string]Trace{"nothing": 0, "matches": TraceMatches, "index": TraceIndex, "both": TraceMatches | TraceIndex} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(n)
			b.ReportAllocs()
			for b.Loop() {
				r, err := NewTracingReader(bytes.NewReader(data), trace)
				if err != nil {
					b.Fatal(err)
				}
				if m, err := io.Copy(io.Discard, r); err != nil || m != n {
					b.Fatalf("%d of %d bytes, %v", m, n, err)
				}
			}
		})
	}
}
