package label_test

import (
	"context"
	"testing"

	"github.com/containerd/containerd/v2/core/images"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/containerd/nydus-snapshotter/pkg/label"
)

func TestLabels(t *testing.T) {
	t.Parallel()
	for key, is := range map[string]func(map[string]string) bool{
		label.NydusDataLayer: label.IsNydusDataLayer, label.NydusMetaLayer: label.IsNydusMetaLayer, label.NydusTarfsLayer: label.IsTarfsDataLayer,
		label.NydusProxyMode: label.IsNydusProxyMode, label.TarfsHint: label.HasTarfsHint,
	} {
		if !is(map[string]string{key: ""}) || is(map[string]string{"x": ""}) || is(nil) {
			t.Error(key)
		}
	}
}

func TestAppendLabels(t *testing.T) {
	t.Parallel()
	layer := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: "sha256:x"}
	children := images.HandlerFunc(func(context.Context, ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		return []ocispec.Descriptor{layer}, nil
	})
	got, err := label.AppendLabelsHandlerWrapper("name")(children).Handle(t.Context(), ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: "sha256:y"})
	if err != nil || got[0].Annotations[label.CRIImageRef] != "name" || got[0].Annotations[label.CRILayerDigest] != "sha256:x" || got[0].Annotations[label.CRIManifestDigest] != "sha256:y" {
		t.Errorf("%+v, %v", got, err)
	}
}
