package flate

import (
	"bytes"
	_ "embed" // the stream made with zlib
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
)

// stream is a gzip stream and what the plain decoder says of it.
type stream struct {
	name string
	data []byte
	want *reference
}

var (
	makeStreamsOnce sync.Once
	madeStreams     []stream
)

// eachStream runs a test for gzip streams of every kind of block and framing, which are decoded plainly only once.
func eachStream(t *testing.T, test func(t *testing.T, s stream)) {
	t.Helper()
	makeStreamsOnce.Do(func() {
		for name, data := range makeStreams(t) {
			want, err := refGunzip(data, maxFuzz)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			madeStreams = append(madeStreams, stream{name, data, want})
		}
	})
	if len(madeStreams) == 0 {
		t.Fatal("no streams")
	}
	for _, s := range madeStreams {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			test(t, s)
		})
	}
}

//go:embed testdata/zlib/mixed.gz
var mixedStream []byte

func makeStreams(tb testing.TB) map[string][]byte {
	tb.Helper()
	long := generated(560_000)
	runs := bytes.Repeat([]byte("a"), 600_000)
	noise := make([]byte, 300_000)
	rng := rand.New(rand.NewPCG(3, 4))
	for i := range noise {
		noise[i] = byte(rng.Uint32())
	}
	small := slices.Concat(gzipHeader(0), bytes.Repeat([]byte{0, 1, 0, 0xfe, 0xff, 'a'}, 5000), []byte{1, 0, 0, 0xff, 0xff})
	small = binary.LittleEndian.AppendUint32(small, crc32.ChecksumIEEE(runs[:5000]))
	small = binary.LittleEndian.AppendUint32(small, 5000)
	one, two, nothing := gzipped(tb, long[:50_000], 6), gzipped(tb, long[100_000:400_000], 1), gzipped(tb, nil, 6)
	return map[string][]byte{
		"by zlib": mixedStream, "small blocks": small,
		"level 1": gzipped(tb, long, 1), "level 6": gzipped(tb, long, 6), "level 9": gzipped(tb, long, 9),
		"literals": gzipped(tb, long, -2), "stored": gzipped(tb, long, 0), "noise": gzipped(tb, noise, 6), "runs": gzipped(tb, runs, 6),
		"fixed codes": gzipped(tb, long[:30], 6), "nothing": nothing,
		"members":     slices.Concat(one, two, one, make([]byte, 1000)),
		"short ones":  bytes.Repeat(gzipped(tb, long[:700], 6), 600),
		"empty ones":  slices.Concat(nothing, nothing, one, nothing, nothing, nothing, two, nothing),
		"many empty":  slices.Concat(bytes.Repeat(nothing, 100), one),
		"empty block": slices.Concat(gzipHeader(0), bytes.Repeat([]byte{0, 0, 0, 0xff, 0xff}, 3000), two[10:]),
	}
}

// TestMatches re-creates each stream from its literals and the matches that are handed out for ranges of any size, which
// must be those of the plain decoder.
func TestMatches(t *testing.T) {
	t.Parallel()
	eachStream(t, func(t *testing.T, s stream) {
		for _, size := range []int{1 << 30, 5000, 300, 7} {
			checkMatches(t, s.data, s.want, size)
		}
	})
}

func checkMatches(t *testing.T, data []byte, want *reference, size int) {
	t.Helper()
	r, err := NewTracingReader(bytes.NewReader(data), TraceMatches)
	if err != nil {
		t.Fatal(err)
	}
	var out []byte
	var matches []Match
	symbols := want.symbols
	for {
		p, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		for from := 0; from < len(p); from += size {
			part := p[from:min(len(p), from+size)]
			off := int64(len(out))
			matches = r.AppendMatches(matches[:0], off, int64(len(part)))
			var expect []Match
			for len(symbols) > 0 && symbols[0].plain < off+int64(len(part)) {
				s := symbols[0]
				begin, end := max(s.plain, off), min(s.plain+int64(s.length), off+int64(len(part)))
				if s.back > 0 && end-begin >= minMatch {
					expect = append(expect, Match{At: uint32(begin - off), Length: uint16(end - begin), Distance: uint16(s.back)})
				}
				if s.plain+int64(s.length) > off+int64(len(part)) {
					break
				}
				symbols = symbols[1:]
			}
			if !slices.Equal(matches, expect) {
				t.Fatalf("%d bytes at %d: %d matches, want %d", len(part), off, len(matches), len(expect))
			}
			out = replay(out, part, matches)
		}
	}
	if !bytes.Equal(out, want.plain) {
		t.Fatalf("%d bytes from literals and matches, want %d", len(out), len(want.plain))
	}
}

// replay appends part to out, taking from it only what is not in matches.
func replay(out, part []byte, matches []Match) []byte {
	at := 0
	for _, m := range matches {
		out = append(out, part[at:m.At]...)
		for range m.Length {
			out = append(out, out[len(out)-int(m.Distance)])
		}
		at = int(m.At) + int(m.Length)
	}
	return append(out, part[at:]...)
}

func TestMatchesOfOthers(t *testing.T) {
	t.Parallel()
	data := gzipped(t, generated(10_000), 6)
	for name, c := range map[string]struct {
		data   []byte
		what   Trace
		off, n int64
	}{
		"not asked for": {data, TraceIndex, 0, 1000}, "plain": {generated(1000), TraceMatches, 0, 1000}, "before": {data, TraceMatches, -1, 1000},
		"behind": {data, TraceMatches, 9000, 1001}, "negative": {data, TraceMatches, 0, -1}, "far": {data, TraceMatches, 1 << 62, 1 << 62},
	} {
		r, err := NewTracingReader(bytes.NewReader(c.data), c.what)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Next(); err != nil {
			t.Fatal(err)
		}
		if got := r.AppendMatches(nil, c.off, c.n); got != nil {
			t.Errorf("%s: %d matches", name, len(got))
		}
	}
}
