package overlaybd

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/formats"
)

// Finish implements [formats.Writer].
func (w *Writer) Finish(ctx context.Context, layers []formats.Layer, src *formats.Manifest, sink formats.Sink) (*formats.Result, error) {
	made := ImageLayers{FSType: Ext4, Prefetch: w.opt.Prefetch, MediaTypes: w.opt.MediaTypes}
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
	// Gzip says that the layers are compressed tars.
	Gzip bool

	descs   []ocispec.Descriptor
	diffIDs []digest.Digest
}

// Add adds a layer with the digest of its uncompressed tar.
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
		if m.Gzip {
			manifest.Layers[i].MediaType = Gzipped(layerType)
		}
	}
	diffIDs := slices.Clone(m.diffIDs)
	if len(m.Prefetch) > 0 {
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
		if len(m.Prefetch) > 0 { // where the reference puts it, though the layer is the last
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

// Gzipped returns the media type of a layer when it is compressed.
func Gzipped(layerType string) string {
	if layerType == formats.MediaTypeDockerLayer {
		return layerType + ".gzip"
	}
	return layerType + "+gzip"
}

// maxTrace bounds a list of paths, as the reference's reader does.
const maxTrace = 64 << 10

// accelerationLayer returns the layer that names what is read in advance: a tar with a list of paths.
func (m *ImageLayers) accelerationLayer() (ocispec.Descriptor, []byte, error) {
	var list strings.Builder
	for _, p := range m.Prefetch {
		list.WriteString("/" + strings.TrimPrefix(p, "/") + "\n")
	}
	if list.Len() > maxTrace {
		return ocispec.Descriptor{}, nil, fmt.Errorf("list of paths with %d bytes, readers take %d: %w", list.Len(), maxTrace, blob.ErrUnsupported)
	}
	var out bytes.Buffer
	t := tar.NewWriter(&out)
	err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "trace", Mode: 0o444, Size: int64(list.Len()), Format: tar.FormatUSTAR})
	if err == nil {
		_, err = t.Write([]byte(list.String()))
	}
	if err == nil {
		err = t.Close()
	}
	if err != nil {
		return ocispec.Descriptor{}, nil, fmt.Errorf("list of paths: %w", err)
	}
	desc := formats.DigestOf("", out.Bytes())
	desc.Annotations = map[string]string{
		AnnotationVersion: VersionNative, AnnotationDigest: desc.Digest.String(), AnnotationSize: strconv.FormatInt(desc.Size, 10),
		AnnotationAcceleration: yes, AnnotationFSType: string(m.FSType),
	}
	return desc, out.Bytes(), nil
}
