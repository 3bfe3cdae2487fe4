package nydus

import (
	"bytes"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/internal/imagetest"
)

func manifestOf(t testing.TB, img *imagetest.Image) *formats.Manifest {
	t.Helper()
	raw := img.Objects[img.Desc.Digest]
	m, err := formats.ParseManifest(img.Desc, raw, nil)
	if err == nil {
		t.Fatal("a manifest without config is accepted")
	}
	m, err = formats.ParseManifest(img.Desc, raw, []byte("{}"))
	if err != nil {
		t.Fatal(err)
	}
	m, err = formats.ParseManifest(img.Desc, raw, img.Objects[m.Manifest.Config.Digest])
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func newWriter(t testing.TB, o Options) *Writer {
	t.Helper()
	w, err := NewWriter(o)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func TestConvertEdge(t *testing.T) {
	t.Parallel()
	img := imagetest.Edge(t)
	src := manifestOf(t, img)
	for _, o := range []Options{
		{}, {Compression: "lz4", Digest: "sha256"}, {Compression: "none"}, {ChunkSize: 4096}, {ChunkSize: 16 << 20, Level: 19},
	} {
		t.Run(newWriter(t, o).Version(), func(t *testing.T) {
			t.Parallel()
			m := newMemory()
			w := newWriter(t, o)
			out, layers := convert(t, w, m, src, img)
			opened, err := Reader{}.Open(t.Context(), out, m)
			if err != nil {
				t.Fatal(err)
			}
			got, err := list(t.Context(), opened)
			if err != nil {
				t.Fatal(err)
			}
			compare(t, got, imagetest.EdgeTree(t))
			verifyAll(t, opened)

			// Once more, with one core: the same bytes.
			o.CPU = formats.NewCPU(1)
			again, _ := convert(t, newWriter(t, o), newMemory(), src, img)
			if !bytes.Equal(again.Raw, out.Raw) {
				t.Errorf("one core makes another image:\n%s\n%s", again.Raw, out.Raw)
			}
			// And from the stored layers.
			for i := range layers {
				p, err := m.get(layers[i].Desc.Digest)
				if err != nil {
					t.Fatal(err)
				}
				desc := ocispec.Descriptor{Digest: layers[i].Desc.Digest, Size: layers[i].Desc.Size}
				if layers[i], err = w.Reopen(t.Context(), desc, blob.ReaderAtSource{R: bytes.NewReader(p), N: int64(len(p))}); err != nil {
					t.Fatal(err)
				}
			}
			if again := finish(t, w, newMemory(), src, layers); !bytes.Equal(again.Raw, out.Raw) {
				t.Errorf("reopened layers make another image:\n%s\n%s", again.Raw, out.Raw)
			}
		})
	}
}
