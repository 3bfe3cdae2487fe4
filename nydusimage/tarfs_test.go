package nydusimage_test

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/formats/nydus/rafs6"
	"github.com/lazuli-project/lazuli/internal/imagetest"
	"github.com/lazuli-project/lazuli/nydusimage"
)

// tarsOf writes the layers of the source image uncompressed.
func tarsOf(t *testing.T, dir string) []string {
	t.Helper()
	var paths []string
	for i, path := range sourceLayers() {
		r, err := gzip.NewReader(bytes.NewReader(readFile(t, path)))
		if err != nil {
			t.Fatal(err)
		}
		p, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		paths = append(paths, writeFile(t, dir, "layer"+string(rune('0'+i))+".tar", p))
	}
	return paths
}

// Bootstraps of tars name the same blobs as the reference tool's, and merge into the image's tree, read out of the tars.
func TestTarfs(t *testing.T) {
	t.Parallel()
	dir, blobs := t.TempDir(), t.TempDir()
	ids := strings.Fields(string(readFile(t, filepath.Join(reference, "v6-tarfs", "layers.txt"))))
	var boots []string
	for i, path := range tarsOf(t, dir) {
		writeFile(t, blobs, ids[i], readFile(t, path))
		boot := path + ".boot"
		res := create(t, nydusimage.CreateOptions{Type: "tar-tarfs", Source: path, Bootstrap: boot, BlobDir: dir})
		if len(res.Blobs) != 1 || res.Blobs[0] != ids[i] || res.Bootstrap != boot {
			t.Errorf("layer %d: %+v", i, res)
		}
		boots = append(boots, boot)
	}
	boot := filepath.Join(dir, "image.boot")
	if res := merge(t, nydusimage.MergeOptions{Sources: boots, Bootstrap: boot, PrefetchPolicy: "fs", Prefetch: []string{"/"}}); len(res.Blobs) != 3 {
		t.Errorf("%+v", res)
	}
	if diff := imagetest.Diff(imagetest.EdgeTree(t), list(t, boot, blobs)); diff != "" {
		t.Errorf("differs from the source:\n%s", diff)
	}
	if !rafs6.IsTarfs(readFile(t, boot)) {
		t.Error("not marked as tarfs")
	}
	// What does not go together.
	if _, err := nydusimage.Merge(t.Context(), nydusimage.MergeOptions{Sources: []string{boots[0], layersOf(t, "v6-zstd")[1]}, Bootstrap: boot}); !errors.Is(err, nydusimage.ErrInconsistent) {
		t.Errorf("with a layer that is no tar: %v", err)
	}
	if _, err := nydusimage.Merge(t.Context(), nydusimage.MergeOptions{Sources: boots, Bootstrap: boot, Parent: boots[0]}); !errors.Is(err, blob.ErrUnsupported) {
		t.Errorf("with a parent: %v", err)
	}
}

func TestTarfsRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	tar := tarsOf(t, dir)[1]
	for name, c := range map[string]struct {
		change func(*nydusimage.CreateOptions)
		want   string
	}{
		"gzip":    {func(o *nydusimage.CreateOptions) { o.Source = sourceLayers()[1] }, "not compressed"},
		"inline":  {func(o *nydusimage.CreateOptions) { o.InlineMeta = true }, "conflicts"},
		"v5":      {func(o *nydusimage.CreateOptions) { o.FSVersion, o.InlineMeta = "5", true }, "conflicts"},
		"batches": {func(o *nydusimage.CreateOptions) { o.BatchSize = 4096 }, "conflicts"},
		"nothing": {func(o *nydusimage.CreateOptions) { o.Source = filepath.Join(dir, "none") }, "source"},
		"cut":     {func(o *nydusimage.CreateOptions) { o.Source = writeFile(t, dir, "cut", readFile(t, tar)[:5000]) }, "damaged data"},
	} {
		o := nydusimage.CreateOptions{Type: "tar-tarfs", Source: tar, Bootstrap: filepath.Join(dir, "boot"), BlobDir: dir}
		c.change(&o)
		if _, err := nydusimage.Create(t.Context(), o); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
