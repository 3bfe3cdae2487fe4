package oci_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/fetch"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/formats/oci"
	"github.com/lazuli-project/lazuli/internal/imagetest"
	"github.com/lazuli-project/lazuli/tarfs"
	"github.com/lazuli-project/lazuli/tree"
)

// manifest returns the parsed manifest of an image, changed.
func manifest(tb testing.TB, img *imagetest.Image, change func(m *ocispec.Manifest, c *ocispec.Image)) *formats.Manifest {
	tb.Helper()
	var m ocispec.Manifest
	var c ocispec.Image
	if err := errors.Join(json.Unmarshal(img.Objects[img.Desc.Digest], &m), json.Unmarshal(img.Objects[m.Config.Digest], &c)); err != nil {
		tb.Fatal(err)
	}
	if change != nil {
		change(&m, &c)
	}
	return &formats.Manifest{Desc: img.Desc, Manifest: m, Config: c}
}

// list lists an image in the order in which it is stored.
func list(ctx context.Context, tb testing.TB, img *formats.Image) ([]string, error) {
	tb.Helper()
	im, err := fetch.NewImage(img, fetch.Options{})
	if err != nil {
		return nil, err
	}
	defer im.Close()
	contents := make(map[*tree.Node][]byte)
	for _, f := range fetch.InStoredOrder(img.Tree) {
		p := make([]byte, f.Node.Size)
		if _, err := im.ReadAt(ctx, f.Node, p, 0, blob.Demand); err != nil {
			return nil, err
		}
		contents[f.Node] = p
	}
	if err := im.Drain(); err != nil {
		return nil, err
	}
	return imagetest.List(img.Tree, func(n *tree.Node) ([]byte, error) { return contents[n], nil })
}

func TestEdge(t *testing.T) {
	t.Parallel()
	img := imagetest.Edge(t)
	m := manifest(t, img, nil)
	if !(oci.Reader{}).Recognize(m) {
		t.Error("not recognised")
	}
	opened, err := oci.Reader{}.Open(t.Context(), m, img)
	if err != nil {
		t.Fatal(err)
	}
	got, err := list(t.Context(), t, opened)
	if err != nil {
		t.Fatal(err)
	}
	if diff := imagetest.Diff(imagetest.EdgeTree(t), got); diff != "" {
		t.Errorf("tree differs:\n%s", diff)
	}
	for i, b := range opened.Blobs {
		if b.Layout != nil || b.PlainSize != int64(len(img.Layers[i].Tar)) || b.Desc.Digest != m.Manifest.Layers[i].Digest {
			t.Errorf("blob %d: %+v", i, b)
		}
		rc, err := b.Stream(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		p, err := io.ReadAll(rc)
		if err := errors.Join(err, rc.Close()); err != nil || string(p) != string(img.Layers[i].Tar) {
			t.Errorf("blob %d: %d bytes of tar, %v", i, len(p), err)
		}
	}
}

func TestRecognize(t *testing.T) {
	t.Parallel()
	for mediaType, want := range map[string]bool{
		ocispec.MediaTypeImageLayer: true, ocispec.MediaTypeImageLayerGzip: true, ocispec.MediaTypeImageLayerZstd: true,
		"application/vnd.docker.image.rootfs.diff.tar.gzip": true, "application/vnd.docker.image.rootfs.diff.tar": true,
		"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip":    true,
		"application/vnd.oci.image.layer.nondistributable.v1.tar+gzip": true,
		"application/vnd.oci.image.layer.nydus.blob.v1":                false,
		"application/vnd.oci.image.layer.v1.tar+gzip+encrypted":        false,
		"application/vnd.in-toto+json":                                 false,
		"":                                                             false,
	} {
		m := &formats.Manifest{}
		m.Manifest.Layers = []ocispec.Descriptor{{MediaType: ocispec.MediaTypeImageLayer}, {MediaType: mediaType}}
		if got := (oci.Reader{}).Recognize(m); got != want {
			t.Errorf("%q: %t", mediaType, got)
		}
	}
}

func TestDamage(t *testing.T) {
	t.Parallel()
	layer := func(items ...imagetest.Item) imagetest.Layer { return imagetest.Gzip(t, imagetest.Tar(t, items...)) }
	good := func() *imagetest.Image {
		return imagetest.NewImage(t, layer(imagetest.File("a", "1")), layer(imagetest.File("b", strings.Repeat("2", 5000))))
	}
	stored := func(change func(p []byte) []byte) *imagetest.Image {
		l := layer(imagetest.File("b", strings.Repeat("2", 5000)))
		l.Stored = change(l.Stored)
		return imagetest.NewImage(t, layer(imagetest.File("a", "1")), l)
	}
	for name, c := range map[string]struct {
		img    *imagetest.Image
		change func(m *ocispec.Manifest, c *ocispec.Image)
		err    error
	}{
		"fine":             {good(), nil, nil},
		"wrong diff ID":    {good(), func(_ *ocispec.Manifest, c *ocispec.Image) { c.RootFS.DiffIDs[1] = digest.FromString("x") }, blob.ErrDigest},
		"too few diff IDs": {good(), func(_ *ocispec.Manifest, c *ocispec.Image) { c.RootFS.DiffIDs = c.RootFS.DiffIDs[:1] }, blob.ErrCorrupt},
		"no diff ID":       {good(), func(_ *ocispec.Manifest, c *ocispec.Image) { c.RootFS.DiffIDs[1] = "" }, blob.ErrCorrupt},
		"SHA-512": {imagetest.NewImage(t, imagetest.Plain(imagetest.Tar(t))), func(_ *ocispec.Manifest, c *ocispec.Image) {
			c.RootFS.DiffIDs[0] = digest.SHA512.FromBytes(imagetest.Tar(t))
		}, nil},
		"cut":             {stored(func(p []byte) []byte { return p[:len(p)-12] }), nil, blob.ErrCorrupt},
		"changed":         {stored(func(p []byte) []byte { p[len(p)-6] ^= 1; return p }), nil, blob.ErrCorrupt},
		"leaves the root": {imagetest.NewImage(t, layer(imagetest.File("a", "")), layer(imagetest.File("../b", ""))), nil, tarfs.ErrPath},
		"link to nothing": {imagetest.NewImage(t, layer(imagetest.File("a", "")), layer(imagetest.Link("b", "c"))), nil, tarfs.ErrLink},
		"no layers":       {imagetest.NewImage(t), nil, nil},
		"no tar":          {stored(func([]byte) []byte { return []byte(strings.Repeat("x", 2000)) }), nil, blob.ErrCorrupt},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := oci.Reader{}.Open(t.Context(), manifest(t, c.img, c.change), c.img)
			if !errors.Is(err, c.err) {
				t.Fatalf("%v", err)
			}
			if err != nil && !errors.Is(c.err, tarfs.ErrLink) && name != "too few diff IDs" && !strings.Contains(err.Error(), "layer 1") {
				t.Errorf("%v does not name the layer", err)
			}
		})
	}
}

// A layer that changes between opening and reading is found at its end.
func TestChangedLater(t *testing.T) {
	t.Parallel()
	l := imagetest.Plain(imagetest.Tar(t, imagetest.File("a", "content")))
	img := imagetest.NewImage(t, l)
	m := manifest(t, img, nil)
	opened, err := oci.Reader{}.Open(t.Context(), m, img)
	if err != nil {
		t.Fatal(err)
	}
	changed := append([]byte(nil), l.Stored...)
	changed[512] ^= 1
	img.Objects[m.Manifest.Layers[0].Digest] = changed
	if _, err := list(t.Context(), t, opened); !errors.Is(err, blob.ErrDigest) {
		t.Errorf("%v", err)
	}
}

func TestCancelled(t *testing.T) {
	t.Parallel()
	img := imagetest.Edge(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := (oci.Reader{}).Open(ctx, manifest(t, img, nil), img); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}
