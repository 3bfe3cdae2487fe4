package overlaybd

import (
	"context"
	"strconv"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/disk"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/formats/overlaybd/layerfile"
	"github.com/lazuli-project/lazuli/formats/overlaybd/lsmt"
	"github.com/lazuli-project/lazuli/tarfs"
	"github.com/lazuli-project/lazuli/tree"
)

// layerWriter makes the blob of one layer, whose beginning is written once more at the end.
type layerWriter struct {
	w       *Writer
	ctx     context.Context //nolint:containedctx // of one layer's conversion, which it bounds
	src     formats.LayerSource
	obj     formats.RandomObject
	file    *layerfile.Writer
	content content
	stats   formats.LayerStats
}

// Entry implements [formats.LayerWriter].
func (l *layerWriter) Entry(e *tarfs.Entry, node *tree.Node) error {
	if l.content.left > 0 {
		return errContent
	}
	l.stats.Entries++
	if e.Size > 0 {
		if e.Hardlink != "" {
			node = nil // its content is its target's
		}
		l.content.begin(node, e.Size)
		l.stats.Plain += e.Size
	}
	return nil
}

// Data implements [formats.LayerWriter].
func (l *layerWriter) Data(p []byte) error { return l.content.write(p) }

// Close implements [formats.LayerWriter].
func (l *layerWriter) Close(t *tree.Tree) (formats.Layer, error) {
	if l.content.left > 0 {
		return formats.Layer{}, errContent
	}
	cpu := make(map[string]float64)
	d, err := l.w.disk(l.ctx, l.src)
	if err != nil {
		return formats.Layer{}, err
	}
	begin := time.Now()
	change, err := d.Apply(t)
	if err != nil {
		return formats.Layer{}, err
	}
	applied := time.Now()
	segs := AppendContent(nil, wholeBlocks(change.Data), func(uint32) uint8 { return lsmt.TagData })
	if segs, err = AppendBlocks(segs, change.Blocks, l.file); err != nil {
		return formats.Layer{}, err
	}
	if _, err := CloseFile(l.file, segs); err != nil {
		return formats.Layer{}, err
	}
	written := time.Now()
	data := &layerData{disk: d}
	l.src.SetReady(formats.Layer{Data: data}) // which is never asked for the blob of a layer that is made now
	var desc ocispec.Descriptor
	if desc.Digest, desc.Size, err = l.obj.Commit(l.ctx); err != nil {
		return formats.Layer{}, err
	}
	cpu["file_system"], cpu["finish"], cpu["store"] = applied.Sub(begin).Seconds(), written.Sub(applied).Seconds(), time.Since(written).Seconds()
	l.stats.Stored, l.stats.Chunks, l.stats.CPU = desc.Size, int64(len(segs)), cpu
	return formats.Layer{Desc: nativeDesc(desc), Data: data, Stats: l.stats}, nil
}

// Abort implements [formats.LayerWriter].
func (l *layerWriter) Abort() {
	if l.file != nil {
		l.file.Abort()
	}
	if l.obj != nil {
		l.obj.Abort()
	}
}

// wholeBlocks makes content reach to the end of its last block, where the blob has zeros as the disk shall have them. Files that lie one
// behind the other are then one segment.
func wholeBlocks(data []disk.Extent) []disk.Extent {
	whole := data[:0]
	for _, x := range data {
		if n := len(whole); n > 0 && x.Blob == disk.Zero && x.Device%disk.BlockSize != 0 {
			last := &whole[n-1]
			if rest := disk.BlockSize - x.Device%disk.BlockSize; last.Blob != disk.Zero && last.Device+last.Length == x.Device && x.Length == rest {
				last.Length += rest
				continue
			}
		}
		whole = append(whole, x)
	}
	return whole
}

// AppendContent adds the segments of content on a disk. tag says which of a layer's two sources has a blob's bytes.
func AppendContent(segs []lsmt.Segment, data []disk.Extent, tag func(blob uint32) uint8) []lsmt.Segment {
	for _, x := range data {
		s := lsmt.Segment{Offset: x.Device / disk.SectorSize, Length: x.Length / disk.SectorSize, Zero: x.Blob == disk.Zero}
		if !s.Zero {
			s.Source, s.Tag = x.Source/disk.SectorSize, tag(x.Blob)
		}
		segs = append(segs, s)
	}
	return segs
}

// CloseFile ends a layer file with the segments of its content and metadata.
func CloseFile(file *layerfile.Writer, segs []lsmt.Segment) (int64, error) {
	segs, err := lsmt.Normalize(segs)
	if err != nil {
		return 0, err
	}
	return file.Close(segs)
}

// AppendBlocks writes blocks of metadata to a layer file and adds their segments.
func AppendBlocks(segs []lsmt.Segment, blocks []disk.Block, file *layerfile.Writer) ([]lsmt.Segment, error) {
	for _, b := range blocks {
		s := lsmt.Segment{Offset: b.Number * (disk.BlockSize / disk.SectorSize), Length: disk.BlockSize / disk.SectorSize, Zero: isZero(b.Data)}
		if !s.Zero {
			s.Source = file.Offset() / disk.SectorSize
			if _, err := file.Write(b.Data); err != nil {
				return nil, err
			}
		}
		segs = append(segs, s)
	}
	return segs, nil
}

// nativeDesc returns the descriptor of a layer's blob as it stands in manifests, but for the media type.
func nativeDesc(d ocispec.Descriptor) ocispec.Descriptor {
	d.MediaType = ocispec.MediaTypeImageLayer
	d.Annotations = map[string]string{
		AnnotationVersion: VersionNative, AnnotationDigest: d.Digest.String(), AnnotationSize: strconv.FormatInt(d.Size, 10),
	}
	return d
}
