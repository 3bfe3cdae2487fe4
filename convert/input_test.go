package convert_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/convert"
	"github.com/lazuli-project/lazuli/internal/imagetest"
	"github.com/lazuli-project/lazuli/tarfs"
)

// edit changes an image's manifest and config.
func edit(tb testing.TB, img *imagetest.Image, change func(m *ocispec.Manifest, c *ocispec.Image)) *imagetest.Image {
	tb.Helper()
	var m ocispec.Manifest
	var c ocispec.Image
	if err := errors.Join(json.Unmarshal(img.Objects[img.Desc.Digest], &m), json.Unmarshal(img.Objects[m.Config.Digest], &c)); err != nil {
		tb.Fatal(err)
	}
	change(&m, &c)
	m.Config = img.AddJSON(tb, m.Config.MediaType, c)
	platform := img.Desc.Platform
	img.Desc = img.AddJSON(tb, m.MediaType, m)
	img.Desc.Platform = platform
	return img
}

// three is an image of three layers that have nothing in common.
func three(tb testing.TB) *imagetest.Image {
	tb.Helper()
	var layers []imagetest.Layer
	for _, name := range []string{"a", "b", "c"} {
		layers = append(layers, imagetest.Gzip(tb, imagetest.Tar(tb, imagetest.File(name, strings.Repeat(name, 3000)))))
	}
	return imagetest.NewImage(tb, layers...)
}

func TestOddImages(t *testing.T) {
	t.Parallel()
	one := imagetest.Gzip(t, imagetest.Tar(t, imagetest.File("a", "1"), imagetest.Dir("d")))
	gone := imagetest.Plain(imagetest.Tar(t, imagetest.Whiteout("a")))
	for name, img := range map[string]*imagetest.Image{
		"a layer twice":    imagetest.NewImage(t, one, gone, one),
		"a layer thrice":   imagetest.NewImage(t, one, one, one),
		"no layers":        imagetest.NewImage(t),
		"empty layers":     imagetest.NewImage(t, imagetest.Gzip(t, imagetest.Tar(t)), imagetest.Plain(nil)),
		"all compressions": imagetest.NewImage(t, one, imagetest.Zstd(t, imagetest.Tar(t, imagetest.File("b", "2"))), imagetest.Plain(imagetest.Tar(t, imagetest.File("c", "3")))),
		"wrong media types": edit(t, imagetest.NewImage(t, one, gone), func(m *ocispec.Manifest, _ *ocispec.Image) {
			m.Layers[0].MediaType, m.Layers[1].MediaType = ocispec.MediaTypeImageLayerZstd, ocispec.MediaTypeImageLayerGzip
		}),
		"docker": edit(t, imagetest.NewImage(t, one, gone), func(m *ocispec.Manifest, _ *ocispec.Image) {
			m.MediaType = "application/vnd.docker.distribution.manifest.v2+json"
			m.Config.MediaType = "application/vnd.docker.container.image.v1+json"
			m.Layers[0].MediaType = "application/vnd.docker.image.rootfs.diff.tar.gzip"
			m.Layers[1].MediaType = "application/vnd.docker.image.rootfs.diff.tar"
		}),
		"diff IDs of SHA-512": edit(t, imagetest.NewImage(t, one), func(_ *ocispec.Manifest, c *ocispec.Image) {
			c.RootFS.DiffIDs[0] = digest.SHA512.FromBytes(one.Tar)
		}),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			from, to := layout(t, img), "oci:"+filepath.Join(t.TempDir(), "made")+":made"
			res := mustRun(t, from, to, convert.Options{})
			var m ocispec.Manifest
			fetchJSON(t, to, res.Tagged[0], &m)
			if len(m.Layers) != len(img.Layers)+1 {
				t.Errorf("%d layers of %d", len(m.Layers), len(img.Layers))
			}
			if docker := strings.Contains(img.Desc.MediaType, "docker"); strings.Contains(m.MediaType, "docker") != docker || strings.Contains(m.Config.MediaType, "docker") != docker {
				t.Errorf("media types %s, %s", m.MediaType, m.Config.MediaType)
			}
			equal(t, from, to, "linux/amd64")
		})
	}
}

// What is wrong with an image is told with its place, and nothing is left at the target.
func TestDamagedImages(t *testing.T) {
	t.Parallel()
	plain := func(items ...imagetest.Item) *imagetest.Image {
		return imagetest.NewImage(t, imagetest.Plain(imagetest.Tar(t, imagetest.File("fine", "1"))), imagetest.Plain(imagetest.Tar(t, items...)))
	}
	stored := func(change func(p []byte) []byte) *imagetest.Image {
		l := imagetest.Gzip(t, imagetest.Tar(t, imagetest.File("a", noise(20_000, 1))))
		l.Stored = change(l.Stored)
		return imagetest.NewImage(t, imagetest.Plain(imagetest.Tar(t)), l)
	}
	for name, c := range map[string]struct {
		image *imagetest.Image
		err   error
		says  []string
	}{
		"wrong diff ID": {edit(t, three(t), func(_ *ocispec.Manifest, c *ocispec.Image) { c.RootFS.DiffIDs[1] = digest.FromString("x") }), blob.ErrDigest, []string{"layer 1", "uncompressed", "config"}},
		"no diff ID":    {edit(t, three(t), func(_ *ocispec.Manifest, c *ocispec.Image) { c.RootFS.DiffIDs[2] = "" }), blob.ErrCorrupt, []string{"layer 2"}},
		"too few diff IDs": {edit(t, three(t), func(_ *ocispec.Manifest, c *ocispec.Image) { c.RootFS.DiffIDs = c.RootFS.DiffIDs[:2] }), blob.ErrCorrupt,
			[]string{"3 layers", "2 diff IDs"}},
		"too many diff IDs": {edit(t, three(t), func(_ *ocispec.Manifest, c *ocispec.Image) {
			c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, digest.FromString("x"))
		}), blob.ErrCorrupt,
			[]string{"3 layers", "4 diff IDs"}},
		"a layer twice with two diff IDs": {edit(t, three(t), func(m *ocispec.Manifest, _ *ocispec.Image) { m.Layers[2] = m.Layers[0] }), blob.ErrDigest, []string{"layer 2"}},
		"unknown layer": {edit(t, three(t), func(m *ocispec.Manifest, _ *ocispec.Image) { m.Layers[1].MediaType += "+encrypted" }), blob.ErrUnsupported,
			[]string{"layer 1", "+encrypted"}},
		"absolute link outside": {plain(imagetest.Link("x", "/../../etc/passwd")), tarfs.ErrPath, []string{"layer 1", "entry 0", "offset 0"}},
		"leaves the root":       {plain(imagetest.File("a", "1"), imagetest.File("../x", "1")), tarfs.ErrPath, []string{"layer 1", "entry 1", "offset 1024"}},
		"long name":             {plain(imagetest.File(strings.Repeat("n", 256), "1")), tarfs.ErrName, []string{"layer 1", "entry 0"}},
		"link to nothing":       {plain(imagetest.Link("x", "nothing")), tarfs.ErrLink, []string{"nothing"}},
		"cut gzip":              {stored(func(p []byte) []byte { return p[:len(p)/2] }), blob.ErrCorrupt, []string{"layer 1"}},
		"changed gzip":          {stored(func(p []byte) []byte { p[len(p)-5] ^= 1; return p }), blob.ErrCorrupt, []string{"layer 1"}},
		"no tar":                {stored(func([]byte) []byte { return []byte(strings.Repeat("no tar\n", 200)) }), blob.ErrCorrupt, []string{"layer 1"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "made")
			_, err := run(t.Context(), t, layout(t, c.image), "oci:"+dir+":made", convert.Options{}, nil)
			if !errors.Is(err, c.err) {
				t.Fatalf("%v", err)
			}
			for _, s := range c.says {
				if !strings.Contains(err.Error(), s) {
					t.Errorf("%v: does not say %q", err, s)
				}
			}
			if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the target stays: %v", err)
			}
		})
	}
}

// A stored layer that is not what its digest says is found, wherever it was changed.
func TestChangedLayer(t *testing.T) {
	t.Parallel()
	img := three(t)
	for _, at := range []int{0, 20, -9, -1} {
		for what, change := range map[string]func(p []byte) []byte{
			"changed": func(p []byte) []byte {
				if at < 0 {
					p[len(p)+at] ^= 1
				} else {
					p[at] ^= 1
				}
				return p
			},
			"longer":  func(p []byte) []byte { return append(p, make([]byte, at+20)...) },
			"shorter": func(p []byte) []byte { return p[:len(p)-10+at%9] },
		} {
			from := layout(t, img)
			file := filepath.Join(parse(t, from).Path, "blobs", "sha256", digest.FromBytes(img.Layers[1].Stored).Encoded())
			p, err := os.ReadFile(file)
			if err == nil {
				err = os.WriteFile(file, change(p), 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
			_, err = run(t.Context(), t, from, "oci:"+filepath.Join(t.TempDir(), "made")+":made", convert.Options{}, nil)
			if !errors.Is(err, blob.ErrDigest) && !errors.Is(err, blob.ErrCorrupt) || !strings.Contains(err.Error(), "layer 1") {
				t.Errorf("%s at %d: %v", what, at, err)
			}
		}
	}
}

func TestProgress(t *testing.T) {
	t.Parallel()
	from := layout(t, large(t))
	var mu sync.Mutex
	last := make(map[int]convert.Progress)
	calls := 0
	note := func(p convert.Progress) {
		mu.Lock()
		defer mu.Unlock()
		before, ok := last[p.Layer]
		if ok && (p.Done < before.Done || before.State != convert.Converting) || p.Done > p.Total || p.Layers != 3 || p.Platform != "linux/amd64" {
			t.Errorf("%+v after %+v", p, before)
		}
		last[p.Layer] = p
		calls++
	}
	known := &memoryRecord{}
	to := "oci:" + filepath.Join(t.TempDir(), "made") + ":made"
	mustRun(t, from, to, convert.Options{OnProgress: note, Record: known})
	for i := range 3 {
		if p := last[i]; p.State != convert.Converted || p.Done != p.Total {
			t.Errorf("layer %d ends with %+v", i, p)
		}
	}
	if calls < 30 {
		t.Errorf("%d calls", calls)
	}
	clear(last)
	mustRun(t, from, to, convert.Options{OnProgress: note, Record: known})
	for i := range 3 {
		if p := last[i]; p.State != convert.Reused || p.Done != p.Total {
			t.Errorf("known layer %d: %+v", i, p)
		}
	}
}
