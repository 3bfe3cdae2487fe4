package convert_test

import (
	"encoding/json"
	"errors"
	"path/filepath"
	"reflect"
	"slices"
	"testing"

	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/convert"
	"github.com/lazuli-project/lazuli/internal/imagetest"
	"github.com/lazuli-project/lazuli/internal/registrytest"
)

const referenceOf = "vnd.docker.reference.digest"

// rich is an index as BuildKit and others make them: images of two platforms, one of them without its platform in the index,
// an attestation, an artifact, and a child of an unknown type.
type rich struct {
	*imagetest.Image
	amd, arm, attestation, artifact, unknown ocispec.Descriptor
	entries                                  []ocispec.Descriptor
}

func newRich(tb testing.TB) *rich {
	tb.Helper()
	amd, arm := small(tb, amd64, "amd"), small(tb, arm64, "arm")
	att := imagetest.Attestation(tb, amd)
	r := &rich{Image: imagetest.NewIndex(tb, amd, arm, att), amd: amd.Desc, arm: arm.Desc, attestation: att.Desc}
	empty := r.Add(ocispec.MediaTypeEmptyJSON, []byte("{}"))
	r.artifact = r.AddJSON(tb, ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: "application/x-sbom",
		Config: empty, Layers: []ocispec.Descriptor{r.Add("application/x-sbom", []byte("sbom"))},
	})
	r.unknown = r.Add("application/x-unknown", []byte("what is it"))
	r.arm.Platform = nil
	r.entries = []ocispec.Descriptor{r.amd, r.arm, r.attestation, r.artifact, r.unknown}
	r.Desc = r.AddJSON(tb, ocispec.MediaTypeImageIndex, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: r.entries,
		Annotations: map[string]string{"org.example.kept": "yes"},
	})
	return r
}

// targets are references of all kinds that hold indexes.
func targets(t *testing.T) map[string]string {
	return map[string]string{
		"registry":                   newRegistry(t, registrytest.Options{}).host + "/image:made",
		"registry without referrers": newRegistry(t, registrytest.Options{NoReferrers: true}).host + "/image:made",
		"layout":                     "oci:" + filepath.Join(t.TempDir(), "made") + ":made",
		"archive":                    "oci-archive:" + filepath.Join(t.TempDir(), "made.tar") + ":made",
	}
}

func TestAttachTag(t *testing.T) {
	t.Parallel()
	r := newRich(t)
	from := layout(t, r.Image)
	for name, to := range targets(t) {
		res := mustRun(t, from, to, convert.Options{})
		x := index(t, to)
		if len(res.Images) != 2 || len(x.Manifests) != 5 || x.Annotations["org.example.kept"] != "yes" || x.MediaType != ocispec.MediaTypeImageIndex {
			t.Fatalf("%s: %+v", name, x)
		}
		amd, arm, att := x.Manifests[0], x.Manifests[1], x.Manifests[2]
		if !reflect.DeepEqual(*amd.Platform, amd64) || !reflect.DeepEqual(*arm.Platform, arm64) {
			t.Errorf("%s: platforms %v, %v", name, amd.Platform, arm.Platform)
		}
		// The attestation is the same, and about our image.
		if att.Digest != r.attestation.Digest || att.Annotations[referenceOf] != amd.Digest.String() || amd.Digest == r.amd.Digest {
			t.Errorf("%s: attestation %+v", name, att)
		}
		if !reflect.DeepEqual(x.Manifests[3:], []ocispec.Descriptor{r.artifact, r.unknown}) {
			t.Errorf("%s: carried along: %+v", name, x.Manifests[3:])
		}
		equal(t, from, to, "linux/amd64")
		if name != "archive" {
			equal(t, from, to, "linux/arm64/v8")
		}
	}
}

func TestAttachIndex(t *testing.T) {
	t.Parallel()
	r := newRich(t)
	from := layout(t, r.Image)
	for name, to := range targets(t) {
		mustRun(t, from, to, convert.Options{Attach: convert.AttachIndex})
		x := index(t, to)
		if len(x.Manifests) != 7 {
			t.Fatalf("%s: %+v", name, x.Manifests)
		}
		// The source's entries are the first and as they were, but for the platform that was missing.
		for i, want := range r.entries {
			got := x.Manifests[i]
			if i == 1 {
				if got.Platform == nil || !reflect.DeepEqual(*got.Platform, arm64) {
					t.Errorf("%s: platform %v", name, got.Platform)
				}
				got.Platform = nil
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("%s: entry %d is %+v instead of %+v", name, i, got, want)
			}
		}
		for i, of := range []ocispec.Platform{amd64, arm64} {
			got := x.Manifests[5+i]
			of.OSFeatures = []string{featureNydus}
			if got.ArtifactType != artifactNydus || !reflect.DeepEqual(*got.Platform, of) {
				t.Errorf("%s: our entry %+v, %+v", name, got, got.Platform)
			}
		}
		equal(t, from, to, "linux/amd64")
		// Everything that the index names is there.
		var m ocispec.Manifest
		fetchJSON(t, to, r.amd, &m)
		fetchJSON(t, to, r.artifact, &m)

		// Once more from the result: nothing is added.
		before, err := resolve(t, to)
		if err != nil {
			t.Fatal(err)
		}
		again := "oci:" + filepath.Join(t.TempDir(), "again") + ":made"
		mustRun(t, to, again, convert.Options{Attach: convert.AttachIndex})
		if d, err := resolve(t, again); err != nil || d.Digest != before.Digest {
			t.Errorf("%s: once more: %s, %v; before %s", name, d.Digest, err, before.Digest)
		}
	}
}

func TestAttachIndexToImage(t *testing.T) {
	t.Parallel()
	img := small(t, amd64, "one")
	from := layout(t, img)
	to := "oci:" + filepath.Join(t.TempDir(), "made") + ":made"
	mustRun(t, from, to, convert.Options{Attach: convert.AttachIndex})
	x := index(t, to)
	if len(x.Manifests) != 2 || x.Manifests[0].Digest != img.Desc.Digest || x.Manifests[0].ArtifactType != "" || x.Manifests[1].ArtifactType != artifactNydus ||
		len(x.Manifests[0].Annotations) != 0 || x.Manifests[0].Platform == nil {
		t.Errorf("%+v", x.Manifests)
	}
	equal(t, from, to, "linux/amd64")
}

func TestAttachReferrer(t *testing.T) {
	t.Parallel()
	r := newRich(t)
	from := layout(t, r.Image)
	for name, to := range targets(t) {
		mustRun(t, from, to, convert.Options{Attach: convert.AttachReferrer})
		if d, err := resolve(t, to); err != nil || d.Digest != r.Desc.Digest {
			t.Fatalf("%s: the tag names %s, %v", name, d.Digest, err)
		}
		src := openSource(t, to)
		for _, subject := range []ocispec.Descriptor{r.amd, r.arm} {
			list, err := src.Referrers(t.Context(), subject, "")
			if err != nil || len(list) != 1 {
				t.Fatalf("%s: referrers %+v, %v", name, list, err)
			}
			var m ocispec.Manifest
			fetchJSON(t, to, list[0], &m)
			if m.Subject == nil || m.Subject.Digest != subject.Digest || m.Subject.Size != subject.Size || m.Subject.Platform != nil || m.ArtifactType != artifactNydus {
				t.Errorf("%s: %+v", name, m.Subject)
			}
			if _, err := json.Marshal(m.Config); err != nil || m.Config.MediaType != ocispec.MediaTypeImageConfig {
				t.Errorf("%s: config %+v", name, m.Config)
			}
		}
	}
}

func TestPlatforms(t *testing.T) {
	t.Parallel()
	r := newRich(t)
	from := layout(t, r.Image)
	for _, c := range []struct {
		wanted []string
		images int
		atts   int
		err    error
	}{
		{[]string{"linux/amd64"}, 1, 1, nil},
		{[]string{"linux/arm64"}, 1, 0, nil}, // every variant
		{[]string{"linux/arm64/v8"}, 1, 0, nil},
		{[]string{"linux/arm64/v8", "linux/amd64"}, 2, 1, nil},
		{[]string{"linux/arm64/v7"}, 0, 0, convert.ErrNothingToConvert},
		{[]string{"linux/arm"}, 0, 0, convert.ErrNothingToConvert},
	} {
		to := "oci:" + filepath.Join(t.TempDir(), "made") + ":made"
		res, err := run(t.Context(), t, from, to, convert.Options{Platforms: c.wanted}, nil)
		if !errors.Is(err, c.err) {
			t.Fatalf("%v: %v", c.wanted, err)
		}
		if err != nil {
			untagged(t, to)
			continue
		}
		x := index(t, to)
		atts := len(slices.DeleteFunc(slices.Clone(x.Manifests), func(d ocispec.Descriptor) bool { return d.Annotations[referenceOf] == "" }))
		if len(res.Images) != c.images || atts != c.atts || len(x.Manifests) != c.images+c.atts+2 {
			t.Errorf("%v: %d images, %d attestations, %d entries", c.wanted, len(res.Images), atts, len(x.Manifests))
		}
	}
}

// An image by its digest, out of an index under its tag.
func TestDigestReference(t *testing.T) {
	t.Parallel()
	r := newRich(t)
	reg := newRegistry(t, registrytest.Options{})
	put(t, r.Image, reg.host+"/rich:v1")
	want := mustRun(t, layout(t, small(t, arm64, "arm")), "oci:"+filepath.Join(t.TempDir(), "a")+":made", convert.Options{}).Tagged[0].Digest
	got := mustRun(t, reg.host+"/rich@"+r.arm.Digest.String(), "oci:"+filepath.Join(t.TempDir(), "b")+":made", convert.Options{}).Tagged[0].Digest
	if got != want {
		t.Errorf("%s by its digest, %s alone", got, want)
	}
	for _, c := range []struct {
		digest string
		err    error
	}{
		{digestOf(r.attestation), nil}, {digestOf(r.artifact), nil},
	} {
		if _, err := run(t.Context(), t, reg.host+"/rich@"+c.digest, "oci:"+filepath.Join(t.TempDir(), "c")+":made", convert.Options{}, nil); err == nil {
			t.Errorf("%s is no image", c.digest)
		}
	}
}

func digestOf(d ocispec.Descriptor) string { return d.Digest.String() }

func TestConvertedAlready(t *testing.T) {
	t.Parallel()
	to := "oci:" + filepath.Join(t.TempDir(), "made") + ":made"
	mustRun(t, layout(t, small(t, amd64, "x")), to, convert.Options{})
	_, err := run(t.Context(), t, to, "oci:"+filepath.Join(t.TempDir(), "again")+":made", convert.Options{}, nil)
	if !errors.Is(err, convert.ErrNothingToConvert) {
		t.Errorf("%v", err)
	}
	if _, err := run(t.Context(), t, layout(t, small(t, amd64, "x")), to, convert.Options{Attach: "else"}, nil); err == nil {
		t.Error("an unknown way to attach")
	}
}
