package image_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/convert"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/formats/nydus"
	"github.com/lazuli-project/lazuli/formats/oci"
	"github.com/lazuli-project/lazuli/image"
	"github.com/lazuli-project/lazuli/internal/imagetest"
	"github.com/lazuli-project/lazuli/store"
)

var (
	amd64 = ocispec.Platform{OS: "linux", Architecture: "amd64"}
	armV7 = ocispec.Platform{OS: "linux", Architecture: "arm", Variant: "v7"}
	both  = []formats.Reader{nydus.Reader{}, oci.Reader{}}
)

// plain is an image that says in a file what it is for.
func plain(t *testing.T, p ocispec.Platform) *imagetest.Image {
	t.Helper()
	return imagetest.NewImageFor(t, p, imagetest.Gzip(t, imagetest.Tar(t, imagetest.File("arch", p.Architecture))))
}

func layout(t *testing.T, img *imagetest.Image) string {
	t.Helper()
	dir := t.TempDir()
	img.WriteLayout(t, dir, "v1")
	return "oci:" + dir + ":v1"
}

// converted converts what from names and returns a reference to the result.
func converted(t *testing.T, from string, attach convert.Attach) string {
	t.Helper()
	to := "oci:" + filepath.Join(t.TempDir(), "made") + ":made"
	src, err := store.OpenSource(t.Context(), parse(t, from), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	dest, err := store.OpenTarget(t.Context(), parse(t, to), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	w, err := nydus.NewWriter(nydus.Options{})
	if err == nil {
		_, err = convert.Convert(t.Context(), src, []convert.Output{{Writer: w, Target: dest}}, convert.Options{Attach: attach})
	}
	if err = errors.Join(err, dest.Close()); err != nil {
		t.Fatal(err)
	}
	return to
}

func parse(t *testing.T, s string) store.Ref {
	t.Helper()
	r, err := store.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestOpen(t *testing.T) {
	t.Parallel()
	index := imagetest.NewIndex(t, plain(t, armV7), plain(t, amd64), imagetest.Attestation(t, plain(t, amd64)))
	from := layout(t, index)
	withoutPlatform := plain(t, armV7)
	withoutPlatform.Desc.Platform = nil
	for name, c := range map[string]struct {
		ref    string
		opt    image.Options
		format string
		arch   string
		err    error
	}{
		"platform of an index":     {from, image.Options{Platform: "linux/amd64", Readers: both}, "oci", "amd64", nil},
		"variant":                  {from, image.Options{Platform: "linux/arm/v7", Readers: both}, "oci", "arm", nil},
		"any variant":              {from, image.Options{Platform: "linux/arm", Readers: both}, "oci", "arm", nil},
		"another variant":          {from, image.Options{Platform: "linux/arm/v6", Readers: both}, "", "", store.ErrNotFound},
		"another platform":         {from, image.Options{Platform: "linux/s390x", Readers: both}, "", "", store.ErrNotFound},
		"a single image":           {layout(t, plain(t, armV7)), image.Options{Platform: "linux/amd64", Readers: both}, "oci", "arm", nil},
		"platform in the config":   {layout(t, imagetest.NewIndex(t, withoutPlatform, plain(t, amd64))), image.Options{Platform: "linux/arm", Readers: both}, "oci", "arm", nil},
		"converted":                {converted(t, from, convert.AttachTag), image.Options{Platform: "linux/amd64", Readers: both}, "nydus", "amd64", nil},
		"converted in an index":    {converted(t, from, convert.AttachIndex), image.Options{Platform: "linux/arm", Readers: both}, "nydus", "arm", nil},
		"plain one in the index":   {converted(t, from, convert.AttachIndex), image.Options{Platform: "linux/amd64", Readers: []formats.Reader{oci.Reader{}, nydus.Reader{}}}, "oci", "amd64", nil},
		"referrer":                 {converted(t, from, convert.AttachReferrer), image.Options{Platform: "linux/amd64", Readers: both, Referrers: true}, "nydus", "amd64", nil},
		"referrers are not wanted": {converted(t, from, convert.AttachReferrer), image.Options{Platform: "linux/amd64", Readers: both}, "oci", "amd64", nil},
		"no referrers":             {from, image.Options{Platform: "linux/amd64", Readers: both, Referrers: true}, "oci", "amd64", nil},
		"unknown format":           {from, image.Options{Platform: "linux/amd64", Readers: both[:1]}, "", "", blob.ErrUnsupported},
		"no such layout":           {"oci:" + filepath.Join(t.TempDir(), "none"), image.Options{Readers: both}, "", "", store.ErrNotFound},
		"no such tag":              {strings.TrimSuffix(from, "v1") + "v2", image.Options{Readers: both}, "", "", store.ErrNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			im, err := image.Open(t.Context(), parse(t, c.ref), c.opt)
			if !errors.Is(err, c.err) {
				t.Fatalf("%v", err)
			}
			if err != nil {
				return
			}
			p := make([]byte, 10)
			n, err := im.ReadAt(t.Context(), im.Tree.Lookup("arch"), p, 0, blob.Demand)
			if err != nil || im.Format != c.format || string(p[:n]) != c.arch || im.Manifest == nil {
				t.Errorf("%s image for %s, %v", im.Format, p[:n], err)
			}
			if err := im.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// A bootstrap and a directory of blobs, as nydus-image writes them.
func TestBare(t *testing.T) {
	t.Parallel()
	data := filepath.Join("..", "formats", "nydus", "testdata")
	boot := filepath.Join(data, "v6-zstd", "image.boot")
	im, err := image.Open(t.Context(), parse(t, "rafs:"+boot+","+t.TempDir()+","+filepath.Join(data, "blobs")), image.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if im.Manifest != nil || im.Format != nydus.Name {
		t.Errorf("%+v", im.Manifest)
	}
	for _, e := range im.Tree.Root.Entries {
		if e.Node.IsRegular() && e.Node.Size > 0 {
			p := make([]byte, e.Node.Size)
			if _, err := im.ReadAt(t.Context(), e.Node, p, 0, blob.Demand); err != nil {
				t.Errorf("%s: %v", e.Name, err)
			}
		}
	}
	if err := im.Close(); err != nil {
		t.Error(err)
	}

	// Blobs are looked for beside the bootstrap.
	dir := t.TempDir()
	p, err := os.ReadFile(boot)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "image.boot"), p, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := image.Open(t.Context(), parse(t, "rafs:"+filepath.Join(dir, "image.boot")), image.Options{}); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("without blobs: %v", err)
	}
	if err := os.CopyFS(filepath.Join(dir, "blobs"), os.DirFS(filepath.Join(data, "blobs"))); err != nil {
		t.Fatal(err)
	}
	im, err = image.Open(t.Context(), parse(t, "rafs:"+filepath.Join(dir, "image.boot")), image.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := im.Close(); err != nil {
		t.Error(err)
	}
	for name, want := range map[string]error{"rafs:" + filepath.Join(dir, "none"): store.ErrNotFound, "rafs:" + "open_test.go": blob.ErrCorrupt} {
		if _, err := image.Open(t.Context(), parse(t, name), image.Options{}); !errors.Is(err, want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
