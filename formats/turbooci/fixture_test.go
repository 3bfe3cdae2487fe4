package turbooci_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/formats/overlaybd"
	"github.com/lazuli-project/lazuli/formats/turbooci"
	"github.com/lazuli-project/lazuli/internal/imagetest"
)

// fixture returns an image of the reference, and the layers that it refers to. change changes its manifest.
func fixture(t *testing.T, name string, change func(*ocispec.Manifest)) (*formats.Manifest, *imagetest.Image) {
	t.Helper()
	img, dir := imagetest.Edge(t), filepath.Join("..", "overlaybd", "testdata", name)
	read := func(path ...string) []byte {
		p, err := os.ReadFile(filepath.Join(append([]string{dir}, path...)...))
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	var index ocispec.Index
	var m ocispec.Manifest
	if err := json.Unmarshal(read("index.json"), &index); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(read("blobs", "sha256", index.Manifests[0].Digest.Encoded()), &m); err != nil {
		t.Fatal(err)
	}
	for _, d := range append(m.Layers, m.Config) {
		img.Add("", read("blobs", "sha256", d.Digest.Encoded()))
	}
	change(&m)
	d := img.AddJSON(t, m.MediaType, m)
	parsed, err := formats.ParseManifest(d, img.Objects[d.Digest], img.Objects[m.Config.Digest])
	if err != nil {
		t.Fatal(err)
	}
	return parsed, img
}

// Images of the reference are known by their annotations, also by the older names of these. Their files are compared by package overlaybd.
func TestFixtures(t *testing.T) {
	t.Parallel()
	older := func(m *ocispec.Manifest) {
		for i := range m.Layers {
			a := m.Layers[i].Annotations
			for name, value := range a {
				if old := strings.Replace(name, "/turbo-oci/", "/fastoci/", 1); old != name {
					delete(a, name)
					a[old] = value
				}
			}
			a[overlaybd.AnnotationVersion] = "0.1.0-fastoci"
		}
	}
	asItIs := func(*ocispec.Manifest) {}
	for name, c := range map[string]struct {
		image  string
		change func(*ocispec.Manifest)
		kind   overlaybd.FS
	}{
		"ext4": {"turbo-ext4", asItIs, overlaybd.Ext4}, "erofs": {"turbo-erofs", asItIs, overlaybd.EROFS},
		"older ext4": {"turbo-ext4", older, overlaybd.Ext4}, "older erofs": {"turbo-erofs", older, overlaybd.EROFS},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, img := fixture(t, c.image, c.change)
			if !(turbooci.Reader{}).Recognize(m) || (overlaybd.Reader{}).Recognize(m) {
				t.Error("not recognized")
			}
			opened, err := turbooci.Reader{}.Open(t.Context(), m, img)
			if err != nil {
				t.Fatal(err)
			}
			d, ok := opened.Details.(*overlaybd.Details)
			if !ok || d.FileSystem != c.kind || d.VirtualSize != 64<<30 || len(d.Layers) != 3 || opened.Disk.FileSystem() != string(c.kind) {
				t.Errorf("%+v", d)
			}
			for i, l := range d.Layers {
				if l.Kind != "turbo" || l.Access == 0 || l.Segments == 0 || l.Target != formats.DigestOf("", img.Layers[i].Stored).Digest.String() {
					t.Errorf("layer %d: %+v", i, l)
				}
			}
			if opened.EROFS == nil || len(opened.Blobs) != 6 || opened.Tree.Lookup("bin/tool2") == nil {
				t.Errorf("%d blobs", len(opened.Blobs))
			}
		})
	}
	if m, _ := fixture(t, "native", asItIs); (turbooci.Reader{}).Recognize(m) {
		t.Error("a native image is recognized")
	}
}
