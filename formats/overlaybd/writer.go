package overlaybd

import (
	"context"
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/formats/overlaybd/layerfile"
	"github.com/lazuli-project/lazuli/formats/overlaybd/lsmt"
)

// Writer makes overlaybd images. It may be used concurrently. Memory: a few MB for each layer at work, and the model of the file
// system's metadata.
type Writer struct {
	opt  Options
	file layerfile.Options
	base *baseLayer // nil unless there is one
}

var (
	_ formats.Writer         = (*Writer)(nil)
	_ formats.NeedsParents   = (*Writer)(nil)
	_ formats.Reopener       = (*Writer)(nil)
	_ formats.ReferrerMarker = (*Writer)(nil)
	_ formats.ImageVersioner = (*Writer)(nil)
)

// NewWriter returns a writer.
func NewWriter(o Options) (*Writer, error) {
	z, err := o.zfile()
	if err != nil {
		return nil, err
	}
	if o.Size, err = CheckSize(o.Size); err != nil {
		return nil, fmt.Errorf("overlaybd: %w", err)
	}
	if o.CPU == nil {
		o.CPU = formats.NewCPU(0)
	}
	w := &Writer{opt: o, file: layerfile.Options{ZFile: z, Compress: true, Tar: true}}
	if o.BaseLayer {
		w.base = &baseLayer{}
	}
	return w, nil
}

// Name implements [formats.Writer].
func (*Writer) Name() string { return Name }

// Version implements [formats.Writer]. What makes up the image alone does not count: layers do not depend on it.
func (w *Writer) Version() string {
	return fmt.Sprintf("overlaybd-%d-%s-%d-%d-base=%t", writerVersion, w.file.ZFile.Algorithm, w.file.ZFile.BlockSize, w.opt.Size>>30, w.opt.BaseLayer)
}

// ImageVersion implements [formats.ImageVersioner].
func (w *Writer) ImageVersion() string {
	return ImageVersion(w.Version(), w.opt.MediaTypes, w.opt.Prefetch, w.opt.Trace)
}

// imageVersion changes with the manifest, the configuration or the added layers of an image of the same layers.
const imageVersion = 1

// ImageVersion returns what an image depends on beside its source, of the version of its layers and the options that [ImageLayers] has.
func ImageVersion(layers string, types MediaTypes, prefetch []string, trace []byte) string {
	return fmt.Sprintf("%s image=%d %s %s", layers, imageVersion, types, digest.FromString(strings.Join(prefetch, "\x00")+"\x00\x00"+string(trace)))
}

// NeedsParents implements [formats.NeedsParents].
func (*Writer) NeedsParents() bool { return true }

// ReferrerType implements [formats.ReferrerMarker].
func (*Writer) ReferrerType() string { return ArtifactType }

// layerData is what the layer above needs of a finished one.
type layerData struct {
	// disk is the disk with this layer on top, for the next layer alone; nil where the layer was taken up from a record, and where the
	// next layer has taken the disk.
	disk *Disk
	desc ocispec.Descriptor
	src  blob.Source
}

// Reopen implements [formats.Reopener]. The blob is read only if the layer above is not known as well.
func (w *Writer) Reopen(_ context.Context, desc ocispec.Descriptor, src blob.Source) (formats.Layer, error) {
	return formats.Layer{Desc: desc, Data: &layerData{desc: desc, src: src}, Stats: formats.LayerStats{Stored: src.Size()}}, nil
}

// Layer implements [formats.Writer].
func (w *Writer) Layer(ctx context.Context, src formats.LayerSource, sink formats.Sink) (formats.LayerWriter, error) {
	info := lsmt.Info{VirtualSize: w.opt.Size, UUID: nilUUID, Parent: nilUUID}
	if n := len(src.Chains); n > 0 {
		info.UUID = UUID(src.Chains[n-1])
		if n > 1 {
			info.Parent = UUID(src.Chains[n-2])
		}
	}
	l := &layerWriter{w: w, ctx: ctx, src: src}
	var err error
	if l.obj, err = formats.CreateRandom(ctx, sink, ocispec.MediaTypeImageLayer, src.Spool); err != nil {
		return nil, err
	}
	if l.file, err = layerfile.NewWriter(ctx, l.obj, w.opt.CPU, info, w.file); err != nil {
		l.Abort()
		return nil, err
	}
	l.content.file = l.file
	return l, nil
}

// disk returns the disk below a layer.
func (w *Writer) disk(ctx context.Context, src formats.LayerSource) (*Disk, error) {
	below, err := src.LayersBelow(ctx)
	if err != nil {
		return nil, err
	}
	if n := len(below); n > 0 {
		top, ok := below[n-1].Data.(*layerData)
		if !ok {
			return nil, fmt.Errorf("overlaybd: the layer below is not one: %w", blob.ErrUnsupported)
		}
		if d := top.disk; d != nil {
			top.disk = nil
			return d, nil
		}
	} else if w.base == nil {
		return NewDisk(Ext4, w.opt.Size)
	}
	return w.openDisk(ctx, below)
}

// openDisk reads the disk of finished layers.
func (w *Writer) openDisk(ctx context.Context, below []formats.Layer) (*Disk, error) {
	var files []DiskLayer
	if w.base != nil {
		base, err := w.base.open(ctx, w)
		if err != nil {
			return nil, err
		}
		files = append(files, base)
	}
	for i, l := range below {
		data, ok := l.Data.(*layerData)
		if !ok || data.src == nil {
			return nil, fmt.Errorf("overlaybd: layer %d is not one that can be read: %w", i, blob.ErrUnsupported)
		}
		f, err := layerfile.Open(ctx, data.src)
		if err != nil {
			return nil, fmt.Errorf("layer %d (%s): %w", i, data.desc.Digest, err)
		}
		files = append(files, DiskLayer{Layer: f.Layer, Sources: lsmt.Sources{Data: f.ReaderAt(ctx, data.src)}})
	}
	return OpenDisk(files)
}
