package zfile

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/pierrec/lz4/v4"
)

// content returns n bytes, some of which repeat others.
func content(n int, seed uint64) []byte {
	r := rand.New(rand.NewPCG(seed, 9))
	p := make([]byte, 0, n+100)
	for len(p) < n {
		switch from := r.IntN(len(p) + 1); {
		case len(p) > 0 && r.IntN(3) > 0:
			p = append(p, p[from:min(len(p), from+4+r.IntN(40))]...)
		case r.IntN(10) == 0:
			p = append(p, make([]byte, r.IntN(3000))...)
		default:
			for range 1 + r.IntN(30) {
				p = append(p, byte(r.Uint32()))
			}
		}
	}
	return p[:n]
}

func checkLZ4(t *testing.T, e *lz4Encoder, p []byte) []byte {
	t.Helper()
	out := e.append(make([]byte, 3, 3+lz4Bound(len(p))), p)[3:]
	plain := make([]byte, len(p))
	if n, err := lz4.UncompressBlock(out, plain); err != nil || n != len(p) || !bytes.Equal(plain, p) {
		t.Fatalf("block of %d bytes: %d, %v", len(p), n, err)
	}
	checkEnd(t, out, len(p))
	return out
}

// checkEnd checks the rules for the end of a block of size bytes: its last 5 are literals, and no match begins in the last 12.
func checkEnd(t *testing.T, out []byte, size int) {
	t.Helper()
	at, begin := 0, -lz4MatchEnd
	length := func(n int) int {
		for more := n == 15; more; out = out[1:] {
			n += int(out[0])
			more = out[0] == 255
		}
		return n
	}
	for {
		token := out[0]
		out = out[1:]
		literals := length(int(token >> 4))
		at, out = at+literals, out[literals:]
		if len(out) == 0 {
			if begin >= 0 && (literals < lz4LastLits || begin > size-lz4MatchEnd) || at != size {
				t.Fatalf("block of %d bytes ends with %d literals, the last match begins at %d", size, literals, begin)
			}
			return
		}
		begin, out = at, out[2:]
		at += length(int(token&15)) + lz4MinMatch
	}
}

func TestLZ4(t *testing.T) {
	t.Parallel()
	e := newLZ4Encoder()
	for n := 1; n <= MaxBlockSize; n += 1 + n/20 {
		p := content(n, uint64(n))
		got := checkLZ4(t, e, p)
		if fresh := checkLZ4(t, newLZ4Encoder(), p); !bytes.Equal(got, fresh) {
			t.Fatalf("block of %d bytes depends on those before", n)
		}
		checkLZ4(t, e, make([]byte, n))
		noise := make([]byte, n)
		r := rand.New(rand.NewPCG(uint64(n), 3))
		for i := range noise {
			noise[i] = byte(r.Uint32())
		}
		checkLZ4(t, e, noise)
	}
}

func FuzzLZ4(f *testing.F) {
	f.Add([]byte("a"))
	f.Add(content(3000, 5))
	e := newLZ4Encoder()
	f.Fuzz(func(t *testing.T, p []byte) {
		if len(p) > 0 && len(p) <= MaxBlockSize {
			checkLZ4(t, e, p)
		}
	})
}

// BenchmarkLZ4 compresses generated content with our encoder and with the library.
func BenchmarkLZ4(b *testing.B) {
	p := content(8<<20, 2)
	for _, size := range []int{4 << 10, 16 << 10, 32 << 10} {
		dst := make([]byte, 0, lz4Bound(size))
		e, c := newLZ4Encoder(), lz4.Compressor{}
		for name, compress := range map[string]func([]byte) int{
			"own":     func(p []byte) int { return len(e.append(dst, p)) },
			"library": func(p []byte) int { n, _ := c.CompressBlock(p, dst[:cap(dst)]); return n },
		} {
			b.Run(fmt.Sprintf("%s/%d", name, size), func(b *testing.B) {
				b.SetBytes(int64(len(p)))
				b.ReportAllocs()
				total := 0
				for b.Loop() {
					total = 0
					for at := 0; at < len(p); at += size {
						total += compress(p[at : at+size])
					}
				}
				b.ReportMetric(float64(len(p))/float64(total), "ratio")
			})
		}
	}
}
