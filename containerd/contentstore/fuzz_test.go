package contentstore

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/convert"
)

// Of whatever is taken for a manifest, labels name digests and nothing else.
func FuzzGraph(f *testing.F) {
	d := digest.FromString("x").String()
	for _, s := range []string{
		"{}", "[]", `{"config":{"digest":"` + d + `"},"layers":[{"digest":"` + d + `","mediaType":"application/vnd.oci.image.layer.v1.tar"}]}`,
		`{"manifests":[{"mediaType":"` + ocispec.MediaTypeImageManifest + `","digest":"` + d + `"}],"subject":{"digest":"` + d + `"}}`, `{"blobs":[{"digest":"x"}]}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		g, err := parseGraph(ocispec.Descriptor{Digest: digest.FromBytes(raw)}, raw)
		if err != nil {
			if !errors.Is(err, blob.ErrCorrupt) {
				t.Fatal(err)
			}
			return
		}
		labels := g.labels([]digest.Digest{digest.FromString("needed")})
		if len(labels) != len(g.children())+1 {
			t.Fatalf("%d labels of %d children", len(labels), len(g.children()))
		}
		for k, v := range labels {
			if err := digest.Digest(v).Validate(); err != nil || !strings.HasPrefix(k, labelRef) {
				t.Fatalf("%s: %s, %v", k, v, err)
			}
		}
	})
}

// oneBlob is a content store whose blobs all have one label.
type oneBlob struct {
	content.Manager
	key, value string
}

func (o oneBlob) Info(context.Context, digest.Digest) (content.Info, error) {
	return content.Info{Labels: map[string]string{o.key: o.value}}, nil
}

// Whatever stands in a label of a record, what comes out of it is a descriptor or an error.
func FuzzRecord(f *testing.F) {
	for _, s := range []string{"", "{}", `{"digest":"` + digest.FromString("x").String() + `","size":5}`, `{"digest":"x"}`, "null"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, value string) {
		key := convert.Key{Source: digest.FromString("source"), Format: "f"}
		known, ok, err := NewRecord(oneBlob{key: label(key), value: value}).Lookup(t.Context(), key)
		if err != nil && !errors.Is(err, blob.ErrCorrupt) || ok && (known.Desc.Digest.Validate() != nil || known.Desc.Size < 0) {
			t.Fatalf("%+v, %v", known, err)
		}
	})
}
