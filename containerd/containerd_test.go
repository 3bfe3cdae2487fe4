package containerd_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/check"
	"github.com/lazuli-project/lazuli/containerd"
	"github.com/lazuli-project/lazuli/containerd/contentstore"
	"github.com/lazuli-project/lazuli/convert"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/formats/nydus"
	"github.com/lazuli-project/lazuli/formats/oci"
	"github.com/lazuli-project/lazuli/image"
	"github.com/lazuli-project/lazuli/internal/containerdtest"
	"github.com/lazuli-project/lazuli/internal/imagetest"
	"github.com/lazuli-project/lazuli/store"
)

// options reach a containerd by its API.
func options(address string) store.Options {
	return store.Options{Openers: map[store.Transport]store.Opener{
		store.Containerd: containerd.NewOpener(containerd.Options{Address: address, Namespace: containerdtest.Namespace}),
	}}
}

func parse(tb testing.TB, s string) store.Ref {
	tb.Helper()
	r, err := store.Parse(s)
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

func openSource(tb testing.TB, ref string, opt store.Options) store.Source {
	tb.Helper()
	s, err := store.OpenSource(tb.Context(), parse(tb, ref), opt)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = s.Close() })
	return s
}

// layout writes an image as an OCI layout and returns its reference.
func layout(tb testing.TB, img *imagetest.Image) string {
	tb.Helper()
	dir := tb.TempDir()
	img.WriteLayout(tb, dir, "v1")
	return "oci:" + dir + ":v1"
}

// put copies an image.
func put(tb testing.TB, from, to string, opt store.Options) {
	tb.Helper()
	src := openSource(tb, from, opt)
	dest, err := store.OpenTarget(tb.Context(), parse(tb, to), opt)
	if err != nil {
		tb.Fatal(err)
	}
	desc, err := src.Resolve(tb.Context())
	if err == nil {
		err = store.Copy(tb.Context(), dest, src, desc, store.CopyOptions{})
	}
	if err == nil {
		err = dest.Tag(tb.Context(), desc, "")
	}
	if err == nil {
		err = dest.Commit(tb.Context())
	}
	if err = errors.Join(err, dest.Close()); err != nil {
		tb.Fatal(err)
	}
}

// run converts from one reference to another.
func run(ctx context.Context, tb testing.TB, from, to string, opt store.Options, how convert.Options) (_ *convert.Result, err error) {
	tb.Helper()
	src := openSource(tb, from, opt)
	dest, err := store.OpenTarget(ctx, parse(tb, to), opt)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, dest.Close()) }()
	w, err := nydus.NewWriter(nydus.Options{ChunkSize: 16 << 10})
	if err != nil {
		return nil, err
	}
	return convert.Convert(ctx, src, []convert.Output{{Writer: w, Target: dest}}, how)
}

// equal compares a converted image with its source.
func equal(tb testing.TB, source, converted string, opt store.Options) {
	tb.Helper()
	open := func(ref string, r formats.Reader) *image.Image {
		im, err := image.Open(tb.Context(), parse(tb, ref), image.Options{Store: opt, Platform: "linux/amd64", Readers: []formats.Reader{r}})
		if err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(func() { _ = im.Close() })
		return im
	}
	want, got := open(source, oci.Reader{}), open(converted, nydus.Reader{})
	err := check.Compare(tb.Context(), want.Image, got.Image, func(d check.Difference) error {
		tb.Error(d)
		return nil
	})
	if err == nil {
		_, err = check.Verify(tb.Context(), got.Image)
	}
	if err != nil {
		tb.Error(err)
	}
}

// leasesOf lists the leases of the namespace of tests.
func leasesOf(tb testing.TB, c *containerdtest.Containerd) []leases.Lease {
	tb.Helper()
	list, err := c.Leases.List(containerdtest.Context(tb, containerdtest.Namespace))
	if err != nil {
		tb.Fatal(err)
	}
	return list
}

// From anywhere to containerd, from containerd to anywhere, and inside of it, the image is the same; it is whole after garbage
// collection, and all of it goes with its name.
func TestConvert(t *testing.T) {
	t.Parallel()
	c := containerdtest.New(t)
	opt := options(c.Listen(t))
	from := layout(t, imagetest.Edge(t))
	put(t, from, "containerd:example.com/plain:v1", opt)
	dir := "oci:" + filepath.Join(t.TempDir(), "made") + ":v1"
	var first digest.Digest
	for _, way := range [][2]string{
		{from, "containerd:example.com/made:v1"}, {"containerd:example.com/plain:v1", "containerd:example.com/made:v2"},
		{"containerd:example.com/plain:v1", "containerd:other/example.com/made:v1"}, {"containerd:example.com/plain:v1", dir},
	} {
		res, err := run(t.Context(), t, way[0], way[1], opt, convert.Options{})
		if err != nil {
			t.Fatalf("%v: %v", way, err)
		}
		c.Collect(t)
		got, err := openSource(t, way[1], opt).Resolve(t.Context())
		if err != nil || got.Digest != res.Tagged[0].Digest || first != "" && got.Digest != first {
			t.Errorf("%v: names %s, %v; %s was made, and %s before", way, got.Digest, err, res.Tagged[0].Digest, first)
		}
		first = got.Digest
		equal(t, from, way[1], opt)
	}
	if left := leasesOf(t, c); len(left) > 0 {
		t.Errorf("leases left: %v", left)
	}
	ctx := containerdtest.Context(t, containerdtest.Namespace)
	for _, name := range []string{"example.com/plain:v1", "example.com/made:v1", "example.com/made:v2"} {
		if err := c.Images.Delete(ctx, name); err != nil {
			t.Error(err)
		}
	}
	c.Collect(t)
	if left := c.Digests(t, containerdtest.Namespace); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	if left := c.Ingests(t, containerdtest.Namespace); len(left) > 0 {
		t.Errorf("ingests left: %v", left)
	}
	equal(t, from, "containerd:other/example.com/made:v1", opt)
}

// An image that has a name already gets the new content, and keeps its labels.
func TestUpdate(t *testing.T) {
	t.Parallel()
	c := containerdtest.New(t)
	opt := options(c.Listen(t))
	put(t, layout(t, imagetest.NewImage(t, imagetest.Plain(imagetest.Tar(t, imagetest.File("a", "old"))))), "containerd:example.com/app:v1", opt)
	ctx := containerdtest.Context(t, containerdtest.Namespace)
	if _, err := c.Images.Update(ctx, images.Image{Name: "example.com/app:v1", Labels: map[string]string{"k": "v"}}, "labels"); err != nil {
		t.Fatal(err)
	}
	from := layout(t, imagetest.NewImage(t, imagetest.Plain(imagetest.Tar(t, imagetest.File("a", "new")))))
	res, err := run(t.Context(), t, from, "containerd:example.com/app:v1", opt, convert.Options{})
	if err != nil {
		t.Fatal(err)
	}
	im, err := c.Images.Get(ctx, "example.com/app:v1")
	if err != nil || im.Target.Digest != res.Tagged[0].Digest || im.Labels["k"] != "v" {
		t.Errorf("%+v, %v", im, err)
	}
	c.Collect(t)
	equal(t, from, "containerd:example.com/app:v1", opt)
	// By its digest, an image is found without a name of its own.
	byDigest := "containerd:example.com/other@" + res.Images[0].Desc.Digest.String()
	if d, err := openSource(t, byDigest, opt).Resolve(t.Context()); err != nil || d.Digest != res.Images[0].Desc.Digest || !store.IsImage(d.MediaType) {
		t.Errorf("%v, %v", d, err)
	}
}

// What is given up leaves nothing but a lease that expires; where nothing was stored, not even that.
func TestGivenUp(t *testing.T) {
	t.Parallel()
	c := containerdtest.New(t)
	opt := options(c.Listen(t))
	from := layout(t, imagetest.Edge(t))
	dest, err := store.OpenTarget(t.Context(), parse(t, "containerd:example.com/made"), opt)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(leasesOf(t, c)); n != 1 {
		t.Errorf("%d leases while a target is open", n)
	}
	if err := dest.Close(); err != nil {
		t.Error(err)
	}
	if left := leasesOf(t, c); len(left) > 0 {
		t.Errorf("leases left of nothing: %v", left)
	}
	ctx, cancel := context.WithCancel(t.Context())
	_, err = run(ctx, t, from, "containerd:example.com/made:v1", opt, convert.Options{Jobs: 1, OnProgress: func(p convert.Progress) {
		if p.State == convert.Converted {
			cancel()
		}
	}})
	cancel()
	if !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if left := c.Ingests(t, containerdtest.Namespace); len(left) > 0 {
		t.Errorf("ingests left: %v", left)
	}
	left := leasesOf(t, c)
	if len(left) != 1 {
		t.Fatalf("leases left: %v", left)
	}
	at, err := time.Parse(time.RFC3339, left[0].Labels["containerd.io/gc.expire"])
	if d := time.Until(at); err != nil || d < 23*time.Hour || d > 25*time.Hour {
		t.Errorf("the lease expires at %v, %v", at, err)
	}
	if _, err := openSource(t, "containerd:example.com/made:v1", opt).Resolve(t.Context()); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("named: %v", err)
	}
	if err := c.Leases.Delete(containerdtest.Context(t, containerdtest.Namespace), left[0]); err != nil {
		t.Fatal(err)
	}
	c.Collect(t)
	if left := c.Digests(t, containerdtest.Namespace); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// Errors say what is missing where.
func TestErrors(t *testing.T) {
	t.Parallel()
	c := containerdtest.New(t)
	address := c.Listen(t)
	opt := options(address)
	put(t, layout(t, imagetest.Edge(t)), "containerd:other/example.com/app:v1", opt)
	_, err := openSource(t, "containerd:example.com/app:v1", opt).Resolve(t.Context())
	if !errors.Is(err, store.ErrNotFound) || !strings.Contains(err.Error(), "there is a containerd:other/example.com/app:v1") {
		t.Errorf("in another namespace: %v", err)
	}
	if _, err := openSource(t, "containerd:example.com/none@"+digest.FromString("x").String(), opt).Resolve(t.Context()); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("of a digest: %v", err)
	}
	_, err = store.OpenSource(t.Context(), parse(t, "containerd:app"), options(filepath.Join(t.TempDir(), "none")))
	if !errors.Is(err, containerd.ErrUnreachable) || !errors.Is(err, store.ErrNetwork) || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a containerd: %v", err)
	}
	if _, err := store.OpenTarget(t.Context(), parse(t, "containerd:app"), options(filepath.Join(t.TempDir(), "none"))); !errors.Is(err, containerd.ErrUnreachable) {
		t.Errorf("without a containerd: %v", err)
	}
	if _, err := store.OpenTarget(t.Context(), parse(t, "containerd:app@"+digest.FromString("x").String()), opt); !errors.Is(err, store.ErrReference) {
		t.Errorf("target by digest: %v", err)
	}

	// A layer that was discarded.
	ctx := containerdtest.Context(t, "other")
	src := openSource(t, "containerd:other/example.com/app:v1", opt)
	desc, err := src.Resolve(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	m, err := store.LoadManifest(t.Context(), src, desc)
	if err == nil {
		err = c.Content().Delete(ctx, m.Manifest.Layers[1].Digest)
	}
	if err != nil {
		t.Fatal(err)
	}
	_, err = run(t.Context(), t, "containerd:other/example.com/app:v1", "containerd:example.com/made:v1", opt, convert.Options{})
	if !errors.Is(err, contentstore.ErrMissing) || !errors.Is(err, store.ErrNotFound) || !strings.Contains(err.Error(), m.Manifest.Layers[1].Digest.String()) {
		t.Errorf("of a discarded layer: %v", err)
	}
}

// Of an index, only the platform that was pulled is there.
func TestPartial(t *testing.T) {
	t.Parallel()
	for _, manifests := range []bool{false, true} {
		t.Run(fmt.Sprintf("manifests of others are there: %t", manifests), func(t *testing.T) {
			t.Parallel()
			testPartial(t, manifests)
		})
	}
}

func testPartial(t *testing.T, manifests bool) {
	c := containerdtest.New(t)
	opt := options(c.Listen(t))
	plain := func(arch string) *imagetest.Image {
		return imagetest.NewImageFor(t, ocispec.Platform{OS: "linux", Architecture: arch}, imagetest.Gzip(t, imagetest.Tar(t, imagetest.File("arch", arch))))
	}
	amd64, arm64 := plain("amd64"), plain("arm64")
	index := imagetest.NewIndex(t, arm64, amd64, imagetest.Attestation(t, amd64))
	from := layout(t, index)
	put(t, from, "containerd:example.com/app:v1", opt)
	ctx := containerdtest.Context(t, containerdtest.Namespace)
	pulled := map[digest.Digest]bool{index.Desc.Digest: true}
	for _, d := range amd64.Digests() {
		pulled[d] = true
	}
	if manifests { // containerd fetches them, with the configurations, of all platforms
		for _, d := range arm64.Digests() {
			pulled[d] = !slices.ContainsFunc(arm64.Layers, func(l imagetest.Layer) bool { return digest.FromBytes(l.Stored) == d })
		}
	}
	for _, d := range c.Digests(t, containerdtest.Namespace) {
		if !pulled[d] {
			if err := c.Content().Delete(ctx, d); err != nil && !errdefs.IsNotFound(err) {
				t.Fatal(err)
			}
		}
	}
	if _, err := run(t.Context(), t, "containerd:example.com/app:v1", "containerd:example.com/made:v1", opt, convert.Options{}); !errors.Is(err, contentstore.ErrMissing) {
		t.Errorf("strictly: %v", err)
	}
	var missing []string
	how := convert.Options{OnMissing: func(_ ocispec.Descriptor, platform string) { missing = append(missing, platform) }}
	if _, err := run(t.Context(), t, "containerd:example.com/app:v1", "containerd:example.com/made:v1", opt, how); err != nil {
		t.Fatal(err)
	}
	if strings.Join(missing, ",") != "linux/arm64,unknown/unknown" {
		t.Errorf("missing: %q", missing)
	}
	equal(t, from, "containerd:example.com/made:v1", opt)
	how.Platforms = []string{"linux/arm64"}
	if _, err := run(t.Context(), t, "containerd:example.com/app:v1", "containerd:example.com/made:v1", opt, how); !errors.Is(err, contentstore.ErrMissing) {
		t.Errorf("asked for what is missing: %v", err)
	}
	missing, how.Platforms = nil, []string{"linux/amd64"}
	if _, err := run(t.Context(), t, "containerd:example.com/app:v1", "containerd:example.com/made:v1", opt, how); err != nil || strings.Join(missing, ",") != "unknown/unknown" {
		t.Errorf("asked for what is there: missing %q, %v", missing, err)
	}
}
