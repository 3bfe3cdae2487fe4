package overlaybd

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/formats/overlaybd/layerfile"
	"github.com/lazuli-project/lazuli/formats/overlaybd/lsmt"
	"github.com/lazuli-project/lazuli/formats/overlaybd/zfile"
	"github.com/lazuli-project/lazuli/formats/turbooci/gzindex"
)

// Names in the tar of a layer of turboOCI.
const (
	TurboMarker  = ".turbo.ociv1"
	TurboIndex   = "gzip.meta"
	TurboPieces  = "lazuli.pieces" // digests of the content, which readers other than this pass over
	turboSuffix  = ".fs.meta"
	maxTurboMeta = 1 << 30 // of the files in the tar, in bytes
)

// TurboMeta returns the name of the file with the metadata of that kind.
func TurboMeta(kind FS) string { return string(kind) + turboSuffix }

// opener opens the layers of an image.
type opener struct {
	ctx     context.Context //nolint:containedctx // of one call of Open
	sources formats.Sources
	img     *formats.Image
	layers  []DiskLayer
	pages   *pages // of native layers
	index   *lsmt.Index
	blobOf  [][2]uint32 // by layer and tag: the blob with the bytes
	details Details
	kind    FS // of the metadata of layers that have both kinds; "" until a layer has decided that
}

// openLayers opens all layers but for one that only says what to read in advance.
func (o *opener) openLayers(descs []ocispec.Descriptor) error {
	for i, d := range descs {
		if d.Annotations[AnnotationAcceleration] == yes {
			if i != len(descs)-1 {
				return fmt.Errorf("layer %d (%s): an acceleration layer that is not the last: %w", i, d.Digest, blob.ErrCorrupt)
			}
			continue
		}
		open := o.native
		if isTurbo(d) {
			open = o.turbo
		}
		if err := open(d); err != nil {
			return fmt.Errorf("layer %d (%s): %w", i, d.Digest, err)
		}
	}
	return nil
}

// addBlob adds a blob and returns its number.
func (o *opener) addBlob(b formats.Blob) uint32 {
	b.PlainSize = b.Layout.Size()
	o.img.Blobs = append(o.img.Blobs, b)
	return uint32(len(o.img.Blobs) - 1)
}

// native opens a native layer.
func (o *opener) native(d ocispec.Descriptor) error {
	src, err := o.sources.Open(o.ctx, d)
	if err != nil {
		return err
	}
	f, err := layerfile.Open(o.ctx, src)
	if err != nil {
		return err
	}
	if f.Layer, err = f.Layer.Native(); err != nil {
		return err
	}
	n := o.addBlob(formats.Blob{Desc: d, Layout: f.Layout, Open: func(ctx context.Context) (blob.Source, error) { return o.sources.Open(ctx, d) }})
	paged := &pagedSource{src, len(o.layers), o.pages}
	o.add(DiskLayer{f.Layer, lsmt.Sources{Data: f.ReaderAt(o.ctx, paged)}}, [2]uint32{n, n}, layerDetails("native", f))
	return nil
}

func (o *opener) add(l DiskLayer, blobs [2]uint32, d LayerDetails) {
	o.layers, o.blobOf, o.details.Layers = append(o.layers, l), append(o.blobOf, blobs), append(o.details.Layers, d)
}

func layerDetails(kind string, f *layerfile.File) LayerDetails {
	d := LayerDetails{Kind: kind, UUID: f.Layer.UUID, Parent: f.Layer.Parent, Segments: f.Layer.Len(), Plain: f.Layout.Size()}
	if z, ok := f.Layout.(*zfile.Layout); ok {
		d.Block, d.Format = int64(z.BlockSize()), z.Algorithm().String()
	}
	return d
}

// turbo opens a layer of turboOCI: the metadata, which are fetched as a whole, and the layer of the source that they refer to.
func (o *opener) turbo(d ocispec.Descriptor) error {
	target := targetOf(d)
	if err := target.Validate(); err != nil {
		return fmt.Errorf("target %.100q: %w: %w", target, blob.ErrCorrupt, err)
	}
	files, err := o.turboFiles(d)
	if err != nil {
		return err
	}
	kind, err := o.chooseKind(files)
	if err != nil {
		return err
	}
	stored := files[TurboMeta(kind)]
	src := blob.ReaderAtSource{R: bytes.NewReader(stored), N: int64(len(stored))}
	f, err := layerfile.Open(o.ctx, src)
	if err != nil {
		return fmt.Errorf("%s: %w", TurboMeta(kind), err)
	}
	details := layerDetails("turbo", f)
	details.Target = target.String()
	mediaType := cmp.Or(d.Annotations[AnnotationTargetType], d.Annotations[annotationFastTargetType])
	remote := formats.Blob{Desc: ocispec.Descriptor{MediaType: mediaType, Digest: target}}
	if raw, ok := files[TurboIndex]; ok {
		layout, err := gzindex.Parse(raw)
		if err != nil {
			return fmt.Errorf("%s: %w", TurboIndex, err)
		}
		details.Access, remote.Desc.Size, remote.Layout = layout.NumSpans(), layout.StoredSize(), layout
		if table, ok := files[TurboPieces]; ok {
			if remote.Layout, err = layout.WithPieces(table); err != nil {
				return fmt.Errorf("%s: %w", TurboPieces, err)
			}
		}
	} else if err := o.plainTarget(&remote, files, f.Layer); err != nil {
		return err
	}
	// Its spans are those of this index.
	remote.Key = digest.FromBytes(slices.Concat([]byte(target), files[TurboIndex], files[TurboPieces]))
	remote.Open = func(ctx context.Context) (blob.Source, error) { return o.sources.Open(ctx, remote.Desc) }
	meta := o.addBlob(formats.Blob{
		Desc: d, Key: digest.FromBytes(stored), Layout: newMemoryLayout(f.Layout, stored),
		Open: func(context.Context) (blob.Source, error) { return src, nil },
	})
	data := o.addBlob(remote)
	if err := checkRemote(f.Layer, remote.Layout.Size()); err != nil {
		return err
	}
	o.add(DiskLayer{f.Layer, lsmt.Sources{Data: f.ReaderAt(o.ctx, src), Remote: noMetadata{}}}, [2]uint32{lsmt.TagData: meta, lsmt.TagRemote: data}, details)
	return nil
}

// plainTarget sets the layout of a target that is not compressed.
func (o *opener) plainTarget(remote *formats.Blob, files map[string][]byte, l *lsmt.Layer) (err error) {
	if strings.HasSuffix(remote.Desc.MediaType, "gzip") {
		return fmt.Errorf("a compressed target without %s: %w", TurboIndex, blob.ErrCorrupt)
	}
	if table, ok := files[TurboPieces]; ok {
		if remote.Layout, err = gzindex.PlainWithPieces(table); err != nil {
			return fmt.Errorf("%s: %w", TurboPieces, err)
		}
	} else { // how long it is stands nowhere
		remote.Layout = gzindex.NewPlain(remoteEnd(l))
	}
	remote.Desc.Size = remote.Layout.Size()
	return nil
}

// turboFiles reads the tar of a layer of turboOCI.
func (o *opener) turboFiles(d ocispec.Descriptor) (_ map[string][]byte, err error) {
	rc, err := o.sources.Fetch(o.ctx, d)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rc.Close()) }()
	files, _, err := ReadTurbo(rc)
	if err == nil {
		_, err = io.Copy(io.Discard, rc) // up to its end, where its digest is compared
	}
	return files, err
}

// ReadTurbo reads the stored tar of a layer of turboOCI: the files of metadata and the index, and the digest of the uncompressed tar.
func ReadTurbo(stored io.Reader) (map[string][]byte, digest.Digest, error) {
	z, err := gzip.NewReader(stored)
	if err != nil {
		return nil, "", fmt.Errorf("gzip: %w: %w", blob.ErrCorrupt, err)
	}
	sum := digest.SHA256.Digester()
	plain := io.TeeReader(z, sum.Hash())
	files, left := make(map[string][]byte), int64(maxTurboMeta)
	r := tar.NewReader(plain)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, "", fmt.Errorf("tar: %w: %w", blob.ErrCorrupt, err)
		}
		if h.Name != TurboIndex && h.Name != TurboPieces && !strings.HasSuffix(h.Name, turboSuffix) {
			continue
		}
		if left -= h.Size; left < 0 {
			return nil, "", fmt.Errorf("%s: %d bytes, the limit is %d for all: %w", h.Name, h.Size, int64(maxTurboMeta), blob.ErrCorrupt)
		}
		var content bytes.Buffer // grows with what comes, whatever the header says
		if _, err := io.Copy(&content, r); err != nil {
			return nil, "", fmt.Errorf("%s: %w: %w", h.Name, blob.ErrCorrupt, err)
		}
		files[h.Name] = content.Bytes()
	}
	if _, err := io.Copy(io.Discard, plain); err != nil {
		return nil, "", fmt.Errorf("gzip: %w: %w", blob.ErrCorrupt, err)
	}
	return files, sum.Digest(), nil
}

// OpenTurboMeta opens the metadata of a layer of turboOCI for a disk.
func OpenTurboMeta(ctx context.Context, stored []byte, kind FS) (DiskLayer, error) {
	files, _, err := ReadTurbo(bytes.NewReader(stored))
	if err != nil {
		return DiskLayer{}, err
	}
	meta, ok := files[TurboMeta(kind)]
	if !ok {
		return DiskLayer{}, fmt.Errorf("no %s: %w", TurboMeta(kind), blob.ErrCorrupt)
	}
	l, err := OpenStored(ctx, meta)
	l.Sources.Remote = noMetadata{}
	return l, err
}

// chooseKind says which metadata to use: layers above go by the lowest.
func (o *opener) chooseKind(files map[string][]byte) (FS, error) {
	for _, kind := range []FS{EROFS, Ext4} {
		if o.kind != "" && kind != o.kind {
			continue
		}
		if _, ok := files[TurboMeta(kind)]; ok {
			o.kind = kind
			return kind, nil
		}
	}
	return "", fmt.Errorf("no %s: %w", TurboMeta(cmp.Or(o.kind, EROFS)), blob.ErrCorrupt)
}

// remoteEnd returns how much of the object that a layer refers to it uses.
func remoteEnd(l *lsmt.Layer) int64 {
	var end int64
	for s := range l.Segments() {
		if s.Tag == lsmt.TagRemote && !s.Zero {
			end = max(end, (s.Source+s.Length)*lsmt.SectorSize)
		}
	}
	return end
}

// checkRemote checks that what a layer refers to is there. Only the last sector may reach over the end.
func checkRemote(l *lsmt.Layer, size int64) error {
	if end := remoteEnd(l); end > (size+lsmt.SectorSize-1)/lsmt.SectorSize*lsmt.SectorSize {
		return fmt.Errorf("refers to %d bytes of a layer that has %d: %w", end, size, blob.ErrCorrupt)
	}
	return nil
}

// noMetadata is what a layer refers to, in which metadata cannot lie.
type noMetadata struct{}

func (noMetadata) ReadAt([]byte, int64) (int, error) {
	return 0, fmt.Errorf("metadata in the layer that is referred to: %w", blob.ErrUnsupported)
}

// memoryLayout is the plain space of an object that is in memory.
type memoryLayout struct {
	blob.Layout
	stored []byte
}

func newMemoryLayout(l blob.Layout, stored []byte) *memoryLayout { return &memoryLayout{l, stored} }

// Span implements [blob.Layout]. Nothing has to be fetched for it.
func (m *memoryLayout) Span(i int) blob.Span {
	s := m.Layout.Span(i)
	s.Stored = blob.Range{}
	return s
}

// Decode implements [blob.Layout].
func (m *memoryLayout) Decode(plain, _ []byte, s blob.Span) error {
	s = m.Layout.Span(s.Index)
	return m.Layout.Decode(plain, m.stored[s.Stored.Off:s.Stored.End()], s)
}

// OpenStored opens a layer whose blob is in memory.
func OpenStored(ctx context.Context, stored []byte) (DiskLayer, error) {
	src := blob.ReaderAtSource{R: bytes.NewReader(stored), N: int64(len(stored))}
	f, err := layerfile.Open(ctx, src)
	if err != nil {
		return DiskLayer{}, err
	}
	return DiskLayer{Layer: f.Layer, Sources: lsmt.Sources{Data: f.ReaderAt(ctx, src)}}, nil
}
