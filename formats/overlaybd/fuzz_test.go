package overlaybd_test

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/fetch"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/formats/overlaybd"
	"github.com/lazuli-project/lazuli/internal/imagetest"
	"github.com/lazuli-project/lazuli/tree"
)

// maxFuzzed bounds what is read of one file of a fuzzed image.
const maxFuzzed = 1 << 20

// packed returns the tar of a layer of turboOCI with these files.
func packed(tb testing.TB, files map[string][]byte) []byte {
	tb.Helper()
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	w := tar.NewWriter(z)
	for name, p := range files {
		if err := w.WriteHeader(&tar.Header{Name: name, Size: int64(len(p)), Mode: 0o644}); err != nil {
			tb.Fatal(err)
		}
		if _, err := w.Write(p); err != nil {
			tb.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	if err := z.Close(); err != nil {
		tb.Fatal(err)
	}
	return out.Bytes()
}

// FuzzOpen opens images of which everything may be wrong: annotations, a native layer, and the files of one of turboOCI. What opens holds
// together, and reading gives an error or bytes.
func FuzzOpen(f *testing.F) {
	edge := imagetest.Edge(f)
	target := edge.Layers[0]
	for _, name := range []string{"turbo-erofs", "turbo-ext4"} {
		img := fixture(f, name)
		var m ocispec.Manifest
		decode(f, img, img.Desc.Digest, &m)
		files, _, err := overlaybd.ReadTurbo(bytes.NewReader(img.Objects[m.Layers[0].Digest]))
		if err != nil {
			f.Fatal(err)
		}
		annotations, err := json.Marshal(m.Layers[0].Annotations)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(annotations, []byte(nil), files[overlaybd.TurboMeta(overlaybd.EROFS)], files[overlaybd.TurboMeta(overlaybd.Ext4)], files[overlaybd.TurboIndex], []byte(nil))
	}
	_, empty, err := overlaybd.EmptyLayer(f.Context(), 1<<30, formats.NewCPU(1))
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(`{"containerd.io/snapshot/overlaybd/version": "0.1.0"}`), empty, []byte(nil), []byte(nil), []byte(nil), []byte(nil))
	f.Fuzz(func(t *testing.T, annotations, native, erofs, ext4, index, pieces []byte) {
		img := &imagetest.Image{Objects: map[digest.Digest][]byte{digest.FromBytes(target.Stored): target.Stored}}
		var m ocispec.Manifest
		if len(native) > 0 {
			d := img.Add("", native)
			d.Annotations = map[string]string{overlaybd.AnnotationVersion: overlaybd.VersionNative}
			m.Layers = append(m.Layers, d)
		}
		files := make(map[string][]byte)
		for name, p := range map[string][]byte{"erofs.fs.meta": erofs, "ext4.fs.meta": ext4, overlaybd.TurboIndex: index, overlaybd.TurboPieces: pieces} {
			if len(p) > 0 {
				files[name] = p
			}
		}
		d := img.Add("", packed(t, files))
		if json.Unmarshal(annotations, &d.Annotations) != nil {
			return
		}
		if d.Annotations[overlaybd.AnnotationTarget] != "" || len(native) == 0 {
			m.Layers = append(m.Layers, d)
		}
		opened, err := overlaybd.Open(t.Context(), "test", &formats.Manifest{Manifest: m}, img)
		if err != nil {
			return
		}
		sizes := make([]int64, len(opened.Blobs))
		for i, b := range opened.Blobs {
			sizes[i] = b.PlainSize
		}
		if err := opened.Tree.Validate(sizes); err != nil {
			t.Fatal(err)
		}
		im, err := fetch.NewImage(opened, fetch.Options{})
		if err != nil {
			return
		}
		defer im.Close()
		buf := make([]byte, maxFuzzed)
		left := 20
		_ = im.Tree.Nodes(func(n *tree.Node) error {
			if left--; left < 0 {
				return blob.ErrUnsupported
			}
			if n.IsRegular() {
				_, _ = im.ReadAt(t.Context(), n, buf[:min(n.Size, maxFuzzed)], 0, blob.Demand)
			}
			return nil
		})
		left = 1000
		opened.Disk.Extents(0, opened.Disk.Size(), func(x tree.Extent) bool {
			if x.Length <= 0 || x.Blob != tree.Hole && (int(x.Blob) >= len(sizes) || x.Offset < 0) {
				t.Fatalf("extent %+v", x)
			}
			left--
			return left > 0
		})
	})
}

// FuzzReadTurbo reads tars that may be anything.
func FuzzReadTurbo(f *testing.F) {
	img := fixture(f, "turbo-erofs")
	var m ocispec.Manifest
	decode(f, img, img.Desc.Digest, &m)
	f.Add(img.Objects[m.Layers[2].Digest])
	f.Add(packed(f, map[string][]byte{overlaybd.TurboIndex: []byte("x"), "a.fs.meta": nil, "other": []byte("y")}))
	f.Fuzz(func(t *testing.T, stored []byte) {
		files, diffID, err := overlaybd.ReadTurbo(bytes.NewReader(stored))
		if (err == nil) != (diffID != "") || err != nil && files != nil {
			t.Fatalf("%d files, digest %q, %v", len(files), diffID, err)
		}
	})
}
