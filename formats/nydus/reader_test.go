package nydus

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/internal/imagetest"
)

func bytesSource(p []byte) blob.Source {
	return blob.ReaderAtSource{R: bytes.NewReader(p), N: int64(len(p))}
}

func readTestdata(t testing.TB, path string) []byte {
	t.Helper()
	p, err := os.ReadFile(filepath.Join("testdata", filepath.FromSlash(path)))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func findBlob(id string) (blob.Source, error) {
	p, err := os.ReadFile(filepath.Join("testdata", "blobs", filepath.Base(id)))
	if errors.Is(err, os.ErrNotExist) {
		p, err = os.ReadFile(filepath.Join("testdata", "source", filepath.Base(id)))
	}
	if layer := tars[id]; layer != "" {
		p, err = gunzip(filepath.Join("testdata", "source", layer))
	}
	if err != nil {
		return nil, err
	}
	return bytesSource(p), nil
}

// tars are the layers in source by the SHA-256 of their uncompressed form.
var tars = map[string]string{
	"b98ec66f2d5e0e1b8ee926f4ba2d2161011a2c1f99b6649658d44eec037eee53": "44313ef182486ee5b614996b651102b5c103857cde29e7079825d285b78109ad",
	"634b1528e45a1120f8894fc7a82db0744274a0fdc39dc71343fbdd167fcda732": "311bfa0b61f6e6f7cb83b291f3f2e83932fb19e8a49da7f1db0aed922e688953",
	"3fd4a1e3b44ef84d744e5daf10e7ff689b9e2922bb105730a4e3368ae6b51c77": "8cda5ec2c2dd053021d5f72812b8d1a6ba8fa94fd8745b111a8daaa4fdb5c628",
}

func gunzip(path string) ([]byte, error) {
	p, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	r, err := gzip.NewReader(bytes.NewReader(p))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

// Every chunk of every blob must be the same as its digest says, used or not.
func verifyAll(t *testing.T, img *formats.Image) {
	t.Helper()
	for i, b := range img.Blobs {
		src, err := b.Open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var next int64
		for k := range b.Layout.NumSpans() {
			s := b.Layout.Span(k)
			if s.Index != k || s.Plain.Off != next || b.Layout.SpanAt(s.Plain.Off) != k || b.Layout.SpanAt(s.Plain.End()-1) != k {
				t.Fatalf("blob %d: span %d: %+v, expected at %d", i, k, s, next)
			}
			next = s.Plain.End()
			stored, plain := make([]byte, s.Stored.Len), make([]byte, s.Plain.Len)
			if err := src.ReadRange(t.Context(), stored, s.Stored.Off, blob.Demand); err != nil {
				t.Fatal(err)
			}
			if err := b.Layout.Decode(plain, stored, s); err != nil {
				t.Fatalf("blob %d: span %d: %v", i, k, err)
			}
			if err := b.Layout.Verify(plain, s); err != nil && !errors.Is(err, blob.ErrUnverified) {
				t.Fatalf("blob %d: span %d: %v", i, k, err)
			}
			plain[0]++
			if err := b.Layout.Verify(plain, s); !errors.Is(err, blob.ErrDigest) && !errors.Is(err, blob.ErrUnverified) {
				t.Fatalf("blob %d: span %d with a changed byte: %v", i, k, err)
			}
		}
		if next != b.Layout.Size() || next != b.PlainSize {
			t.Errorf("blob %d: spans end at %d of %d", i, next, b.Layout.Size())
		}
		chunks := 0
		b.Layout.(blob.Chunker).Chunks(func(c blob.Chunk) bool {
			if c.Index != chunks {
				t.Fatalf("chunk %d comes as number %d", c.Index, chunks)
			}
			chunks++
			return true
		})
	}
}

func TestFixtures(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, expected string }{
		{"v6-zstd", ""}, {"v6-lz4-sha256", ""}, {"v6-zstd-c4k", ""}, {"v6-batch", ""}, {"v6-inline-no-toc", ""}, {"v6-plain", ""},
		{"v6-plain-toc", ""}, {"v6-prefetch-list", ""}, {"v6-chunk-dict", ""}, {"v6-zran", ""}, {"v6-encrypt", ""}, {"v6-tarfs", ""}, {"v5-lz4", ""}, {"v5-zstd", ""}, {"v5-none-aligned-c4k", ""}, {"v5-dir", "v5-dir/expected.tsv"}, {"v6-dir", "v6-dir/expected.tsv"}, {"v6-parent-dir", "v6-parent-dir/expected.tsv"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			img, err := OpenBare(t.Context(), bytesSource(readTestdata(t, c.name+"/image.boot")), "image.boot", findBlob)
			if err != nil {
				t.Fatal(err)
			}
			if img.EROFS == nil {
				t.Error("no EROFS image")
			}
			sizes := make([]int64, len(img.Blobs))
			for i, b := range img.Blobs {
				sizes[i] = b.PlainSize
			}
			if err := img.Tree.Validate(sizes); err != nil {
				t.Error(err)
			}
			read := list
			if c.name == "v6-tarfs" {
				read = listUnverified
			}
			got, err := read(t.Context(), img)
			if err != nil {
				t.Fatal(err)
			}
			want := imagetest.EdgeTree(t)
			if c.expected != "" {
				want = expected(t, c.expected)
			}
			compare(t, got, want)
			if c.name != "v6-tarfs" {
				verifyAll(t, img)
			}
		})
	}
}

func TestPrefetchList(t *testing.T) {
	t.Parallel()
	img, err := OpenBare(t.Context(), bytesSource(readTestdata(t, "v6-prefetch-list/image.boot")), "image.boot", findBlob)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"/sizes/same-a", "/etc", "/bin/tool2", "/big/entry-00010"}
	if got := img.Details.(*Details).Prefetch; !slices.Equal(got, want) {
		t.Errorf("%q instead of %q", got, want)
	}
}

// Blobs with their bootstrap inside, of all codecs and both forms: the same layer has the same listing.
func TestInlinedBootstrap(t *testing.T) {
	t.Parallel()
	var want []string
	for _, id := range []string{
		"aca00e684df2859c69dc8ee4d30224837b12f64093438f9a64d60790bdc34e2f", // zstd
		"80e92eeb36b03754ed1b720d52db4bc14d4b0eb1ed77d7498470dfd0396bd3e5", // none
		"db7b2a39d5b41204d33c96852d69c7409e7ed9a4b80c3bcf1eaea1975dc23294", // lz4
		"2533e97a8d9cd73879b5d71e23642738d0f868236e2cc091c29249c33c47e44e", // no table of contents
		"7dc6bc704db50342bdf731e50cb99e72c47bccc766c224640913a867375f099a", // batches
		"dc63cccb0a225db8add03dd48068b4e2636f9e2d74358d4c0fc5dbd8db115370", // RAFS v5
	} {
		src, err := findBlob(id)
		if err != nil {
			t.Fatal(err)
		}
		img, err := OpenBare(t.Context(), src, id, findBlob)
		if err != nil {
			t.Fatal(err)
		}
		if got := img.Blobs[0].Desc; got.Digest.Encoded() != id || got.Size != src.Size() {
			t.Errorf("descriptor %+v", got)
		}
		verifyAll(t, img)
		got, err := list(t.Context(), img)
		if err != nil {
			t.Fatal(err)
		}
		if want == nil {
			want = got
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s lists as\n%s\ninstead of\n%s", id, got, want)
		}
	}
}

// A ready-made cache stands for a blob: here of layer 1, of which all forms have the same listing.
func TestCacheFiles(t *testing.T) {
	t.Parallel()
	const whole = "80e92eeb36b03754ed1b720d52db4bc14d4b0eb1ed77d7498470dfd0396bd3e5"
	src, err := findBlob(whole)
	if err != nil {
		t.Fatal(err)
	}
	img, err := OpenBare(t.Context(), src, whole, findBlob)
	if err != nil {
		t.Fatal(err)
	}
	want, err := list(t.Context(), img)
	if err != nil {
		t.Fatal(err)
	}
	boot := readTestdata(t, "v6-cache-dir/layer1.boot")
	img, err = OpenBare(t.Context(), bytesSource(boot), "layer1.boot", func(id string) (blob.Source, error) {
		p, err := os.ReadFile(filepath.Join("testdata", "v6-cache-dir", id))
		return bytesSource(p), err
	})
	if err != nil {
		t.Fatal(err)
	}
	got, err := list(t.Context(), img)
	if err != nil {
		t.Fatal(err)
	}
	compare(t, got, want)
	verifyAll(t, img)
	_, err = OpenBare(t.Context(), bytesSource(boot), "layer1.boot", func(id string) (blob.Source, error) {
		if strings.HasSuffix(id, ".blob.meta") {
			return bytesSource(make([]byte, 8192)), nil
		}
		p, err := os.ReadFile(filepath.Join("testdata", "v6-cache-dir", id))
		return bytesSource(p), err
	})
	if !errors.Is(err, blob.ErrCorrupt) {
		t.Errorf("with a damaged chunk table: %v", err)
	}
}

// dirSources finds objects by their digest in directories of testdata.
type dirSources struct{ dirs []string }

func (s dirSources) read(d digest.Digest) ([]byte, error) {
	for _, dir := range s.dirs {
		if p, err := os.ReadFile(filepath.Join("testdata", dir, d.Encoded())); err == nil {
			return p, nil
		}
	}
	return nil, fmt.Errorf("%s: %w", d, os.ErrNotExist)
}

func (s dirSources) Open(_ context.Context, d ocispec.Descriptor) (blob.Source, error) {
	p, err := s.read(d.Digest)
	return bytesSource(p), err
}

func (s dirSources) Fetch(_ context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	p, err := s.read(d.Digest)
	return io.NopCloser(bytes.NewReader(p)), err
}

// nydusify opens an image that nydusify made.
func nydusify(t *testing.T, manifest, config string) (*formats.Manifest, *formats.Image) {
	t.Helper()
	raw := readTestdata(t, "nydusify/"+manifest)
	m, err := formats.ParseManifest(formats.DigestOf(ocispec.MediaTypeImageManifest, raw), raw, readTestdata(t, "nydusify/"+config))
	if err != nil {
		t.Fatal(err)
	}
	if !(Reader{}).Recognize(m) {
		t.Error("not recognized")
	}
	img, err := Reader{}.Open(t.Context(), m, dirSources{dirs: []string{"nydusify", "blobs"}})
	if err != nil {
		t.Fatal(err)
	}
	got, err := list(t.Context(), img)
	if err != nil {
		t.Fatal(err)
	}
	compare(t, got, imagetest.EdgeTree(t))
	for i, b := range img.Blobs {
		if b.Desc.Digest != m.Manifest.Layers[i].Digest || b.Desc.Size != m.Manifest.Layers[i].Size {
			t.Errorf("blob %d: %+v", i, b.Desc)
		}
	}
	return m, img
}

func TestImage(t *testing.T) {
	t.Parallel()
	m, img := nydusify(t, "e1f30dd16c62419aec289199bcfd1b0fc8a53e77f143393c6ff6291509325525", "1b94a5e9a4dc65608ec2f451e416c036db2a6496e2996e835ff93418b2b069ba")
	want := BlobDetails{ID: m.Manifest.Layers[1].Digest.Encoded(), Stored: 146364, Plain: 307200, Chunks: 10, Compressor: "zstd", Digester: "blake3",
		Features: []string{"aligned", "inlined-digest", "tar-header", "toc", "cap-tar-toc"}}
	if got := img.Details.(*Details).Blobs[1]; !reflect.DeepEqual(got, want) {
		t.Errorf("%+v instead of %+v", got, want)
	}
}

func TestImage5(t *testing.T) {
	t.Parallel()
	m, img := nydusify(t, "edd35abb0a1ad279d6595619a300cfc66f0bd74fb4fd54e5c3a7031e69c3bbe9", "f5c60f5922aac9f4afae2d4c1496079f13988b9445d978508ee5437a6c586fed")
	want := BlobDetails{ID: m.Manifest.Layers[1].Digest.Encoded(), Stored: 140809, Plain: 273622, Chunks: 10, Compressor: "zstd", Digester: "blake3",
		Features: []string{"tar-header", "cap-tar-toc"}}
	d := img.Details.(*Details)
	if got := d.Blobs[1]; !reflect.DeepEqual(got, want) {
		t.Errorf("%+v instead of %+v", got, want)
	}
	if d.FSVersion != "5" || !slices.Equal(d.Prefetch, []string{"/"}) {
		t.Errorf("%+v", d)
	}
	// The same blobs in an image that has only some of their chunks must not share a folder of a cache with these.
	for _, b := range img.Blobs {
		if b.Key == "" || b.Key == b.Desc.Digest {
			t.Errorf("key %q", b.Key)
		}
	}
}
