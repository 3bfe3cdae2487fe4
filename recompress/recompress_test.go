package recompress

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"

	"github.com/lazuli-project/lazuli/flate"
)

// content is what is compressed, with the matches that gzip found.
type content struct {
	plain   []byte
	matches []flate.Match // from the beginning of plain; there may be 4 GiB at most
}

// compressed returns plain with the matches of Go's gzip.
func compressed(tb testing.TB, plain []byte, level int) content {
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
	return inflated(tb, &buf, len(plain))
}

// inflated returns the first plain bytes of a layer, most of them at most, with their matches.
func inflated(tb testing.TB, layer io.Reader, most int) content {
	tb.Helper()
	r, err := flate.NewTracingReader(layer, flate.TraceMatches)
	if err != nil {
		tb.Fatal(err)
	}
	defer r.Close()
	var c content
	for len(c.plain) < most {
		p, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			tb.Fatal(err)
		}
		at := len(c.plain)
		first := len(c.matches)
		c.matches = r.AppendMatches(c.matches, int64(at), int64(len(p)))
		for i := range c.matches[first:] {
			c.matches[first+i].At += uint32(at)
		}
		c.plain = append(c.plain, p...)
	}
	return c
}

// chunk returns bytes from a to b, and the matches there as a tracing reader would give them.
func (c content) chunk(a, b int) content {
	first, _ := slices.BinarySearchFunc(c.matches, uint32(a), func(m flate.Match, at uint32) int { return int(m.At) - int(at) })
	if first > 0 {
		first--
	}
	out := content{plain: c.plain[a:b:b]}
	for _, m := range c.matches[first:] {
		from, to := max(int(m.At), a), min(int(m.At)+int(m.Length), b)
		if from >= b {
			break
		}
		if to-from >= 3 {
			out.matches = append(out.matches, flate.Match{At: uint32(from - a), Length: uint16(to - from), Distance: m.Distance})
		}
	}
	return out
}

// words returns n bytes that are like a layer's: words of a vocabulary, repeated structures, noise, zeros.
func words(seed uint64, n int) []byte {
	rng := rand.New(rand.NewPCG(seed, 1))
	vocabulary := make([][]byte, 4000)
	for i := range vocabulary {
		vocabulary[i] = make([]byte, 2+rng.IntN(10))
		for j := range vocabulary[i] {
			vocabulary[i][j] = byte(rng.ExpFloat64() * 40)
		}
	}
	out := make([]byte, 0, n+700)
	for len(out) < n {
		switch rng.IntN(40) {
		case 0:
			out = append(out, make([]byte, rng.IntN(60))...)
		case 1:
			for range rng.IntN(30) {
				out = append(out, byte(rng.Uint32()))
			}
		case 2:
			if back := 1 + rng.IntN(30_000); back < len(out) {
				out = append(out, out[len(out)-back:][:min(back, rng.IntN(600))]...)
			}
		default:
			out = append(out, vocabulary[int(rng.ExpFloat64()*500)%len(vocabulary)]...)
		}
	}
	return out[:n]
}

func noise(seed uint64, n int) []byte {
	rng := rand.New(rand.NewPCG(seed, 2))
	out := make([]byte, n+8)
	for i := 0; i < n; i += 8 {
		binary.LittleEndian.PutUint64(out[i:], rng.Uint64())
	}
	return out[:n]
}

var decoder = sync.OnceValue(func() *zstd.Decoder {
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(2))
	if err != nil {
		panic(err)
	}
	return d
})

// zstdLength checks the zstd form of a content by an independent decoder, and returns its length.
func zstdLength(tb testing.TB, e *Encoder, c content) int {
	tb.Helper()
	prefix := []byte("before")
	out := e.AppendZstd(bytes.Clone(prefix), c.plain, c.matches)
	frame, ok := bytes.CutPrefix(out, prefix)
	if !ok {
		tb.Fatal("bytes before the frame are changed")
	}
	if len(frame) >= len(c.plain) {
		if !bytes.Equal(frame, c.plain) {
			tb.Fatalf("%d bytes for %d, and not the same", len(frame), len(c.plain))
		}
		return len(frame)
	}
	var h zstd.Header
	if err := h.Decode(frame); err != nil {
		tb.Fatal(err)
	}
	if !h.SingleSegment || h.FrameContentSize != uint64(len(c.plain)) || h.HasCheckSum || h.DictionaryID != 0 {
		tb.Fatalf("frame of %d bytes has the header %+v", len(c.plain), h)
	}
	back, err := decoder().DecodeAll(frame, make([]byte, 0, len(c.plain)))
	if err != nil {
		tb.Fatalf("decode the frame of %d bytes: %v", len(c.plain), err)
	}
	if !bytes.Equal(back, c.plain) {
		tb.Fatalf("other bytes come back for %d", len(c.plain))
	}
	return len(frame)
}

// lz4Length does the same for the LZ4 form.
func lz4Length(tb testing.TB, e *Encoder, c content) int {
	tb.Helper()
	prefix := []byte("before")
	out := e.AppendLZ4(bytes.Clone(prefix), c.plain, c.matches)
	block, ok := bytes.CutPrefix(out, prefix)
	if !ok {
		tb.Fatal("bytes before the block are changed")
	}
	if len(block) >= len(c.plain) {
		if !bytes.Equal(block, c.plain) {
			tb.Fatalf("%d bytes for %d, and not the same", len(block), len(c.plain))
		}
		return len(block)
	}
	back := make([]byte, len(c.plain))
	n, err := lz4.UncompressBlock(block, back)
	if err != nil {
		tb.Fatalf("decode the block of %d bytes: %v", len(c.plain), err)
	}
	if !bytes.Equal(back[:n], c.plain) {
		tb.Fatalf("other bytes come back for %d", len(c.plain))
	}
	if err := lz4Ending(block, len(c.plain)); err != nil {
		tb.Fatal(err)
	}
	return len(block)
}

// lz4Ending checks what decoders that copy in large steps rely on (lz4_Block_format.md, "End of block restrictions").
func lz4Ending(block []byte, size int) error {
	at, lastMatch := 0, -1
	length := func(n int) int {
		if n < 15 {
			return n
		}
		for {
			v := block[0]
			block = block[1:]
			n += int(v)
			if v != 255 {
				return n
			}
		}
	}
	for {
		token := block[0]
		block = block[1:]
		literals := length(int(token >> 4))
		block = block[literals:]
		at += literals
		if len(block) == 0 {
			if at != size || lastMatch >= 0 && (literals < 5 || lastMatch > size-12) {
				return fmt.Errorf("block of %d bytes ends with %d literals at %d and its last match at %d", size, literals, at, lastMatch)
			}
			return nil
		}
		block = block[2:]
		lastMatch = at
		at += length(int(token&15)) + 4
	}
}

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	const mib = 1 << 20
	mixed := slices.Concat(words(1, 300_000), noise(1, 200_000), make([]byte, 150_000), words(2, 300_000), noise(1, 70_000))
	tests := map[string][]byte{
		"words":          words(3, mib+12345),
		"noise":          noise(3, mib),
		"zeros":          make([]byte, 3*mib),
		"one byte often": bytes.Repeat([]byte{7}, 70_001),
		"two bytes":      bytes.Repeat([]byte{7, 9}, 100_000),
		"mixed":          mixed,
		"noise twice":    slices.Concat(noise(4, 100_000), noise(4, 100_000)),
		"few symbols":    bytes.Map(func(r rune) rune { return 'a' + r%3 }, bytes.Map(func(r rune) rune { return r & 0x7f }, noise(5, 200_000))),
		"64 KiB":         words(6, 64<<10),
		"64 KiB and 1":   words(6, 64<<10+1),
		"zeros at end":   append(words(7, 65_000), make([]byte, 70_000)...),
		"16 MiB":         words(8, MaxChunk),
	}
	for name, plain := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e := NewEncoder(Options{})
			for _, level := range []int{1, 6, gzip.HuffmanOnly} {
				c := compressed(t, plain, level)
				zstdLength(t, e, c)
				lz4Length(t, e, c)
			}
			zstdLength(t, e, content{plain: plain})
			lz4Length(t, e, content{plain: plain})
		})
	}
}

func TestAllSmallSizes(t *testing.T) {
	t.Parallel()
	all := compressed(t, words(9, 200_000), 6)
	plain, searching := NewEncoder(Options{NoSearch: true}), NewEncoder(Options{})
	for n := range 700 {
		c := all.chunk(100_000, 100_000+n)
		zstdLength(t, plain, c)
		zstdLength(t, searching, c)
		lz4Length(t, searching, c)
		zeros := content{plain: make([]byte, n)}
		zstdLength(t, searching, zeros)
		lz4Length(t, searching, zeros)
	}
}

func TestChunks(t *testing.T) {
	t.Parallel()
	all := compressed(t, words(10, 3<<20), 6)
	e := NewEncoder(Options{})
	rng := rand.New(rand.NewPCG(10, 3))
	for a := 0; a < len(all.plain); {
		b := min(a+1+int(rng.ExpFloat64()*60_000), len(all.plain))
		c := all.chunk(a, b)
		zstdLength(t, e, c)
		lz4Length(t, e, c)
		a = b
	}
}

// Matches may be anything at all.
func TestWrongMatches(t *testing.T) {
	t.Parallel()
	right := compressed(t, words(11, 400_000), 6)
	rng := rand.New(rand.NewPCG(11, 4))
	broken := map[string]func(m *flate.Match){
		"place":    func(m *flate.Match) { m.At += uint32(rng.IntN(7)) },
		"early":    func(m *flate.Match) { m.At -= uint32(rng.IntN(5)) },
		"far out":  func(m *flate.Match) { m.At += 1 << 31 },
		"length":   func(m *flate.Match) { m.Length += uint16(rng.IntN(300)) },
		"longest":  func(m *flate.Match) { m.Length = 65535 },
		"no bytes": func(m *flate.Match) { m.Length = 0 },
		"distance": func(m *flate.Match) { m.Distance += uint16(rng.IntN(9)) },
		"itself":   func(m *flate.Match) { m.Distance = 0 },
		"farthest": func(m *flate.Match) { m.Distance = 65535 },
	}
	for name, change := range broken {
		e := NewEncoder(Options{})
		for _, often := range []int{1, 3, 50} {
			matches := slices.Clone(right.matches)
			for i := range matches {
				if rng.IntN(often) == 0 {
					change(&matches[i])
				}
			}
			c := content{right.plain, matches}
			t.Run(fmt.Sprintf("%s/%d", name, often), func(t *testing.T) {
				zstdLength(t, e, c)
				lz4Length(t, e, c)
			})
		}
	}
	e := NewEncoder(Options{})
	shuffled := slices.Clone(right.matches)
	rng.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
	zstdLength(t, e, content{right.plain, shuffled})
	lz4Length(t, e, content{right.plain, shuffled})
	twice := slices.Concat(right.matches, right.matches)
	zstdLength(t, e, content{right.plain, twice})
	lz4Length(t, e, content{right.plain, twice})
}

// What an encoder has done before, and what runs beside it, must not be seen.
func TestSameBytes(t *testing.T) {
	t.Parallel()
	all := compressed(t, words(12, 2<<20), 6)
	var chunks []content
	var wantZstd, wantLZ4 [][]byte
	for a := 0; a < len(all.plain); a += 70_000 {
		c := all.chunk(a, min(a+70_000, len(all.plain)))
		chunks = append(chunks, c)
		wantZstd = append(wantZstd, NewEncoder(Options{}).AppendZstd(nil, c.plain, c.matches))
		wantLZ4 = append(wantLZ4, NewEncoder(Options{}).AppendLZ4(nil, c.plain, c.matches))
	}
	e := NewEncoder(Options{})
	var wg sync.WaitGroup
	for worker := range 4 {
		wg.Go(func() {
			for i := range chunks {
				i = (i*7 + worker) % len(chunks)
				c := chunks[i]
				if !bytes.Equal(e.AppendZstd(nil, c.plain, c.matches), wantZstd[i]) {
					t.Errorf("zstd: other bytes for chunk %d", i)
				}
				if !bytes.Equal(e.AppendLZ4(nil, c.plain, c.matches), wantLZ4[i]) {
					t.Errorf("lz4: other bytes for chunk %d", i)
				}
			}
		})
	}
	wg.Wait()
}

// Sizes are what all this is for. Whole chunks of these words suit encoders that search: any word comes back from farther than
// gzip sees, while in real files that is rare (see BenchmarkChunks).
func TestSizes(t *testing.T) {
	t.Parallel()
	w, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithEncoderCRC(false))
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	e := NewEncoder(Options{})
	all := compressed(t, words(13, 4<<20), 6)
	for size, most := range map[int]int{4 << 10: 103, 20 << 10: 103, 1 << 20: 110} { // percent
		ours, theirs, ours4, theirs4 := 0, 0, 0, 0
		for a := 0; a < len(all.plain); a += size {
			c := all.chunk(a, a+size)
			ours += zstdLength(t, e, c)
			theirs += min(len(w.EncodeAll(c.plain, nil)), size)
			ours4 += lz4Length(t, e, c)
			n, err := lz4.CompressBlock(c.plain, make([]byte, lz4.CompressBlockBound(size)), nil)
			if err != nil {
				t.Fatal(err)
			}
			theirs4 += min(n, size)
		}
		if ours*100 > theirs*most {
			t.Errorf("chunks of %d: zstd has %d bytes, an ordinary encoder %d", size, ours, theirs)
		}
		if ours4*100 > theirs4*most {
			t.Errorf("chunks of %d: lz4 has %d bytes, an ordinary encoder %d", size, ours4, theirs4)
		}
	}
}

func TestTooLong(t *testing.T) {
	t.Parallel()
	e := NewEncoder(Options{})
	p := make([]byte, MaxChunk+1)
	if got := e.AppendZstd(nil, p, nil); len(got) != len(p) {
		t.Errorf("zstd: %d bytes", len(got))
	}
	if got := e.AppendLZ4(nil, p, nil); len(got) != len(p) {
		t.Errorf("lz4: %d bytes", len(got))
	}
}
