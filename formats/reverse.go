package formats

import (
	"context"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Reverser is the optional ability of a [Reader] to take an image apart, so that it becomes again what it was made of.
type Reverser interface {
	// SourceManifest returns the manifest that the image was made of, as the image says it: its digest, with size and media type
	// where these are known. ok is false where it does not say.
	SourceManifest(m *Manifest) (desc ocispec.Descriptor, ok bool)
	// Layers returns the image's layers, lowest first, without what the format added to them. It gives blob.ErrUnsupported where
	// the image does not hold its layers apart.
	Layers(ctx context.Context, m *Manifest, s Sources) ([]StoredLayer, error)
	// SourceConfig returns the image's configuration without what the format added. The diff IDs in it mean nothing.
	SourceConfig(m *Manifest) ([]byte, error)
	// SourceAnnotations returns the annotations of the manifest but for the format's.
	SourceAnnotations(m *Manifest) map[string]string
}

// StoredLayer is a layer of an image of some format.
type StoredLayer struct {
	Desc ocispec.Descriptor // as in the manifest
	// Original is the layer of the source, where that holds the data; else nil.
	Original *ocispec.Descriptor
	// Open reads the layer's tree alone, with whiteouts and the marks of package tarfs.
	Open func(ctx context.Context, s Sources) (*Image, error)
}

// Stacked is the optional ability of a [Reader] whose images are images, too, without their highest layers: what a layer changes is then
// known, also where the image does not hold its layers apart.
type Stacked interface{ Stacked() bool }
