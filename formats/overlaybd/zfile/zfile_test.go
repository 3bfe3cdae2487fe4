package zfile

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/formats"
)

func source(p []byte) blob.Source {
	return blob.ReaderAtSource{R: bytes.NewReader(p), N: int64(len(p))}
}

// write makes a ZFile of p, written in pieces of a size.
func write(t testing.TB, p []byte, opt Options, cores, piece int) (file []byte, header [HeaderSize]byte) {
	t.Helper()
	var out bytes.Buffer
	w, err := NewWriter(t.Context(), &out, formats.NewCPU(cores), opt)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	for at := 0; at < len(p); at += piece {
		if _, err := w.Write(p[at:min(at+piece, len(p))]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if w.Size() != int64(out.Len()) {
		t.Fatalf("size %d, want %d", w.Size(), out.Len())
	}
	return out.Bytes(), w.Header()
}

// read decodes a ZFile.
func read(ctx context.Context, file []byte, at blob.Range) ([]byte, error) {
	l, err := Open(ctx, source(file), at)
	if err != nil {
		return nil, err
	}
	return decode(l, file)
}

func decode(l *Layout, object []byte) ([]byte, error) {
	var plain []byte
	for i := range l.NumSpans() {
		s := l.Span(i)
		p := make([]byte, s.Plain.Len)
		if err := l.Decode(p, object[s.Stored.Off:s.Stored.End()], s); err != nil {
			return nil, err
		}
		if err := l.Verify(p, s); err != nil && !errors.Is(err, blob.ErrUnverified) {
			return nil, err
		}
		plain = append(plain, p...)
	}
	return plain, nil
}

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	for _, opt := range []Options{{}, {BlockSize: 16384}, {BlockSize: 65536}, {Algorithm: Zstd}, {Algorithm: Zstd, BlockSize: 32768}} {
		for _, n := range []int{0, 1, 4095, 4096, 4097, 65536, 1<<20 + 77} {
			plain := content(n, 3)
			file, header := write(t, plain, opt, 2, 5000)
			for _, overwritten := range []bool{false, true} {
				object := append([]byte("before"), file...)
				if overwritten {
					copy(object[6:], header[:])
				}
				at := blob.Range{Off: 6, Len: int64(len(file))}
				object = append(object, "behind"...)
				l, err := Open(t.Context(), source(object), at)
				if err != nil {
					t.Fatalf("%+v, %d bytes: %v", opt, n, err)
				}
				got, err := decode(l, object)
				if err != nil || !bytes.Equal(got, plain) || l.Size() != int64(n) {
					t.Fatalf("%+v, %d bytes: %d, %v", opt, n, len(got), err)
				}
				for i := range l.NumSpans() {
					if s := l.Span(i); l.SpanAt(s.Plain.Off) != i || l.SpanAt(s.Plain.End()-1) != i || s.Index != i {
						t.Fatalf("span %d: %+v", i, s)
					}
				}
				if overwritten {
					continue
				}
				// Without its end, only the header can tell.
				if _, err := Open(t.Context(), source(object), blob.Range{Off: 6, Len: at.Len - 1}); !errors.Is(err, blob.ErrCorrupt) {
					t.Errorf("cut off: %v", err)
				}
			}
		}
	}
}

func TestDeterministic(t *testing.T) {
	t.Parallel()
	plain := content(3<<20+555, 8)
	for _, opt := range []Options{{}, {Algorithm: Zstd, BlockSize: 16384}} {
		want, header := write(t, plain, opt, 1, len(plain))
		for cores := 1; cores <= 5; cores++ {
			for _, piece := range []int{1777, 4096, batchSize, 2 << 20} {
				if got, h := write(t, plain, opt, cores, piece); !bytes.Equal(got, want) || h != header {
					t.Fatalf("%+v: %d cores, pieces of %d: other bytes", opt, cores, piece)
				}
			}
		}
	}
}

// TestHelloWorld has the digests of the reference's conversion of hello-world.
func TestHelloWorld(t *testing.T) {
	t.Parallel()
	h := header{
		flags: 0x1b, indexOffset: 569127, blocks: 17463, plain: 71528448, indexCRC: 0x6dba55b0, blockSize: 4096, algorithm: LZ4, verify: true,
	}
	p := h.encode()
	if got := binary.LittleEndian.Uint32(p[28:]); got != 0x0f1f3445 {
		t.Errorf("header %#x", got)
	}
	h.flags = 0x16
	p = h.encode()
	if got := binary.LittleEndian.Uint32(p[28:]); got != 0xffdfe161 {
		t.Errorf("trailer %#x", got)
	}
}

// TestReference reads the layers of the reference, and writes what is not compressed of them again.
func TestReference(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../testdata/native/blobs/sha256/*")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, name := range files {
		object, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		const begin = 1536
		if len(object) < begin+HeaderSize || !IsZFile(object[begin:]) {
			continue
		}
		found++
		h, err := parseHeader(object[begin:begin+HeaderSize], ^uint64(0), 0x1b)
		if err != nil {
			t.Fatal(err)
		}
		p := h.encode()
		if !bytes.Equal(p[:], object[begin:begin+HeaderSize]) {
			t.Error("header differs")
		}
		end := begin + int64(h.indexOffset+h.blocks*entrySize+HeaderSize)
		h.flags = 0x16
		p = h.encode()
		if !bytes.Equal(p[:], object[end-HeaderSize:end]) {
			t.Error("trailer differs")
		}
		plain, err := read(t.Context(), object, blob.Range{Off: begin, Len: end - begin})
		if err != nil {
			t.Fatal(err)
		}
		if file, _ := write(t, plain, Options{}, 2, 1<<20); int64(len(file)) > (end-begin)*103/100 {
			t.Errorf("%d bytes, the reference has %d", len(file), end-begin)
		}
	}
	if found != 3 {
		t.Errorf("%d layers", found)
	}
}

// TestOldHeader reads a file as it was written before there were digests, with whatever was in memory in unused fields.
func TestOldHeader(t *testing.T) {
	t.Parallel()
	plain := content(50000, 4)
	file, _ := write(t, plain, Options{}, 1, len(plain))
	le := binary.LittleEndian
	trailer := file[len(file)-HeaderSize:]
	le.PutUint64(trailer[32:], 0x00007ffea4640b46)
	le.PutUint64(file[32:], 0x00007ffea4640b43)
	for _, p := range [][]byte{trailer, file[:HeaderSize]} {
		copy(p[89:], "whatever was in memory")
		copy(p[28:], "was ")
	}
	copy(file[40:], "which was in memory")
	if got, err := read(t.Context(), file, blob.Range{Len: int64(len(file))}); err != nil || !bytes.Equal(got, plain) {
		t.Error(err)
	}
}

// TestUnverified reads a file without checksums.
func TestUnverified(t *testing.T) {
	t.Parallel()
	plain := content(9000, 4)
	h := header{flags: flagHeader | flagData | flagOverwritten | flagDigest, blockSize: 4096, algorithm: LZ4, blocks: 3, plain: 9000}
	file := make([]byte, HeaderSize)
	var table []byte
	for at := 0; at < len(plain); at += 4096 {
		begin := len(file)
		file = newLZ4Encoder().append(append(make([]byte, 0, 1<<20), file...), plain[at:min(at+4096, len(plain))])
		table = binary.LittleEndian.AppendUint32(table, uint32(len(file)-begin))
	}
	h.indexOffset, h.indexCRC = uint64(len(file)), CRC(0, table)
	p := h.encode()
	copy(file, p[:])
	file = append(append(file, table...), p[:]...)
	l, err := Open(t.Context(), source(file), blob.Range{Len: int64(len(file))})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := decode(l, file); err != nil || !bytes.Equal(got, plain) {
		t.Error(err)
	}
	if err := l.Verify(plain[:4096], l.Span(0)); !errors.Is(err, blob.ErrUnverified) {
		t.Error(err)
	}
}

func TestHeaderDamaged(t *testing.T) {
	t.Parallel()
	plain := content(9000, 4)
	file, p := write(t, plain, Options{}, 1, len(plain))
	good, err := parseHeader(p[:], 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		edit func(*header)
		want error
	}{
		"flags":         {func(h *header) { h.flags &^= flagHeader }, blob.ErrCorrupt},
		"jump table":    {func(h *header) { h.flags |= flagCompressed }, blob.ErrUnsupported},
		"dictionary":    {func(h *header) { h.dictSize = 1 << 31 }, blob.ErrCorrupt},
		"use of it":     {func(h *header) { h.dictionary = true }, blob.ErrUnsupported},
		"algorithm":     {func(h *header) { h.algorithm = 0 }, blob.ErrUnsupported},
		"block size":    {func(h *header) { h.blockSize = 5000 }, blob.ErrUnsupported},
		"block size 0":  {func(h *header) { h.blockSize = 0 }, blob.ErrUnsupported},
		"blocks":        {func(h *header) { h.blocks++ }, blob.ErrCorrupt},
		"many blocks":   {func(h *header) { h.blocks, h.plain = 1<<40, 1<<52 }, blob.ErrUnsupported},
		"plain size":    {func(h *header) { h.plain = 1<<64 - 1 }, blob.ErrCorrupt},
		"index offset":  {func(h *header) { h.indexOffset = 1 << 63 }, blob.ErrCorrupt},
		"index before":  {func(h *header) { h.indexOffset = 511 }, blob.ErrCorrupt},
		"index earlier": {func(h *header) { h.indexOffset -= 5 }, blob.ErrCorrupt},
		"index CRC":     {func(h *header) { h.indexCRC++ }, blob.ErrCorrupt},
	} {
		h := *good
		c.edit(&h)
		p := h.encode()
		object := append(p[:], file[HeaderSize:]...)
		if _, err := read(t.Context(), object, blob.Range{Len: int64(len(object))}); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	if _, err := Open(t.Context(), source(file), blob.Range{Off: 10, Len: int64(len(file))}); !errors.Is(err, blob.ErrCorrupt) {
		t.Errorf("outside of the object: %v", err)
	}
}

// TestDamage turns each byte of small files: that is an error, or changes nothing.
func TestDamage(t *testing.T) {
	t.Parallel()
	plain := content(6000, 4)
	for _, opt := range []Options{{}, {Algorithm: Zstd}} {
		file, header := write(t, plain, opt, 1, len(plain))
		for _, overwritten := range []bool{false, true} {
			object := bytes.Clone(file)
			if overwritten {
				copy(object, header[:])
			}
			refused := 0
			for i := range object {
				for _, bit := range []byte{1, 0x80} {
					object[i] ^= bit
					got, err := read(t.Context(), object, blob.Range{Len: int64(len(object))})
					switch {
					case err == nil && !bytes.Equal(got, plain):
						t.Fatalf("byte %d: other content", i)
					case err != nil && !errors.Is(err, blob.ErrCorrupt) && !errors.Is(err, blob.ErrDigest) && !errors.Is(err, blob.ErrUnsupported):
						t.Fatalf("byte %d: %v", i, err)
					case err != nil:
						refused++
					}
					object[i] ^= bit
				}
			}
			// Only what is not read may be turned: one of header and trailer, and the flag that says which.
			if least := 2 * (len(object) - HeaderSize); refused < least {
				t.Errorf("%d of %d changes refused", refused, 2*len(object))
			}
		}
	}
}

func TestIncompressible(t *testing.T) {
	t.Parallel()
	noise := make([]byte, 128<<10)
	r := rand.New(rand.NewPCG(1, 1))
	for i := range noise {
		noise[i] = byte(r.Uint32())
	}
	for _, a := range []Algorithm{LZ4, Zstd} {
		w, err := NewWriter(t.Context(), io.Discard, formats.NewCPU(2), Options{Algorithm: a, BlockSize: 65536})
		if err != nil {
			t.Fatal(err)
		}
		_, err = w.Write(noise)
		if err == nil {
			err = w.Close()
		}
		if err == nil || !strings.Contains(err.Error(), "32768") {
			t.Errorf("%s: %v", a, err)
		}
		w.Abort()
		file, _ := write(t, noise, Options{Algorithm: a, BlockSize: 32768}, 2, len(noise))
		if got, err := read(t.Context(), file, blob.Range{Len: int64(len(file))}); err != nil || !bytes.Equal(got, noise) {
			t.Errorf("%s: %v", a, err)
		}
	}
}

func TestOptions(t *testing.T) {
	t.Parallel()
	for _, o := range []Options{{Algorithm: 3}, {BlockSize: 2048}, {BlockSize: 5000}, {BlockSize: 131072}, {BlockSize: -1}} {
		if _, err := NewWriter(t.Context(), io.Discard, formats.NewCPU(1), o); err == nil || o.Validate() == nil {
			t.Errorf("%+v", o)
		}
	}
	for _, a := range []Algorithm{LZ4, Zstd} {
		if got, err := ParseAlgorithm(a.String()); err != nil || got != a {
			t.Errorf("%s: %v", a, err)
		}
	}
	if _, err := ParseAlgorithm("minilzo"); err == nil {
		t.Error("minilzo")
	}
}

// full takes n bytes.
type full struct{ n int }

var errFull = errors.New("full")

func (f *full) Write(p []byte) (int, error) {
	if f.n -= len(p); f.n < 0 {
		return 0, errFull
	}
	return len(p), nil
}

func TestWriterFails(t *testing.T) {
	t.Parallel()
	plain := content(4<<20, 4)
	size, _ := write(t, plain, Options{}, 1, len(plain))
	for _, n := range []int{0, 511, 512, len(size) / 2, len(size) - 1} {
		w, err := NewWriter(t.Context(), &full{n}, formats.NewCPU(2), Options{})
		if err == nil {
			_, err = w.Write(plain)
			if err == nil {
				err = w.Close()
			}
			w.Abort()
		}
		if !errors.Is(err, errFull) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	w, err := NewWriter(ctx, io.Discard, formats.NewCPU(2), Options{})
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	_, err = w.Write(plain)
	if err == nil {
		err = w.Close()
	}
	if !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	w.Abort()
	if _, err := w.Write(plain); err == nil {
		t.Error("write after Abort")
	}
}

func FuzzOpen(f *testing.F) {
	for _, opt := range []Options{{}, {Algorithm: Zstd}} {
		file, header := write(f, content(9000, 4), opt, 1, 9000)
		f.Add(file)
		file = bytes.Clone(file)
		copy(file, header[:])
		f.Add(file)
		binary.LittleEndian.PutUint64(file[32:], flagHeader|flagData|flagOverwritten) // no digest that has to be right
		f.Add(file)
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		l, err := Open(t.Context(), source(p), blob.Range{Len: int64(len(p))})
		if err != nil {
			return
		}
		at := int64(0)
		for i := range min(l.NumSpans(), 100) {
			s := l.Span(i)
			if s.Plain.Off != at || s.Plain.Len <= 0 || blob.CheckRange(s.Stored.Off, s.Stored.Len, int64(len(p))) != nil {
				t.Fatalf("span %+v", s)
			}
			at = s.Plain.End()
			_ = l.Decode(make([]byte, s.Plain.Len), p[s.Stored.Off:s.Stored.End()], s)
		}
	})
}

func BenchmarkWriter(b *testing.B) {
	p := content(16<<20, 2)
	for name, opt := range map[string]Options{"lz4": {}, "zstd": {Algorithm: Zstd}} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(p)))
			b.ReportAllocs()
			for b.Loop() {
				w, err := NewWriter(b.Context(), io.Discard, formats.NewCPU(0), opt)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := w.Write(p); err != nil {
					b.Fatal(err)
				}
				if err := w.Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkDecode(b *testing.B) {
	p := content(8<<20, 2)
	for name, opt := range map[string]Options{"lz4": {}, "zstd": {Algorithm: Zstd}} {
		b.Run(name, func(b *testing.B) {
			file, header := write(b, p, opt, 2, len(p))
			copy(file, header[:])
			l, err := Open(b.Context(), source(file), blob.Range{Len: int64(len(file))})
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(len(p)))
			b.ReportAllocs()
			plain := make([]byte, MinBlockSize)
			for b.Loop() {
				for i := range l.NumSpans() {
					s := l.Span(i)
					if err := l.Decode(plain, file[s.Stored.Off:s.Stored.End()], s); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}
