package overlaybd_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/fetch"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/formats/oci"
	"github.com/lazuli-project/lazuli/formats/overlaybd"
	"github.com/lazuli-project/lazuli/internal/imagetest"
	"github.com/lazuli-project/lazuli/tree"
)

// fixture returns an image that the reference made of the image edge, with the layers of that.
func fixture(t testing.TB, name string) *imagetest.Image {
	t.Helper()
	img := imagetest.Edge(t)
	files, err := filepath.Glob(filepath.Join("testdata", name, "blobs", "sha256", "*"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%d blobs: %v", len(files), err)
	}
	for _, f := range append(files, filepath.Join("testdata", name, "index.json")) {
		p, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		d := img.Add("", p)
		if filepath.Base(f) != "index.json" {
			continue
		}
		var index ocispec.Index
		decode(t, img, d.Digest, &index)
		img.Desc = index.Manifests[0]
	}
	return img
}

func decode(t testing.TB, img *imagetest.Image, d digest.Digest, v any) {
	t.Helper()
	if err := json.Unmarshal(img.Objects[d], v); err != nil {
		t.Fatal(err)
	}
}

// manifest returns an image's manifest after a change.
func manifest(t testing.TB, img *imagetest.Image, change func(*ocispec.Manifest)) *formats.Manifest {
	t.Helper()
	var m ocispec.Manifest
	decode(t, img, img.Desc.Digest, &m)
	change(&m)
	d := img.AddJSON(t, m.MediaType, m)
	parsed, err := formats.ParseManifest(d, img.Objects[d.Digest], img.Objects[m.Config.Digest])
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

// layersOf returns a change that leaves the lowest n layers.
func layersOf(n int) func(*ocispec.Manifest) {
	return func(m *ocispec.Manifest) { m.Layers = m.Layers[:n] }
}

// openFunc is what opens images.
type openFunc func(context.Context, *formats.Manifest, formats.Sources) (*formats.Image, error)

// disks opens images of disks, whatever layers they have.
func disks(ctx context.Context, m *formats.Manifest, s formats.Sources) (*formats.Image, error) {
	return overlaybd.Open(ctx, "test", m, s)
}

// list opens and lists an image with all contents.
func list(t testing.TB, open openFunc, m *formats.Manifest, s formats.Sources) []string {
	t.Helper()
	opened, err := open(t.Context(), m, s)
	if err != nil {
		t.Fatal(err)
	}
	im, err := fetch.NewImage(opened, fetch.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer im.Close()
	buf := make([]byte, 64<<10)
	lines, err := imagetest.List(im.Tree, func(n *tree.Node) ([]byte, error) {
		var content bytes.Buffer
		err := im.WriteContent(t.Context(), n, &content, buf, blob.Demand)
		return content.Bytes(), err
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

// edgePrefix lists what the lowest n layers of the image edge are.
func edgePrefix(t testing.TB, n int) []string {
	t.Helper()
	img := imagetest.Edge(t)
	return list(t, oci.Reader{}.Open, manifest(t, img, func(m *ocispec.Manifest) {
		layersOf(n)(m)
		var c ocispec.Image
		decode(t, img, m.Config.Digest, &c)
		c.RootFS.DiffIDs, c.History = c.RootFS.DiffIDs[:n], nil
		m.Config = img.AddJSON(t, m.Config.MediaType, c)
	}), img)
}

// asReference changes a listing as the reference changes files: it cleans link targets, and loses fractions of seconds, times before 1970
// and owners that do not fit into a tar's header.
func asReference(t testing.TB, lines []string) []string {
	t.Helper()
	out := make([]string, len(lines))
	for i, line := range lines {
		c := strings.Split(line, "\t")
		for _, owner := range []int{3, 4} {
			if id, err := strconv.ParseUint(c[owner], 10, 64); err != nil || id >= 1<<21 {
				c[owner] = "0"
			}
		}
		ns, err := strconv.ParseInt(c[imagetest.ColumnTime], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		c[imagetest.ColumnTime] = fmt.Sprint(max(ns/1e9, 0) * 1e9)
		if c[1] == "l" {
			c[9] = path.Clean(c[9])
		}
		out[i] = strings.Join(c, "\t")
	}
	return out
}

// lostByEROFS has what the reference's EROFS gets wrong beside that, by layer.
var lostByEROFS = []map[string]string{
	{".": "mode of a root without entry", "names/fraction": "leading zeros of fractions"},
	{"bin": "time of an implied directory", "links": "the same", "sizes": "the same"},
	{"swap": "the same", "names": opaque},
}

const opaque = "opaque directory"

// without leaves out what is known to be wrong.
func without(lines []string, known map[string]string) (kept []string) {
	for _, line := range lines {
		p, _, _ := strings.Cut(line, "\t")
		if known[p] == "" && known[path.Dir(p)] != opaque {
			kept = append(kept, line)
		}
	}
	return kept
}

// Images of the reference are read, after every one of their layers.
func TestFixtures(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"native", "turbo-ext4", "turbo-erofs"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			img := fixture(t, name)
			known := make(map[string]string)
			for n := 1; n <= len(img.Layers); n++ {
				want, got := edgePrefix(t, n), list(t, disks, manifest(t, img, layersOf(n)), img)
				if name == "turbo-erofs" {
					maps.Copy(known, lostByEROFS[n-1])
					want, got = without(want, known), without(got, known)
				} else {
					want = asReference(t, want)
				}
				if d := imagetest.Diff(want, got); d != "" || len(got) < 1500 {
					t.Errorf("after %d layers, %d entries:\n%s", n, len(got), d)
				}
			}
		})
	}
}
