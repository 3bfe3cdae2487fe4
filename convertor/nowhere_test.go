package convertor_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/convertor"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/store"
)

func nowhere(t *testing.T) *convertor.Nowhere {
	t.Helper()
	ref, err := store.Parse("registry.example.com/app:1")
	if err != nil {
		t.Fatal(err)
	}
	return convertor.NewNowhere(ref)
}

func TestNowhereObjects(t *testing.T) {
	t.Parallel()
	n := nowhere(t)
	w, err := n.Create(t.Context(), ocispec.MediaTypeImageLayer)
	if err != nil {
		t.Fatal(err)
	}
	content := bytes.Repeat([]byte("layer"), 1000)
	for _, p := range [][]byte{content[:7], content[7:]} {
		if k, err := w.Write(p); k != len(p) || err != nil {
			t.Fatal(k, err)
		}
	}
	if sum, ok := w.(formats.RunningDigest).RunningSHA256(); !ok || sum != sha256.Sum256(content) {
		t.Error("running digest")
	}
	d, size, err := w.Commit(t.Context())
	if d != digest.FromBytes(content) || size != int64(len(content)) || err != nil {
		t.Error(d, size, err)
	}
	w.Abort()
	if _, err := w.Write(content); err == nil {
		t.Error("written after its end")
	}
	if _, _, err := w.Commit(t.Context()); err == nil {
		t.Error("ended twice")
	}
	// It counts as there, and is gone.
	desc := formats.DigestOf(ocispec.MediaTypeImageLayer, content)
	if ok, err := n.Exists(t.Context(), desc); !ok || err != nil {
		t.Error(ok, err)
	}
	if _, err := n.Fetch(t.Context(), desc); !errors.Is(err, store.ErrNotFound) {
		t.Error(err)
	}
	if _, err := n.Open(t.Context(), desc); !errors.Is(err, store.ErrNotFound) {
		t.Error(err)
	}
	if _, err := n.Resolve(t.Context()); !errors.Is(err, store.ErrNotFound) {
		t.Error(err)
	}
}

func TestNowhereVerifies(t *testing.T) {
	t.Parallel()
	n := nowhere(t)
	content := []byte(`{"schemaVersion":2}`)
	for _, mediaType := range []string{ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageConfig, ocispec.MediaTypeImageLayerGzip} {
		desc := formats.DigestOf(mediaType, content)
		if err := n.Push(t.Context(), desc, bytes.NewReader(content)); err != nil {
			t.Error(err)
		}
		for _, p := range [][]byte{nil, content[1:], append([]byte(" "), content...), bytes.ToUpper(content)} {
			if err := n.Push(t.Context(), desc, bytes.NewReader(p)); !errors.Is(err, blob.ErrDigest) {
				t.Errorf("%s: %q: %v", mediaType, p, err)
			}
			if err := n.Put(t.Context(), desc, p); !errors.Is(err, blob.ErrDigest) {
				t.Errorf("%s: %q: %v", mediaType, p, err)
			}
		}
		if err := n.Put(t.Context(), ocispec.Descriptor{MediaType: mediaType, Digest: "sha256:x", Size: 1}, content); !errors.Is(err, blob.ErrCorrupt) {
			t.Error(err)
		}
	}
}

func TestNowhereDocuments(t *testing.T) {
	t.Parallel()
	n := nowhere(t)
	for _, mediaType := range []string{
		ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageIndex, ocispec.MediaTypeImageConfig,
		formats.MediaTypeDockerManifest, formats.MediaTypeDockerIndex, formats.MediaTypeDockerConfig,
	} {
		content := []byte(`{"mediaType":"` + mediaType + `"}`)
		desc := formats.DigestOf(mediaType, content)
		if err := n.PushManifest(t.Context(), desc, content); err != nil {
			t.Fatal(err)
		}
		rc, err := n.Fetch(t.Context(), desc)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(rc); !bytes.Equal(got, content) || err != nil {
			t.Errorf("%s, %v", got, err)
		}
		src, err := n.Open(t.Context(), desc)
		if err != nil || src.Size() != desc.Size {
			t.Error(err)
		}
	}
}
