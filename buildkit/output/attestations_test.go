package output

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/convert"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/store"
)

// newTarget is a place for objects, in a directory.
func newTarget(t *testing.T) store.Target {
	t.Helper()
	ref, err := store.Parse("oci:" + filepath.Join(t.TempDir(), "layout"))
	if err != nil {
		t.Fatal(err)
	}
	target, err := store.OpenTarget(t.Context(), ref, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { target.Close() })
	return target
}

// put stores what v is as JSON, or the text that it is.
func put(t *testing.T, target store.Target, mediaType string, v any) ocispec.Descriptor {
	t.Helper()
	raw, err := json.Marshal(v)
	if text, ok := v.(string); ok {
		raw = []byte(text)
	}
	if err != nil {
		t.Fatal(err)
	}
	desc := formats.DigestOf(mediaType, raw)
	if err := target.Put(t.Context(), desc, raw); err != nil {
		t.Fatal(err)
	}
	return desc
}

func TestPointAttestations(t *testing.T) {
	t.Parallel()
	platform := &ocispec.Platform{OS: "linux", Architecture: "amd64"}
	plain, ours := entry("plain:linux/amd64"), entry("ours:linux/amd64")
	for _, c := range []struct {
		name     string
		artifact bool
	}{{"artifact", true}, {"image", false}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			target := newTarget(t)
			statement := put(t, target, mediaTypeInToto, `{"_type":"t","subject":[{"name":"pkg:docker/old@1","digest":{"sha256":"`+plain.Digest.Encoded()+
				`"}},{"name":"else","digest":{"sha256":"`+strings.Repeat("0", 64)+`"}}],"predicate":{"big":12345678901234567890}}`)
			m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Layers: []ocispec.Descriptor{statement}}
			if c.artifact {
				m.ArtifactType = "application/vnd.docker.attestation.manifest.v1+json"
				m.Config = put(t, target, ocispec.MediaTypeEmptyJSON, "{}")
				m.Subject = &plain
			} else {
				m.Config = put(t, target, ocispec.MediaTypeImageConfig, ocispec.Image{RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{statement.Digest}}})
			}
			attestation := put(t, target, ocispec.MediaTypeImageManifest, m)
			attestation.Platform = &ocispec.Platform{OS: "unknown", Architecture: "unknown"}
			// As package convert leaves it.
			attestation.Annotations = map[string]string{annotationReferenceType: "attestation-manifest", annotationReferenceDigest: ours.Digest.String()}
			index, raw, err := MarshalIndex([]ocispec.Descriptor{ours, attestation}, map[string]string{"k": "v"})
			if err == nil {
				err = target.Put(t.Context(), index, raw)
			}
			if err != nil {
				t.Fatal(err)
			}
			source := plain
			source.Platform = platform
			made := &Made{Format: "nydus", Tagged: index, Images: []convert.Image{{Source: source, Desc: ours}}, Name: "registry.example/app:2"}
			if err := made.PointAttestations(t.Context(), target); err != nil {
				t.Fatal(err)
			}

			x, err := store.LoadIndex(t.Context(), target, made.Tagged)
			if err != nil {
				t.Fatal(err)
			}
			if x.Index.Annotations["k"] != "v" || len(x.Index.Manifests) != 2 || x.Index.Manifests[0].Digest != ours.Digest {
				t.Errorf("index: %+v", x.Index)
			}
			got, err := store.LoadManifest(t.Context(), target, x.Index.Manifests[1])
			if err != nil {
				t.Fatal(err)
			}
			if c.artifact && (got.Manifest.Subject == nil || got.Manifest.Subject.Digest != ours.Digest || got.Manifest.Subject.Platform != nil) {
				t.Errorf("subject: %+v", got.Manifest.Subject)
			}
			layer := got.Manifest.Layers[0]
			if ids := got.Config.RootFS.DiffIDs; !c.artifact && (len(ids) != 1 || ids[0] != layer.Digest) {
				t.Errorf("diff IDs %v of a statement %s", ids, layer.Digest)
			}
			raw, err = store.ReadAll(t.Context(), target, layer, maxStatement)
			if err != nil {
				t.Fatal(err)
			}
			text := string(raw)
			for _, want := range []string{ours.Digest.Encoded(), strings.Repeat("0", 64), `"else"`, "registry.example/app@2", `{"big":12345678901234567890}`} {
				if !strings.Contains(text, want) {
					t.Errorf("no %s in %s", want, text)
				}
			}
			if strings.Contains(text, plain.Digest.Encoded()) {
				t.Errorf("the plain image is in %s", text)
			}
			// What is right stays.
			before := made.Tagged
			if err := made.PointAttestations(t.Context(), target); err != nil || made.Tagged.Digest != before.Digest {
				t.Errorf("again: %s became %s, %v", before.Digest, made.Tagged.Digest, err)
			}
		})
	}
}

func TestPointAttestationsRefusesDamage(t *testing.T) {
	t.Parallel()
	ours := entry("ours:linux/amd64")
	a := &attestations{became: map[digest.Digest]ocispec.Descriptor{entry("plain").Digest: ours}}
	for _, text := range []string{"", "[]", "{", `{"subject":{}}`, `{"subject":[1]}`} {
		if _, err := a.statement([]byte(text)); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
	for _, text := range []string{"{}", `{"subject":[]}`, `{"subject":[{"digest":1}]}`, `{"subject":[{"digest":{"sha256":"x"}}]}`, `{"subject":[{}]}`} {
		if raw, err := a.statement([]byte(text)); err != nil || string(raw) != text {
			t.Errorf("%q: %s, %v", text, raw, err)
		}
	}
}
