package gzindex

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/flate"
	"github.com/lazuli-project/lazuli/internal/imagetest"
)

// content returns n bytes that compress to a half, about, with matches that reach far back.
func content(n int) []byte {
	r := rand.New(rand.NewPCG(5, 5))
	p := make([]byte, 0, n+100)
	for len(p) < n {
		if len(p) > 100 && r.IntN(2) > 0 {
			from := max(0, len(p)-1-r.IntN(32<<10))
			p = append(p, p[from:min(len(p), from+4+r.IntN(40))]...)
			continue
		}
		for range 1 + r.IntN(30) {
			p = append(p, byte(r.Uint32()))
		}
	}
	return p[:n]
}

func gzipped(t testing.TB, p []byte, level int) []byte {
	t.Helper()
	var out bytes.Buffer
	z, err := gzip.NewWriterLevel(&out, level)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := z.Write(p); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// build makes the index of a stream.
func build(stored []byte, full bool) (raw, plain []byte, err error) {
	r, err := flate.NewTracingReader(bytes.NewReader(stored), flate.TraceIndex)
	if err != nil {
		return nil, nil, err
	}
	b := NewBuilder(r)
	b.FullWindows = full
	for {
		p, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, nil, err
		}
		plain = append(plain, p...)
		for range 2 {
			if err := b.Advance(); err != nil {
				return nil, nil, err
			}
		}
	}
	raw, err = b.Finish(int64(len(stored)))
	return raw, plain, err
}

// read decodes all spans.
func read(l *Layout, stored []byte) ([]byte, error) {
	var out []byte
	for i := range l.NumSpans() {
		s := l.Span(i)
		p := make([]byte, s.Plain.Len)
		if err := l.Decode(p, stored[s.Stored.Off:s.Stored.End()], s); err != nil {
			return nil, err
		}
		out = append(out, p...)
	}
	return out, nil
}

func TestBuild(t *testing.T) {
	t.Parallel()
	long := content(5<<20 + 12345)
	runs := make([]byte, 30<<20)
	for name, c := range map[string]struct {
		stored []byte
		least  int // spans
	}{
		"level 1": {gzipped(t, long, 1), 6}, "level 6": {gzipped(t, long, 6), 6}, "level 9": {gzipped(t, long, 9), 6},
		"stored": {gzipped(t, long, 0), 6}, "literals": {gzipped(t, long, -2), 6}, "runs": {gzipped(t, runs, 6), 3},
		"short": {gzipped(t, long[:100], 6), 1}, "nothing": {gzipped(t, nil, 6), 0}, "exact": {gzipped(t, long[:2<<20], 0), 2},
		"padded": {append(gzipped(t, long[:3<<20], 6), make([]byte, 700)...), 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sizes := make(map[bool]int)
			for _, full := range []bool{false, true} {
				raw, plain, err := build(c.stored, full)
				if err != nil {
					t.Fatal(err)
				}
				sizes[full] = len(raw)
				l, err := Parse(raw)
				if err != nil {
					t.Fatal(err)
				}
				if l.Size() != int64(len(plain)) || l.StoredSize() != int64(len(c.stored)) || l.NumSpans() < c.least {
					t.Errorf("%d bytes stored as %d in %d spans", l.Size(), l.StoredSize(), l.NumSpans())
				}
				got, err := read(l, c.stored)
				if err != nil || !bytes.Equal(got, plain) {
					t.Fatalf("%d bytes: %v", len(got), err)
				}
				for i := range l.NumSpans() {
					s := l.Span(i)
					if l.SpanAt(s.Plain.Off) != i || l.SpanAt(s.Plain.End()-1) != i {
						t.Fatalf("span %d: %+v", i, s)
					}
					if err := l.Verify(nil, s); !errors.Is(err, blob.ErrUnverified) {
						t.Error(err)
					}
				}
			}
			if sizes[false] > sizes[true] {
				t.Errorf("%d bytes with sparse windows, %d with full ones", sizes[false], sizes[true])
			}
		})
	}
}

func TestBuildRefuses(t *testing.T) {
	t.Parallel()
	one := gzipped(t, content(2<<20), 6)
	short := gzipped(t, content(1000), 6)
	for name, stored := range map[string][]byte{"members": slices.Concat(one, one), "short member": slices.Concat(one, short), "empty member": slices.Concat(one, gzipped(t, nil, 6))} {
		if _, _, err := build(stored, false); !errors.Is(err, blob.ErrUnsupported) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A block of more than MaxSpan bytes: one match, over and over.
	if _, _, err := build(oneBlock(MaxSpan+1000), false); !errors.Is(err, blob.ErrUnsupported) {
		t.Errorf("large block: %v", err)
	}
	r, err := flate.NewTracingReader(bytes.NewReader(one), flate.TraceIndex)
	if err != nil {
		t.Fatal(err)
	}
	b := NewBuilder(r)
	if _, err := r.Next(); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Finish(10); err == nil {
		t.Error("not at the end")
	}
	if _, err := r.Next(); err != nil {
		t.Fatal(err)
	}
	if err := b.Advance(); err == nil {
		t.Error("not from the beginning")
	}
	plain, err := flate.NewReader(bytes.NewReader(one))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := plain.Next(); err != nil {
		t.Fatal(err)
	}
	b = NewBuilder(plain)
	if err := b.Advance(); !errors.Is(err, blob.ErrUnsupported) {
		t.Errorf("without trace: %v", err)
	}
}

// oneBlock returns a gzip stream of one block with fixed codes, of zeros: a literal, and matches of 258 bytes.
func oneBlock(n int) []byte {
	out := []byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255}
	var bits uint64
	var count uint
	put := func(v uint64, n uint) { // Huffman codes come with the highest bit first
		for i := n; i > 0; i-- {
			bits |= v >> (i - 1) & 1 << count
			if count++; count == 8 {
				out = append(out, byte(bits))
				bits, count = 0, 0
			}
		}
	}
	put(0b110, 3) // last, fixed codes
	put(0x30, 8)
	size := 1
	for ; size < n; size += 258 {
		put(0b11000101, 8)
		put(0, 5)
	}
	put(0, 7)
	if count > 0 {
		out = append(out, byte(bits))
	}
	plain := make([]byte, size)
	out = binary.LittleEndian.AppendUint32(out, crc32.ChecksumIEEE(plain))
	return binary.LittleEndian.AppendUint32(out, uint32(size))
}

// TestReference compares with the indexes of the reference.
func TestReference(t *testing.T) {
	t.Parallel()
	layers := make(map[int64][]byte)
	for _, l := range imagetest.Edge(t).Layers {
		layers[int64(len(l.Stored))] = l.Stored
	}
	found := 0
	for _, dir := range []string{"turbo-ext4", "turbo-erofs"} {
		files, err := filepath.Glob("../../overlaybd/testdata/" + dir + "/blobs/sha256/*")
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range files {
			want := index(t, name)
			if want == nil {
				continue
			}
			found++
			l, err := Parse(want)
			if err != nil {
				t.Fatal(err)
			}
			stored := layers[l.StoredSize()]
			got, plain, err := build(stored, true)
			if err != nil {
				t.Fatal(err)
			}
			compare(t, got, want)
			if p, err := read(l, stored); err != nil || !bytes.Equal(p, plain) {
				t.Errorf("%d bytes with the reference's index: %v", len(p), err)
			}
			// Encoded again, it is the same but for what zlib makes of the points.
			h, err := parseHeader(want)
			if err != nil {
				t.Fatal(err)
			}
			again, err := encode(h, want[headerSize:h.start], rawPoints(t, want))
			if err != nil {
				t.Fatal(err)
			}
			if h, err = parseHeader(again); err != nil || !bytes.Equal(again[headerSize:h.start], want[headerSize:h.start]) || !bytes.Equal(again[:33], want[:33]) {
				t.Errorf("encoded again, it differs: %v", err)
			}
		}
	}
	if found != 6 {
		t.Errorf("%d indexes", found)
	}
}

// compare compares access points and windows.
func compare(t *testing.T, got, want []byte) {
	t.Helper()
	a, b := rawPoints(t, got), rawPoints(t, want)
	if len(a) != len(b) {
		t.Errorf("%d access points, the reference has %d: %+v\n%+v", len(a), len(b), a, b)
		return
	}
	l, err := Parse(got)
	if err != nil {
		t.Fatal(err)
	}
	m, err := Parse(want)
	if err != nil {
		t.Fatal(err)
	}
	for i := range a {
		if a[i].plain != b[i].plain || a[i].stored != b[i].stored || a[i].bits != b[i].bits {
			t.Errorf("access point %d: %+v, want %+v", i, a[i], b[i])
		}
		x, err := l.window(&a[i])
		if err != nil {
			t.Fatal(err)
		}
		y, err := m.window(&b[i])
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(x, y) {
			t.Errorf("window %d differs", i)
		}
	}
}

// rawPoints returns the access points as they are stored.
func rawPoints(t *testing.T, p []byte) (points []point) {
	t.Helper()
	h, err := parseHeader(p)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := inflate(p[h.start:], int64(h.points)*pointSize)
	if err != nil {
		t.Fatal(err)
	}
	for ; len(raw) > 0; raw = raw[pointSize:] {
		x, err := parsePoint(raw, h)
		if err != nil {
			t.Fatal(err)
		}
		points = append(points, x)
		if again := x.appendTo(nil); !bytes.Equal(again, raw[:pointSize]) {
			t.Errorf("point %x, want %x", again, raw[:pointSize])
		}
	}
	return points
}

// index returns gzip.meta of a layer, nil where the file is something else.
func index(t *testing.T, name string) []byte {
	t.Helper()
	p, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(p))
	if err != nil {
		return nil
	}
	r := tar.NewReader(z)
	for {
		h, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		if h.Name == "gzip.meta" {
			p, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			return p
		}
	}
}

// TestDamage turns bytes of an index: that is an error, or gives the right bytes, or such that are not verified.
func TestDamage(t *testing.T) {
	t.Parallel()
	stored := gzipped(t, content(2<<20), 6)
	raw, plain, err := build(stored, false)
	if err != nil {
		t.Fatal(err)
	}
	// All of the header and the points, some of the windows.
	h, err := parseHeader(raw)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(raw); i++ {
		if i >= headerSize && i < int(h.start) {
			i = min(i+5000, int(h.start))
		}
		raw[i] ^= 0x40
		l, err := Parse(raw)
		if err == nil {
			var got []byte
			if got, err = read(l, stored); err == nil && !bytes.Equal(got, plain) {
				t.Fatalf("byte %d: other content", i) // zlib's checksums find these
			}
		}
		if err != nil && !errors.Is(err, blob.ErrCorrupt) && !errors.Is(err, blob.ErrUnsupported) {
			t.Fatalf("byte %d: %v", i, err)
		}
		if err == nil && i < headerSize {
			t.Fatalf("byte %d of the header: no error", i)
		}
		raw[i] ^= 0x40
	}
}

func TestParseDamaged(t *testing.T) {
	t.Parallel()
	window := make([]byte, windowSize)
	good := func() (header, []point) {
		return header{span: Span, points: 2, gzipSize: 1000, plain: 5000},
			[]point{{stored: 10, window: headerSize, windowLen: windowSize}, {plain: 3000, stored: 500, bits: 3, window: headerSize, windowLen: windowSize}}
	}
	for name, c := range map[string]struct {
		edit func(h *header, x []point)
		want error
	}{
		"good":              {func(*header, []point) {}, nil},
		"number":            {func(h *header, _ []point) { h.points++ }, blob.ErrCorrupt},
		"many":              {func(h *header, _ []point) { h.points = 1 << 40 }, blob.ErrUnsupported},
		"none":              {func(h *header, _ []point) { h.points = 0 }, blob.ErrCorrupt},
		"plain size":        {func(h *header, _ []point) { h.plain = 1 << 63 }, blob.ErrCorrupt},
		"large span":        {func(h *header, _ []point) { h.plain = 1 << 40 }, blob.ErrUnsupported},
		"stored size":       {func(h *header, _ []point) { h.gzipSize = 1 << 63 }, blob.ErrCorrupt},
		"large stored span": {func(h *header, _ []point) { h.gzipSize = 1 << 40 }, blob.ErrUnsupported},
		"begin":             {func(_ *header, x []point) { x[0].plain = 1 }, blob.ErrCorrupt},
		"behind plain":      {func(_ *header, x []point) { x[1].plain = 5001 }, blob.ErrCorrupt},
		"behind stored":     {func(_ *header, x []point) { x[1].stored = 1001 }, blob.ErrCorrupt},
		"before stored":     {func(_ *header, x []point) { x[0].stored = 0 }, blob.ErrCorrupt},
		"disorder":          {func(_ *header, x []point) { x[1].stored = 9 }, blob.ErrCorrupt},
		"same byte":         {func(_ *header, x []point) { x[1].stored = 10 }, blob.ErrCorrupt},
		"bits":              {func(_ *header, x []point) { x[1].bits = 8 }, blob.ErrCorrupt},
		"window":            {func(_ *header, x []point) { x[1].window = headerSize - 1 }, blob.ErrCorrupt},
		"window behind":     {func(_ *header, x []point) { x[1].window++ }, blob.ErrCorrupt},
		"window size":       {func(_ *header, x []point) { x[1].windowLen-- }, blob.ErrCorrupt},
	} {
		h, points := good()
		c.edit(&h, points)
		raw, err := encode(&h, window, points)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Parse(raw); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	h, points := good()
	points[1].plain = 0
	raw, err := encode(&h, window, points)
	if err != nil {
		t.Fatal(err)
	}
	if l, err := Parse(raw); err != nil || l.NumSpans() != 1 || l.Span(0).Stored.Off != 499 {
		t.Errorf("two points at a byte: %v", err)
	}
}

func TestPlain(t *testing.T) {
	t.Parallel()
	p := content(300_000)
	l := NewPlain(int64(len(p)))
	var got []byte
	for i := range l.NumSpans() {
		s := l.Span(i)
		out := make([]byte, s.Plain.Len)
		if err := l.Decode(out, p[s.Stored.Off:s.Stored.End()], s); err != nil || l.SpanAt(s.Plain.Off) != i {
			t.Fatal(err)
		}
		got = append(got, out...)
	}
	if !bytes.Equal(got, p) || l.Size() != int64(len(p)) {
		t.Error("other bytes")
	}
	if err := l.Decode(got[:5], p[:4], l.Span(0)); !errors.Is(err, blob.ErrCorrupt) {
		t.Error(err)
	}
	if err := l.Verify(p, l.Span(0)); !errors.Is(err, blob.ErrUnverified) {
		t.Error(err)
	}
}

func FuzzParse(f *testing.F) {
	stored := gzipped(f, content(1500), 6)
	raw, _, err := build(stored, false)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw, stored)
	h := header{span: Span, points: 1, gzipSize: uint64(len(stored)), plain: 1500}
	if raw, err = encode(&h, make([]byte, windowSize), []point{{stored: 10, window: headerSize, windowLen: windowSize}}); err != nil {
		f.Fatal(err)
	}
	f.Add(raw, stored)
	f.Fuzz(func(t *testing.T, raw, stored []byte) {
		if len(raw) < headerSize {
			return
		}
		raw = bytes.Clone(raw)
		le := binary.LittleEndian
		le.PutUint64(raw[33:], uint64(len(stored)))
		le.PutUint64(raw[41:], uint64(len(raw)))
		le.PutUint64(raw[321:], uint64(len(raw))-le.Uint64(raw[313:]))
		le.PutUint32(raw[329:], checksum(raw[:329]))
		l, err := Parse(raw)
		if err != nil {
			return
		}
		at, begin := int64(0), int64(0)
		for i := range min(l.NumSpans(), 10) {
			s := l.Span(i)
			if s.Plain.Off != at || s.Plain.Len <= 0 || s.Stored.Off < begin || blob.CheckRange(s.Stored.Off, s.Stored.Len, int64(len(stored))) != nil {
				t.Fatalf("span %+v", s)
			}
			at, begin = s.Plain.End(), s.Stored.Off
			if s.Plain.Len <= 1<<20 {
				_ = l.Decode(make([]byte, s.Plain.Len), stored[s.Stored.Off:s.Stored.End()], s)
			}
		}
	})
}
