package flate

import (
	"bytes"
	"compress/gzip"
	"errors"
	"hash/crc32"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/klauspost/compress/zstd"

	"github.com/lazuli-project/lazuli/blob"
)

// decode reads a whole layer.
func decode(p []byte) ([]byte, error) { return decodeFrom(bytes.NewReader(p)) }

func decodeFrom(src io.Reader) ([]byte, error) {
	r, err := NewReader(src)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	var buf bytes.Buffer
	_, err = r.WriteTo(&buf)
	return buf.Bytes(), err
}

func TestGzipLevels(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 1, 10, 1000, 100_000, 2_000_000} {
		plain := generated(n)
		for level := gzip.HuffmanOnly; level <= gzip.BestCompression; level++ {
			got, err := decode(gzipped(t, plain, level))
			if err != nil || !bytes.Equal(got, plain) {
				t.Fatalf("%d bytes, level %d: got %d bytes, %v", n, level, len(got), err)
			}
		}
	}
}

// TestDistances has matches of every short distance, and of the largest, at every length.
func TestDistances(t *testing.T) {
	t.Parallel()
	noise := generated(historySize + 300)
	for _, distance := range []int{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 15, 16, 17, 31, 33, 257, 258, 259, 4097, historySize - 1, historySize} {
		var plain []byte
		for length := 3; length <= maxMatch+3; length += 7 {
			plain = append(plain, noise[length:length+distance]...)
			for range length {
				plain = append(plain, plain[len(plain)-distance])
			}
		}
		for _, level := range []int{1, 9} {
			got, err := decode(gzipped(t, plain, level))
			if err != nil || !bytes.Equal(got, plain) {
				t.Fatalf("distance %d, level %d: %d of %d bytes, %v", distance, level, len(got), len(plain), err)
			}
		}
	}
}

// gzipHeader is a header with the parts that the flags announce.
func gzipHeader(flags byte, parts ...string) []byte {
	return append([]byte{0x1f, 0x8b, 8, flags, 1, 2, 3, 4, 0, 255}, strings.Join(parts, "")...)
}

func TestGzipFraming(t *testing.T) {
	t.Parallel()
	hello, world := gzipped(t, []byte("hello "), 9), gzipped(t, []byte("world"), 1)
	nothing := gzipped(t, nil, 6)
	body := hello[10:]
	withSum := gzipHeader(gzipHeaderCRC|gzipExtra|gzipName|gzipComment, "\x03\x00abc", "name\x00", "comment\x00")
	withSum = append(withSum, byte(crc32.ChecksumIEEE(withSum)), byte(crc32.ChecksumIEEE(withSum)>>8))
	badSum := bytes.Clone(withSum)
	badSum[len(badSum)-1] ^= 1
	changed := func(i int) []byte {
		p := bytes.Clone(hello)
		p[len(p)+i] ^= 0x10
		return p
	}
	for name, c := range map[string]struct {
		data []byte
		want string
		err  error
	}{
		"one member":            {hello, "hello ", nil},
		"two members":           {slices.Concat(hello, world), "hello world", nil},
		"empty members":         {slices.Concat(nothing, hello, nothing, nothing, world, nothing), "hello world", nil},
		"zeros behind":          {slices.Concat(hello, make([]byte, 1000)), "hello ", nil},
		"many zeros behind":     {slices.Concat(hello, make([]byte, 2*inputSize)), "hello ", nil},
		"one zero behind":       {slices.Concat(hello, make([]byte, 1)), "hello ", nil},
		"extra, name, comment":  {slices.Concat(withSum, body), "hello ", nil},
		"large extra":           {slices.Concat(gzipHeader(gzipExtra, "\xff\xff", strings.Repeat("x", 65535)), body), "hello ", nil},
		"many members":          {bytes.Repeat(hello, 20000), strings.Repeat("hello ", 20000), nil},
		"header checksum":       {slices.Concat(badSum, body), "", blob.ErrCorrupt},
		"reserved flags":        {slices.Concat(gzipHeader(0x20), body), "", blob.ErrCorrupt},
		"checksum":              {changed(-5), "", blob.ErrCorrupt},
		"size":                  {changed(-1), "", blob.ErrCorrupt},
		"garbage behind":        {slices.Concat(hello, []byte("x")), "hello ", blob.ErrCorrupt},
		"long garbage behind":   {slices.Concat(hello, bytes.Repeat([]byte("garbage"), 100)), "hello ", blob.ErrCorrupt},
		"zeros, then garbage":   {slices.Concat(hello, make([]byte, 100), []byte("x")), "hello ", blob.ErrCorrupt},
		"zeros, then a member":  {slices.Concat(hello, make([]byte, 100), world), "hello ", blob.ErrCorrupt},
		"unknown method behind": {slices.Concat(hello, []byte{0x1f, 0x8b, 7, 0, 0, 0, 0, 0, 0, 0}), "hello ", blob.ErrCorrupt},
		"no data":               {gzipHeader(0), "", io.ErrUnexpectedEOF},
		"reserved block":        {slices.Concat(gzipHeader(0), []byte{7}, make([]byte, 20)), "", blob.ErrCorrupt},
		"stored length":         {slices.Concat(gzipHeader(0), []byte{1, 5, 0, 5, 0}, make([]byte, 20)), "", blob.ErrCorrupt},
		"match before start":    {slices.Concat(hello, gzipHeader(0), []byte{0x03, 0x02, 0x00}, make([]byte, 20)), "hello ", blob.ErrCorrupt},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for how, src := range map[string]io.Reader{
				"whole": bytes.NewReader(c.data), "by bytes": iotest.OneByteReader(bytes.NewReader(c.data)),
				"data with EOF": iotest.DataErrReader(bytes.NewReader(c.data)),
			} {
				got, err := decodeFrom(src)
				if string(got) != c.want || !errors.Is(err, c.err) || c.err != nil && !errors.Is(err, blob.ErrCorrupt) {
					t.Errorf("%s: got %.50q, %v; want %.50q, %v", how, got, err, c.want, c.err)
				}
			}
		})
	}
}

// TestCut cuts streams at each length. What comes before the error is a part of the content.
func TestCut(t *testing.T) {
	t.Parallel()
	plain := generated(3000)
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{
		"gzip": gzipped(t, plain, 6), "stored": gzipped(t, plain, 0), "fixed codes": gzipped(t, plain[:20], 6), "zstd": z.EncodeAll(plain, nil),
	} {
		for n := 4; n < len(data); n++ {
			got, err := decode(data[:n])
			if !errors.Is(err, blob.ErrCorrupt) || !errors.Is(err, io.ErrUnexpectedEOF) || !bytes.HasPrefix(plain, got) {
				t.Fatalf("%s: %d of %d bytes: got %d, %v", name, n, len(data), len(got), err)
			}
		}
		if _, err := decode(data); err != nil {
			t.Fatal(err)
		}
	}
}

// TestFlippedBits turns each bit of a layer: the checksum finds what decoding does not. Some bits of the header mean nothing.
func TestFlippedBits(t *testing.T) {
	t.Parallel()
	plain := generated(300)
	data := gzipped(t, plain, 6)
	for i := 10 * 8; i < len(data)*8; i++ {
		p := bytes.Clone(data)
		p[i/8] ^= 1 << (i % 8)
		// Bits between the last block and the checksum mean nothing either.
		if got, err := decode(p); err == nil && !bytes.Equal(got, plain) {
			t.Fatalf("bit %d: wrong content and no error", i)
		}
	}
}

func TestZstdFraming(t *testing.T) {
	t.Parallel()
	z, err := zstd.NewWriter(nil, zstd.WithEncoderCRC(true))
	if err != nil {
		t.Fatal(err)
	}
	hello, world := z.EncodeAll([]byte("hello "), nil), z.EncodeAll([]byte("world"), nil)
	large := z.EncodeAll(generated(1_000_000), nil)
	skip := []byte{0x5a, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3}
	badSum := bytes.Clone(hello)
	badSum[len(badSum)-1] ^= 1
	// A frame without single-segment flag and with the largest window that can be written, 2^41 and some.
	window := []byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xff, 0x01, 0x00, 0x00}
	for name, c := range map[string]struct {
		data []byte
		want string
		err  error
	}{
		"one frame":         {hello, "hello ", nil},
		"two frames":        {slices.Concat(hello, world), "hello world", nil},
		"skippable between": {slices.Concat(hello, skip, world), "hello world", nil},
		"skippable first":   {slices.Concat(skip, skip, hello), "hello ", nil},
		"skippable last":    {slices.Concat(hello, skip), "hello ", nil},
		"skippable only":    {skip, "", nil},
		"large":             {large, string(generated(1_000_000)), nil},
		"skippable cut":     {slices.Concat(hello, skip[:9]), "hello ", blob.ErrCorrupt},
		"magic cut":         {slices.Concat(hello, world[:3]), "hello ", blob.ErrCorrupt},
		"checksum":          {badSum, "", blob.ErrCorrupt},
		"garbage behind":    {slices.Concat(hello, []byte("garbage")), "hello ", blob.ErrCorrupt},
		"zeros behind":      {slices.Concat(hello, make([]byte, 100)), "hello ", blob.ErrCorrupt},
		"large window":      {window, "", blob.ErrUnsupported},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := decode(c.data)
			// Before an error the content may be missing, but it is never wrong.
			if !errors.Is(err, c.err) || c.err == nil && string(got) != c.want || !strings.HasPrefix(c.want, string(got)) && c.want != "" {
				t.Errorf("got %.50q, %v; want %.50q, %v", got, err, c.want, c.err)
			}
		})
	}
}

func TestSniff(t *testing.T) {
	t.Parallel()
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		data []byte
		want Compression
	}{
		"empty": {nil, None}, "one byte": {[]byte{0x1f}, None}, "plain": {[]byte("plain text"), None}, "large": {generated(1_000_000), None},
		"gzip": {gzipped(t, []byte("x"), 6), Gzip}, "zstd": {z.EncodeAll([]byte("x"), nil), Zstd},
	} {
		r, err := NewReader(iotest.HalfReader(bytes.NewReader(c.data)))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if r.Compression() != c.want {
			t.Errorf("%s: %v, want %v", name, r.Compression(), c.want)
		}
		if c.want == None {
			// Reads of any size give the same.
			if err := iotest.TestReader(r, c.data[:min(len(c.data), 1000)]); err != nil && len(c.data) <= 1000 {
				t.Errorf("%s: %v", name, err)
			}
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		if _, err := r.Read(make([]byte, 1)); !errors.Is(err, errClosed) {
			t.Errorf("%s: after Close: %v", name, err)
		}
	}
}

func TestReadSizes(t *testing.T) {
	t.Parallel()
	plain := generated(700_000)
	r, err := NewReader(bytes.NewReader(gzipped(t, plain, 6)))
	if err != nil {
		t.Fatal(err)
	}
	if err := iotest.TestReader(r, plain); err != nil {
		t.Fatal(err)
	}
}

func TestErrorsOfTheSource(t *testing.T) {
	t.Parallel()
	plain := generated(100_000)
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	errNetwork := errors.New("network")
	for name, data := range map[string][]byte{"gzip": gzipped(t, plain, 6), "zstd": z.EncodeAll(plain, nil), "plain": plain} {
		for _, n := range []int{0, 2, 5, 20, 3000, len(data) - 3, len(data)} {
			src := io.MultiReader(bytes.NewReader(data[:n]), iotest.ErrReader(errNetwork))
			got, err := decodeFrom(src)
			if !errors.Is(err, errNetwork) || errors.Is(err, blob.ErrCorrupt) || !bytes.HasPrefix(plain, got) {
				t.Errorf("%s: after %d of %d bytes: %v", name, n, len(data), err)
			}
		}
	}
}

// TestReadsToTheEnd is what callers need who hash the stored bytes on their way.
func TestReadsToTheEnd(t *testing.T) {
	t.Parallel()
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{
		"gzip": append(gzipped(t, []byte("x"), 6), make([]byte, 3*inputSize)...),
		"zstd": append(z.EncodeAll([]byte("x"), nil), append([]byte{0x50, 0x2a, 0x4d, 0x18, 0, 0, 16, 0}, make([]byte, 1<<20)...)...),
	} {
		src := bytes.NewReader(data)
		if got, err := decodeFrom(src); err != nil || string(got) != "x" || src.Len() != 0 {
			t.Errorf("%s: %q, %v, %d bytes left", name, got, err, src.Len())
		}
	}
}
