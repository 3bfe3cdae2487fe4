package overlaybd

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/formats"
)

// Finish implements [formats.Writer].
func (w *Writer) Finish(ctx context.Context, layers []formats.Layer, src *formats.Manifest, sink formats.Sink) (*formats.Result, error) {
	made := ImageLayers{FSType: Ext4, Prefetch: w.opt.Prefetch, Trace: w.opt.Trace, MediaTypes: w.opt.MediaTypes}
	base := w.base
	if base == nil && len(layers) == 0 {
		base = &baseLayer{} // without a layer it would be no disk
	}
	if base != nil {
		if err := base.make(ctx, w); err != nil {
			return nil, err
		}
		if err := sink.Put(ctx, base.desc, base.stored); err != nil {
			return nil, err
		}
		made.Add(base.desc, base.desc.Digest)
	}
	for _, l := range layers {
		made.Add(l.Desc, l.Desc.Digest) // the blob is a tar that is not compressed
	}
	return made.Finish(ctx, src, sink)
}

// ImageLayers are the layers of an image that is being finished.
type ImageLayers struct {
	FSType FS
	// Prefetch are paths that runtimes read in advance.
	Prefetch   []string
	MediaTypes MediaTypes
	// Trace is a recorded one, which is taken instead of paths.
	Trace []byte

	descs   []ocispec.Descriptor
	diffIDs []digest.Digest
}

// Add adds a layer, which is a tar. diffID is the digest of that; where it is another than the blob's, the blob is compressed.
func (m *ImageLayers) Add(desc ocispec.Descriptor, diffID digest.Digest) {
	m.descs, m.diffIDs = append(m.descs, desc), append(m.diffIDs, diffID)
}

// Finish stores the configuration, and the layer of paths if there are any, and returns the manifest. Everything else of the source's
// manifest and configuration is kept.
func (m *ImageLayers) Finish(ctx context.Context, src *formats.Manifest, sink formats.Sink) (*formats.Result, error) {
	layerType, manifest := ocispec.MediaTypeImageLayer, src.Manifest
	manifest.MediaType, manifest.Config.MediaType = ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageConfig
	if m.MediaTypes.docker(src) {
		layerType, manifest.MediaType, manifest.Config.MediaType = formats.MediaTypeDockerLayer, formats.MediaTypeDockerManifest, formats.MediaTypeDockerConfig
	}
	manifest.SchemaVersion = 2
	manifest.Layers = slices.Clone(m.descs)
	for i := range manifest.Layers {
		manifest.Layers[i].MediaType = layerType
		if m.diffIDs[i] != manifest.Layers[i].Digest {
			manifest.Layers[i].MediaType = Gzipped(layerType)
		}
	}
	diffIDs := slices.Clone(m.diffIDs)
	if m.accelerated() {
		desc, stored, err := m.accelerationLayer()
		if err != nil {
			return nil, err
		}
		desc.MediaType = layerType
		if err := sink.Put(ctx, desc, stored); err != nil {
			return nil, err
		}
		manifest.Layers, diffIDs = append(manifest.Layers, desc), append(diffIDs, desc.Digest)
	}
	config, err := formats.ChangeConfig(src.ConfigRaw, diffIDs, func(history []json.RawMessage) []json.RawMessage {
		if m.accelerated() { // where the reference puts it, though the layer is the last
			history = slices.Insert(history, 0, json.RawMessage(`{"created_by":"Acceleration Layer"}`))
		}
		return history
	})
	if err != nil {
		return nil, err
	}
	manifest.Config = formats.DigestOf(manifest.Config.MediaType, config)
	if err := sink.Put(ctx, manifest.Config, config); err != nil {
		return nil, err
	}
	manifest.Annotations = maps.Clone(manifest.Annotations)
	raw, err := json.Marshal(manifest)
	if err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	desc := formats.DigestOf(manifest.MediaType, raw)
	desc.Platform = src.Desc.Platform
	return &formats.Result{Desc: desc, Manifest: raw}, nil
}

// accelerated reports whether the image says what to read in advance.
func (m *ImageLayers) accelerated() bool { return len(m.Prefetch) > 0 || m.Trace != nil }

// Gzipped returns the media type of a layer when it is compressed.
func Gzipped(layerType string) string {
	if layerType == formats.MediaTypeDockerLayer {
		return layerType + ".gzip"
	}
	return layerType + "+gzip"
}
