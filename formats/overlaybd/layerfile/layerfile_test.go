package layerfile

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/formats/overlaybd/lsmt"
	"github.com/lazuli-project/lazuli/formats/overlaybd/zfile"
)

// memory is an output.
type memory struct{ p []byte }

func (m *memory) Write(p []byte) (int, error) { m.p = append(m.p, p...); return len(p), nil }

func (m *memory) WriteAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > int64(len(m.p)) {
		return 0, io.ErrShortWrite
	}
	return copy(m.p[off:], p), nil
}

func source(p []byte) blob.Source {
	return blob.ReaderAtSource{R: bytes.NewReader(p), N: int64(len(p))}
}

// testLayer writes a layer with some data, in pieces of sectors.
func testLayer(t testing.TB, opt Options, sectors, cores, piece int) (object, data []byte, segs []lsmt.Segment) {
	t.Helper()
	r := rand.New(rand.NewPCG(4, 4))
	data = make([]byte, sectors*lsmt.SectorSize)
	for i := range data {
		data[i] = byte(r.Uint32() & 0x11)
	}
	out := &memory{}
	w, err := NewWriter(t.Context(), out, formats.NewCPU(cores), lsmt.Info{VirtualSize: 1 << 30}, opt)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	for at := 0; at < len(data); at += piece * lsmt.SectorSize {
		if w.Offset() != int64(lsmt.HeaderSize+at) {
			t.Fatalf("offset %d", w.Offset())
		}
		if _, err := w.Write(data[at:min(len(data), at+piece*lsmt.SectorSize)]); err != nil {
			t.Fatal(err)
		}
	}
	for i := range sectors {
		segs = append(segs, lsmt.Segment{Offset: int64(i * 2), Length: 1, Source: int64(8 + sectors - 1 - i)})
	}
	size, err := w.Close(segs)
	if err != nil {
		t.Fatal(err)
	}
	if size != int64(len(out.p)) {
		t.Fatalf("size %d, want %d", size, len(out.p))
	}
	return out.p, data, segs
}

var variants = map[string]Options{
	"bare":      {},
	"unpadded":  {Unpadded: true},
	"zfile":     {Compress: true},
	"tar":       {Compress: true, Tar: true},
	"short tar": {Compress: true, ShortTar: true, ZFile: zfile.Options{Algorithm: zfile.Zstd, BlockSize: 16384}},
	"plain tar": {Tar: true, Unpadded: true},
}

// readAll reads all data of a layer.
func readAll(t testing.TB, f *File, object []byte) []byte {
	t.Helper()
	p := make([]byte, f.Layer.DataEnd-lsmt.HeaderSize)
	if _, err := f.ReaderAt(t.Context(), source(object)).ReadAt(p, lsmt.HeaderSize); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	for name, opt := range variants {
		for _, sectors := range []int{0, 1, 100, 6000} {
			object, data, segs := testLayer(t, opt, sectors, 2, 50)
			f, err := Open(t.Context(), source(object))
			if err != nil {
				t.Fatalf("%s, %d sectors: %v", name, sectors, err)
			}
			if f.Compressed != opt.Compress || f.Tar != (opt.Tar || opt.ShortTar) || f.Layer.VirtualSize != 1<<30 {
				t.Errorf("%s: %+v", name, f)
			}
			if got := slices.Collect(f.Layer.Segments()); !slices.Equal(got, segs) {
				t.Errorf("%s, %d sectors: %d segments", name, sectors, len(got))
			}
			if !bytes.Equal(readAll(t, f, object), data) {
				t.Errorf("%s, %d sectors: other data", name, sectors)
			}
			if again, _, _ := testLayer(t, opt, sectors, 5, 7); !bytes.Equal(again, object) {
				t.Errorf("%s, %d sectors: not deterministic", name, sectors)
			}
			if !f.Tar {
				continue
			}
			r := tar.NewReader(bytes.NewReader(object))
			h, err := r.Next()
			if err != nil || h.Name != "overlaybd.commit" {
				t.Fatalf("%s: %+v, %v", name, h, err)
			}
			if n, err := io.Copy(io.Discard, r); err != nil || n != h.Size {
				t.Errorf("%s: %d of %d bytes: %v", name, n, h.Size, err)
			}
			if _, err := r.Next(); !errors.Is(err, io.EOF) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

// TestReads counts what Open asks a registry for.
func TestReads(t *testing.T) {
	t.Parallel()
	object, _, _ := testLayer(t, Options{Compress: true, Tar: true}, 3000, 2, 100)
	c := &countingReaderAt{p: object}
	if _, err := Open(t.Context(), blob.ReaderAtSource{R: c, N: int64(len(object))}); err != nil || c.reads != 3 {
		t.Errorf("%d reads, %v", c.reads, err)
	}
}

type countingReaderAt struct {
	p     []byte
	reads int
}

func (c *countingReaderAt) ReadAt(p []byte, off int64) (int, error) {
	c.reads++
	return bytes.NewReader(c.p).ReadAt(p, off)
}

func TestShortTarIsGos(t *testing.T) {
	t.Parallel()
	var want bytes.Buffer
	if err := tar.NewWriter(&want).WriteHeader(&tar.Header{Name: "overlaybd.commit", Mode: 0o444, Size: 4737536, Typeflag: tar.TypeReg}); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, tarBlock)
	putTar(got, 4737536)
	if !bytes.Equal(got, want.Bytes()) {
		t.Errorf("%q\n%q", got, want.Bytes())
	}
}

// TestReference reads the layers of the reference and writes everything but the compressed blocks again.
func TestReference(t *testing.T) {
	t.Parallel()
	found := 0
	for _, dir := range []string{"native", "turbo-ext4", "turbo-erofs"} {
		files, err := filepath.Glob("../testdata/" + dir + "/blobs/sha256/*")
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range files {
			object, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			if object, wrapped := meta(t, object); isTar(object) || wrapped {
				found++
				checkReference(t, object)
			}
		}
	}
	if found != 9 {
		t.Errorf("%d layers", found)
	}
}

// meta returns the layer in the metadata of turboOCI.
func meta(t *testing.T, object []byte) ([]byte, bool) {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(object))
	if err != nil {
		return object, false
	}
	r := tar.NewReader(z)
	h, err := r.Next()
	if err != nil || !strings.HasSuffix(h.Name, ".fs.meta") {
		t.Fatalf("%+v, %v", h, err)
	}
	p, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return p, true
}

func checkReference(t *testing.T, object []byte) {
	t.Helper()
	f, err := Open(t.Context(), source(object))
	if err != nil {
		t.Fatal(err)
	}
	plain := make([]byte, f.Layout.Size())
	if _, err := f.ReaderAt(t.Context(), source(object)).ReadAt(plain, 0); err != nil {
		t.Fatal(err)
	}
	if !bytes.HasPrefix(plain, lsmt.AppendHeader(nil, f.Layer.Info)) {
		t.Error("header differs")
	}
	segs := slices.Collect(f.Layer.Segments())
	if err := lsmt.Check(segs, f.Layer.DataEnd); err != nil {
		t.Error(err)
	}
	if tail := lsmt.AppendTail(nil, f.Layer.Info, f.Layer.DataEnd, segs, !f.Layer.Remote); !bytes.Equal(tail, plain[f.Layer.DataEnd:]) {
		t.Error("index differs")
	}
	if !f.Tar {
		return
	}
	at, err := parseTar(object, int64(len(object)))
	if err != nil {
		t.Fatal(err)
	}
	out := &memory{}
	w := &Writer{dst: out, begin: paxBegin}
	_, _ = out.Write(make([]byte, paxBegin))
	_, _ = out.Write(object[at.Off:at.End()])
	if _, err := w.closeTar(at.Len); err != nil || !bytes.Equal(out.p, object) {
		t.Errorf("tar differs: %v", err)
	}
}

func TestTarDamaged(t *testing.T) {
	t.Parallel()
	object, _, _ := testLayer(t, Options{Compress: true, Tar: true}, 10, 1, 10)
	edit := func(change func(p []byte)) []byte {
		p := bytes.Clone(object)
		change(p)
		finishTar(p[:tarBlock], p[tarType], "%6o \x00")
		return p
	}
	for name, c := range map[string]struct {
		p    []byte
		want error
	}{
		"pax size":     {edit(func(p []byte) { copy(p[tarSize:], "         77 ") }), blob.ErrCorrupt},
		"large pax":    {edit(func(p []byte) { copy(p[tarSize:], "       7777 ") }), blob.ErrUnsupported},
		"no number":    {edit(func(p []byte) { copy(p[tarSize:], "      x") }), blob.ErrCorrupt},
		"record":       {edit(func(p []byte) { copy(p[tarBlock:], "99") }), blob.ErrCorrupt},
		"no size":      {edit(func(p []byte) { copy(p[tarBlock+8:], "x") }), blob.ErrCorrupt},
		"no header":    {edit(func(p []byte) { clear(p[2*tarBlock : 3*tarBlock]) }), blob.ErrCorrupt},
		"directory":    {edit(func(p []byte) { finishTar(p[2*tarBlock:3*tarBlock], '5', "%6o \x00") }), blob.ErrUnsupported},
		"cut off":      {object[:2000], blob.ErrCorrupt},
		"only headers": {object[:1000], blob.ErrCorrupt},
		"nothing":      {nil, blob.ErrCorrupt},
	} {
		if _, err := Open(t.Context(), source(c.p)); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

// TestDamage turns each byte of a small layer: that is an error, or changes nothing of its data.
func TestDamage(t *testing.T) {
	t.Parallel()
	object, data, segs := testLayer(t, Options{Compress: true, Tar: true, Unpadded: true}, 20, 1, 10)
	for i := range object {
		object[i] ^= 4
		f, err := Open(t.Context(), source(object))
		if err == nil {
			p := make([]byte, len(data))
			_, err = f.ReaderAt(t.Context(), source(object)).ReadAt(p, lsmt.HeaderSize)
			if err == nil && (!bytes.Equal(p, data) || !slices.Equal(slices.Collect(f.Layer.Segments()), segs)) {
				t.Fatalf("byte %d: other data", i)
			}
		}
		if err != nil && !errors.Is(err, blob.ErrCorrupt) && !errors.Is(err, blob.ErrDigest) && !errors.Is(err, blob.ErrUnsupported) {
			t.Fatalf("byte %d: %v", i, err)
		}
		object[i] ^= 4
	}
}

func TestWriterRefuses(t *testing.T) {
	t.Parallel()
	for name, segs := range map[string][]lsmt.Segment{
		"data that is not there": {{Length: 9, Source: 8}},
		"the header":             {{Length: 1, Source: 7}},
		"overlap":                {{Length: 2, Source: 8}, {Offset: 1, Length: 2, Source: 8}},
		"too long":               {{Length: lsmt.MaxLength + 1, Zero: true}},
		"nothing of its own":     {{Length: 2, Source: 8, Tag: lsmt.TagRemote}},
		"too many":               make([]lsmt.Segment, lsmt.MaxEntries+1),
	} {
		w, err := NewWriter(t.Context(), &memory{}, formats.NewCPU(1), lsmt.Info{}, Options{Compress: true})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(make([]byte, 4096)); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(make([]byte, 100)); err == nil {
			t.Error("part of a sector")
		}
		if _, err := w.Close(segs); err == nil {
			t.Errorf("%s: no error", name)
		}
		w.Abort()
	}
}

// TestReaderAt reads at random.
func TestReaderAt(t *testing.T) {
	t.Parallel()
	for name, opt := range variants {
		object, data, _ := testLayer(t, opt, 8000, 2, 1000)
		f, err := Open(t.Context(), source(object))
		if err != nil {
			t.Fatal(err)
		}
		r, rnd := f.ReaderAt(t.Context(), source(object)), rand.New(rand.NewPCG(1, 1))
		for range 100 {
			off := rnd.IntN(len(data))
			p := make([]byte, rnd.IntN(min(len(data)-off, 1<<rnd.IntN(22))+1))
			if n, err := r.ReadAt(p, int64(lsmt.HeaderSize+off)); err != nil || n != len(p) || !bytes.Equal(p, data[off:off+n]) {
				t.Fatalf("%s: %d bytes at %d: %d, %v", name, len(p), off, n, err)
			}
		}
		if n, err := r.ReadAt(make([]byte, 10), f.Layout.Size()-4); n != 4 || !errors.Is(err, io.EOF) {
			t.Errorf("%s: at the end: %d, %v", name, n, err)
		}
	}
}

func FuzzOpen(f *testing.F) {
	for _, opt := range variants {
		opt.Unpadded = true
		object, _, _ := testLayer(f, opt, 12, 1, 10)
		f.Add(object)
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		l, err := Open(t.Context(), source(p))
		if err != nil {
			return
		}
		buf := make([]byte, min(l.Layout.Size(), 1<<20))
		_, _ = l.ReaderAt(t.Context(), source(p)).ReadAt(buf, 0)
	})
}
