package store_test

import (
	"bytes"
	"errors"
	"path/filepath"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/internal/registrytest"
	"github.com/lazuli-project/lazuli/store"
)

// index stores an index of everything that images come with: two platforms, an attestation of one, a child of an
// unknown kind, an index inside, and a signature that refers to the first.
func index(t *testing.T, dst store.Target) (ocispec.Descriptor, []digest.Digest) {
	t.Helper()
	amd, arm := image(t, dst, nil, content(1, 5000), content(2, 10)), image(t, dst, nil, content(1, 5000), content(3, 10))
	amd.Platform = &ocispec.Platform{OS: "linux", Architecture: "amd64"}
	attestation := image(t, dst, nil, content(4, 10))
	attestation.Annotations = map[string]string{
		"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": amd.Digest.String(),
	}
	opaque := []byte(`{"something":"else"}`)
	unknown := formats.DigestOf("application/vnd.example.unknown+json", opaque)
	if err := dst.Put(t.Context(), unknown, opaque); err != nil {
		t.Fatal(err)
	}
	signature := image(t, dst, &amd, content(5, 10))
	put := func(children ...ocispec.Descriptor) ocispec.Descriptor {
		x := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: children}
		x.SchemaVersion = 2
		raw := mustJSON(t, x)
		d := formats.DigestOf(x.MediaType, raw)
		if err := dst.Put(t.Context(), d, raw); err != nil {
			t.Fatal(err)
		}
		return d
	}
	top := put(amd, attestation, unknown, put(arm))
	if err := errors.Join(dst.Tag(t.Context(), top, ""), dst.Commit(t.Context())); err != nil {
		t.Fatal(err)
	}
	return top, []digest.Digest{amd.Digest, signature.Digest}
}

func TestCopy(t *testing.T) {
	t.Parallel()
	for _, from := range kinds {
		for _, to := range kinds {
			t.Run(from.name+" to "+to.name, func(t *testing.T) {
				t.Parallel()
				srcRef, dstRef := from.make(t), to.make(t)
				top, refs := index(t, openTarget(t, srcRef))
				src, dst := openSource(t, srcRef), openTarget(t, dstRef)
				var mu sync.Mutex
				seen := map[digest.Digest]int{}
				err := store.Copy(t.Context(), dst, src, top, store.CopyOptions{Referrers: true, OnBlob: func(d ocispec.Descriptor, _ store.CopyResult) {
					mu.Lock()
					defer mu.Unlock()
					seen[d.Digest]++
				}})
				if err != nil {
					t.Fatal(err)
				}
				if err := errors.Join(dst.Tag(t.Context(), top, ""), dst.Commit(t.Context()), dst.Close()); err != nil {
					t.Fatal(err)
				}
				for d, n := range seen {
					if n != 1 {
						t.Errorf("%s was copied %d times", d, n)
					}
				}
				copied := openSource(t, dstRef)
				desc, err := copied.Resolve(t.Context())
				if err != nil || desc.Digest != top.Digest {
					t.Fatalf("%v, %v", desc, err)
				}
				x, err := store.LoadIndex(t.Context(), copied, desc)
				if err != nil || len(x.Index.Manifests) != 4 {
					t.Fatalf("%+v, %v", x, err)
				}
				m, err := store.LoadManifest(t.Context(), copied, x.Index.Manifests[0])
				if err != nil || !bytes.Equal(fetchAll(t, copied, m.Manifest.Layers[0]), content(1, 5000)) {
					t.Errorf("layer: %v", err)
				}
				if got := fetchAll(t, copied, x.Index.Manifests[2]); string(got) != `{"something":"else"}` {
					t.Errorf("unknown child: %s", got)
				}
				found, err := copied.Referrers(t.Context(), ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: refs[0], Size: x.Index.Manifests[0].Size}, "")
				if err != nil || len(found) != 1 || found[0].Digest != refs[1] {
					t.Errorf("referrers: %v, %v", found, err)
				}
			})
		}
	}
}

func TestCopyMounts(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t, registrytest.Options{})
	src, dst := mustParse(t, reg.host+"/a:v1"), mustParse(t, reg.host+"/b:v1")
	top, _ := index(t, openTarget(t, src))
	reg.ResetStats()
	if err := store.Copy(t.Context(), openTarget(t, dst), openSource(t, src), top, store.CopyOptions{}); err != nil {
		t.Fatal(err)
	}
	if s := reg.Stats(); s.Uploads != 0 || s.Mounts != 6 {
		t.Errorf("%+v", s)
	}
}

func TestCopyRefuses(t *testing.T) {
	t.Parallel()
	ref := mustParse(t, "oci:"+filepath.Join(t.TempDir(), "a"))
	dst := openTarget(t, ref)
	put := func(raw string, mediaType string) ocispec.Descriptor {
		d := formats.DigestOf(mediaType, []byte(raw))
		if err := dst.Put(t.Context(), d, []byte(raw)); err != nil {
			t.Fatal(err)
		}
		return d
	}
	absent := digest.FromString("absent").String()
	lacking := put(`{"schemaVersion":2,"manifests":[{"mediaType":"`+ocispec.MediaTypeImageManifest+`","digest":"`+absent+`","size":9}]}`, ocispec.MediaTypeImageIndex)
	deep := put(`{"schemaVersion":2,"manifests":[]}`, ocispec.MediaTypeImageIndex)
	for range 10 {
		deep = put(`{"schemaVersion":2,"manifests":[`+string(mustJSON(t, deep))+`]}`, ocispec.MediaTypeImageIndex)
	}
	empty := put(`{"schemaVersion":2,"manifests":[]}`, ocispec.MediaTypeImageIndex)
	if err := errors.Join(dst.Tag(t.Context(), empty, ""), dst.Commit(t.Context())); err != nil {
		t.Fatal(err)
	}
	src := openSource(t, ref)
	large := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: empty.Digest, Size: 5 << 20}
	for name, c := range map[string]struct {
		desc ocispec.Descriptor
		want error
	}{
		"child not there": {lacking, store.ErrNotFound}, "too deep": {deep, blob.ErrCorrupt},
		"too large": {large, blob.ErrCorrupt}, "no digest": {ocispec.Descriptor{Digest: "sha256:../../x"}, blob.ErrCorrupt},
	} {
		to := openTarget(t, mustParse(t, "oci:"+filepath.Join(t.TempDir(), "b")))
		if err := store.Copy(t.Context(), to, src, c.desc, store.CopyOptions{}); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := store.LoadManifest(t.Context(), src, empty); !errors.Is(err, blob.ErrUnsupported) {
		t.Errorf("an index is no image: %v", err)
	}
}
