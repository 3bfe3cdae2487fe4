package nydus

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/formats/nydus/nydusblob"
	"github.com/lazuli-project/lazuli/formats/nydus/rafs6"
)

var _ formats.Reverser = Reader{}

// annotationPrefix is what all annotations of the format begin with.
const annotationPrefix = "containerd.io/snapshot/nydus-"

// annotationPrefetchBlob, on the bootstrap layer, names the blob that "optimize" adds, which is no layer.
const annotationPrefetchBlob = "containerd.io/snapshot/nydus-separated-blob-with-prefetch-files"

// SourceManifest implements [formats.Reverser].
func (Reader) SourceManifest(m *formats.Manifest) (ocispec.Descriptor, bool) {
	if s := m.Manifest.Subject; s != nil {
		return *s, true
	}
	d := digest.Digest(m.Manifest.Annotations[AnnotationSourceDigest])
	return ocispec.Descriptor{Digest: d}, d.Validate() == nil
}

// SourceAnnotations implements [formats.Reverser].
func (Reader) SourceAnnotations(m *formats.Manifest) map[string]string {
	kept := maps.Clone(m.Manifest.Annotations)
	maps.DeleteFunc(kept, func(key, _ string) bool { return strings.HasPrefix(key, annotationPrefix) })
	return kept
}

// SourceConfig implements [formats.Reverser].
func (Reader) SourceConfig(m *formats.Manifest) ([]byte, error) {
	return formats.ChangeConfig(m.ConfigRaw, m.Config.RootFS.DiffIDs, func(history []json.RawMessage) []json.RawMessage {
		var kept []json.RawMessage
		for i, h := range m.Config.History {
			if h.EmptyLayer || h.Comment != bootstrapComment && h.Comment != dictionaryComment {
				kept = append(kept, history[i])
			}
		}
		return kept
	})
}

// bootstrapHistory returns the place of the bootstrap layer in the history and the number of layers before it; -1 where the
// history does not have it.
func bootstrapHistory(m *formats.Manifest) (place, layers int) {
	place = -1
	for i, h := range m.Config.History {
		if h.EmptyLayer {
			continue
		}
		if h.Comment == bootstrapComment {
			return i, layers
		}
		layers++
	}
	return place, layers
}

// Layers implements [formats.Reverser]. Every layer's blob has the layer's own bootstrap.
func (Reader) Layers(ctx context.Context, m *formats.Manifest, s formats.Sources) ([]formats.StoredLayer, error) {
	descs := layerBlobs(m)
	if len(descs) == 0 {
		return nil, fmt.Errorf("an image without blobs of layers: %w", blob.ErrUnsupported)
	}
	if last := m.Manifest.Layers[len(m.Manifest.Layers)-1]; strings.HasSuffix(last.MediaType, encryptedSuffix) {
		if err := haveBootstraps(ctx, descs, s); err != nil {
			return nil, err
		}
	}
	layers := make([]formats.StoredLayer, len(descs))
	for i, d := range descs {
		if _, ok := d.Annotations[AnnotationBlob]; !ok && d.MediaType != MediaTypeBlob {
			return nil, fmt.Errorf("layer %d (%s): media type %q: %w", i, d.Digest, d.MediaType, blob.ErrUnsupported)
		}
		layers[i] = formats.StoredLayer{Desc: d, Open: func(ctx context.Context, s formats.Sources) (*formats.Image, error) {
			img, err := openLayer(ctx, m, d, s)
			if err != nil {
				return nil, fmt.Errorf("layer %s: %w", d.Digest, err)
			}
			return img, nil
		}}
		if d.Annotations[AnnotationRef] == "" {
			continue
		}
		original, err := originalLayer(ctx, d, s)
		if err != nil {
			return nil, fmt.Errorf("layer %d (%s): %w", i, d.Digest, err)
		}
		layers[i].Original = original
	}
	return layers, nil
}

// haveBootstraps looks for the layers' own bootstraps, which those of sealed images need not have.
func haveBootstraps(ctx context.Context, layers []ocispec.Descriptor, s formats.Sources) error {
	for i, d := range layers {
		src, err := s.Open(ctx, d)
		if err != nil {
			return err
		}
		section, err := nydusblob.FindSection(ctx, src, nydusblob.SectionBootstrap)
		if err != nil {
			return fmt.Errorf("layer %d (%s): %w", i, d.Digest, err)
		}
		if section == nil {
			return fmt.Errorf("layer %d (%s) without its own bootstrap: %w", i, d.Digest, blob.ErrUnsupported)
		}
	}
	return nil
}

// layerBlobs returns those of the manifest's layers that are layers of the source.
func layerBlobs(m *formats.Manifest) []ocispec.Descriptor {
	var descs []ocispec.Descriptor
	last := m.Manifest.Layers[len(m.Manifest.Layers)-1]
	for _, d := range m.Manifest.Layers[:len(m.Manifest.Layers)-1] {
		if d.Digest.Encoded() != last.Annotations[annotationPrefetchBlob] {
			descs = append(descs, d)
		}
	}
	// Blobs of a chunk dictionary stand behind the layers, and the history does not have them.
	if place, n := bootstrapHistory(m); place >= 0 && n < len(descs) {
		descs = descs[:n]
	}
	return descs
}

// originalLayer describes the layer of the source that the chunks of a layer are in; nil for a layer without chunks.
func originalLayer(ctx context.Context, d ocispec.Descriptor, s formats.Sources) (*ocispec.Descriptor, error) {
	src, err := s.Open(ctx, d)
	if err != nil {
		return nil, err
	}
	boot, err := readLayerBootstrap(ctx, src)
	if err != nil {
		return nil, err
	}
	b, err := rafs6.Parse(boot)
	if err != nil {
		return nil, err
	}
	original := digest.Digest(d.Annotations[AnnotationRef])
	for i := range b.Blobs {
		info := &b.Blobs[i]
		if digest.NewDigestFromEncoded(digest.SHA256, info.ID) != original {
			continue
		}
		o := &ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: original, Size: int64(info.StoredSize)}
		if info.Features&nydusblob.FeatureZran != 0 {
			o.MediaType = ocispec.MediaTypeImageLayerGzip
		}
		return o, nil
	}
	return nil, nil
}

// openLayer opens a layer's blob with the bootstrap that is in it.
func openLayer(ctx context.Context, m *formats.Manifest, layer ocispec.Descriptor, s formats.Sources) (*formats.Image, error) {
	src, err := s.Open(ctx, layer)
	if err != nil {
		return nil, err
	}
	boot, err := readLayerBootstrap(ctx, src)
	if err != nil {
		return nil, err
	}
	return openBootstrap(ctx, boot, nil, func(info *nydusblob.Info) (located, error) {
		if info.Features&nydusblob.FeatureSeparate == 0 && (info.ID == nydusblob.InlinedID || info.Features&nydusblob.FeatureInlinedMeta != 0) {
			info.ID = layer.Digest.Encoded()
			return located{desc: layer, open: func(context.Context) (blob.Source, error) { return src, nil }}, nil
		}
		return inManifest(info, m, s)
	})
}
