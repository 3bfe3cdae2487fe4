package converter

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/images/converter"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/blob"
)

// LayerReconvertFunc returns a function that converts a layer's Nydus blob to an OCI layer in the content store. Bootstrap layers stay for
// [ReconvertHookFunc] to remove. Layers that are not Nydus' are left alone with a result of nil. Other blobs, which a layer of OCIRef
// or of a chunk dictionary refers to, are taken from the content store.
func LayerReconvertFunc(opt UnpackOption) converter.ConvertFunc {
	return func(ctx context.Context, cs content.Store, desc ocispec.Descriptor) (*ocispec.Descriptor, error) {
		switch {
		case !images.IsLayerType(desc.MediaType):
			return nil, nil
		case IsNydusBootstrap(desc):
			return &desc, nil
		case !IsNydusBlob(desc) && desc.MediaType != MediaTypeNydusBlob:
			return nil, nil
		}
		layer, err := reconvertLayer(ctx, cs, &opt, desc)
		if err != nil {
			return nil, fmt.Errorf("convert blob %s to an OCI layer: %w", desc.Digest, err)
		}
		if opt.Backend != nil {
			if err := opt.Backend.Push(ctx, cs, *layer); err != nil {
				return nil, fmt.Errorf("push layer %s to backend %s: %w", layer.Digest, opt.Backend.Type(), err)
			}
		}
		return layer, nil
	}
}

func reconvertLayer(ctx context.Context, cs content.Store, opt *UnpackOption, desc ocispec.Descriptor) (*ocispec.Descriptor, error) {
	mediaType, compress, err := layerCompressor(opt.Compressor)
	if err != nil {
		return nil, err
	}
	ra, err := cs.ReaderAt(ctx, desc)
	if err != nil {
		return nil, err
	}
	defer func() { _ = ra.Close() }() // was read only
	others := &blobsOf{cs: cs}
	defer others.close()
	diffID := digest.SHA256.Digester()
	fill := func(w io.Writer) error {
		z, err := compress(w)
		if err != nil {
			return err
		}
		if err := unpack(ctx, ra, io.MultiWriter(z, diffID.Hash()), *opt, others.find); err != nil {
			return errors.Join(err, z.Close())
		}
		return z.Close()
	}
	d, size, err := ingest(ctx, cs, fmt.Sprintf("convert-oci-from-%s", desc.Digest), fill, func(digest.Digest) map[string]string { return diffIDLabel(diffID.Digest()) })
	if err != nil {
		return nil, err
	}
	return &ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: size, Annotations: diffIDLabel(diffID.Digest())}, nil
}

// layerCompressor returns a layer's media type, and what compresses it.
func layerCompressor(name string) (string, func(io.Writer) (io.WriteCloser, error), error) {
	switch name {
	case "", "gzip":
		return ocispec.MediaTypeImageLayerGzip, func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriter(w), nil }, nil
	case "zstd":
		return ocispec.MediaTypeImageLayerZstd, func(w io.Writer) (io.WriteCloser, error) { return zstd.NewWriter(w, zstd.WithEncoderConcurrency(1)) }, nil
	case "uncompressed":
		return ocispec.MediaTypeImageLayer, func(w io.Writer) (io.WriteCloser, error) { return plainWriter{w}, nil }, nil
	}
	return "", nil, fmt.Errorf("unsupported compressor type: %s (support: gzip, zstd, uncompressed)", name)
}

// plainWriter leaves the closing to others.
type plainWriter struct{ io.Writer }

func (plainWriter) Close() error { return nil }

// blobsOf finds blobs in a content store.
type blobsOf struct {
	cs     content.Store
	mu     sync.Mutex // guards opened
	opened []content.ReaderAt
}

func (b *blobsOf) find(ctx context.Context, id string) (blob.Source, error) {
	d := digest.NewDigestFromEncoded(digest.SHA256, id)
	if err := d.Validate(); err != nil {
		return nil, fmt.Errorf("blob %q: %w", id, err)
	}
	ra, err := b.cs.ReaderAt(ctx, ocispec.Descriptor{Digest: d})
	if err != nil {
		return nil, fmt.Errorf("blob %s: %w", d, err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.opened = append(b.opened, ra)
	return source(ra), nil
}

func (b *blobsOf) close() {
	for _, ra := range b.opened {
		_ = ra.Close() // were read only
	}
}

// ReconvertHookFunc returns what finishes a manifest whose layers were converted back: the bootstrap layer goes, with its diff ID and
// its line in the history. Other manifests are left alone.
func ReconvertHookFunc() converter.ConvertHookFunc {
	return func(ctx context.Context, cs content.Store, _ ocispec.Descriptor, newDesc *ocispec.Descriptor) (*ocispec.Descriptor, error) {
		if newDesc == nil || !images.IsManifestType(newDesc.MediaType) {
			return newDesc, nil
		}
		var manifest ocispec.Manifest
		labels, err := readJSON(ctx, cs, &manifest, *newDesc)
		if err == nil && slices.ContainsFunc(manifest.Layers, IsNydusBootstrap) {
			newDesc, err = restoreManifest(ctx, cs, &manifest, *newDesc, labels)
		}
		if err != nil {
			return nil, fmt.Errorf("manifest %s: %w", newDesc.Digest, err)
		}
		return newDesc, nil
	}
}

func restoreManifest(ctx context.Context, cs content.Store, m *ocispec.Manifest, desc ocispec.Descriptor, labels map[string]string) (*ocispec.Descriptor, error) {
	c, err := readConfig(ctx, cs, m.Config)
	if err != nil {
		return &desc, err
	}
	var layers []ocispec.Descriptor
	var diffIDs []digest.Digest
	for i, l := range m.Layers {
		if IsNydusBootstrap(l) {
			continue
		}
		layers = append(layers, l)
		if i < len(c.diffIDs) {
			diffIDs = append(diffIDs, c.diffIDs[i])
		}
	}
	// A config of an unknown type, as in merged indexes, was passed over when the diff IDs changed.
	if ids := takeDiffIDs(layers); !slices.Contains(ids, "") {
		diffIDs = ids
	}
	if m.Config.MediaType == ManifestConfigNydus {
		m.Config.MediaType = ocispec.MediaTypeImageConfig
	}
	m.Layers, c.diffIDs = layers, diffIDs
	c.removeBootstrap()
	config, err := c.write(ctx, cs, m.Config)
	if err != nil {
		return &desc, err
	}
	m.Config = *config
	linkChildren(labels, m)
	restored, err := writeJSON(ctx, cs, m, desc, labels)
	if err != nil {
		return &desc, err
	}
	return restored, nil
}

// DefaultIndexConvertFunc returns a function that converts images of Nydus back, with what [LayerReconvertFunc] returned. containerd's
// converter asks for the diff ID of every layer, and would decompress blobs for it that are no tars; so it is told.
func DefaultIndexConvertFunc(layerConvertFunc converter.ConvertFunc, docker2oci bool, platformMC platforms.MatchComparer) converter.ConvertFunc {
	return func(ctx context.Context, cs content.Store, desc ocispec.Descriptor) (*ocispec.Descriptor, error) {
		known := &knownDiffIDs{Store: cs, blobs: make(map[digest.Digest]bool)}
		if err := known.add(ctx, desc); err != nil {
			return nil, err
		}
		hooks := converter.ConvertHooks{PostConvertHook: ReconvertHookFunc()}
		return converter.IndexConvertFuncWithHook(layerConvertFunc, docker2oci, platformMC, hooks)(ctx, known, desc)
	}
}

// knownDiffIDs is a store that says that blobs of Nydus are their own plain form.
type knownDiffIDs struct {
	content.Store
	blobs map[digest.Digest]bool
}

// Info implements [content.Manager].
func (s *knownDiffIDs) Info(ctx context.Context, d digest.Digest) (content.Info, error) {
	info, err := s.Store.Info(ctx, d)
	if err == nil && s.blobs[d] {
		labels := diffIDLabel(d)
		for k, v := range info.Labels {
			if k != LayerAnnotationUncompressed {
				labels[k] = v
			}
		}
		info.Labels = labels
	}
	return info, err
}

// add finds the blobs of an image. Manifests of other platforms may be missing.
func (s *knownDiffIDs) add(ctx context.Context, desc ocispec.Descriptor) error {
	var x struct {
		Manifests []ocispec.Descriptor `json:"manifests"`
		Layers    []ocispec.Descriptor `json:"layers"`
	}
	if !images.IsIndexType(desc.MediaType) && !images.IsManifestType(desc.MediaType) {
		return nil
	}
	if _, err := readJSON(ctx, s.Store, &x, desc); errdefs.IsNotFound(err) {
		return nil
	} else if err != nil {
		return err
	}
	for _, l := range x.Layers {
		if IsNydusBlob(l) {
			s.blobs[l.Digest] = true
		}
	}
	for _, m := range x.Manifests {
		if images.IsManifestType(m.MediaType) { // not an index in an index, whose depth nothing bounds
			if err := s.add(ctx, m); err != nil {
				return err
			}
		}
	}
	return nil
}
