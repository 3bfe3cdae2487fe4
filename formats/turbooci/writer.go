package turbooci

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/flate"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/formats/overlaybd"
	"github.com/lazuli-project/lazuli/formats/overlaybd/layerfile"
	"github.com/lazuli-project/lazuli/formats/overlaybd/lsmt"
	"github.com/lazuli-project/lazuli/formats/turbooci/gzindex"
)

// Writer makes images of turboOCI. It may be used concurrently. Memory: the metadata of the image's file system, and the layers at work
// with their indexes.
type Writer struct {
	opt Options
	// Metadata are compressed twice, by us and in the layer's tar.
	file layerfile.Options
}

var (
	_ formats.Writer         = (*Writer)(nil)
	_ formats.NeedsParents   = (*Writer)(nil)
	_ formats.Reopener       = (*Writer)(nil)
	_ formats.ReferrerMarker = (*Writer)(nil)
	_ formats.ImageVersioner = (*Writer)(nil)
	_ formats.Tracer         = (*Writer)(nil)
	_ formats.KeepsLayers    = (*Writer)(nil)
)

// NewWriter returns a writer.
func NewWriter(o Options) (*Writer, error) {
	if err := o.setDefaults(); err != nil {
		return nil, err
	}
	return &Writer{opt: o, file: layerfile.Options{ZFile: metaCompression, Compress: true, Unpadded: true}}, nil
}

// Name implements [formats.Writer].
func (*Writer) Name() string { return Name }

// Version implements [formats.Writer].
func (w *Writer) Version() string { return w.opt.version() }

// ImageVersion implements [formats.ImageVersioner].
func (w *Writer) ImageVersion() string {
	return overlaybd.ImageVersion(w.Version(), w.opt.MediaTypes, w.opt.Prefetch, w.opt.Trace)
}

// NeedsParents implements [formats.NeedsParents].
func (*Writer) NeedsParents() bool { return true }

// ReferrerType implements [formats.ReferrerMarker].
func (*Writer) ReferrerType() string { return ArtifactType }

// Trace implements [formats.Tracer].
func (*Writer) Trace() flate.Trace { return flate.TraceIndex }

// KeepsLayers implements [formats.KeepsLayers].
func (*Writer) KeepsLayers() bool { return true }

// layerData is what the layer above, and the image, need of a finished one.
type layerData struct {
	// disks are those of the kinds of metadata with this layer on top, for the next layer alone; nil where the layer was taken up
	// from a record, and where the next layer has taken them.
	disks  []*overlaybd.Disk
	diffID digest.Digest
	gzip   bool // the layer of the source is compressed
	desc   ocispec.Descriptor
	stored []byte // of a layer that was taken up
}

// maxStored bounds the stored size of a layer that is taken up.
const maxStored = 256 << 20

// Reopen implements [formats.Reopener].
func (w *Writer) Reopen(ctx context.Context, desc ocispec.Descriptor, src blob.Source) (formats.Layer, error) {
	stored, err := blob.ReadAll(ctx, src, maxStored, blob.Demand)
	if err != nil {
		return formats.Layer{}, err
	}
	if got := desc.Digest.Algorithm().FromBytes(stored); got != desc.Digest {
		return formats.Layer{}, fmt.Errorf("layer %s: digest is %s: %w", desc.Digest, got, blob.ErrDigest)
	}
	files, diffID, err := overlaybd.ReadTurbo(bytes.NewReader(stored))
	if err != nil {
		return formats.Layer{}, fmt.Errorf("layer %s: %w", desc.Digest, err)
	}
	data := &layerData{desc: desc, stored: stored, diffID: diffID, gzip: files[overlaybd.TurboIndex] != nil}
	return formats.Layer{Desc: desc, Data: data, Stats: formats.LayerStats{Stored: desc.Size, Referred: true}}, nil
}

// errNoIndex explains what layers cannot be referred to.
var errNoIndex = errors.New("readers of turbo-oci cannot read such a layer in pieces; format overlaybd takes it")

// Layer implements [formats.Writer].
func (w *Writer) Layer(ctx context.Context, src formats.LayerSource, sink formats.Sink) (formats.LayerWriter, error) {
	l := &layerWriter{w: w, ctx: ctx, src: src, sink: sink}
	if src.Stream == nil {
		return nil, fmt.Errorf("turbo-oci: a layer without stream: %w", blob.ErrUnsupported)
	}
	switch src.Stream.Compression() {
	case flate.Gzip:
		l.index = gzindex.NewBuilder(src.Stream)
	case flate.Zstd:
		return nil, fmt.Errorf("layer compressed by zstd: %w: %w", blob.ErrUnsupported, errNoIndex)
	}
	l.pieces = gzindex.NewPieceBuilder(src.Stream)
	return l, nil
}

// disks returns the disks below a layer, by kind.
func (w *Writer) disks(ctx context.Context, src formats.LayerSource) ([]*overlaybd.Disk, error) {
	below, err := src.LayersBelow(ctx)
	if err != nil {
		return nil, err
	}
	if n := len(below); n > 0 {
		top, ok := below[n-1].Data.(*layerData)
		if !ok {
			return nil, fmt.Errorf("turbo-oci: the layer below is not one: %w", blob.ErrUnsupported)
		}
		if disks := top.disks; disks != nil {
			top.disks = nil
			return disks, nil
		}
	}
	var disks []*overlaybd.Disk
	for _, kind := range w.opt.FileSystems {
		var d *overlaybd.Disk
		var err error
		if len(below) == 0 && !w.opt.BaseLayer {
			d, err = overlaybd.NewDisk(kind, w.opt.Size)
		} else {
			d, err = w.openDisk(ctx, kind, below)
		}
		if err != nil {
			return nil, err
		}
		disks = append(disks, d)
	}
	return disks, nil
}

// openDisk reads the disk of finished layers.
func (w *Writer) openDisk(ctx context.Context, kind overlaybd.FS, below []formats.Layer) (*overlaybd.Disk, error) {
	var files []overlaybd.DiskLayer
	if w.opt.BaseLayer {
		_, stored, err := overlaybd.EmptyLayer(ctx, w.opt.Size, w.opt.CPU)
		if err != nil {
			return nil, err
		}
		base, err := overlaybd.OpenStored(ctx, stored)
		if err != nil {
			return nil, err
		}
		files = append(files, base)
	}
	for i, l := range below {
		data, ok := l.Data.(*layerData)
		if !ok || data.stored == nil {
			return nil, fmt.Errorf("turbo-oci: layer %d is not one that can be read: %w", i, blob.ErrUnsupported)
		}
		f, err := overlaybd.OpenTurboMeta(ctx, data.stored, kind)
		if err != nil {
			return nil, fmt.Errorf("layer %d (%s): %w", i, data.desc.Digest, err)
		}
		files = append(files, f)
	}
	return overlaybd.OpenDisk(files)
}

// Finish implements [formats.Writer].
func (w *Writer) Finish(ctx context.Context, layers []formats.Layer, src *formats.Manifest, sink formats.Sink) (*formats.Result, error) {
	made := overlaybd.ImageLayers{FSType: w.opt.FileSystems[0], Prefetch: w.opt.Prefetch, Trace: w.opt.Trace, MediaTypes: w.opt.MediaTypes}
	if w.opt.BaseLayer || len(layers) == 0 { // without a layer it would be no disk
		if err := w.addEmpty(ctx, &made, sink); err != nil {
			return nil, err
		}
	}
	for i, l := range layers {
		data, ok := l.Data.(*layerData)
		if !ok {
			return nil, fmt.Errorf("turbo-oci: layer %d is not one: %w", i, blob.ErrUnsupported)
		}
		desc := l.Desc
		desc.Annotations = annotations(desc, src.Manifest.Layers[i], data.gzip)
		made.Add(desc, data.diffID)
	}
	return made.Finish(ctx, src, sink)
}

// addEmpty stores and adds a native layer with an empty file system.
func (w *Writer) addEmpty(ctx context.Context, made *overlaybd.ImageLayers, sink formats.Sink) error {
	desc, stored, err := overlaybd.EmptyLayer(ctx, w.opt.Size, w.opt.CPU)
	if err != nil {
		return err
	}
	if !w.opt.BaseLayer { // by which the image is known as one of turboOCI, where no other layer says it
		desc.Annotations[overlaybd.AnnotationVersion] = overlaybd.VersionTurbo
	}
	if err := sink.Put(ctx, desc, stored); err != nil {
		return err
	}
	made.Add(desc, desc.Digest)
	return nil
}

// buffer is a layer file in memory.
type buffer struct{ p []byte }

func (b *buffer) Write(p []byte) (int, error) {
	b.p = append(b.p, p...)
	return len(p), nil
}

// WriteAt implements [io.WriterAt], inside of what was written.
func (b *buffer) WriteAt(p []byte, off int64) (int, error) {
	if err := blob.CheckRange(off, int64(len(p)), int64(len(b.p))); err != nil {
		return 0, err
	}
	return copy(b.p[off:], p), nil
}

var (
	_ layerfile.Output = (*buffer)(nil)
	_ io.WriterAt      = (*buffer)(nil)
)

// info of metadata layers: the reference gives them no UUID.
func (w *Writer) info() lsmt.Info { return lsmt.Info{VirtualSize: w.opt.Size} }
