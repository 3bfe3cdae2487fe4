package convert_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/convert"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/formats/nydus"
	"github.com/lazuli-project/lazuli/formats/oci"
	"github.com/lazuli-project/lazuli/image"
	"github.com/lazuli-project/lazuli/internal/imagetest"
	"github.com/lazuli-project/lazuli/internal/registrytest"
	"github.com/lazuli-project/lazuli/store"
)

// entry is a manifest of another tool, for an index.
func entry(t *testing.T, img *imagetest.Image, artifactType string, features ...string) ocispec.Descriptor {
	t.Helper()
	config := img.AddJSON(t, ocispec.MediaTypeImageConfig, ocispec.Image{Platform: amd64})
	d := img.AddJSON(t, ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: config, Annotations: map[string]string{"of": artifactType + "x"},
		Layers: []ocispec.Descriptor{img.Add("application/x-other", []byte(artifactType))},
	})
	p := amd64
	p.OSFeatures = features
	d.ArtifactType, d.Platform = artifactType, &p
	return d
}

// withEntries is an index of an image and others.
func withEntries(t *testing.T, img *imagetest.Image, others ...ocispec.Descriptor) *imagetest.Image {
	t.Helper()
	source := img.Desc
	p := amd64
	source.Platform = &p
	img.Desc = img.AddJSON(t, ocispec.MediaTypeImageIndex, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: append([]ocispec.Descriptor{source}, others...),
	})
	return img
}

func digests(list []ocispec.Descriptor) []string {
	var out []string
	for _, d := range list {
		out = append(out, d.Digest.String())
	}
	return out
}

// Once more, our entry is replaced, of whatever generation it is, and those of other formats stay.
func TestAttachIndexAgain(t *testing.T) {
	t.Parallel()
	img := small(t, amd64, "x")
	plain := layout(t, img)
	source := img.Desc.Digest.String()
	first, now, other := entry(t, img, "", featureNydus), entry(t, img, artifactNydus), entry(t, img, "application/x-other-format")
	full := withEntries(t, img, first, other, now)
	r := newRegistry(t, registrytest.Options{})
	for name, from := range map[string]string{"of the tag": r.host + "/a:tag", "of another": plain} {
		to := r.host + "/a:tag"
		put(t, full, to)
		for range 2 {
			mustRun(t, from, to, convert.Options{Attach: convert.AttachIndex})
			x := index(t, to)
			if len(x.Manifests) != 3 || x.Manifests[0].Digest.String() != source || x.Manifests[1].Digest != other.Digest || x.Manifests[2].ArtifactType != artifactNydus {
				t.Errorf("%s: %v; source %s, other %s", name, digests(x.Manifests), source, other.Digest)
			}
			equal(t, plain, to, "linux/amd64")
		}
	}
}

// A tag that names something else is replaced as any tag is.
func TestAttachIndexToOther(t *testing.T) {
	t.Parallel()
	r := newRegistry(t, registrytest.Options{})
	to := r.host + "/a:tag"
	old := small(t, amd64, "old")
	put(t, withEntries(t, old, entry(t, old, "application/x-other-format")), to)
	img := small(t, amd64, "new")
	mustRun(t, layout(t, img), to, convert.Options{Attach: convert.AttachIndex})
	if x := index(t, to); len(x.Manifests) != 2 || x.Manifests[0].Digest != img.Desc.Digest {
		t.Errorf("%v", digests(x.Manifests))
	}
}

// moving is a target whose tag somebody moves whenever an index is stored.
type moving struct {
	store.Target
	move func()
}

// Put implements [formats.Sink].
func (m *moving) Put(ctx context.Context, desc ocispec.Descriptor, content []byte) error {
	err := m.Target.Put(ctx, desc, content)
	if store.IsIndex(desc.MediaType) {
		m.move()
	}
	return err
}

func TestAttachIndexRace(t *testing.T) {
	t.Parallel()
	img := small(t, amd64, "x")
	plain, source := layout(t, img), img.Desc
	other := entry(t, img, "application/x-other-format")
	full := withEntries(t, img, other)
	r := newRegistry(t, registrytest.Options{})
	wrap := func(move func(n int)) func(store.Target) store.Target {
		n := 0
		return func(s store.Target) store.Target { return &moving{s, func() { n++; move(n) }} }
	}

	// Somebody adds an entry: it is not lost.
	to := r.host + "/a:tag"
	_, err := run(t.Context(), t, plain, to, convert.Options{Attach: convert.AttachIndex}, wrap(func(n int) {
		if n == 1 {
			put(t, full, to)
		}
	}))
	x := index(t, to)
	if err != nil || len(x.Manifests) != 3 || x.Manifests[0].Digest != source.Digest || x.Manifests[1].Digest != other.Digest {
		t.Errorf("%v, %v", digests(x.Manifests), err)
	}

	// Somebody moves it again and again.
	to = r.host + "/b:tag"
	_, err = run(t.Context(), t, plain, to, convert.Options{Attach: convert.AttachIndex}, wrap(func(n int) {
		put(t, small(t, amd64, string(rune('a'+n))), to)
	}))
	if !errors.Is(err, convert.ErrMoved) {
		t.Errorf("%v", err)
	}

	// What the tag names was converted, and is another image now.
	to = r.host + "/c:tag"
	put(t, img, to)
	newer := small(t, amd64, "newer")
	_, err = run(t.Context(), t, to, to, convert.Options{Attach: convert.AttachIndex}, wrap(func(int) { put(t, newer, to) }))
	if got, resolveErr := resolve(t, to); !errors.Is(err, convert.ErrMoved) || resolveErr != nil || got.Digest != newer.Desc.Digest {
		t.Errorf("%v; the tag names %s, %v", err, got.Digest, resolveErr)
	}
}

// The index that the reference tool makes, with a changed copy of the source, is read, and its Nydus entry replaced.
func TestAttachIndexReference(t *testing.T) {
	t.Parallel()
	source := layout(t, fixture(t, fixtureSource, ocispec.MediaTypeImageManifest))
	to := newRegistry(t, registrytest.Options{}).host + "/merged:tag"
	put(t, fixture(t, fixtureMerged, ocispec.MediaTypeImageIndex), to)
	readers := []formats.Reader{nydus.Reader{}, oci.Reader{}}
	for _, want := range []int{1, 2} {
		im, err := image.Open(t.Context(), parse(t, to), image.Options{Store: options(), Platform: "linux/amd64", Readers: readers})
		if err != nil || im.Format != nydus.Name {
			t.Fatalf("%v", err)
		}
		if err := im.Close(); err != nil {
			t.Fatal(err)
		}
		equal(t, source, to, "linux/amd64")
		x := index(t, to)
		if len(x.Manifests) != 2 || x.Manifests[0].Digest != fixtureMergedOCI || (want == 1) == slices.Contains(platformFeatures(x.Manifests[1]), featureNydus) {
			t.Errorf("%v", x.Manifests)
		}
		if want == 1 {
			mustRun(t, to, to, convert.Options{Attach: convert.AttachIndex})
		}
	}
}

func platformFeatures(d ocispec.Descriptor) []string {
	if d.Platform == nil {
		return nil
	}
	return d.Platform.OSFeatures
}
