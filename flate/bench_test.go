package flate

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	kgzip "github.com/klauspost/compress/gzip"
)

var layerFiles = flag.String("layer", "", "gzip files to measure instead of generated data, with commas between")

// layer is what is measured.
type layer struct {
	name, path string
	data       []byte
	plain      int64
}

// benchLayers returns what -layer names, or 32 MB of words and numbers that compress to about a third, as programs and
// libraries do.
func benchLayers(b *testing.B) (layers []layer) {
	b.Helper()
	if *layerFiles == "" {
		l := layer{name: "generated", path: filepath.Join(b.TempDir(), "layer.gz"), data: gzipped(b, generated(32<<20), 6), plain: 32 << 20}
		if err := os.WriteFile(l.path, l.data, 0o600); err != nil {
			b.Fatal(err)
		}
		return []layer{l}
	}
	for _, path := range strings.Split(*layerFiles, ",") {
		l := layer{name: filepath.Base(path)[:min(len(filepath.Base(path)), 12)], path: path}
		var err error
		if l.data, err = os.ReadFile(path); err != nil {
			b.Fatal(err)
		}
		if l.plain, err = drain(NewReader(bytes.NewReader(l.data))); err != nil {
			b.Fatal(err)
		}
		layers = append(layers, l)
	}
	return layers
}

// drain reads to the end.
func drain(r *Reader, err error) (int64, error) {
	if err != nil {
		return 0, err
	}
	n, err := r.WriteTo(io.Discard)
	return n, errors.Join(err, r.Close())
}

// measure runs what decodes a whole layer.
func (l layer) measure(b *testing.B, decode func() (int64, error)) {
	b.Helper()
	b.SetBytes(l.plain)
	b.ReportAllocs()
	for b.Loop() {
		if n, err := decode(); err != nil || n != l.plain {
			b.Fatalf("%d of %d bytes, %v", n, l.plain, err)
		}
	}
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

// inflaters are this package and others.
var inflaters = []struct {
	name   string
	decode func(p []byte) (int64, error)
}{
	{"ours", func(p []byte) (int64, error) { return drain(NewReader(bytes.NewReader(p))) }},
	{"klauspost", func(p []byte) (int64, error) {
		r, err := kgzip.NewReader(bufio.NewReaderSize(bytes.NewReader(p), 64<<10))
		if err != nil {
			return 0, err
		}
		return io.Copy(io.Discard, r)
	}},
	{"stdlib", func(p []byte) (int64, error) {
		r, err := gzip.NewReader(bufio.NewReaderSize(bytes.NewReader(p), 64<<10))
		if err != nil {
			return 0, err
		}
		return io.Copy(io.Discard, r)
	}},
}

// BenchmarkInflate measures this package and others on one core, checksums included, and of those programs the ones that
// are installed: igzip (ISA-L), libdeflate-gzip, gzip. -layer=FILE,... takes real layers.
func BenchmarkInflate(b *testing.B) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	for _, l := range benchLayers(b) {
		for _, i := range inflaters {
			b.Run(l.name+"/"+i.name, func(b *testing.B) {
				l.measure(b, func() (int64, error) { return i.decode(l.data) })
			})
		}
		for _, program := range []string{"igzip", "libdeflate-gzip", "gzip"} {
			path, err := exec.LookPath(program)
			if err != nil {
				b.Logf("%s is not installed", program)
				continue
			}
			b.Run(l.name+"/"+program, func(b *testing.B) {
				l.measure(b, func() (int64, error) {
					in, err := os.Open(l.path)
					if err != nil {
						return 0, err
					}
					cmd := exec.CommandContext(b.Context(), path, "-dc")
					cmd.Stdin = in
					return l.plain, errors.Join(cmd.Run(), in.Close())
				})
			})
		}
	}
}

// BenchmarkTrace measures what noting costs, and asking for it: every 20 KB, as for files.
func BenchmarkTrace(b *testing.B) {
	for _, l := range benchLayers(b) {
		for _, c := range []struct {
			name  string
			trace Trace
			ask   func(r *Reader, off, n int64)
		}{
			{"nothing", 0, nil},
			{"matches", TraceMatches, nil},
			{"index", TraceIndex, nil},
			{"both", TraceMatches | TraceIndex, nil},
			{"ask for matches", TraceMatches, askMatches()},
			{"ask for places", TraceIndex, func(r *Reader, off, n int64) {
				for ; n > 0; off, n = off+20_000, n-20_000 {
					r.StoredAt(off)
					r.BoundaryAt(off)
				}
			}},
			{"ask for checkpoints", TraceIndex, func(r *Reader, off, n int64) {
				for ; n > 0; off, n = off+20_000, n-20_000 {
					r.CheckpointAt(off)
				}
			}},
			{"ask for all checkpoints", TraceIndex, func(r *Reader, _, _ int64) { r.AppendCheckpoints(nil) }},
		} {
			b.Run(l.name+"/"+c.name, func(b *testing.B) {
				l.measure(b, func() (int64, error) { return traced(l.data, c.trace, c.ask) })
			})
		}
	}
}

func askMatches() func(r *Reader, off, n int64) {
	var matches []Match
	return func(r *Reader, off, n int64) {
		for ; n > 0; off, n = off+20_000, n-20_000 {
			matches = r.AppendMatches(matches[:0], off, min(n, 20_000))
		}
	}
}

// traced decodes and asks for each piece.
func traced(p []byte, trace Trace, ask func(r *Reader, off, n int64)) (int64, error) {
	r, err := NewTracingReader(bytes.NewReader(p), trace)
	if err != nil {
		return 0, err
	}
	total := int64(0)
	for {
		p, err := r.Next()
		if errors.Is(err, io.EOF) {
			return total, r.Close()
		}
		if err != nil {
			return total, err
		}
		if ask != nil {
			ask(r, total, int64(len(p)))
		}
		total += int64(len(p))
	}
}

// BenchmarkResume decodes 1 MiB and 4 KiB from checkpoints.
func BenchmarkResume(b *testing.B) {
	for _, l := range benchLayers(b) {
		r, err := NewTracingReader(bytes.NewReader(l.data), TraceIndex)
		if err != nil {
			b.Fatal(err)
		}
		var starts []*Checkpoint
		for total := int64(0); ; {
			p, err := r.Next()
			if err != nil {
				break
			}
			total += int64(len(p))
			if c := r.CheckpointAt(total); !c.Final && c.Plain+1<<20 <= l.plain && (len(starts) == 0 || c.Plain-starts[len(starts)-1].Plain >= 1<<20) {
				starts = append(starts, c)
			}
		}
		if len(starts) == 0 {
			continue
		}
		resumer := NewResumer()
		for _, n := range []int{1 << 20, 4 << 10} {
			b.Run(fmt.Sprintf("%s/%d", l.name, n), func(b *testing.B) {
				b.SetBytes(int64(n))
				b.ReportAllocs()
				plain := make([]byte, n)
				for i := 0; b.Loop(); i++ {
					c := starts[i%len(starts)]
					if err := resumer.Decode(plain, l.data[c.Stored:], Start{Bits: c.Bits, Byte: c.Byte, Window: c.Window()}); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
