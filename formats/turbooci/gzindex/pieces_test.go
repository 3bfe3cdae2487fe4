package gzindex

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/flate"
	"github.com/lazuli-project/lazuli/internal/imagetest"
)

// noted is what builders note of a stream.
type noted struct{ index, table, plain []byte }

// note reads a stream; every piece is shown to the builders in parts of at most cut bytes.
func note(stored []byte, cut int) (*noted, error) {
	r, err := flate.NewTracingReader(bytes.NewReader(stored), flate.TraceIndex)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	var n noted
	b, pieces := NewBuilder(r), NewPieceBuilder(r)
	gzip := r.Compression() == flate.Gzip
	for {
		p, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		n.plain = append(n.plain, p...)
		if gzip {
			if err := b.Advance(); err != nil {
				return nil, err
			}
		}
		for len(p) > 0 {
			k := min(len(p), cut)
			if err := pieces.Follow(p[:k]); err != nil {
				return nil, err
			}
			p = p[k:]
		}
	}
	if gzip {
		if n.index, err = b.Finish(int64(len(stored))); err != nil {
			return nil, err
		}
	}
	n.table, err = pieces.Finish(int64(len(stored)))
	return &n, err
}

// layout opens what was noted.
func (n *noted) layout() (blob.Layout, error) {
	if n.index == nil {
		return PlainWithPieces(n.table)
	}
	l, err := Parse(n.index)
	if err != nil {
		return nil, err
	}
	return l.WithPieces(n.table)
}

// readSpan decodes a span over bytes that must not show, and verifies it.
func readSpan(l blob.Layout, stored []byte, i int) ([]byte, error) {
	s := l.Span(i)
	p := bytes.Repeat([]byte{0xa5}, int(s.Plain.Len))
	if err := l.Decode(p, stored[s.Stored.Off:s.Stored.End()], s); err != nil {
		return nil, err
	}
	return p, l.Verify(p, s)
}

// checkLayout compares every span, alone and decoded with its neighbours, with the plain bytes.
func checkLayout(t *testing.T, l blob.Layout, stored, plain []byte) {
	t.Helper()
	if l.Size() != int64(len(plain)) {
		t.Fatalf("%d bytes, not %d", l.Size(), len(plain))
	}
	at := int64(0)
	for i := range l.NumSpans() {
		s := l.Span(i)
		if s.Index != i || s.Plain.Off != at || s.Plain.Len <= 0 || s.Plain.Len > PieceSize || l.SpanAt(at) != i || l.SpanAt(s.Plain.End()-1) != i {
			t.Fatalf("span %+v at %d", s, at)
		}
		at = s.Plain.End()
		p, err := readSpan(l, stored, i)
		if err != nil || !bytes.Equal(p, plain[s.Plain.Off:at]) {
			t.Fatalf("span %d: %v", i, err)
		}
	}
	if at != l.Size() {
		t.Errorf("spans end at %d of %d", at, l.Size())
	}
	if d, ok := l.(blob.SpansDecoder); ok {
		checkGroups(t, l, d, stored, plain)
	}
}

// checkGroups decodes all spans that begin at the same stored byte at once.
func checkGroups(t *testing.T, l blob.Layout, d blob.SpansDecoder, stored, plain []byte) {
	t.Helper()
	for i := 0; i < l.NumSpans(); {
		var spans []blob.Span
		var out [][]byte
		first := l.Span(i)
		for ; i < l.NumSpans() && l.Span(i).Stored.Off == first.Stored.Off; i++ {
			s := l.Span(i)
			if len(spans) > 0 && s.Stored.Len < spans[len(spans)-1].Stored.Len {
				t.Fatalf("span %d is stored in less than the one before", i)
			}
			spans, out = append(spans, s), append(out, bytes.Repeat([]byte{0xa5}, int(s.Plain.Len)))
		}
		last := spans[len(spans)-1]
		if err := d.DecodeSpans(out, stored[last.Stored.Off:last.Stored.End()], spans); err != nil {
			t.Fatal(err)
		}
		for k, s := range spans {
			if !bytes.Equal(out[k], plain[s.Plain.Off:s.Plain.End()]) {
				t.Fatalf("span %d of %d: other bytes", s.Index, len(spans))
			}
		}
	}
}

func TestPieces(t *testing.T) {
	t.Parallel()
	long := content(3<<20 + 12345)
	for name, stored := range map[string][]byte{
		"level 1": gzipped(t, long, 1), "level 6": gzipped(t, long, 6), "level 9": gzipped(t, long, 9), "stored": gzipped(t, long, 0),
		"literals": gzipped(t, long, -2), "runs": gzipped(t, make([]byte, 5<<20), 6), "short": gzipped(t, long[:100], 6),
		"one piece": gzipped(t, long[:PieceSize], 6), "a byte more": gzipped(t, long[:PieceSize+1], 6), "nothing": gzipped(t, nil, 6),
		"one block": oneBlock(2 << 20), "padded": append(gzipped(t, long, 6), make([]byte, 700)...), "plain": long, "plain piece": long[:PieceSize],
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n, err := note(stored, 1<<30)
			if err != nil {
				t.Fatal(err)
			}
			l, err := n.layout()
			if err != nil {
				t.Fatal(err)
			}
			checkLayout(t, l, stored, n.plain)
			// How the stream is cut does not show.
			again, err := note(stored, 777)
			if err != nil || !bytes.Equal(again.table, n.table) || !bytes.Equal(again.index, n.index) {
				t.Errorf("other tables: %v", err)
			}
		})
	}
}

// A span needs stored bytes from the access point up to its own end, not up to the next access point.
func TestPiecesReach(t *testing.T) {
	t.Parallel()
	stored := gzipped(t, content(4<<20), 6)
	n, err := note(stored, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	l, err := n.layout()
	if err != nil {
		t.Fatal(err)
	}
	// At a ratio of a half, about, a megabyte between access points, and a block of the stream.
	for i := range l.NumSpans() {
		if s := l.Span(i); s.Stored.Len > 1<<20 {
			t.Errorf("span %d: %d stored bytes", i, s.Stored.Len)
		}
	}
	if s := l.Span(0); s.Stored.Len > 300<<10 {
		t.Errorf("the first piece: %d stored bytes", s.Stored.Len)
	}
}

// Genuine layers, which other programs compressed.
func TestPiecesOfEdge(t *testing.T) {
	t.Parallel()
	for i, layer := range imagetest.Edge(t).Layers {
		n, err := note(layer.Stored, 4096)
		if err != nil {
			t.Fatal(err)
		}
		l, err := n.layout()
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(n.plain, layer.Tar) {
			t.Errorf("layer %d: other bytes", i)
		}
		checkLayout(t, l, layer.Stored, layer.Tar)
	}
}

// Whatever byte of the table or of the layer is wrong, no wrong byte passes.
func TestPiecesDamage(t *testing.T) {
	t.Parallel()
	for name, stored := range map[string][]byte{"gzip": gzipped(t, content(PieceSize+5000), 6), "plain": content(PieceSize + 5000)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n, err := note(stored, 1<<30)
			if err != nil {
				t.Fatal(err)
			}
			// read returns the first error, and fails the test if wrong bytes pass.
			read := func(stored []byte) error {
				l, err := n.layout()
				if err != nil {
					return err
				}
				for i := range l.NumSpans() {
					s := l.Span(i)
					if err := blob.CheckRange(s.Stored.Off, s.Stored.Len, int64(len(stored))); err != nil {
						return err
					}
					p, err := readSpan(l, stored, i)
					if err != nil {
						return err
					}
					if !bytes.Equal(p, n.plain[s.Plain.Off:s.Plain.End()]) {
						t.Fatal("wrong bytes pass")
					}
				}
				if l.Size() != int64(len(n.plain)) {
					t.Fatalf("%d bytes pass for %d", l.Size(), len(n.plain))
				}
				return nil
			}
			for i := range n.table {
				for _, bit := range []byte{1, 0x40} {
					n.table[i] ^= bit
					err := read(stored)
					n.table[i] ^= bit
					known := errors.Is(err, blob.ErrCorrupt) || errors.Is(err, blob.ErrUnsupported) || errors.Is(err, blob.ErrDigest)
					// An end that is too far lets more be read than is needed.
					harmless := err == nil && n.index != nil && i >= piecesHeader && i < piecesHeader+8
					if !known && !harmless {
						t.Errorf("byte %d of the table, %#x: %v", i, bit, err)
					}
				}
			}
			rng := rand.New(rand.NewPCG(1, 2))
			for range 300 {
				i := 10 + rng.IntN(len(stored)-18) // a gzip stream's first and last bytes are not read
				damaged := bytes.Clone(stored)
				damaged[i] ^= 1 << rng.IntN(8)
				if err := read(damaged); err == nil {
					t.Errorf("byte %d of the layer: no error", i)
				}
			}
		})
	}
}

func TestParsePieces(t *testing.T) {
	t.Parallel()
	stored := gzipped(t, content(300_000), 6)
	n, err := note(stored, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	l, err := Parse(n.index)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := note(content(300_000), 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	le := binary.LittleEndian
	for name, c := range map[string]struct {
		edit func(p []byte) []byte
		want error
	}{
		"good":              {func(p []byte) []byte { return p }, nil},
		"nothing":           {func([]byte) []byte { return nil }, blob.ErrCorrupt},
		"cut header":        {func(p []byte) []byte { return p[:piecesHeader-1] }, blob.ErrCorrupt},
		"magic":             {func(p []byte) []byte { p[0]++; return p }, blob.ErrCorrupt},
		"version":           {func(p []byte) []byte { p[8]++; return p }, blob.ErrUnsupported},
		"cut":               {func(p []byte) []byte { return p[:len(p)-1] }, blob.ErrCorrupt},
		"more":              {func(p []byte) []byte { return append(p, 0) }, blob.ErrCorrupt},
		"no size":           {func(p []byte) []byte { le.PutUint32(p[12:], 0); return p }, blob.ErrCorrupt},
		"large size":        {func(p []byte) []byte { le.PutUint32(p[12:], 1<<30); return p }, blob.ErrCorrupt},
		"other size":        {func(p []byte) []byte { le.PutUint32(p[12:], 64<<10); return p }, blob.ErrCorrupt},
		"plain size":        {func(p []byte) []byte { le.PutUint64(p[16:], 1<<63); return p }, blob.ErrCorrupt},
		"large plain size":  {func(p []byte) []byte { le.PutUint64(p[16:], 1<<62); return p }, blob.ErrCorrupt},
		"largest":           {func(p []byte) []byte { le.PutUint64(p[16:], 1<<63-1); return p }, blob.ErrCorrupt},
		"other plain size":  {func(p []byte) []byte { le.PutUint64(p[16:], 300_001); return p }, blob.ErrCorrupt},
		"stored size":       {func(p []byte) []byte { le.PutUint64(p[24:], 1<<63); return p }, blob.ErrCorrupt},
		"other stored size": {func(p []byte) []byte { le.PutUint64(p[24:], uint64(len(stored))+1); return p }, blob.ErrCorrupt},
		"of a plain layer":  {func([]byte) []byte { return plain.table }, blob.ErrCorrupt},
		"end":               {func(p []byte) []byte { le.PutUint32(p[piecesHeader+8:], 1<<30); return p }, blob.ErrCorrupt},
		"nowhere":           {func(p []byte) []byte { le.PutUint32(p[piecesHeader:], 0); return p }, blob.ErrCorrupt},
	} {
		if _, err := l.WithPieces(c.edit(bytes.Clone(n.table))); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	if _, err := PlainWithPieces(n.table); !errors.Is(err, blob.ErrCorrupt) {
		t.Errorf("a compressed layer: %v", err)
	}
}

// Tables that say anything give no panic, no large allocation, and spans that hold together.
func FuzzPieces(f *testing.F) {
	stored := gzipped(f, content(PieceSize+1000), 6)
	n, err := note(stored, 1<<30)
	if err != nil {
		f.Fatal(err)
	}
	l, err := Parse(n.index)
	if err != nil {
		f.Fatal(err)
	}
	plain, err := note(content(5000), 1<<30)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(n.table)
	f.Add(plain.table)
	f.Fuzz(func(t *testing.T, table []byte) {
		if v, err := PlainWithPieces(table); err == nil && v.NumSpans() > 0 {
			if s := v.Span(v.NumSpans() - 1); s.Plain.End() != v.Size() || s.Plain.Len <= 0 || v.SpanAt(v.Size()-1) != s.Index {
				t.Fatalf("span %+v of %d bytes", s, v.Size())
			}
		}
		v, err := l.WithPieces(table)
		if err != nil {
			return
		}
		at := int64(0)
		for i := range v.NumSpans() {
			s := v.Span(i)
			if s.Plain.Off != at || s.Plain.Len <= 0 || blob.CheckRange(s.Stored.Off, s.Stored.Len, int64(len(stored))) != nil {
				t.Fatalf("span %+v", s)
			}
			at = s.Plain.End()
			if p, err := readSpan(v, stored, i); err == nil && !bytes.Equal(p, n.plain[s.Plain.Off:at]) {
				t.Fatal("wrong bytes pass")
			}
		}
		if at != int64(len(n.plain)) {
			t.Fatalf("%d bytes", at)
		}
	})
}
