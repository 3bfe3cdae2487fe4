package overlaybd_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/convert"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/formats/overlaybd"
	"github.com/lazuli-project/lazuli/formats/turbooci"
	"github.com/lazuli-project/lazuli/internal/imagetest"
	"github.com/lazuli-project/lazuli/store"
)

// converted converts the image edge.
func converted(t *testing.T, w formats.Writer) *imagetest.Image {
	t.Helper()
	img, from, to := imagetest.Edge(t), t.TempDir(), t.TempDir()
	img.WriteLayout(t, from, "")
	parse := func(dir string) store.Ref {
		ref, err := store.Parse("oci:" + dir + ":x")
		if err != nil {
			t.Fatal(err)
		}
		return ref
	}
	source, err := store.Parse("oci:" + from)
	if err != nil {
		t.Fatal(err)
	}
	src, err := store.OpenSource(t.Context(), source, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	dest, err := store.OpenTarget(t.Context(), parse(to), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	res, err := convert.Convert(t.Context(), src, []convert.Output{{Writer: w, Target: dest}}, convert.Options{})
	if err := errors.Join(err, dest.Close()); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(to, "blobs", "sha256", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		p, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		img.Add("", p)
	}
	img.Desc = res.Images[0].Desc
	return img
}

// Our own layers of turboOCI over a native one with an empty file system, as convertor's --mkfs=false makes images; and what is refused.
func TestMixed(t *testing.T) {
	t.Parallel()
	w, err := turbooci.NewWriter(turbooci.Options{FileSystems: []overlaybd.FS{overlaybd.Ext4}})
	if err != nil {
		t.Fatal(err)
	}
	img := converted(t, w)
	empty, stored, err := overlaybd.EmptyLayer(t.Context(), 64<<30, formats.NewCPU(0))
	if err != nil {
		t.Fatal(err)
	}
	img.Add("", stored)
	for n := 1; n <= len(img.Layers); n++ {
		m := manifest(t, img, func(m *ocispec.Manifest) { m.Layers = slices.Insert(m.Layers[:n], 0, empty) })
		if !overlaybd.IsDisk(m) || !overlaybd.HasTurbo(m) || (overlaybd.Reader{}).Recognize(m) || !(turbooci.Reader{}).Recognize(m) {
			t.Error("not recognized")
		}
		if d := imagetest.Diff(edgePrefix(t, n), list(t, disks, m, img)); d != "" {
			t.Errorf("%d layers:\n%s", n, d)
		}
	}
	for name, c := range map[string]struct {
		change func(*ocispec.Manifest)
		want   error
	}{
		"native as turbo": {func(m *ocispec.Manifest) { m.Layers[0].Digest, m.Layers[0].Size = empty.Digest, empty.Size }, blob.ErrCorrupt},
		"turbo as native": {func(m *ocispec.Manifest) { delete(m.Layers[0].Annotations, overlaybd.AnnotationTarget) }, blob.ErrCorrupt},
		"no digest":       {func(m *ocispec.Manifest) { m.Layers[0].Annotations[overlaybd.AnnotationTarget] = "sha256:../x" }, blob.ErrCorrupt},
		"other target": {func(m *ocispec.Manifest) {
			m.Layers[0].Annotations[overlaybd.AnnotationTarget] = img.Desc.Digest.String()
		}, nil},
		"acceleration at once": {func(m *ocispec.Manifest) { m.Layers[0].Annotations[overlaybd.AnnotationAcceleration] = "yes" }, blob.ErrCorrupt},
		"upper layer alone":    {func(m *ocispec.Manifest) { m.Layers = m.Layers[2:] }, blob.ErrCorrupt},
	} {
		_, err := disks(t.Context(), manifest(t, img, c.change), img)
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
