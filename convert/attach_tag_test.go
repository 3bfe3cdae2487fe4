package convert_test

import (
	"errors"
	"path/filepath"
	"reflect"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/convert"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/internal/imagetest"
	"github.com/lazuli-project/lazuli/internal/registrytest"
	"github.com/lazuli-project/lazuli/store"
)

// listOf is an index of images of the given media type. Each entry has an annotation.
func listOf(tb testing.TB, mediaType string, images ...*imagetest.Image) *imagetest.Image {
	tb.Helper()
	x := imagetest.NewIndex(tb, images...)
	var list ocispec.Index
	list.SchemaVersion, list.MediaType = 2, mediaType
	for _, im := range images {
		d := im.Desc
		a := map[string]string{"org.example.arch": d.Platform.Architecture}
		for k, v := range d.Annotations {
			a[k] = v
		}
		d.Annotations = a
		list.Manifests = append(list.Manifests, d)
	}
	x.Desc = x.AddJSON(tb, mediaType, list)
	return x
}

func TestAttachTagIndexOptions(t *testing.T) {
	t.Parallel()
	amd, arm := small(t, amd64, "amd"), small(t, arm64, "arm")
	att := imagetest.Attestation(t, amd)
	for _, c := range []struct {
		name    string
		image   *imagetest.Image
		opt     convert.IndexOptions
		want    string // media type of the index, "" for none
		entries int
	}{
		{"Docker's list", listOf(t, formats.MediaTypeDockerIndex, amd, arm), convert.IndexOptions{}, formats.MediaTypeDockerIndex, 2},
		{"Docker's list as index", listOf(t, formats.MediaTypeDockerIndex, amd, arm), convert.IndexOptions{MediaType: ocispec.MediaTypeImageIndex, Subject: true}, ocispec.MediaTypeImageIndex, 2},
		{"attestation", listOf(t, ocispec.MediaTypeImageIndex, amd, arm, att), convert.IndexOptions{Subject: true}, ocispec.MediaTypeImageIndex, 3},
		{"attestation in Docker's list", listOf(t, formats.MediaTypeDockerIndex, amd, arm, att), convert.IndexOptions{}, formats.MediaTypeDockerIndex, 2},
		{"of Docker's list in an index", listOf(t, formats.MediaTypeDockerIndex, amd, arm, att), convert.IndexOptions{MediaType: ocispec.MediaTypeImageIndex}, ocispec.MediaTypeImageIndex, 3},
		{"one image", listOf(t, ocispec.MediaTypeImageIndex, amd), convert.IndexOptions{}, "", 0},
		{"index of one image", listOf(t, ocispec.MediaTypeImageIndex, amd), convert.IndexOptions{Always: true}, ocispec.MediaTypeImageIndex, 1},
		{"no index", amd, convert.IndexOptions{Always: true, Subject: true}, "", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			to := "oci:" + filepath.Join(t.TempDir(), "made") + ":made"
			mustRun(t, layout(t, c.image), to, convert.Options{Index: c.opt})
			top, err := resolve(t, to)
			if err != nil {
				t.Fatal(err)
			}
			if c.want == "" {
				if top.MediaType != ocispec.MediaTypeImageManifest {
					t.Errorf("made %s", top.MediaType)
				}
				return
			}
			x := index(t, to)
			if x.MediaType != c.want || top.MediaType != c.want || len(x.Manifests) != c.entries {
				t.Errorf("%s (%s) with %d entries, expected %s with %d", x.MediaType, top.MediaType, len(x.Manifests), c.want, c.entries)
			}
			for _, m := range x.Manifests {
				if m.Annotations["org.example.arch"] != m.Platform.Architecture {
					t.Errorf("annotations of %v: %v", m.Platform, m.Annotations)
				}
			}
			var subject *ocispec.Descriptor
			if c.opt.Subject {
				subject = &ocispec.Descriptor{MediaType: c.image.Desc.MediaType, Digest: c.image.Desc.Digest, Size: c.image.Desc.Size}
			}
			if !reflect.DeepEqual(x.Subject, subject) || (x.ArtifactType == artifactNydus) != c.opt.Subject {
				t.Errorf("subject %v of type %q", x.Subject, x.ArtifactType)
			}
		})
	}
}

// An index that is tagged is found by its subject, also in registries that do not list referrers.
func TestAttachTagSubject(t *testing.T) {
	t.Parallel()
	amd, arm := small(t, amd64, "amd"), small(t, arm64, "arm")
	list := listOf(t, ocispec.MediaTypeImageIndex, amd, arm)
	for name, o := range map[string]registrytest.Options{"referrers": {}, "no referrers": {NoReferrers: true}} {
		host := newRegistry(t, o).host
		put(t, list, host+"/app:1")
		mustRun(t, host+"/app:1", host+"/app:2", convert.Options{Subject: true, Index: convert.IndexOptions{Subject: true}})
		src := openSource(t, host+"/app:1")
		made := index(t, host+"/app:2")
		top, err := resolve(t, host+"/app:2")
		if err != nil {
			t.Fatal(err)
		}
		for of, want := range map[*imagetest.Image]ocispec.Descriptor{list: top, amd: made.Manifests[0], arm: made.Manifests[1]} {
			found, err := src.Referrers(t.Context(), of.Desc, "")
			if err != nil || len(found) != 1 || found[0].Digest != want.Digest {
				t.Errorf("%s: referrers of %s: %v, %v; expected %s", name, of.Desc.Digest, found, err, want.Digest)
			}
		}
	}
}

func TestUntagged(t *testing.T) {
	t.Parallel()
	from := layout(t, imagetest.Edge(t))
	for _, attach := range []convert.Attach{convert.AttachTag, convert.AttachReferrer} {
		to := "oci:" + t.TempDir() + "/made:v1"
		res := mustRun(t, from, to, convert.Options{Attach: attach, Untagged: true})
		untagged(t, to)
		// What was made is there nevertheless.
		if _, err := store.LoadManifest(t.Context(), openTarget(t, to), res.Images[0].Desc); err != nil {
			t.Errorf("%s: %v", attach, err)
		}
	}
	_, err := run(t.Context(), t, from, "oci:"+t.TempDir()+"/made:v1", convert.Options{Attach: convert.AttachIndex, Untagged: true}, nil)
	if !errors.Is(err, blob.ErrUnsupported) {
		t.Errorf("an index without a tag: %v", err)
	}
}
