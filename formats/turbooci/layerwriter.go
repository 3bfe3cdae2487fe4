package turbooci

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/disk"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/formats/overlaybd"
	"github.com/lazuli-project/lazuli/formats/overlaybd/layerfile"
	"github.com/lazuli-project/lazuli/formats/overlaybd/lsmt"
	"github.com/lazuli-project/lazuli/formats/overlaybd/zfile"
	"github.com/lazuli-project/lazuli/formats/turbooci/gzindex"
	"github.com/lazuli-project/lazuli/tarfs"
	"github.com/lazuli-project/lazuli/tree"
)

// metaCompression of metadata: small rather than quick to read, since runtimes read them once.
var metaCompression = zfile.Options{Algorithm: zfile.Zstd, BlockSize: 32 << 10}

const gzipLevel = 6

// The numbers of blobs in the extents of a layer's tree.
const (
	blobRemote = 0 // the layer's tar
	blobCopied = 1 // content that is copied
)

// maxCopied bounds content that does not lie in the layer's tar as disks need it, so that it has to be copied.
const maxCopied = 64 << 20

// layerWriter makes the blob of one layer. Content is not looked at, but for that of sparse files whose pieces do not begin at sectors.
type layerWriter struct {
	w      *Writer
	ctx    context.Context //nolint:containedctx // of one layer's conversion, which it bounds
	src    formats.LayerSource
	sink   formats.Sink
	index  *gzindex.Builder // nil for a layer that is not compressed
	pieces *gzindex.PieceBuilder

	left    int64  // bytes of content that the entry still wants
	copying bool   // the entry's content is copied
	copied  []byte // content that is; each file's begins at a block's beginning
	stats   formats.LayerStats
}

// errContent means that an entry's content has another size than the entry says.
var errContent = errors.New("content does not fit its entry")

// Entry implements [formats.LayerWriter].
func (l *layerWriter) Entry(e *tarfs.Entry, node *tree.Node) error {
	if l.left > 0 {
		return errContent
	}
	l.stats.Entries++
	l.copying, l.left = false, e.Size
	if e.Size == 0 || node == nil || e.Hardlink != "" {
		return nil
	}
	l.stats.Plain += e.Size
	if onSectors(e.Data) {
		node.Extents = e.Data
		return nil
	}
	l.copied = pad(l.copied)
	if e.Size > maxCopied-int64(len(l.copied)) {
		return fmt.Errorf("sparse file of %d bytes whose pieces do not begin at sectors: %w: %w", e.Size, blob.ErrUnsupported, errNoIndex)
	}
	l.copying = true
	node.Extents = []tree.Extent{{Blob: blobCopied, Offset: int64(len(l.copied)), Length: e.Size}}
	return nil
}

// onSectors reports whether every piece of a file but its end begins and ends at sectors of the file and of the tar.
func onSectors(data []tree.Extent) bool {
	for i, x := range data {
		if x.Blob != tree.Hole && x.Offset%disk.SectorSize != 0 || i < len(data)-1 && x.Length%disk.SectorSize != 0 {
			return false
		}
	}
	return true
}

// pad fills p up to whole blocks.
func pad(p []byte) []byte {
	if n := len(p) % disk.BlockSize; n > 0 {
		p = append(p, make([]byte, disk.BlockSize-n)...)
	}
	return p
}

// Follow implements [formats.Follower]: it notes access points and digests.
func (l *layerWriter) Follow(p []byte) error {
	if l.index != nil {
		if err := l.index.Advance(); err != nil {
			return fmt.Errorf("%w: %w", err, errNoIndex)
		}
	}
	return l.pieces.Follow(p)
}

// Data implements [formats.LayerWriter].
func (l *layerWriter) Data(p []byte) error {
	if l.left -= int64(len(p)); l.left < 0 {
		return errContent
	}
	if l.copying {
		l.copied = append(l.copied, p...)
	}
	return nil
}

// Close implements [formats.LayerWriter].
func (l *layerWriter) Close(t *tree.Tree) (formats.Layer, error) {
	if l.left > 0 {
		return formats.Layer{}, errContent
	}
	var files []metaFile
	cpu := make(map[string]float64)
	begin := time.Now()
	if l.index != nil {
		raw, err := l.index.Finish(l.src.Desc.Size)
		if err != nil {
			return formats.Layer{}, fmt.Errorf("%w: %w", err, errNoIndex)
		}
		files = append(files, metaFile{overlaybd.TurboIndex, raw})
	}
	table, err := l.pieces.Finish(l.src.Desc.Size)
	if err != nil {
		return formats.Layer{}, err
	}
	files = append(files, metaFile{overlaybd.TurboPieces, table})
	cpu["index"] = time.Since(begin).Seconds()
	disks, err := l.w.disks(l.ctx, l.src)
	if err != nil {
		return formats.Layer{}, err
	}
	begin = time.Now()
	metas := make([]metaFile, 0, len(disks)+2)
	for i, d := range disks {
		own := t
		if i < len(disks)-1 {
			own = tarfs.Clone(t)
		}
		raw, err := l.metadata(d, own)
		if err != nil {
			return formats.Layer{}, err
		}
		metas = append(metas, metaFile{overlaybd.TurboMeta(l.w.opt.FileSystems[i]), raw})
	}
	data := &layerData{disks: disks, gzip: l.index != nil}
	l.src.SetReady(formats.Layer{Data: data}) // which is never asked for what is not there yet
	cpu["file_system"] = time.Since(begin).Seconds()
	begin = time.Now()
	stored, diffID, err := packTar(append(append(metas, metaFile{name: overlaybd.TurboMarker}), files...))
	if err != nil {
		return formats.Layer{}, err
	}
	cpu["pack"] = time.Since(begin).Seconds()
	desc := formats.DigestOf(ocispec.MediaTypeImageLayerGzip, stored)
	if err := l.sink.Put(l.ctx, desc, stored); err != nil {
		return formats.Layer{}, err
	}
	data.diffID, data.desc = diffID, desc
	l.stats.Stored, l.stats.Referred, l.stats.CPU = desc.Size, true, cpu
	return formats.Layer{Desc: desc, Data: data, Stats: l.stats}, nil
}

// metadata makes the file of one kind of metadata.
func (l *layerWriter) metadata(d *overlaybd.Disk, t *tree.Tree) ([]byte, error) {
	change, err := d.Apply(t)
	if err != nil {
		return nil, err
	}
	out := &buffer{}
	file, err := layerfile.NewWriter(l.ctx, out, l.w.opt.CPU, l.w.info(), l.w.file)
	if err != nil {
		return nil, err
	}
	defer file.Abort()
	var copiedAt int64
	if len(l.copied) > 0 {
		copiedAt = file.Offset()
		if _, err := file.Write(pad(l.copied)); err != nil {
			return nil, err
		}
	}
	for i := range change.Data {
		if x := &change.Data[i]; x.Blob == blobCopied {
			x.Source += copiedAt
		}
	}
	segs := overlaybd.AppendContent(nil, change.Data, func(blob uint32) uint8 {
		if blob == blobCopied {
			return lsmt.TagData
		}
		return lsmt.TagRemote
	})
	if segs, err = overlaybd.AppendBlocks(segs, change.Blocks, file); err != nil {
		return nil, err
	}
	if _, err := overlaybd.CloseFile(file, segs); err != nil {
		return nil, err
	}
	return out.p, nil
}

// metaFile is a file in a layer's tar.
type metaFile struct {
	name    string
	content []byte
}

// packTar makes a layer's blob, and the digest of its uncompressed form.
func packTar(files []metaFile) ([]byte, digest.Digest, error) {
	var out bytes.Buffer
	z, err := gzip.NewWriterLevel(&out, gzipLevel)
	if err != nil {
		return nil, "", fmt.Errorf("gzip: %w", err)
	}
	sum := digest.SHA256.Digester()
	t := tar.NewWriter(io.MultiWriter(z, sum.Hash()))
	for _, f := range files {
		err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: f.name, Mode: 0o644, Size: int64(len(f.content)), Format: tar.FormatUSTAR})
		if err == nil {
			_, err = t.Write(f.content)
		}
		if err != nil {
			return nil, "", fmt.Errorf("%s: %w", f.name, err)
		}
	}
	if err := t.Close(); err != nil {
		return nil, "", fmt.Errorf("tar: %w", err)
	}
	if err := z.Close(); err != nil {
		return nil, "", fmt.Errorf("gzip: %w", err)
	}
	return out.Bytes(), sum.Digest(), nil
}

// Abort implements [formats.LayerWriter].
func (l *layerWriter) Abort() { l.copied = nil }

// annotations of a layer's blob. target is the layer that it refers to; by its media type, runtimes decide whether it is compressed.
func annotations(d, target ocispec.Descriptor, gzipped bool) map[string]string {
	mediaType := ocispec.MediaTypeImageLayer
	if strings.HasPrefix(target.MediaType, "application/vnd.docker.") {
		mediaType = formats.MediaTypeDockerLayer
	}
	if gzipped {
		mediaType = overlaybd.Gzipped(mediaType)
	}
	return map[string]string{
		overlaybd.AnnotationVersion: overlaybd.VersionTurbo, overlaybd.AnnotationDigest: d.Digest.String(),
		overlaybd.AnnotationSize: strconv.FormatInt(d.Size, 10), overlaybd.AnnotationTarget: target.Digest.String(),
		overlaybd.AnnotationTargetType: mediaType,
	}
}
