package store

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/formats"
)

// Limits of what is read into memory, in bytes.
const (
	maxManifest = 4 << 20
	maxConfig   = 16 << 20
)

// Docker's media types of what OCI calls by other names.
const (
	dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	dockerIndex    = "application/vnd.docker.distribution.manifest.list.v2+json"
	dockerConfig   = "application/vnd.docker.container.image.v1+json"
	dockerLayer    = "application/vnd.docker.image.rootfs.diff.tar"
	dockerLayerGz  = "application/vnd.docker.image.rootfs.diff.tar.gzip"
	// ociArtifact was in release candidates of OCI 1.1; registries hold some.
	ociArtifact = "application/vnd.oci.artifact.manifest.v1+json"
)

// IsIndex reports whether a media type is that of an index of manifests.
func IsIndex(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageIndex || mediaType == dockerIndex
}

// IsImage reports whether a media type is that of an image's manifest.
func IsImage(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageManifest || mediaType == dockerManifest
}

// isManifest reports whether registries serve a media type from their manifests.
func isManifest(mediaType string) bool {
	return IsIndex(mediaType) || IsImage(mediaType) || mediaType == ociArtifact
}

// Index is an index of manifests, also as stored, so that what this version does not know is kept.
type Index struct {
	Desc  ocispec.Descriptor
	Raw   []byte // verified
	Index ocispec.Index
}

// LoadManifest reads an image's manifest and its configuration, both verified: at most 4 MiB and 16 MiB. An artifact manifest that
// refers to an image is read as a manifest with its blobs as layers, and the configuration of that image.
func LoadManifest(ctx context.Context, s formats.Sources, desc ocispec.Descriptor) (*formats.Manifest, error) {
	raw, err := ReadAll(ctx, s, desc, maxManifest)
	if err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	g, err := parseGraph(desc, raw)
	if err != nil {
		return nil, err
	}
	if g.Config == nil && g.MediaType == ociArtifact && g.Subject != nil {
		return loadArtifact(ctx, s, desc, raw, g)
	}
	if g.Config == nil {
		return nil, fmt.Errorf("manifest %s: %s is not an image: %w", desc.Digest, mediaTypeOf(desc, g.MediaType), blob.ErrUnsupported)
	}
	config, err := ReadAll(ctx, s, *g.Config, maxConfig)
	if err != nil {
		return nil, fmt.Errorf("config of manifest %s: %w", desc.Digest, err)
	}
	return formats.ParseManifest(desc, raw, config)
}

// loadArtifact reads what an artifact manifest says about the image that is its subject.
func loadArtifact(ctx context.Context, s formats.Sources, desc ocispec.Descriptor, raw []byte, g *graph) (*formats.Manifest, error) {
	of, err := ReadAll(ctx, s, *g.Subject, maxManifest)
	if err != nil {
		return nil, fmt.Errorf("subject of artifact %s: %w", desc.Digest, err)
	}
	subject, err := parseGraph(*g.Subject, of)
	if err != nil {
		return nil, err
	}
	if subject.Config == nil {
		return nil, fmt.Errorf("artifact %s: its subject %s is not an image: %w", desc.Digest, g.Subject.Digest, blob.ErrUnsupported)
	}
	config, err := ReadAll(ctx, s, *subject.Config, maxConfig)
	if err != nil {
		return nil, fmt.Errorf("config of manifest %s: %w", g.Subject.Digest, err)
	}
	m, err := formats.ParseManifest(desc, raw, config)
	if err != nil {
		return nil, err
	}
	m.Manifest.Layers, m.Manifest.Config = g.Blobs, *subject.Config
	return m, nil
}

// MarshalArtifact makes an artifact manifest of an image's manifest, for registries that hold artifacts in this form. It has no
// configuration: that of the subject, which must be set, is the image's.
func MarshalArtifact(m *ocispec.Manifest) (ocispec.Descriptor, []byte, error) {
	raw, err := json.Marshal(struct {
		MediaType    string               `json:"mediaType"`
		ArtifactType string               `json:"artifactType"`
		Blobs        []ocispec.Descriptor `json:"blobs"`
		Subject      *ocispec.Descriptor  `json:"subject"`
		Annotations  map[string]string    `json:"annotations,omitempty"`
	}{ociArtifact, m.ArtifactType, m.Layers, m.Subject, m.Annotations})
	if err != nil {
		return ocispec.Descriptor{}, nil, fmt.Errorf("artifact manifest: %w", err)
	}
	d := formats.DigestOf(ociArtifact, raw)
	d.ArtifactType = m.ArtifactType
	return d, raw, nil
}

// LoadIndex reads an index, verified, of at most 4 MiB.
func LoadIndex(ctx context.Context, s formats.Sources, desc ocispec.Descriptor) (*Index, error) {
	raw, err := ReadAll(ctx, s, desc, maxManifest)
	if err != nil {
		return nil, fmt.Errorf("index: %w", err)
	}
	return ParseIndex(desc, raw)
}

// ParseIndex decodes an index whose digest has been verified by the caller. Its children may be of any media type.
func ParseIndex(desc ocispec.Descriptor, raw []byte) (*Index, error) {
	x := &Index{Desc: desc, Raw: raw}
	if err := json.Unmarshal(raw, &x.Index); err != nil {
		return nil, fmt.Errorf("index %s: %w: %w", desc.Digest, blob.ErrCorrupt, err)
	}
	if t := x.Index.MediaType; t != "" && !IsIndex(t) {
		return nil, fmt.Errorf("index %s: media type %.100q: %w", desc.Digest, t, blob.ErrCorrupt)
	}
	for i, child := range x.Index.Manifests {
		if err := checkDescriptor(child); err != nil {
			return nil, fmt.Errorf("index %s: manifest %d: %w", desc.Digest, i, err)
		}
	}
	return x, nil
}

// graph is what manifests of all kinds say about other objects.
type graph struct {
	MediaType    string               `json:"mediaType"`
	ArtifactType string               `json:"artifactType"`
	Config       *ocispec.Descriptor  `json:"config"`
	Layers       []ocispec.Descriptor `json:"layers"`
	Manifests    []ocispec.Descriptor `json:"manifests"`
	Blobs        []ocispec.Descriptor `json:"blobs"` // of ociArtifact
	Subject      *ocispec.Descriptor  `json:"subject"`
	Annotations  map[string]string    `json:"annotations"`
}

// parseGraph decodes a manifest or index and checks the descriptors in it.
func parseGraph(desc ocispec.Descriptor, raw []byte) (*graph, error) {
	var g graph
	if err := json.Unmarshal(raw, &g); err != nil {
		return nil, fmt.Errorf("manifest %s: %w: %w", desc.Digest, blob.ErrCorrupt, err)
	}
	all := slices.Concat(g.Layers, g.Manifests, g.Blobs)
	for _, d := range []*ocispec.Descriptor{g.Config, g.Subject} {
		if d != nil {
			all = append(all, *d)
		}
	}
	for _, d := range all {
		if err := checkDescriptor(d); err != nil {
			return nil, fmt.Errorf("manifest %s: %w", desc.Digest, err)
		}
	}
	return &g, nil
}

// mediaTypeOf returns a manifest's media type, which the descriptor or the manifest itself says.
func mediaTypeOf(desc ocispec.Descriptor, own string) string {
	if desc.MediaType != "" {
		return desc.MediaType
	}
	return own
}
