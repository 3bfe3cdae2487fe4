package convert

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/flate"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/tarfs"
	"github.com/lazuli-project/lazuli/tree"
)

// LayerTar writes what one layer of a lazy image changes to w as a tar, as plain images have it: one after the other, the tars of all
// layers of m make the image's files. A layer that has no files, such as one of metadata, gives an empty tar. readers are the formats that
// are known; of an image of none of them, blob.ErrUnsupported is the error. What s opens is believed as far as the format has no
// digests of it. The same layer gives the same bytes.
func LayerTar(ctx context.Context, w io.Writer, s formats.Sources, m *formats.Manifest, layer digest.Digest, readers []formats.Reader) error {
	i := slices.IndexFunc(readers, func(r formats.Reader) bool { return r.Recognize(m) })
	if i < 0 {
		return fmt.Errorf("manifest %s: no known lazy-loading format: %w", m.Desc.Digest, blob.ErrUnsupported)
	}
	stored, err := storedApart(ctx, m, s, readers[i])
	if err != nil {
		return err
	}
	k := slices.IndexFunc(stored, func(l formats.StoredLayer) bool { return l.Desc.Digest == layer })
	if k < 0 {
		return writeTar(ctx, w, &formats.Image{Tree: emptyLayer()})
	}
	if original := stored[k].Original; original != nil {
		if err := inflateTo(ctx, w, s, *original); err != nil {
			return fmt.Errorf("layer %s of the source: %w", original.Digest, err)
		}
		return nil
	}
	img, err := stored[k].Open(ctx, s)
	if err != nil {
		return err
	}
	replaceWhiteouts(img.Tree.Root)
	return writeTar(ctx, w, img)
}

// replaceWhiteouts makes directories opaque that stand beside a whiteout of their name. That means the same, and those who turn whiteouts
// into what overlayfs has for them, one by one, lose the whiteout of a name that is there again.
func replaceWhiteouts(dir *tree.Node) {
	for _, e := range dir.Entries {
		if e.Node.IsDir() {
			replaceWhiteouts(e.Node)
		}
	}
	dir.Entries = slices.DeleteFunc(dir.Entries, func(e tree.Entry) bool {
		name, ok := strings.CutPrefix(e.Name, tarfs.WhiteoutPrefix)
		if !ok || e.Name == tarfs.WhiteoutOpaque {
			return false
		}
		again := dir.Child(name)
		if again != nil && again.IsDir() {
			again.Put(tarfs.WhiteoutOpaque, &tree.Node{Mode: tree.TypeRegular | 0o644})
		}
		return again != nil
	})
}

// emptyLayer is the tree of a layer that has no entry.
func emptyLayer() *tree.Tree { return tarfs.NewBuilder().Tree() }

// inflateTo writes the plain bytes of a layer of the source, which is verified.
func inflateTo(ctx context.Context, w io.Writer, s formats.Sources, layer ocispec.Descriptor) error {
	stored, err := s.Fetch(ctx, layer)
	if err != nil {
		return err
	}
	defer stored.Close() // read to its end
	plain, err := flate.NewReader(stored)
	if err != nil {
		return err
	}
	defer plain.Close() // frees memory only
	for {
		p, err := plain.Next()
		if len(p) > 0 {
			if _, err := w.Write(p); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// storedApart lists the layers of an image: as it holds them, or else as the differences of the images that it is without its highest
// ones, or else as one, with all files, in place of the highest.
func storedApart(ctx context.Context, m *formats.Manifest, s formats.Sources, reader formats.Reader) ([]formats.StoredLayer, error) {
	if re, ok := reader.(formats.Reverser); ok {
		layers, err := re.Layers(ctx, m, s)
		if err == nil {
			err = canOpen(ctx, layers, s)
		}
		if !errors.Is(err, blob.ErrUnsupported) {
			return layers, err
		}
	}
	if st, ok := reader.(formats.Stacked); ok && st.Stacked() {
		return stackedLayers(m, reader), nil
	}
	n := len(m.Manifest.Layers)
	if n == 0 {
		return nil, fmt.Errorf("an image without layers: %w", blob.ErrUnsupported)
	}
	return []formats.StoredLayer{{Desc: m.Manifest.Layers[n-1], Open: func(ctx context.Context, s formats.Sources) (*formats.Image, error) {
		return reader.Open(ctx, m, s)
	}}}, nil
}

// canOpen opens the trees of all layers: either all of them are taken apart or none is.
func canOpen(ctx context.Context, layers []formats.StoredLayer, s formats.Sources) error {
	for _, l := range layers {
		if l.Original != nil {
			continue
		}
		if _, err := l.Open(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

// stackedLayers are the layers of an image each of which is known by what it changes.
func stackedLayers(m *formats.Manifest, reader formats.Reader) []formats.StoredLayer {
	first := func(n int) *formats.Manifest {
		part := *m
		part.Manifest.Layers = m.Manifest.Layers[:n:n]
		return &part
	}
	layers := make([]formats.StoredLayer, len(m.Manifest.Layers))
	for i, d := range m.Manifest.Layers {
		layers[i] = formats.StoredLayer{Desc: d, Open: func(ctx context.Context, s formats.Sources) (*formats.Image, error) {
			upper, err := reader.Open(ctx, first(i+1), s)
			if err != nil {
				return nil, err
			}
			lower := &formats.Image{Tree: tree.New()}
			if i > 0 {
				if lower, err = reader.Open(ctx, first(i), s); err != nil {
					return nil, err
				}
			}
			return difference(lower, upper), nil
		}}
	}
	return layers
}

// difference is upper with the tree of what it changes in lower. The content of files is the same where it lies in the same place.
func difference(lower, upper *formats.Image) *formats.Image {
	lower.Tree.CountLinks()
	upper.Tree.CountLinks()
	same := func(a, b *tree.Node) bool {
		return slices.EqualFunc(a.Extents, b.Extents, func(x, y tree.Extent) bool {
			if x.Offset != y.Offset || x.Length != y.Length || (x.Blob == tree.Hole) != (y.Blob == tree.Hole) {
				return false
			}
			return x.Blob == tree.Hole || lower.Blobs[x.Blob].CacheKey() == upper.Blobs[y.Blob].CacheKey()
		})
	}
	d := *upper
	d.Tree = tarfs.Difference(lower.Tree, upper.Tree, same)
	return &d
}
