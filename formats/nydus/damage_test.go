package nydus

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/internal/imagetest"
)

// listBare opens a blob with its bootstrap inside and reads everything.
func listBare(ctx context.Context, p []byte) ([]string, error) {
	img, err := OpenBare(ctx, bytesSource(p), "id", func(string) (blob.Source, error) { return nil, errors.New("no other blob") })
	if err != nil {
		return nil, err
	}
	return list(ctx, img)
}

// Each byte of a layer's blob is changed, and the blob is cut at each length: it is refused, or reads as before.
func TestDamagedBlob(t *testing.T) {
	t.Parallel()
	tar := imagetest.Tar(t, imagetest.Dir("d"), imagetest.File("d/a", "some text, some text, some text, some text"), imagetest.File("b", "x"))
	m := newMemory()
	l, err := convertLayer(t.Context(), newWriter(t, Options{}), m, bytes.NewReader(tar))
	if err != nil {
		t.Fatal(err)
	}
	good, err := m.get(l.Desc.Digest)
	if err != nil {
		t.Fatal(err)
	}
	want, err := listBare(t.Context(), good)
	if err != nil {
		t.Fatal(err)
	}
	check := func(what string, i int, p []byte) {
		t.Helper()
		got, err := listBare(t.Context(), p)
		if err == nil && !slices.Equal(got, want) {
			t.Errorf("%s %d: reads as\n%q", what, i, got)
		}
	}
	for i := range good {
		p := slices.Clone(good)
		p[i] ^= 0x41
		check("changed at", i, p)
	}
	for i := range good {
		check("cut at", i, good[:i])
	}
	for i := range 24 {
		p := slices.Clone(good)
		p[i] ^= 1
		if _, err := listBare(t.Context(), p); !errors.Is(err, blob.ErrDigest) && !errors.Is(err, blob.ErrCorrupt) {
			t.Errorf("chunk changed at %d: %v", i, err)
		}
	}
}

// A bootstrap has no checksum of its own: what is wrong in it is found by its rules, or is an error of a chunk.
func TestDamagedBootstrap(t *testing.T) {
	t.Parallel()
	boot := readTestdata(t, "v6-minimal/image.boot")
	for i := range boot {
		// Superblocks and device; blob table; inodes; chunk table. The rest is zeros that nobody reads.
		if at := i &^ 0xfff; i-at >= 0x600 || at == 0x2000 {
			continue
		}
		for _, bits := range []byte{0x01, 0x80, 0xff} {
			p := slices.Clone(boot)
			p[i] ^= bits
			img, err := OpenBare(t.Context(), bytesSource(p), "image.boot", findBlob)
			if err != nil {
				continue
			}
			if got, err := list(t.Context(), img); err == nil && len(got) != 2 {
				t.Errorf("%d with %#x: %q", i, bits, got)
			}
		}
	}
	for n := range 0x5000 / 512 {
		if _, err := OpenBare(t.Context(), bytesSource(boot[:n*512]), "image.boot", findBlob); !errors.Is(err, blob.ErrCorrupt) {
			t.Errorf("cut at %d: %v", n*512, err)
		}
	}
}

// oneLayer is an image with only a bootstrap layer.
type oneLayer []byte

func (s oneLayer) manifest() *formats.Manifest {
	m := &formats.Manifest{}
	m.Manifest.Layers = []ocispec.Descriptor{{Digest: digest.FromBytes(s), Size: int64(len(s)), Annotations: map[string]string{AnnotationBootstrap: "true"}}}
	return m
}

func (s oneLayer) Open(_ context.Context, d ocispec.Descriptor) (blob.Source, error) {
	return findBlob(d.Digest.Encoded())
}

func (s oneLayer) Fetch(context.Context, ocispec.Descriptor) (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(s)), nil
}

func TestBootstrapLayer(t *testing.T) {
	t.Parallel()
	minimal := string(readTestdata(t, "v6-minimal/image.boot"))
	const id = "aa3b70cf2d0e8ac5d3a67e4d3177e9ad9b2a0a57690867ffc87de96158e875d1"
	tar := func(items ...imagetest.Item) []byte { return imagetest.Tar(t, items...) }
	whole := tar(imagetest.File("image/image.boot", minimal))
	for _, c := range []struct {
		name  string
		layer []byte
		err   error
	}{
		{"plain tar", whole, nil},
		{"gzip", imagetest.Gzip(t, whole).Stored, nil},
		{"dot in front", tar(imagetest.File("./image/image.boot", minimal)), nil},
		{"damaged chunk table", tar(imagetest.File("image/image.boot", minimal), imagetest.File("image/"+id+".blob.meta", "damaged")), nil},
		{"files of others", tar(imagetest.File("image/backend.json", "{}"), imagetest.File("image/image.boot", minimal)), nil},
		{"no bootstrap", tar(imagetest.File("image/other", minimal)), blob.ErrCorrupt},
		{"a link", tar(imagetest.Symlink("image/image.boot", "other")), blob.ErrCorrupt},
		{"nothing", nil, blob.ErrCorrupt},
		{"cut tar", whole[:9000], blob.ErrCorrupt},
		{"cut gzip", imagetest.Gzip(t, whole).Stored[:500], blob.ErrCorrupt},
		{"no tar", []byte(minimal), blob.ErrCorrupt},
	} {
		s := oneLayer(c.layer)
		img, err := Reader{}.Open(t.Context(), s.manifest(), s)
		if !errors.Is(err, c.err) {
			t.Errorf("%s: %v", c.name, err)
		}
		if err != nil {
			continue
		}
		lines, err := list(t.Context(), img)
		if err != nil || len(lines) != 2 {
			t.Errorf("%s: %q, %v", c.name, lines, err)
		}
	}

	// An error of the source is no damage.
	_, _, err := readBootstrapLayer(io.MultiReader(bytes.NewReader(whole[:2000]), errorReader{errFull}))
	if !errors.Is(err, errFull) || errors.Is(err, blob.ErrCorrupt) {
		t.Errorf("%v", err)
	}
}

type errorReader struct{ err error }

func (e errorReader) Read([]byte) (int, error) { return 0, e.err }

func FuzzBootstrapLayer(f *testing.F) {
	f.Add(readTestdata(f, "nydusify/e5011a03c7152f0aa23df86f219c5f34683e9d7a7a539a502d8fa486143b2135"))
	f.Add(imagetest.Tar(f, imagetest.File("image/image.boot", string(readTestdata(f, "v6-minimal/image.boot")))))
	f.Fuzz(func(_ *testing.T, p []byte) {
		_, _, _ = readBootstrapLayer(bytes.NewReader(p))
	})
}

// FuzzOpen takes bootstraps and blobs with one inside; the blobs that they name are there.
func FuzzOpen(f *testing.F) {
	f.Add(readTestdata(f, "v6-minimal/image.boot"))
	f.Add(readTestdata(f, "v6-dir/image.boot"))
	f.Add(readTestdata(f, "blobs/6a6c131bef0bdf16d474470e9fea62af5f259ca32887bebdba984221c2e4ab6f"))
	f.Fuzz(func(t *testing.T, p []byte) {
		img, err := OpenBare(t.Context(), bytesSource(p), "id", findBlob)
		if err != nil {
			if !errors.Is(err, blob.ErrCorrupt) && !errors.Is(err, blob.ErrUnsupported) && !errors.Is(err, blob.ErrDigest) &&
				!errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, fs.ErrNotExist) {
				t.Fatal(err)
			}
			return
		}
		sizes := make([]int64, len(img.Blobs))
		for i, b := range img.Blobs {
			sizes[i] = b.PlainSize
		}
		if err := img.Tree.Validate(sizes); err != nil {
			t.Fatal(err)
		}
		// Not the files: they may share chunks, and so be of any size.
		for _, b := range img.Blobs {
			src, err := b.Open(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for i := range b.Layout.NumSpans() {
				s := b.Layout.Span(i)
				stored, plain := make([]byte, s.Stored.Len), make([]byte, s.Plain.Len)
				if src.ReadRange(t.Context(), stored, s.Stored.Off, blob.Demand) == nil && b.Layout.Decode(plain, stored, s) == nil {
					_ = b.Layout.Verify(plain, s)
				}
			}
		}
	})
}
