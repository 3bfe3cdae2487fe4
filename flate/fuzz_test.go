package flate

import (
	"bytes"
	sflate "compress/flate"
	"compress/gzip"
	"errors"
	"io"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/lazuli-project/lazuli/blob"
)

// maxFuzz bounds what one input may decode to.
const maxFuzz = 4 << 20

func deflated(tb testing.TB, plain []byte, level int) []byte {
	tb.Helper()
	p := gzipped(tb, plain, level)
	return p[10 : len(p)-8]
}

// inflate decodes one DEFLATE stream with this package.
func inflate(p []byte) (plain []byte, rest int, err error) {
	in := newInput(bytes.NewReader(p))
	d := newInflater(in)
	d.reset()
	for d.state != stateEnd && len(plain) < maxFuzz {
		piece, err := d.next()
		if err != nil {
			return plain, 0, err
		}
		plain = append(plain, piece...)
	}
	return plain, in.end - in.pos, nil
}

// FuzzDeflate compares the decoder with the standard library's: both give the same bytes and end at the same place, or
// both refuse.
func FuzzDeflate(f *testing.F) {
	for _, level := range []int{sflate.HuffmanOnly, 0, 1, 6, 9} {
		for _, n := range []int{0, 1, 30, 2000, 70_000} {
			f.Add(deflated(f, generated(n), level))
		}
		f.Add(deflated(f, bytes.Repeat([]byte("abc"), 20_000), level))
	}
	f.Add([]byte{0x03, 0x02, 0x00})
	f.Fuzz(func(t *testing.T, p []byte) {
		src := bytes.NewReader(p)
		want, wantErr := io.ReadAll(io.LimitReader(sflate.NewReader(src), maxFuzz))
		got, rest, err := inflate(p)
		if len(want) == maxFuzz || len(got) >= maxFuzz {
			if !bytes.Equal(got[:min(len(got), len(want))], want[:min(len(got), len(want))]) {
				t.Fatal("content differs")
			}
			return
		}
		if (err == nil) != (wantErr == nil) {
			t.Fatalf("we: %v, the standard library: %v", err, wantErr)
		}
		if err == nil && (!bytes.Equal(got, want) || rest != src.Len()) {
			t.Fatalf("%d bytes and %d left, the standard library %d and %d", len(got), rest, len(want), src.Len())
		}
		if err != nil && (!errors.Is(err, blob.ErrCorrupt) || !bytes.HasPrefix(want, got) && !bytes.HasPrefix(got, want)) {
			t.Fatalf("%v after %d bytes, the standard library %v after %d", err, len(got), wantErr, len(want))
		}
	})
}

// FuzzGzip compares the framing with the standard library's, which knows no padding and accepts reserved flags.
func FuzzGzip(f *testing.F) {
	one := gzipped(f, []byte("one"), 6)
	f.Add(one)
	f.Add(append(bytes.Clone(one), one...))
	f.Add(append(bytes.Clone(one), make([]byte, 30)...))
	f.Add(append(gzipHeader(gzipHeaderCRC|gzipExtra|gzipName|gzipComment, "\x03\x00abc", "name\x00", "comment\x00", "12"), one[10:]...))
	f.Add(gzipped(f, generated(5000), 9))
	f.Fuzz(func(t *testing.T, p []byte) {
		r, err := NewReader(bytes.NewReader(p))
		if err != nil {
			t.Fatal(err)
		}
		if r.Compression() != Gzip {
			return
		}
		got, err := io.ReadAll(io.LimitReader(r, maxFuzz))
		if err != nil && !errors.Is(err, blob.ErrCorrupt) {
			t.Fatalf("error of no kind: %v", err)
		}
		if errors.Is(err, errReserved) {
			return
		}
		trimmed := bytes.TrimRight(p, "\x00")
		for zeros := 0; zeros <= min(64, len(p)-len(trimmed)); zeros++ {
			// Zeros at the end belong to the last member or are padding.
			want, wantErr := stdGunzip(p[:len(trimmed)+zeros])
			if wantErr == nil {
				if err != nil || !bytes.Equal(got, want) {
					t.Fatalf("%d bytes, %v, the standard library %d", len(got), err, len(want))
				}
				return
			}
		}
		if err == nil && len(got) < maxFuzz {
			t.Fatalf("%d bytes, which the standard library refuses", len(got))
		}
	})
}

func stdGunzip(p []byte) ([]byte, error) {
	r, err := gzip.NewReader(bytes.NewReader(p))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(io.LimitReader(r, maxFuzz))
}

// FuzzZstd looks for panics, errors of no kind, and endless work.
func FuzzZstd(f *testing.F) {
	z, err := zstd.NewWriter(nil)
	if err != nil {
		f.Fatal(err)
	}
	one := z.EncodeAll([]byte("one"), nil)
	skip := []byte{0x5a, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3}
	f.Add(one)
	f.Add(append(bytes.Clone(skip), one...))
	f.Add(append(bytes.Clone(one), one...))
	f.Add(z.EncodeAll(generated(5000), nil))
	f.Fuzz(func(t *testing.T, p []byte) {
		r, err := NewReader(bytes.NewReader(p))
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		if r.Compression() != Zstd {
			return
		}
		if _, err := io.Copy(io.Discard, io.LimitReader(r, maxFuzz)); err != nil && !errors.Is(err, blob.ErrCorrupt) && !errors.Is(err, blob.ErrUnsupported) {
			t.Fatalf("error of no kind: %v", err)
		}
	})
}

// FuzzTrace reads with and without noting: both give the same bytes and errors. Of streams that the plain decoder
// can read, matches, index and checkpoints are compared with its.
func FuzzTrace(f *testing.F) {
	for _, n := range []int{0, 30, 3000} {
		for _, level := range []int{0, 1, 9} {
			one := gzipped(f, generated(n), level)
			f.Add(one)
			f.Add(append(bytes.Clone(one), one...))
		}
	}
	f.Add(gzipped(f, bytes.Repeat([]byte("a"), 300_000), 9))
	f.Fuzz(func(t *testing.T, p []byte) {
		want, wantErr := decode(p)
		r, err := NewTracingReader(bytes.NewReader(p), TraceMatches|TraceIndex)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r)
		// A stream with very many blocks is handed out in smaller pieces, so that there may be more before an error.
		if err == nil && !bytes.Equal(got, want) || !bytes.HasPrefix(got, want) || errors.Is(err, blob.ErrCorrupt) != errors.Is(wantErr, blob.ErrCorrupt) {
			t.Fatalf("%d bytes and %v, want %d and %v", len(got), err, len(want), wantErr)
		}
		if err != nil || len(p) > 20_000 {
			return
		}
		if ref, err := refGunzip(p, maxFuzz/10); err == nil && r.Compression() == Gzip {
			checkMatches(t, p, ref, 1000)
			checkIndex(t, p, ref, 97)
		}
	})
}

// FuzzResume compares with the standard library's decoder, which knows windows but not bits.
func FuzzResume(f *testing.F) {
	plain := generated(3000)
	f.Add(deflated(f, plain, 6), []byte{}, uint16(2000), byte(0), byte(0))
	f.Add(deflated(f, plain, 0), plain[:500], uint16(3000), byte(0), byte(0))
	f.Add(gzipped(f, plain, 9)[11:], plain, uint16(100), byte(3), byte(0x77))
	f.Add(bytes.Repeat(gzipped(f, plain[:100], 9), 3)[10:], plain, uint16(250), byte(0), byte(0))
	r := NewResumer()
	f.Fuzz(func(t *testing.T, stored, window []byte, n uint16, left, value byte) {
		got := make([]byte, n)
		err := r.Decode(got, stored, Start{Bits: left, Byte: value, Window: window})
		if err != nil && !errors.Is(err, blob.ErrCorrupt) {
			t.Fatalf("error of no kind: %v", err)
		}
		if left != 0 {
			return
		}
		want := make([]byte, n)
		m, wantErr := io.ReadFull(sflate.NewReaderDict(bytes.NewReader(stored), window), want)
		if wantErr == nil && err != nil || !bytes.Equal(got[:m], want[:m]) {
			t.Fatalf("%v, the standard library: %d of %d bytes, %v", err, m, n, wantErr)
		}
		ended := errors.Is(wantErr, io.EOF) || errors.Is(wantErr, io.ErrUnexpectedEOF)
		if err == nil && wantErr != nil && !ended {
			t.Fatalf("no error, the standard library: %v", wantErr)
		}
	})
}
