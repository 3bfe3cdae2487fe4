package converter

import (
	"context"
	"fmt"
	"io"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/images/converter"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/containerd/nydus-snapshotter/pkg/label"
	"github.com/lazuli-project/lazuli/formats"
)

// IsNydusBlob reports whether a descriptor is that of a layer's Nydus blob.
func IsNydusBlob(desc ocispec.Descriptor) bool {
	_, ok := desc.Annotations[LayerAnnotationNydusBlob]
	return ok
}

// IsNydusBootstrap reports whether a descriptor is that of a bootstrap layer.
func IsNydusBootstrap(desc ocispec.Descriptor) bool {
	_, ok := desc.Annotations[LayerAnnotationNydusBootstrap]
	return ok
}

// IsNydusBlobAndExists reports whether a descriptor is that of a layer's Nydus blob that the store has.
func IsNydusBlobAndExists(ctx context.Context, cs content.Store, desc ocispec.Descriptor) bool {
	if !IsNydusBlob(desc) {
		return false
	}
	_, err := cs.Info(ctx, desc.Digest)
	return err == nil
}

// LayerConvertFunc returns a function that converts an OCI layer to its Nydus blob in the content store. What is no layer, or one of
// Nydus already, it leaves alone with a result of nil. A layer whose content label [LayerAnnotationNydusTargetDigest] names a blob is
// not converted again. All layers together use as many cores as there are.
func LayerConvertFunc(opt PackOption) converter.ConvertFunc {
	cpu := formats.NewCPU(0)
	return func(ctx context.Context, cs content.Store, desc ocispec.Descriptor) (*ocispec.Descriptor, error) {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if !images.IsLayerType(desc.MediaType) || IsNydusBlob(desc) || IsNydusBootstrap(desc) {
			return nil, nil
		}
		info, err := cs.Info(ctx, desc.Digest)
		if err != nil {
			return nil, fmt.Errorf("layer %s: %w", desc.Digest, err)
		}
		if target := digest.Digest(info.Labels[LayerAnnotationNydusTargetDigest]); target.Validate() == nil {
			return convertedLayer(ctx, cs, &opt, desc.Digest, target)
		}
		blob, err := convertLayer(ctx, cs, &opt, desc, cpu)
		if err != nil {
			return nil, fmt.Errorf("convert layer %s: %w", desc.Digest, err)
		}
		if opt.Backend != nil {
			if err := opt.Backend.Push(ctx, cs, *blob); err != nil {
				return nil, fmt.Errorf("push blob %s to backend %s: %w", blob.Digest, opt.Backend.Type(), err)
			}
		}
		return blob, nil
	}
}

// convertLayer converts a layer in the content store.
func convertLayer(ctx context.Context, cs content.Store, opt *PackOption, desc ocispec.Descriptor, cpu *formats.CPU) (*ocispec.Descriptor, error) {
	o, err := opt.create()
	if err != nil {
		return nil, err
	}
	if err := makeWorkDir(&o); err != nil {
		return nil, err
	}
	o.CPU = cpu
	ra, err := cs.ReaderAt(ctx, desc)
	if err != nil {
		return nil, err
	}
	defer func() { _ = ra.Close() }() // was read only
	limited, cancel := withTimeout(ctx, opt.Timeout)
	defer cancel()
	fill := func(w io.Writer) error { return pack(limited, io.NewSectionReader(ra, 0, ra.Size()), w, o) }
	target, _, err := ingest(ctx, cs, fmt.Sprintf("convert-nydus-from-%s", desc.Digest), fill, diffIDLabel)
	if err != nil {
		return nil, ended(limited, err)
	}
	return convertedLayer(ctx, cs, opt, desc.Digest, target)
}

// diffIDLabel says that a blob is its own plain form, so that nobody tries to decompress it for its diff ID.
func diffIDLabel(d digest.Digest) map[string]string {
	return map[string]string{LayerAnnotationUncompressed: d.String()}
}

// convertedLayer describes a blob that is in the store.
func convertedLayer(ctx context.Context, cs content.Store, opt *PackOption, origin, target digest.Digest) (*ocispec.Descriptor, error) {
	info, err := cs.Info(ctx, target)
	if err != nil {
		return nil, fmt.Errorf("blob %s: %w", target, err)
	}
	if err := setLabels(ctx, cs, target, diffIDLabel(target)); err != nil {
		return nil, err
	}
	desc := blobDescriptor(target, info.Size)
	if opt.OCIRef {
		desc.Annotations[label.NydusRefLayer] = origin.String()
	}
	if opt.Encrypt {
		desc.Annotations[LayerAnnotationNydusEncryptedBlob] = "true"
	}
	return &desc, nil
}

func blobDescriptor(d digest.Digest, size int64) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: MediaTypeNydusBlob, Digest: d, Size: size,
		Annotations: map[string]string{LayerAnnotationUncompressed: d.String(), LayerAnnotationNydusBlob: "true"}}
}
