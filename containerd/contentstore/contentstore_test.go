package contentstore_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/check"
	"github.com/lazuli-project/lazuli/containerd/contentstore"
	"github.com/lazuli-project/lazuli/convert"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/formats/nydus"
	"github.com/lazuli-project/lazuli/formats/oci"
	"github.com/lazuli-project/lazuli/formats/overlaybd"
	"github.com/lazuli-project/lazuli/formats/turbooci"
	"github.com/lazuli-project/lazuli/image"
	"github.com/lazuli-project/lazuli/internal/containerdtest"
	"github.com/lazuli-project/lazuli/internal/imagetest"
	"github.com/lazuli-project/lazuli/store"
)

var readers = []formats.Reader{nydus.Reader{}, overlaybd.Reader{}, turbooci.Reader{}, oci.Reader{}}

// needed are the objects that manifests of our formats do not list.
func needed(desc ocispec.Descriptor, m *ocispec.Manifest) []digest.Digest {
	for _, r := range readers {
		if n, ok := r.(formats.ObjectNeeder); ok {
			if im := (&formats.Manifest{Desc: desc, Manifest: *m}); r.Recognize(im) {
				return n.NeededObjects(im)
			}
		}
	}
	return nil
}

// layout writes an image as an OCI layout and opens it.
func layout(tb testing.TB, img *imagetest.Image) store.Source {
	tb.Helper()
	dir := tb.TempDir()
	img.WriteLayout(tb, dir, "v1")
	ref, err := store.Parse("oci:" + dir + ":v1")
	if err != nil {
		tb.Fatal(err)
	}
	src, err := store.OpenSource(tb.Context(), ref, store.Options{})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = src.Close() })
	return src
}

// newTarget returns a target in a content store.
func newTarget(ctx context.Context, tb testing.TB, cs content.Store, opt contentstore.Options) *contentstore.Target {
	tb.Helper()
	t := contentstore.NewTarget(ctx, cs, store.Ref{Transport: store.Registry, Host: "example.com", Repo: "app", Tag: "v1"}, opt)
	tb.Cleanup(func() { _ = t.Close() })
	return t
}

// writers are one for each format.
func writers(tb testing.TB) []formats.Writer {
	tb.Helper()
	n, err := nydus.NewWriter(nydus.Options{ChunkSize: 16 << 10})
	if err != nil {
		tb.Fatal(err)
	}
	r, err := nydus.NewRefWriter(nydus.RefOptions{})
	if err != nil {
		tb.Fatal(err)
	}
	o, err := overlaybd.NewWriter(overlaybd.Options{})
	if err != nil {
		tb.Fatal(err)
	}
	u, err := turbooci.NewWriter(turbooci.Options{})
	if err != nil {
		tb.Fatal(err)
	}
	return []formats.Writer{n, r, o, u}
}

// compare fails unless two images have the same files.
func compare(ctx context.Context, tb testing.TB, want formats.Sources, wantDesc ocispec.Descriptor, got formats.Sources, gotDesc ocispec.Descriptor) {
	tb.Helper()
	opt := image.Options{Readers: readers, Platform: "linux/amd64"}
	a, err := image.OpenManifest(ctx, want, nil, wantDesc, opt)
	if err != nil {
		tb.Fatal(err)
	}
	defer a.Close()
	b, err := image.OpenManifest(ctx, got, nil, gotDesc, opt)
	if err != nil {
		tb.Fatal(err)
	}
	defer b.Close()
	err = check.Compare(ctx, a.Image, b.Image, func(d check.Difference) error {
		tb.Error(d)
		return nil
	})
	if err == nil {
		_, err = check.Verify(ctx, b.Image)
	}
	if err != nil {
		tb.Error(err)
	}
}

// copyTo copies an image into a content store and returns its descriptor.
func copyTo(ctx context.Context, tb testing.TB, cs content.Store, src store.Source) ocispec.Descriptor {
	tb.Helper()
	desc, err := src.Resolve(ctx)
	if err == nil {
		err = store.Copy(ctx, newTarget(ctx, tb, cs, contentstore.Options{}), src, desc, store.CopyOptions{})
	}
	if err != nil {
		tb.Fatal(err)
	}
	return desc
}

// name makes an image of a descriptor, so that it is no garbage.
func name(ctx context.Context, tb testing.TB, c *containerdtest.Containerd, name string, desc ocispec.Descriptor) {
	tb.Helper()
	desc.Platform, desc.Annotations = nil, nil
	if _, err := c.Images.Create(ctx, images.Image{Name: name, Target: desc}); err != nil {
		tb.Fatal(err)
	}
}

// Images of every format are made in a content store, are the same as elsewhere, survive garbage collection with all that they need, and
// are made of known layers the next time.
func TestConvert(t *testing.T) {
	t.Parallel()
	edge := imagetest.Edge(t)
	src := layout(t, edge)
	for _, w := range writers(t) {
		t.Run(w.Name(), func(t *testing.T) {
			t.Parallel()
			c := containerdtest.New(t)
			ctx := c.Leased(t)
			cs := c.Content()
			from := contentstore.NewSource(ctx, cs, store.Ref{Transport: store.Registry, Host: "example.com", Repo: "plain"}, copyTo(ctx, t, cs, src))
			want, err := src.Resolve(ctx)
			if err != nil {
				t.Fatal(err)
			}
			name(ctx, t, c, "plain", want)
			var first digest.Digest
			for run := range 2 {
				target := newTarget(ctx, t, cs, contentstore.Options{Needed: needed})
				res, err := convert.Convert(ctx, from, []convert.Output{{Writer: w, Target: target}}, convert.Options{Record: contentstore.NewRecord(cs), TempDir: t.TempDir()})
				if err != nil {
					t.Fatal(err)
				}
				made := target.Tagged()
				if made.Digest != res.Tagged[0].Digest || run > 0 && made.Digest != first {
					t.Errorf("run %d: %s tagged, %s made, %s before", run, made.Digest, res.Tagged[0].Digest, first)
				}
				first = made.Digest
				for i, l := range res.Images[0].Layers {
					if l.Reused != (run > 0) {
						t.Errorf("run %d: layer %d reused: %t", run, i, l.Reused)
					}
				}
				if resolved, err := target.Resolve(ctx); err != nil || resolved.Digest != made.Digest {
					t.Errorf("resolves to %s, %v", resolved.Digest, err)
				}
				if run == 0 {
					name(ctx, t, c, "made", made)
				}
				if err := target.Close(); err != nil {
					t.Error(err)
				}
				compare(ctx, t, src, want, inStore(ctx, cs), made)
			}
			if left := c.Ingests(t, containerdtest.Namespace); len(left) > 0 {
				t.Errorf("ingests left: %v", left)
			}
			collected(ctx, t, c, src, want, first)
		})
	}
}

// inStore reads a content store.
func inStore(ctx context.Context, cs content.Store) formats.Sources {
	return contentstore.NewSource(ctx, cs, store.Ref{}, ocispec.Descriptor{})
}

// collected collects garbage: the made image is whole without its lease, and without its source; without its name, nothing is left.
func collected(ctx context.Context, t *testing.T, c *containerdtest.Containerd, src store.Source, want ocispec.Descriptor, made digest.Digest) {
	t.Helper()
	list, err := c.Leases.List(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range list {
		if err := c.Leases.Delete(ctx, l); err != nil {
			t.Fatal(err)
		}
	}
	ctx = containerdtest.Context(t, containerdtest.Namespace)
	for _, gone := range []string{"", "plain"} {
		if gone != "" {
			if err := c.Images.Delete(ctx, gone); err != nil {
				t.Fatal(err)
			}
		}
		c.Collect(t)
		desc, err := contentstore.NewSource(ctx, c.Content(), store.Ref{}, ocispec.Descriptor{}).FindManifest(ctx, made)
		if err != nil {
			t.Fatal(err)
		}
		compare(ctx, t, src, want, inStore(ctx, c.Content()), desc)
	}
	if err := c.Images.Delete(ctx, "made"); err != nil {
		t.Fatal(err)
	}
	c.Collect(t)
	if left := c.Digests(t, containerdtest.Namespace); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// Referrers are found by what they refer to, and stay as long as that.
func TestReferrers(t *testing.T) {
	t.Parallel()
	c := containerdtest.New(t)
	ctx, cs := c.Leased(t), c.Content()
	src := layout(t, imagetest.NewImage(t, imagetest.Gzip(t, imagetest.Tar(t, imagetest.File("file", "content")))))
	target := newTarget(ctx, t, cs, contentstore.Options{})
	res, err := convert.Convert(ctx, src, []convert.Output{{Writer: writers(t)[0], Target: target}}, convert.Options{Attach: convert.AttachReferrer})
	if err != nil {
		t.Fatal(err)
	}
	top := target.Tagged()
	name(ctx, t, c, "plain", top)
	for filter, want := range map[string]int{"": 1, "application/vnd.nydus.image.manifest.v1+json": 1, "application/other": 0} {
		found, err := contentstore.NewSource(ctx, cs, store.Ref{}, top).Referrers(ctx, top, filter)
		if err != nil || len(found) != want || want > 0 && found[0].Digest != res.Images[0].Desc.Digest {
			t.Errorf("%q: %v, %v", filter, found, err)
		}
	}
	want, err := src.Resolve(ctx)
	if err != nil {
		t.Fatal(err)
	}
	list, err := c.Leases.List(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range list {
		if err := c.Leases.Delete(ctx, l); err != nil {
			t.Fatal(err)
		}
	}
	c.Collect(t)
	compare(containerdtest.Context(t, containerdtest.Namespace), t, src, want, inStore(ctx, cs), res.Images[0].Desc)
}

// Another namespace of the store gives its objects without a copy; other sources do not.
func TestMount(t *testing.T) {
	t.Parallel()
	c := containerdtest.New(t)
	ctx, cs := c.Leased(t), c.Content()
	desc := formats.DigestOf("", []byte("content"))
	if err := newTarget(ctx, t, cs, contentstore.Options{}).Put(ctx, desc, []byte("content")); err != nil {
		t.Fatal(err)
	}
	other := containerdtest.Context(t, "other")
	target := newTarget(other, t, cs, contentstore.Options{})
	if ok, err := target.Exists(other, desc); ok || err != nil {
		t.Errorf("exists before: %t, %v", ok, err)
	}
	if ok, err := target.Mount(other, desc, layout(t, imagetest.NewImage(t))); ok || err != nil {
		t.Errorf("mounted from a layout: %t, %v", ok, err)
	}
	absent := formats.DigestOf("", []byte("absent"))
	src := contentstore.NewSource(ctx, cs, store.Ref{}, ocispec.Descriptor{})
	if ok, err := target.Mount(other, absent, src); ok || err != nil {
		t.Errorf("mounted what is nowhere: %t, %v", ok, err)
	}
	if ok, err := target.Mount(other, desc, src); !ok || err != nil {
		t.Errorf("mounted: %t, %v", ok, err)
	}
	if p, err := store.ReadAll(other, target, desc, 100); err != nil || string(p) != "content" {
		t.Errorf("%q, %v", p, err)
	}
	for _, ns := range []string{containerdtest.Namespace, "other"} {
		if left := c.Ingests(t, ns); len(left) > 0 {
			t.Errorf("ingests left in %s: %v", ns, left)
		}
	}
}

// Reads are what they ask for, or errors.
func TestSource(t *testing.T) {
	t.Parallel()
	c := containerdtest.New(t)
	ctx, cs := c.Leased(t), c.Content()
	target := newTarget(ctx, t, cs, contentstore.Options{})
	p := bytes.Repeat([]byte("0123456789"), 300_000)
	w, err := target.Create(ctx, "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(w, bytes.NewReader(p)); err != nil {
		t.Fatal(err)
	}
	sum, ok := w.(formats.RunningDigest).RunningSHA256()
	d, n, err := w.Commit(ctx)
	if err != nil || n != int64(len(p)) || !ok || digest.NewDigestFromBytes(digest.SHA256, sum[:]) != d {
		t.Fatalf("%s, %d bytes, %t, %v", d, n, ok, err)
	}
	desc := ocispec.Descriptor{Digest: d, Size: n}
	src, err := target.Open(ctx, desc)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []struct {
		off, n int64
		err    error
	}{{0, 10, nil}, {n - 7, 7, nil}, {1 << 20, 1 << 20, nil}, {n - 7, 8, io.ErrUnexpectedEOF}, {-1, 1, io.ErrUnexpectedEOF}} {
		got := make([]byte, r.n)
		err := src.ReadRange(ctx, got, r.off, blob.Demand)
		if !errors.Is(err, r.err) || err == nil && !bytes.Equal(got, p[r.off:r.off+r.n]) {
			t.Errorf("%d bytes at %d: %v", r.n, r.off, err)
		}
	}
	cancelled, cancel := context.WithCancel(ctx)
	rc, err := target.Fetch(cancelled, desc)
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	if _, err := io.ReadFull(rc, make([]byte, 100)); err != nil {
		t.Error(err)
	}
	cancel()
	if _, err := io.ReadAll(rc); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	wrong := desc
	wrong.Size++
	if _, err := target.Fetch(ctx, wrong); !errors.Is(err, blob.ErrCorrupt) {
		t.Errorf("another size: %v", err)
	}
	if _, err := target.Open(ctx, formats.DigestOf("", nil)); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("absent: %v", err)
	}
	if _, err := target.Open(ctx, ocispec.Descriptor{Digest: "x"}); !errors.Is(err, blob.ErrCorrupt) {
		t.Errorf("no digest: %v", err)
	}
	if found, err := store.FindBlob(ctx, target, d); err != nil || found.Size != n {
		t.Errorf("found %v, %v", found, err)
	}
	if _, err := store.FindManifest(ctx, target, d); !errors.Is(err, blob.ErrCorrupt) {
		t.Errorf("found as a manifest: %v", err)
	}
}

// An image goes through a content store and comes out as it was.
func TestCopy(t *testing.T) {
	t.Parallel()
	c := containerdtest.New(t)
	ctx, cs := c.Leased(t), c.Content()
	img := imagetest.NewIndex(t, imagetest.NewImage(t, imagetest.Gzip(t, imagetest.Tar(t, imagetest.File("file", "content")))))
	desc := copyTo(ctx, t, cs, layout(t, img))
	ref, err := store.Parse("oci:" + filepath.Join(t.TempDir(), "out") + ":v1")
	if err != nil {
		t.Fatal(err)
	}
	out, err := store.OpenTarget(ctx, ref, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if err := store.Copy(ctx, out, contentstore.NewSource(ctx, cs, store.Ref{}, desc), desc, store.CopyOptions{Referrers: true}); err != nil {
		t.Fatal(err)
	}
	for _, d := range img.Digests() {
		if _, err := store.FindBlob(ctx, out.(store.Source), d); err != nil {
			t.Errorf("%s: %v", d, err)
		}
	}
}
