package convert_test

import (
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lazuli-project/lazuli/convert"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/formats/nydus"
	"github.com/lazuli-project/lazuli/formats/overlaybd"
	"github.com/lazuli-project/lazuli/formats/turbooci"
	"github.com/lazuli-project/lazuli/internal/imagetest"
	"github.com/lazuli-project/lazuli/store"
)

// BenchmarkLayerTar takes all layers of images apart, as one who pulls does, each of 300 files of 2 KB in 10 directories.
func BenchmarkLayerTar(b *testing.B) {
	ref, err := nydus.NewRefWriter(nydus.RefOptions{})
	if err != nil {
		b.Fatal(err)
	}
	plain, err := nydus.NewWriter(nydus.Options{})
	if err != nil {
		b.Fatal(err)
	}
	disk, err := overlaybd.NewWriter(overlaybd.Options{})
	if err != nil {
		b.Fatal(err)
	}
	turbo, err := turbooci.NewWriter(turbooci.Options{})
	if err != nil {
		b.Fatal(err)
	}
	for _, n := range []int{2, 10, 40} {
		from := openSource(b, layout(b, manyLayers(b, n)))
		for _, w := range []formats.Writer{plain, ref, disk, turbo} {
			b.Run(fmt.Sprintf("%s/%d", w.Name(), n), func(b *testing.B) {
				to := "oci:" + filepath.Join(b.TempDir(), "made") + ":v1"
				res, err := convert.Convert(b.Context(), from, []convert.Output{{Writer: w, Target: openTarget(b, to)}}, convert.Options{TempDir: b.TempDir()})
				if err != nil {
					b.Fatal(err)
				}
				made := openSource(b, to)
				m, err := store.LoadManifest(b.Context(), made, res.Images[0].Desc)
				if err != nil {
					b.Fatal(err)
				}
				for b.Loop() {
					tars, err := convert.OpenLayers(b.Context(), made, m, lazy)
					if err != nil {
						b.Fatal(err)
					}
					for _, l := range m.Manifest.Layers {
						if err := tars.WriteTar(b.Context(), io.Discard, made, l.Digest); err != nil {
							b.Fatal(err)
						}
					}
				}
				b.ReportMetric(b.Elapsed().Seconds()*1000/float64(b.N*n), "ms/layer")
			})
		}
	}
}

// manyLayers is an image of n layers that change nothing of each other.
func manyLayers(b *testing.B, n int) *imagetest.Image {
	b.Helper()
	layers := make([]imagetest.Layer, n)
	for i := range layers {
		var items []imagetest.Item
		for d := range 10 {
			dir := fmt.Sprintf("d%02d", d)
			items = append(items, imagetest.Dir(dir))
			for f := range 30 {
				name := fmt.Sprintf("%s/layer-%02d-file-%02d", dir, i, f)
				items = append(items, imagetest.File(name, strings.Repeat(name+"\n", 80)))
			}
		}
		layers[i] = imagetest.Gzip(b, imagetest.Tar(b, items...))
	}
	return imagetest.NewImage(b, layers...)
}
