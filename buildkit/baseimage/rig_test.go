package baseimage

import (
	"context"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/moby/buildkit/source/containerimage"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/catalog"
	"github.com/lazuli-project/lazuli/convert"
	"github.com/lazuli-project/lazuli/internal/containerdtest"
	"github.com/lazuli-project/lazuli/internal/imagetest"
	"github.com/lazuli-project/lazuli/internal/registrytest"
	"github.com/lazuli-project/lazuli/store"
)

// rig is a source over a content store, and a registry. Not all of a worker is needed for what does not mount.
type rig struct {
	ctx        context.Context // of the test, with a lease
	containerd *containerdtest.Containerd
	registry   *registrytest.Registry
	host       string
	source     *source
}

func newRig(t *testing.T) *rig {
	t.Helper()
	registry, err := registrytest.New(registrytest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	c := containerdtest.New(t)
	inner, err := containerimage.NewSource(containerimage.SourceOpt{ContentStore: c.Content(), LeaseManager: c.Leases})
	if err != nil {
		t.Fatal(err)
	}
	return &rig{c.Leased(t), c, registry, registry.Listen(t), &source{Source: inner}}
}

// small makes an image of two layers.
func small(t *testing.T, platform, text string) *imagetest.Image {
	t.Helper()
	return imagetest.NewImageFor(t, ocispec.Platform{OS: "linux", Architecture: platform},
		imagetest.Gzip(t, imagetest.Tar(t, imagetest.Dir("d"), imagetest.File("d/gone", "gone"), imagetest.File("d/file", strings.Repeat(text, 1000)))),
		imagetest.Gzip(t, imagetest.Tar(t, imagetest.Whiteout("d/gone"), imagetest.Symlink("link", "d/file"))))
}

// layout opens an image.
func layout(t *testing.T, img *imagetest.Image) store.Source {
	t.Helper()
	dir := t.TempDir()
	img.WriteLayout(t, dir, "v1")
	return open(t, "oci:"+dir+":v1")
}

// open opens a place by its reference.
func open(t *testing.T, name string) store.Source {
	t.Helper()
	ref, err := store.Parse(name)
	if err != nil {
		t.Fatal(err)
	}
	src, err := store.OpenSource(t.Context(), ref, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = src.Close() })
	return src
}

// target opens a name in the registry to write.
func (r *rig) target(t *testing.T, name string) store.Target {
	t.Helper()
	ref, err := store.Parse(r.host + "/" + name)
	if err != nil {
		t.Fatal(err)
	}
	target, err := store.OpenTarget(t.Context(), ref, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = target.Close() })
	return target
}

// push gives an image a name in the registry.
func (r *rig) push(t *testing.T, img *imagetest.Image, name string) {
	t.Helper()
	target := r.target(t, name)
	err := store.Copy(t.Context(), target, layout(t, img), img.Desc, store.CopyOptions{})
	if err == nil {
		err = target.Tag(t.Context(), img.Desc, "")
	}
	if err == nil {
		err = target.Commit(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
}

// convert makes an image of one of our formats under a name in the registry, and returns its descriptor.
func (r *rig) convert(t *testing.T, img *imagetest.Image, format, name string) ocispec.Descriptor {
	t.Helper()
	w, err := catalog.NewWriter(format, catalog.Options{})
	if err != nil {
		t.Fatal(err)
	}
	res, err := convert.Convert(t.Context(), layout(t, img), []convert.Output{{Writer: w, Target: r.target(t, name)}}, convert.Options{TempDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	return res.Tagged[0]
}

// id names an image of the registry.
func (r *rig) id(t *testing.T, name string) *containerimage.ImageIdentifier {
	t.Helper()
	id, err := containerimage.NewImageIdentifier(r.host + "/" + name)
	if err != nil {
		t.Fatal(err)
	}
	id.Platform = &ocispec.Platform{OS: "linux", Architecture: "amd64"}
	return id
}

// find returns an image of our formats.
func (r *rig) find(t *testing.T, name string) *lazyImage {
	t.Helper()
	lazy, err := r.source.find(r.ctx, r.id(t, name), nil, nil)
	if err != nil || lazy == nil {
		t.Fatalf("find %s: %v, %v", name, lazy, err)
	}
	return lazy
}

// keep puts bytes into the content store.
func (r *rig) keep(t *testing.T, p []byte, labels map[string]string) ocispec.Descriptor {
	t.Helper()
	d := digest.FromBytes(p)
	if err := content.WriteBlob(r.ctx, r.containerd.Content(), d.String(), strings.NewReader(string(p)),
		ocispec.Descriptor{Digest: d, Size: int64(len(p))}, content.WithLabels(labels)); err != nil {
		t.Fatal(err)
	}
	return ocispec.Descriptor{Digest: d, Size: int64(len(p))}
}
