package convert_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/catalog"
	"github.com/lazuli-project/lazuli/check"
	"github.com/lazuli-project/lazuli/convert"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/image"
	"github.com/lazuli-project/lazuli/internal/imagetest"
	"github.com/lazuli-project/lazuli/store"
)

// edgeLayers opens the edge image and returns its manifest.
func edgeLayers(t *testing.T) (store.Source, *formats.Manifest) {
	t.Helper()
	src := openSource(t, layout(t, imagetest.Edge(t)))
	desc, err := src.Resolve(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	m, err := store.LoadManifest(t.Context(), src, desc)
	if err != nil {
		t.Fatal(err)
	}
	return src, m
}

// stored reads a layer as it is stored.
func stored(t *testing.T, src store.Source, desc ocispec.Descriptor) []byte {
	t.Helper()
	r, err := src.Fetch(t.Context(), desc)
	if err != nil {
		t.Fatal(err)
	}
	p, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestLayersByStreams converts the edge image layer by layer, from stream to stream, and makes an image of the results.
func TestLayersByStreams(t *testing.T) {
	t.Parallel()
	for _, name := range catalog.Formats() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, err := catalog.NewWriter(name, catalog.Options{})
			if err != nil {
				t.Fatal(err)
			}
			src, m := edgeLayers(t)
			to := "oci:" + t.TempDir() + "/made:v1"
			target := openTarget(t, to)
			var layers []formats.Layer
			for i, desc := range m.Manifest.Layers {
				var out bytes.Buffer
				var told int64
				l, err := convert.Layer(t.Context(), &out, bytes.NewReader(stored(t, src, desc)), w, convert.LayerOptions{
					Source: desc, DiffID: m.Config.RootFS.DiffIDs[i], Below: slices.Clone(layers), OnProgress: func(n int64) { told = n },
				})
				if err != nil {
					t.Fatalf("layer %d: %v", i, err)
				}
				if l.Desc.Digest != digest.FromBytes(out.Bytes()) || l.Desc.Size != int64(out.Len()) {
					t.Errorf("layer %d: %d bytes with digest %s, described as %d with %s", i, out.Len(), digest.FromBytes(out.Bytes()), l.Desc.Size, l.Desc.Digest)
				}
				if told != desc.Size || l.Read != desc.Size || l.DiffID != m.Config.RootFS.DiffIDs[i] {
					t.Errorf("layer %d: progress %d, read %d of %d, diff ID %s", i, told, l.Read, desc.Size, l.DiffID)
				}
				if err := target.Push(t.Context(), l.Desc, &out); err != nil {
					t.Fatal(err)
				}
				if k, ok := w.(formats.KeepsLayers); ok && k.KeepsLayers() {
					if err := target.Push(t.Context(), desc, bytes.NewReader(stored(t, src, desc))); err != nil {
						t.Fatal(err)
					}
				}
				layers = append(layers, l.Layer)
			}
			res, err := w.Finish(t.Context(), layers, m, target)
			if err == nil {
				err = target.Push(t.Context(), res.Desc, bytes.NewReader(res.Manifest))
			}
			if err == nil {
				err = target.Tag(t.Context(), res.Desc, "")
			}
			if err == nil {
				err = target.Commit(t.Context())
			}
			if err != nil {
				t.Fatal(err)
			}
			got, err := image.Open(t.Context(), parse(t, to), image.Options{Readers: catalog.LazyReaders(), Platform: "linux/amd64"})
			if err != nil {
				t.Fatal(err)
			}
			defer got.Close()
			want, err := image.OpenManifest(t.Context(), src, nil, m.Desc, image.Options{Readers: catalog.Readers()[len(catalog.Readers())-1:]})
			if err != nil {
				t.Fatal(err)
			}
			defer want.Close()
			err = check.Compare(t.Context(), want.Image, got.Image, func(d check.Difference) error { t.Error(d); return nil })
			if err != nil {
				t.Error(err)
			}
		})
	}
}

func TestLayerHasATableOfContents(t *testing.T) {
	t.Parallel()
	src, m := edgeLayers(t)
	var out bytes.Buffer
	l, err := convert.Layer(t.Context(), &out, bytes.NewReader(stored(t, src, m.Manifest.Layers[0])), writer(t), convert.LayerOptions{})
	if err != nil {
		t.Fatal(err)
	}
	// Readers take the table with its header from the blob's end.
	found := false
	for n := 512; n <= out.Len() && !found; n += 128 {
		found = digest.FromBytes(out.Bytes()[out.Len()-n:]) == l.TOCDigest
	}
	if !found {
		t.Errorf("nothing at the end of the blob has the digest %q", l.TOCDigest)
	}
}

// failing fails after some bytes.
type failing struct {
	left int
	err  error
}

func (f *failing) Write(p []byte) (int, error) {
	if f.left -= len(p); f.left < 0 {
		return 0, f.err
	}
	return len(p), nil
}

// onlyReader hides that a reader can seek.
type onlyReader struct{ io.Reader }

func TestLayerFails(t *testing.T) {
	t.Parallel()
	src, m := edgeLayers(t)
	desc := m.Manifest.Layers[0]
	p := stored(t, src, desc)
	wrong := digest.FromString("something else")
	full := errors.New("full")
	for _, c := range []struct {
		name string
		in   []byte
		out  io.Writer
		opt  convert.LayerOptions
		want error
	}{
		{"cut", p[:len(p)/2], io.Discard, convert.LayerOptions{}, blob.ErrCorrupt},
		{"source digest", p, io.Discard, convert.LayerOptions{Source: ocispec.Descriptor{Digest: wrong, Size: desc.Size}}, blob.ErrDigest},
		{"source size", p, io.Discard, convert.LayerOptions{Source: ocispec.Descriptor{Digest: desc.Digest, Size: desc.Size + 1}}, blob.ErrDigest},
		{"diff ID", p, io.Discard, convert.LayerOptions{DiffID: wrong}, blob.ErrDigest},
		{"no digest", p, io.Discard, convert.LayerOptions{DiffID: "sha256:1"}, blob.ErrCorrupt},
		{"failing writer", p, &failing{100, full}, convert.LayerOptions{}, full},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			l, err := convert.Layer(t.Context(), c.out, bytes.NewReader(c.in), writer(t), c.opt)
			if !errors.Is(err, c.want) || l != nil {
				t.Errorf("%v, %v; want %v", l, err, c.want)
			}
		})
	}
}

// waiting gives some bytes, and then cancels.
type waiting struct {
	r      io.Reader
	cancel context.CancelCauseFunc
	cause  error
}

func (w *waiting) Read(p []byte) (int, error) {
	n, err := w.r.Read(p[:min(len(p), 512)])
	w.cancel(w.cause)
	return n, err
}

func TestLayerHonoursItsContext(t *testing.T) {
	t.Parallel()
	src, m := edgeLayers(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("enough")
	in := &waiting{bytes.NewReader(stored(t, src, m.Manifest.Layers[0])), cancel, cause}
	if _, err := convert.Layer(ctx, io.Discard, in, writer(t), convert.LayerOptions{}); !errors.Is(err, cause) {
		t.Errorf("%v", err)
	}
}

// TestLayerBeginsAnew: nydus-ref cannot refer to the content of sparse files.
func TestLayerBeginsAnew(t *testing.T) {
	t.Parallel()
	l := imagetest.Gzip(t, imagetest.Tar(t, imagetest.Sparse(t, "hole", imagetest.Sparse10, 1<<20, imagetest.Piece{Off: 4096, Data: "data"})))
	w, err := catalog.NewWriter("nydus-ref", catalog.Options{})
	if err != nil {
		t.Fatal(err)
	}
	opt := convert.LayerOptions{Source: formats.DigestOf(l.MediaType, l.Stored)}
	made, err := convert.Layer(t.Context(), io.Discard, bytes.NewReader(l.Stored), w, opt)
	if err != nil || made.Stats.Referred {
		t.Errorf("%+v, %v", made, err)
	}
	if _, err := convert.Layer(t.Context(), io.Discard, onlyReader{bytes.NewReader(l.Stored)}, w, opt); !errors.Is(err, blob.ErrUnsupported) {
		t.Errorf("without a way back: %v", err)
	}
}
