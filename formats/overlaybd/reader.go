package overlaybd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/disk/erofs"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/formats/overlaybd/lsmt"
	"github.com/lazuli-project/lazuli/tree"
)

// Reader reads overlaybd images, of which no layer is of turboOCI.
type Reader struct{}

var (
	_ formats.Reader  = Reader{}
	_ formats.Stacked = Reader{}
)

// Name implements [formats.Reader].
func (Reader) Name() string { return Name }

// Recognize implements [formats.Reader].
func (Reader) Recognize(m *formats.Manifest) bool { return IsDisk(m) && !HasTurbo(m) }

// Stacked implements [formats.Stacked].
func (Reader) Stacked() bool { return true }

// Open implements [formats.Reader].
func (Reader) Open(ctx context.Context, m *formats.Manifest, s formats.Sources) (*formats.Image, error) {
	return Open(ctx, Name, m, s)
}

// IsDisk reports whether every layer of an image is one of a virtual disk.
func IsDisk(m *formats.Manifest) bool {
	return len(m.Manifest.Layers) > 0 && !slices.ContainsFunc(m.Manifest.Layers, func(d ocispec.Descriptor) bool {
		return d.Annotations[AnnotationDigest] == "" && d.Annotations[AnnotationVersion] == ""
	})
}

// HasTurbo reports whether a layer of an image is of turboOCI.
func HasTurbo(m *formats.Manifest) bool {
	return slices.ContainsFunc(m.Manifest.Layers, func(d ocispec.Descriptor) bool { return isTurbo(d) || d.Annotations[AnnotationVersion] == VersionTurbo })
}

func isTurbo(d ocispec.Descriptor) bool { return targetOf(d) != "" }

// targetOf returns what a layer of turboOCI refers to; "" for others.
func targetOf(d ocispec.Descriptor) digest.Digest {
	return digest.Digest(cmp.Or(d.Annotations[AnnotationTarget], d.Annotations[annotationFastTarget]))
}

// Targets returns the layers of other images that the image's layers refer to.
func Targets(m *formats.Manifest) []digest.Digest {
	var targets []digest.Digest
	for _, l := range m.Manifest.Layers {
		if isTurbo(l) {
			targets = append(targets, targetOf(l))
		}
	}
	return targets
}

// Details are the facts of an image of a virtual disk.
type Details struct {
	FileSystem  FS             `json:"file_system"`
	VirtualSize int64          `json:"virtual_size"`
	Segments    int            `json:"segments"` // of all layers together, as they cover each other
	Layers      []LayerDetails `json:"layers"`
}

// LayerDetails are the facts of one layer, the lowest first.
type LayerDetails struct {
	Kind     string `json:"kind"` // native or turbo
	UUID     string `json:"uuid"`
	Parent   string `json:"parent_uuid"`
	Segments int    `json:"segments"`
	Plain    int64  `json:"plain_bytes"`             // of the LSMT layer
	Block    int64  `json:"block_size,omitempty"`    // of the ZFile
	Target   string `json:"target,omitempty"`        // layer that a turbo layer refers to
	Format   string `json:"compression,omitempty"`   // of the ZFile
	Access   int    `json:"access_points,omitempty"` // of a turbo layer's gzip index
}

// Open opens an image of native layers, of layers of turboOCI, or of both. Metadata is read from the blobs, in pieces, and not verified
// beyond the checksums that the format has. name is the format's, for the result.
func Open(ctx context.Context, name string, m *formats.Manifest, s formats.Sources) (*formats.Image, error) {
	o := opener{ctx: ctx, sources: s, img: &formats.Image{Format: name}, pages: newPages()}
	if err := o.openLayers(m.Manifest.Layers); err != nil {
		return nil, err
	}
	dev, index, err := device(o.layers)
	if err != nil {
		return nil, err
	}
	t, kind, err := readTree(dev, index.Size())
	if err != nil {
		return nil, err
	}
	o.index = index
	if err := o.mapTree(t); err != nil {
		return nil, err
	}
	sizes := make([]int64, len(o.img.Blobs))
	for i, b := range o.img.Blobs {
		sizes[i] = b.PlainSize
	}
	if err := t.Validate(sizes); err != nil {
		return nil, fmt.Errorf("%w: %w", blob.ErrCorrupt, err)
	}
	o.img.Tree = t
	o.img.Disk = &stackedDisk{kind, index, o.blobOf}
	o.details.FileSystem, o.details.VirtualSize, o.details.Segments = kind, index.Size(), index.Len()
	o.img.Details = &o.details
	meta, err := erofs.Build(t, sizes)
	if err == nil {
		o.img.EROFS = formats.NewEROFS(meta)
	} else if !errors.Is(err, blob.ErrUnsupported) { // then it is mounted in another way
		return nil, err
	}
	return o.img, nil
}

// mapTree makes the extents of files, which are places on the disk, places in blobs.
func (o *opener) mapTree(t *tree.Tree) error {
	// Each piece of a file ends where the file's extent or a segment does, and files do not share blocks but in damaged images.
	budget := 4*int64(o.index.Len()) + 1<<20
	return t.Nodes(func(n *tree.Node) error {
		places := n.Extents
		budget += int64(2 * len(places))
		n.Extents = nil
		for _, x := range places {
			if x.Blob == tree.Hole {
				n.AppendExtent(x)
				continue
			}
			o.index.Lookup(x.Offset, x.Length, func(p lsmt.Piece) bool {
				n.AppendExtent(o.extent(p))
				budget--
				return budget >= 0
			})
		}
		if budget < 0 {
			return fmt.Errorf("content of files in more pieces than the disk has: %w", blob.ErrCorrupt)
		}
		return nil
	})
}

// extent returns where a piece of the disk lies.
func (o *opener) extent(p lsmt.Piece) tree.Extent {
	if p.Layer < 0 {
		return tree.Extent{Blob: tree.Hole, Length: p.Length}
	}
	return tree.Extent{Blob: o.blobOf[p.Layer][p.Tag], Offset: p.Source, Length: p.Length}
}

// stackedDisk implements [formats.Disk].
type stackedDisk struct {
	kind   FS
	index  *lsmt.Index
	blobOf [][2]uint32
}

// FileSystem implements [formats.Disk].
func (d *stackedDisk) FileSystem() string { return string(d.kind) }

// Size implements [formats.Disk].
func (d *stackedDisk) Size() int64 { return d.index.Size() }

// Extents implements [formats.Disk].
func (d *stackedDisk) Extents(off, n int64, fn func(tree.Extent) bool) {
	d.index.Lookup(off, n, func(p lsmt.Piece) bool {
		x := tree.Extent{Blob: tree.Hole, Length: p.Length}
		if p.Layer >= 0 {
			x.Blob, x.Offset = d.blobOf[p.Layer][p.Tag], p.Source
		}
		return fn(x)
	})
}
