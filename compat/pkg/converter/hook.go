package converter

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/images/converter"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// ConvertHookFunc returns what finishes a manifest whose layers were converted: the bootstrap layer is made and added, config
// and manifest are written anew. An index of one manifest becomes that manifest, which gets the index's annotations. Manifests without
// layers of Nydus, such as attestations, and those that are finished already are left alone.
func ConvertHookFunc(opt MergeOption) converter.ConvertHookFunc {
	return func(ctx context.Context, cs content.Store, orgDesc ocispec.Descriptor, newDesc *ocispec.Descriptor) (*ocispec.Descriptor, error) {
		switch {
		case newDesc == nil:
			return &orgDesc, nil
		case images.IsIndexType(newDesc.MediaType):
			desc, err := collapseIndex(ctx, cs, newDesc)
			if err != nil {
				return nil, fmt.Errorf("index %s: %w", newDesc.Digest, err)
			}
			return desc, nil
		case images.IsManifestType(newDesc.MediaType):
			desc, err := finishManifest(ctx, cs, orgDesc, newDesc, opt)
			if err != nil {
				return nil, fmt.Errorf("manifest %s: %w", orgDesc.Digest, err)
			}
			return desc, nil
		}
		return newDesc, nil
	}
}

// collapseIndex returns the manifest of an index that has no other.
func collapseIndex(ctx context.Context, cs content.Store, desc *ocispec.Descriptor) (*ocispec.Descriptor, error) {
	var index ocispec.Index
	if _, err := readJSON(ctx, cs, &index, *desc); err != nil {
		return nil, err
	}
	if len(index.Manifests) != 1 {
		return desc, nil
	}
	only := index.Manifests[0]
	if len(index.Annotations) == 0 || !images.IsManifestType(only.MediaType) {
		return &only, nil
	}
	var manifest ocispec.Manifest
	labels, err := readJSON(ctx, cs, &manifest, only)
	if err != nil {
		return nil, err
	}
	all := maps.Clone(index.Annotations)
	maps.Copy(all, manifest.Annotations) // which are about the image itself
	manifest.Annotations = all
	return writeJSON(ctx, cs, &manifest, only, labels)
}

// finishManifest merges the layers of a manifest.
func finishManifest(ctx context.Context, cs content.Store, old ocispec.Descriptor, desc *ocispec.Descriptor, opt MergeOption) (*ocispec.Descriptor, error) {
	var manifest ocispec.Manifest
	labels, err := readJSON(ctx, cs, &manifest, *desc)
	if err != nil {
		return nil, err
	}
	if n := len(manifest.Layers); n == 0 || IsNydusBootstrap(manifest.Layers[n-1]) || !slices.ContainsFunc(manifest.Layers, IsNydusBlob) {
		return desc, nil
	}
	opt.WithTar = true
	opt.OCI = opt.OCI || old.MediaType == ocispec.MediaTypeImageManifest
	boot, blobs, err := MergeLayers(ctx, cs, manifest.Layers, opt)
	if err != nil {
		return nil, err
	}
	if opt.Backend != nil {
		blobs = nil // they are there
	}
	manifest.Layers = append(blobs, *boot)
	if manifest.Config, err = finishConfig(ctx, cs, &manifest, &opt); err != nil {
		return nil, err
	}
	if opt.WithReferrer {
		subject := old
		subject.Platform = nil // some registries refuse it
		manifest.Subject = &subject
	}
	linkChildren(labels, &manifest)
	return writeJSON(ctx, cs, &manifest, *desc, labels)
}

// finishConfig gives the config a diff ID for each layer of the manifest, and takes these from the layers' annotations.
func finishConfig(ctx context.Context, cs content.Store, manifest *ocispec.Manifest, opt *MergeOption) (ocispec.Descriptor, error) {
	c, err := readConfig(ctx, cs, manifest.Config)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	c.diffIDs = takeDiffIDs(manifest.Layers)
	if opt.Backend != nil {
		c.history = nil // of layers that are not in the manifest
	}
	if err := c.addBootstrap(); err != nil {
		return ocispec.Descriptor{}, err
	}
	desc, err := c.write(ctx, cs, manifest.Config)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	if opt.MergeManifest {
		desc.MediaType = ManifestConfigNydus
	}
	return *desc, nil
}

// takeDiffIDs removes the layers' annotations that have their diff IDs, and returns these.
func takeDiffIDs(layers []ocispec.Descriptor) []digest.Digest {
	ids := make([]digest.Digest, len(layers))
	for i := range layers {
		a := maps.Clone(layers[i].Annotations)
		ids[i] = digest.Digest(a[LayerAnnotationUncompressed])
		delete(a, LayerAnnotationUncompressed)
		layers[i].Annotations = a
	}
	return ids
}
