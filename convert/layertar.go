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

// Layers are the layers of a lazy image, each of which can be written as a tar, as plain images have it: one after the other, the tars of
// all layers of m make the image's files. They keep no sources, and may be used concurrently. Of formats whose layers are only there
// together, what was read of an image's lower layers is remembered for the next one, so that in order, each of them is opened once and not
// twice. The memory is in proportion to the image's files.
type Layers struct {
	stored []formats.StoredLayer // of formats that have layers apart, and of images that are not taken apart
	stack  *stack                // of the others; else nil
	whole  bool                  // see Whole
}

// OpenLayers looks for the layers of an image. readers are the formats that are known; of an image of none of them, blob.ErrUnsupported is
// the error. Whether an image holds its layers apart is seen from the metadata of all of them, which is not kept.
func OpenLayers(ctx context.Context, s formats.Sources, m *formats.Manifest, readers []formats.Reader) (*Layers, error) {
	i := slices.IndexFunc(readers, func(r formats.Reader) bool { return r.Recognize(m) })
	if i < 0 {
		return nil, fmt.Errorf("manifest %s: no known lazy-loading format: %w", m.Desc.Digest, blob.ErrUnsupported)
	}
	return findLayers(ctx, s, m, readers[i])
}

// Whole reports whether all files are in the highest layer, as the image does not hold its layers apart.
func (l *Layers) Whole() bool { return l.whole }

// WriteTar writes what one layer changes. A layer that has no files, such as one of metadata, gives an empty tar. What s opens is believed
// as far as the format has no digests of it. The same layer gives the same bytes.
func (l *Layers) WriteTar(ctx context.Context, w io.Writer, s formats.Sources, layer digest.Digest) error {
	if l.stack != nil {
		return l.stack.writeTar(ctx, w, s, layer)
	}
	k := slices.IndexFunc(l.stored, func(l formats.StoredLayer) bool { return l.Desc.Digest == layer })
	if k < 0 {
		return writeTar(ctx, w, &formats.Image{Tree: emptyLayer()})
	}
	if original := l.stored[k].Original; original != nil {
		if err := inflateTo(ctx, w, s, *original); err != nil {
			return fmt.Errorf("layer %s of the source: %w", original.Digest, err)
		}
		return nil
	}
	img, err := l.stored[k].Open(ctx, s)
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

// findLayers finds the layers of an image: as it holds them, or else as the differences of the images that it is without its highest ones,
// or else as one, with all files, in place of the highest.
func findLayers(ctx context.Context, s formats.Sources, m *formats.Manifest, reader formats.Reader) (*Layers, error) {
	if re, ok := reader.(formats.Reverser); ok {
		layers, err := re.Layers(ctx, m, s)
		if err == nil {
			err = canOpen(ctx, layers, s)
		}
		if err == nil {
			return &Layers{stored: layers}, nil
		}
		if !errors.Is(err, blob.ErrUnsupported) {
			return nil, err
		}
	}
	if st, ok := reader.(formats.Stacked); ok && st.Stacked() {
		return &Layers{stack: &stack{m: m, reader: reader}}, nil
	}
	n := len(m.Manifest.Layers)
	if n == 0 {
		return nil, fmt.Errorf("an image without layers: %w", blob.ErrUnsupported)
	}
	return &Layers{whole: true, stored: []formats.StoredLayer{{Desc: m.Manifest.Layers[n-1], Open: func(ctx context.Context, s formats.Sources) (*formats.Image, error) {
		return reader.Open(ctx, m, s)
	}}}}, nil
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
