package recompress

import (
	"math"
	"math/rand/v2"
	"testing"
)

func TestNormalize(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(1, 5))
	for range 20_000 {
		var h histogram
		syms := 2 + rng.IntN(52)
		n := 0
		steep := rng.Float64() * 9 // a block has some 20,000 sequences at most
		for i := range syms {
			h[i] = uint32(math.Exp(rng.Float64()*steep)) - uint32(rng.IntN(2))
			n += int(h[i])
		}
		if h[0] == 0 || h[syms-1] == 0 {
			continue
		}
		var table fseTable
		table.normalize(&h, syms, n, maxLogs[alphabetOffset+rng.IntN(2)])
		sum := 0
		for i, v := range table.norm {
			if i < syms && (h[i] == 0) != (v == 0) {
				t.Fatalf("code %d, which occurs %d times, has %d states", i, h[i], v)
			}
			if v < -1 {
				t.Fatalf("count %d", v)
			}
			sum += max(int(v), -int(v))
		}
		if sum != 1<<table.log {
			t.Fatalf("%d states of %d are shared out: %v of %v", sum, 1<<table.log, table.norm[:syms], h[:syms])
		}
		bits, ok := table.cost(&h, syms)
		if !ok {
			t.Fatal("the codes have no cost")
		}
		entropy := 0.0
		for _, c := range h[:syms] {
			if c > 0 {
				entropy += float64(c) * math.Log2(float64(n)/float64(c))
			}
		}
		if float64(bits) < entropy*0.99-8 || float64(bits) > entropy*1.3+float64(2*n)/10+64 {
			t.Fatalf("%d codes cost %d bits; their entropy is %.0f: %v of %v", n, bits, entropy, table.norm[:syms], h[:syms])
		}
	}
}

func TestLog2(t *testing.T) {
	t.Parallel()
	for i, v := range log2[1:] {
		if want := math.Log2(float64(i+1)) * (1 << logFraction); math.Abs(want-float64(v)) > 1 {
			t.Errorf("log2 of %d: %d, want %.1f", i+1, v, want)
		}
	}
}

// Every length has the code and the extra bits of RFC 8878.
func TestLengthCodes(t *testing.T) {
	t.Parallel()
	check := func(name string, n uint32, code uint8, bits uint, extra uint64, widths []uint8) {
		base := uint32(0)
		for _, b := range widths[:code] {
			base += 1 << b
		}
		if bits != uint(widths[code]) || base+uint32(extra) != n || extra>>bits != 0 {
			t.Fatalf("%s %d: code %d from %d on, %d extra bits %d", name, n, code, base, bits, extra)
		}
	}
	for n := range uint32(blockSize) {
		if n < smallLiterals {
			c := literalCodes[n]
			check("literals", n, c.code, uint(c.bits), uint64(c.extra), literalBits[:])
		} else {
			code, bits, extra := longCode(n, 19)
			check("literals", n, code, bits, extra, literalBits[:])
		}
		if n < smallLengths {
			c := lengthCodes[n]
			check("length", n, c.code, uint(c.bits), uint64(c.extra), lengthBits[:])
		} else {
			code, bits, extra := longCode(n, 36)
			check("length", n, code, bits, extra, lengthBits[:])
		}
	}
}

// The finder's places grow over contents; when they would not fit any more, it begins anew.
func TestFinderStartsOver(t *testing.T) {
	t.Parallel()
	p := words(20, 100_000)
	c := content{plain: append(p, p...)}
	fresh := NewEncoder(Options{}).AppendZstd(nil, c.plain, nil)
	s := &state{}
	s.huffman.WantLogLess = literalGain
	s.parser.finder.base = 1<<32 - 4*MaxChunk - 300_000
	bases := map[bool]int{}
	for range 4 {
		s.parser.reset(zstdFormat, c.plain, nil, true)
		bases[s.parser.finder.base == 1]++
		out, ok := s.appendFrame(nil, c.plain)
		if !ok || string(out) != string(fresh) {
			t.Fatalf("from base %d on other bytes are written", s.parser.finder.base)
		}
	}
	if bases[true] != 1 {
		t.Errorf("the finder started over %d times", bases[true])
	}
}
