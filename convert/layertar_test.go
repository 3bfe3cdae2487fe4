package convert_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/check"
	"github.com/lazuli-project/lazuli/convert"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/formats/nydus"
	"github.com/lazuli-project/lazuli/formats/oci"
	"github.com/lazuli-project/lazuli/formats/overlaybd"
	"github.com/lazuli-project/lazuli/formats/turbooci"
	"github.com/lazuli-project/lazuli/internal/imagetest"
	"github.com/lazuli-project/lazuli/store"
)

// lazy are the readers of all formats but that of plain images.
var lazy = []formats.Reader{nydus.Reader{}, overlaybd.Reader{}, turbooci.Reader{}}

// The layers of an image of any format, one by one as tars, are an image with the same files, and so are the first of them.
func TestLayerTar(t *testing.T) {
	t.Parallel()
	ref, err := nydus.NewRefWriter(nydus.RefOptions{})
	if err != nil {
		t.Fatal(err)
	}
	disk, err := overlaybd.NewWriter(overlaybd.Options{})
	if err != nil {
		t.Fatal(err)
	}
	turbo, err := turbooci.NewWriter(turbooci.Options{})
	if err != nil {
		t.Fatal(err)
	}
	edge := imagetest.Edge(t)
	for _, w := range []formats.Writer{writer(t), ref, disk, turbo} {
		t.Run(w.Name(), func(t *testing.T) {
			t.Parallel()
			for part := 1; part <= len(edge.Layers); part++ {
				from := layout(t, imagetest.NewImage(t, edge.Layers[:part]...))
				to := "oci:" + filepath.Join(t.TempDir(), "made") + ":v1"
				res, err := convert.Convert(t.Context(), openSource(t, from), []convert.Output{{Writer: w, Target: openTarget(t, to)}}, convert.Options{TempDir: t.TempDir()})
				if err != nil {
					t.Fatal(err)
				}
				made := openSource(t, to)
				m, err := store.LoadManifest(t.Context(), made, res.Images[0].Desc)
				if err != nil {
					t.Fatal(err)
				}
				tars, err := convert.OpenLayers(t.Context(), made, m, lazy)
				if err != nil {
					t.Fatal(err)
				}
				if tars.Whole() {
					t.Error("the layers are not apart")
				}
				var layers []imagetest.Layer
				for i, l := range m.Manifest.Layers {
					var tar bytes.Buffer
					if err := tars.WriteTar(t.Context(), &tar, made, l.Digest); err != nil {
						t.Fatalf("layer %d of %d: %v", i, part, err)
					}
					layers = append(layers, imagetest.Plain(tar.Bytes()))
					if i == 0 && part > 1 && tar.Len() < 2000 {
						t.Errorf("layer 0 of %d is %d bytes", part, tar.Len())
					}
				}
				back := layout(t, imagetest.NewImage(t, layers...))
				want, got := open(t, from, "linux/amd64", oci.Reader{}), open(t, back, "linux/amd64", oci.Reader{})
				err = check.Compare(t.Context(), want.Image, got.Image, func(d check.Difference) error {
					t.Errorf("%d layers: %v", part, d)
					return nil
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// Layers in another order, at the same time, and once more are the same bytes as layers in order, which are not opened twice.
func TestLayerTarOrder(t *testing.T) {
	t.Parallel()
	disk, err := overlaybd.NewWriter(overlaybd.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var layers []imagetest.Layer
	for i := range 5 {
		name := fmt.Sprint("d", i)
		items := []imagetest.Item{imagetest.Dir(name), imagetest.File(name+"/a", "content"), imagetest.Link(name+"/b", name+"/a"), imagetest.File("f", name)}
		if i > 0 {
			items = append(items, imagetest.Whiteout(fmt.Sprint("d", i-1)))
		}
		layers = append(layers, imagetest.Gzip(t, imagetest.Tar(t, items...)))
	}
	from, to := layout(t, imagetest.NewImage(t, layers...)), "oci:"+filepath.Join(t.TempDir(), "made")+":v1"
	res, err := convert.Convert(t.Context(), openSource(t, from), []convert.Output{{Writer: disk, Target: openTarget(t, to)}}, convert.Options{TempDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	made := openSource(t, to)
	m, err := store.LoadManifest(t.Context(), made, res.Images[0].Desc)
	if err != nil {
		t.Fatal(err)
	}
	reader := &countingReader{}
	tars, err := convert.OpenLayers(t.Context(), made, m, []formats.Reader{reader})
	if err != nil {
		t.Fatal(err)
	}
	write := func(i int) string {
		var tar bytes.Buffer
		if err := tars.WriteTar(t.Context(), &tar, made, m.Manifest.Layers[i].Digest); err != nil {
			t.Error(err)
		}
		return tar.String()
	}
	var want []string
	for i := range layers {
		want = append(want, write(i))
	}
	if n := reader.opened.Load(); n != int64(len(layers)) {
		t.Errorf("%d layers in order: %d images opened", len(layers), n)
	}
	for _, order := range [][]int{{4, 3, 2, 1, 0}, {0, 2, 3, 3, 4, 1}} {
		for _, i := range order {
			if write(i) != want[i] {
				t.Errorf("layer %d differs in the order %v", i, order)
			}
		}
	}
	var all sync.WaitGroup
	for turn := range 20 {
		all.Go(func() {
			if i := turn % len(layers); write(i) != want[i] {
				t.Errorf("layer %d differs beside others", i)
			}
		})
	}
	all.Wait()
}

// countingReader counts the images that are opened.
type countingReader struct {
	overlaybd.Reader
	opened atomic.Int64
}

func (r *countingReader) Open(ctx context.Context, m *formats.Manifest, s formats.Sources) (*formats.Image, error) {
	r.opened.Add(1)
	return r.Reader.Open(ctx, m, s)
}

// A plain image has nothing to be taken apart; a layer that has no files is empty.
func TestLayerTarOfOthers(t *testing.T) {
	t.Parallel()
	from := layout(t, imagetest.Edge(t))
	src := openSource(t, from)
	desc, err := src.Resolve(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	m, err := store.LoadManifest(t.Context(), src, desc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := convert.OpenLayers(t.Context(), src, m, lazy); !errors.Is(err, blob.ErrUnsupported) {
		t.Errorf("plain: %v", err)
	}
	to := "oci:" + filepath.Join(t.TempDir(), "made") + ":v1"
	mustRun(t, from, to, convert.Options{})
	made := openSource(t, to)
	if desc, err = made.Resolve(t.Context()); err == nil {
		m, err = store.LoadManifest(t.Context(), made, desc)
	}
	if err != nil {
		t.Fatal(err)
	}
	tars, err := convert.OpenLayers(t.Context(), made, m, lazy)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []digest.Digest{m.Manifest.Layers[len(m.Manifest.Layers)-1].Digest, digest.FromString("none")} {
		var tar bytes.Buffer
		if err := tars.WriteTar(t.Context(), &tar, made, d); err != nil || tar.Len() != 1024 {
			t.Errorf("%s: %d bytes, %v", d, tar.Len(), err)
		}
	}
}
