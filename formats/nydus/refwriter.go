package nydus

import (
	"context"
	"encoding/hex"
	"fmt"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/flate"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/formats/nydus/nydusblob"
	"github.com/lazuli-project/lazuli/formats/nydus/rafs6"
)

// refVersion changes with what is written for a layer.
const refVersion = 1

// RefOptions are the options of a [RefWriter]. The zero value is what is recommended.
type RefOptions struct {
	// ChunkSize in bytes, a power of two from 4 KiB to 16 MiB. Default 1 MiB.
	ChunkSize int
	// Spacing says how many stored bytes of a layer are decoded together at the most, about: a read fetches and inflates that
	// much. The smaller, the more is stored beside the layers. Default 2 MiB; nydus-image has 1 MiB.
	Spacing int
	// PrefetchPaths and SourceReference are as in [Options].
	PrefetchPaths   []string
	SourceReference string
	// CPU bounds the cores that are used, as in [Options].
	CPU *formats.CPU
}

const (
	defaultSpacing = 2 << 20
	minSpacing     = 64 << 10
	maxSpacing     = 4 << 20
)

// RefWriter makes Nydus images whose data are the layers of the source as they are ("zran", "OCI ref"): what is stored beside
// them for a layer is an index of its gzip stream and a bootstrap. Layers that are not compressed are referred to as well;
// those that cannot be (zstd, sparse files) are converted as a [Writer] does it. It may be used concurrently.
type RefWriter struct {
	Writer
	native  *Writer // converts what cannot be referred to
	spacing int64
}

var (
	_ formats.Writer      = (*RefWriter)(nil)
	_ formats.Reopener    = (*RefWriter)(nil)
	_ formats.IndexMarker = (*RefWriter)(nil)
	_ formats.Tracer      = (*RefWriter)(nil)
	_ formats.KeepsLayers = (*RefWriter)(nil)

	_ formats.ReferrerMarker = (*RefWriter)(nil)
)

// NewRefWriter returns a writer.
func NewRefWriter(o RefOptions) (*RefWriter, error) {
	native, err := NewWriter(Options{ChunkSize: o.ChunkSize, Digest: "sha256", PrefetchPaths: o.PrefetchPaths, SourceReference: o.SourceReference, CPU: o.CPU})
	if err != nil {
		return nil, err
	}
	if o.Spacing == 0 {
		o.Spacing = defaultSpacing
	}
	if o.Spacing < minSpacing || o.Spacing > maxSpacing {
		return nil, fmt.Errorf("nydus-ref: spacing %d: %d to %d are possible", o.Spacing, minSpacing, maxSpacing)
	}
	w := &RefWriter{native: native, spacing: int64(o.Spacing)}
	w.set = native.set
	w.set.compressor = nydusblob.CompressorGzip
	return w, nil
}

// Name implements [formats.Writer].
func (*RefWriter) Name() string { return NameRef }

// Version implements [formats.Writer].
func (w *RefWriter) Version() string {
	return fmt.Sprintf("nydusref-%d-%d-%d-%s", refVersion, w.set.chunkSize, w.spacing, w.native.Version())
}

// Trace implements [formats.Tracer].
func (*RefWriter) Trace() flate.Trace { return flate.TraceIndex }

// ReferrerType implements [formats.ReferrerMarker].
func (*RefWriter) ReferrerType() string { return artifactTypeRef }

// KeepsLayers implements [formats.KeepsLayers].
func (*RefWriter) KeepsLayers() bool { return true }

// Layer implements [formats.Writer].
func (w *RefWriter) Layer(ctx context.Context, src formats.LayerSource, sink formats.Sink) (formats.LayerWriter, error) {
	if src.Stream == nil || src.Again || src.Stream.Compression() == flate.Zstd || src.Desc.Digest.Algorithm() != digest.SHA256 {
		return w.native.Layer(ctx, src, sink)
	}
	obj, err := sink.Create(ctx, MediaTypeBlob)
	if err != nil {
		return nil, err
	}
	l := &refLayerWriter{layerWriter: layerWriter{w: &w.Writer, ctx: ctx, obj: obj, out: newSectionWriter(obj, FormLayer)}, src: src}
	if src.Stream.Compression() == flate.Gzip {
		l.index = &zranIndex{stream: src.Stream, chunkSize: int64(w.set.chunkSize), spacing: w.spacing}
	}
	l.chunks = newChunker(ctx, &w.Writer, nil)
	return l, nil
}

// Reopen implements [formats.Reopener].
func (w *RefWriter) Reopen(ctx context.Context, desc ocispec.Descriptor, src blob.Source) (formats.Layer, error) {
	fail := func(err error) (formats.Layer, error) {
		return formats.Layer{}, fmt.Errorf("layer %s: %w", desc.Digest, err)
	}
	boot, err := readLayerBootstrap(ctx, src)
	if err != nil {
		return fail(err)
	}
	b, err := rafs6.Parse(boot)
	if err != nil {
		return fail(err)
	}
	if len(b.Blobs) == 0 && b.Compressor() == w.set.compressor && int(b.ChunkSize) == w.set.chunkSize {
		return formats.Layer{Desc: layerDesc(desc), Tree: b.Tree, Data: &layerData{table: &nydusblob.Table{}},
			Stats: formats.LayerStats{Stored: src.Size(), Referred: true}}, nil
	}
	if len(b.Blobs) != 1 || b.Blobs[0].Features != refFeatures(b.Blobs[0].Features&nydusblob.FeatureZran != 0)|nydusblob.FeatureInlinedMeta {
		return w.native.Reopen(ctx, desc, src)
	}
	if int(b.ChunkSize) != w.set.chunkSize {
		return fail(errOtherOptions)
	}
	decoder, err := nydusblob.NewDecoder()
	if err != nil {
		return fail(err)
	}
	data := &layerData{info: b.Blobs[0]}
	stored, err := readStoredTable(ctx, src, &data.info)
	if err != nil {
		return fail(err)
	}
	if data.table, err = nydusblob.DecodeTable(decoder, &data.info, stored); err != nil {
		return fail(err)
	}
	if err := b.Check(0, data.table); err != nil {
		return fail(err)
	}
	if data.digests = b.Digests(0, data.table.Len()); !data.digests.Complete(data.table.Len()) {
		return fail(errOtherOptions)
	}
	original := digest.NewDigestFromEncoded(digest.SHA256, data.info.ID)
	if err := original.Validate(); err != nil {
		return fail(fmt.Errorf("%w: %w", blob.ErrCorrupt, err))
	}
	data.info.Features &^= nydusblob.FeatureInlinedMeta
	if err := data.setMeta(desc); err != nil {
		return fail(err)
	}
	return formats.Layer{Desc: refDesc(desc, original, digest.FromBytes(stored)), Tree: b.Tree, Data: data,
		Stats: formats.LayerStats{Stored: src.Size(), Chunks: int64(data.table.Len()), Referred: true}}, nil
}

var errOtherOptions = fmt.Errorf("made with other options: %w", blob.ErrUnsupported)

// setMeta notes the object that has the layer's chunk table.
func (d *layerData) setMeta(desc ocispec.Descriptor) error {
	sum, err := hex.DecodeString(desc.Digest.Encoded())
	if err != nil || len(sum) != nydusblob.DigestSize {
		return fmt.Errorf("digest %q: %w", desc.Digest, blob.ErrUnsupported)
	}
	d.info.MetaDigest, d.info.MetaSize = [nydusblob.DigestSize]byte(sum), uint64(desc.Size)
	return nil
}

// refDesc returns the descriptor of a layer's blob as it stands in the manifest. original is the layer that its chunks are in,
// and table the digest of its stored chunk table. The blob of a layer without chunks has just the descriptor of any blob.
func refDesc(d ocispec.Descriptor, original, table digest.Digest) ocispec.Descriptor {
	d = layerDesc(d)
	d.Annotations[AnnotationRef] = original.String()
	d.Annotations[AnnotationTable] = table.String()
	return d
}
