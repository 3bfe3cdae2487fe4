package converter

import (
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/containerd/nydus-snapshotter/pkg/label"
)

// MergeLayers merges layers' blobs that are in the content store, lowest first, to a bootstrap layer (gzip), which it stores there, too. It
// returns that layer and the layers with data: those that were given, in their order, then blobs of the chunk dictionary. Their diff IDs are
// in the annotation [LayerAnnotationUncompressed].
func MergeLayers(ctx context.Context, cs content.Store, descs []ocispec.Descriptor, opt MergeOption) (*ocispec.Descriptor, []ocispec.Descriptor, error) {
	var layers []Layer
	var digests []digest.Digest
	for _, desc := range descs {
		layer := Layer{Digest: desc.Digest}
		if opt.OCIRef {
			origin, err := digest.Parse(desc.Annotations[label.NydusRefLayer])
			if err != nil {
				return nil, nil, fmt.Errorf("layer %s: invalid label %s=%s: %w", desc.Digest, label.NydusRefLayer, desc.Annotations[label.NydusRefLayer], err)
			}
			layer.OriginalDigest = &origin
		}
		ra, err := cs.ReaderAt(ctx, desc)
		if err != nil {
			return nil, nil, fmt.Errorf("layer %s: %w", desc.Digest, err)
		}
		defer func() { _ = ra.Close() }() // was read only
		layer.ReaderAt = ra
		layers = append(layers, layer)
		digests = append(digests, desc.Digest)
	}
	boot, used, err := mergeInStore(ctx, cs, layers, identity.ChainID(digests), &opt)
	if err != nil {
		return nil, nil, err
	}
	if !opt.OCIRef {
		for _, d := range used {
			if !slices.Contains(digests, d) {
				digests = append(digests, d)
			}
		}
	}
	blobs := make([]ocispec.Descriptor, len(digests))
	for i, d := range digests {
		info, err := cs.Info(ctx, d)
		if err != nil {
			return nil, nil, fmt.Errorf("blob %s: %w", d, err)
		}
		blobs[i] = blobDescriptor(d, info.Size)
		if opt.OCIRef {
			blobs[i].Annotations[label.NydusRefLayer] = layers[i].OriginalDigest.String()
		}
		if opt.Encrypt != nil {
			blobs[i].Annotations[LayerAnnotationNydusEncryptedBlob] = "true"
		}
	}
	if opt.Encrypt != nil {
		if *boot, err = opt.Encrypt(ctx, cs, *boot); err != nil {
			return nil, nil, fmt.Errorf("encrypt the bootstrap layer: %w", err)
		}
	}
	return boot, blobs, nil
}

// mergeInStore stores the bootstrap layer. It returns the blobs, too, that the bootstrap refers to.
func mergeInStore(ctx context.Context, cs content.Store, layers []Layer, chain digest.Digest, opt *MergeOption) (*ocispec.Descriptor, []digest.Digest, error) {
	var used []digest.Digest
	diffID := digest.SHA256.Digester()
	fill := func(w io.Writer) (err error) {
		z := gzip.NewWriter(w)
		if used, err = Merge(ctx, layers, io.MultiWriter(z, diffID.Hash()), *opt); err != nil {
			return err
		}
		return z.Close()
	}
	d, size, err := ingest(ctx, cs, fmt.Sprintf("nydus-merge-%s", chain), fill, func(digest.Digest) map[string]string { return diffIDLabel(diffID.Digest()) })
	if err != nil {
		return nil, nil, err
	}
	desc := ocispec.Descriptor{MediaType: images.MediaTypeDockerSchema2LayerGzip, Digest: d, Size: size, Annotations: map[string]string{
		LayerAnnotationUncompressed: diffID.Digest().String(), LayerAnnotationFSVersion: "6", LayerAnnotationNydusBootstrap: "true"}}
	if opt.OCI {
		desc.MediaType = ocispec.MediaTypeImageLayerGzip
	}
	if opt.FsVersion != "" {
		desc.Annotations[LayerAnnotationFSVersion] = opt.FsVersion
	}
	return &desc, used, nil
}
