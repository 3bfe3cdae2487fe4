package convert

import (
	"context"
	"io"
	"slices"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/tarfs"
	"github.com/lazuli-project/lazuli/tree"
)

// stack is an image each of whose layers is known by what it changes in those below.
type stack struct {
	m      *formats.Manifest
	reader formats.Reader

	mu   sync.Mutex // guards last
	last *lowest
}

// lowest is the image that the n lowest layers are, without what belongs to its sources.
type lowest struct {
	n    int
	tree *tree.Tree
	keys []digest.Digest // of the blobs in the tree's extents
}

// writeTar writes what a layer changes. Layers that are written at the same time do not find each other's memory, so that nobody has a tree
// whose links another one counts.
func (s *stack) writeTar(ctx context.Context, w io.Writer, src formats.Sources, layer digest.Digest) error {
	layers := s.m.Manifest.Layers
	k := slices.IndexFunc(layers, func(d ocispec.Descriptor) bool { return d.Digest == layer })
	if k < 0 {
		return writeTar(ctx, w, &formats.Image{Tree: emptyLayer()})
	}
	lower := s.take(k)
	if lower == nil {
		_, opened, err := s.open(ctx, src, k)
		if err != nil {
			return err
		}
		lower = opened
	}
	img, upper, err := s.open(ctx, src, k+1)
	if err != nil {
		return err
	}
	img.Tree = difference(lower, upper)
	if err := writeTar(ctx, w, img); err != nil {
		return err
	}
	if k+1 < len(layers) {
		s.keep(upper)
	}
	return nil
}

// open opens the n lowest layers.
func (s *stack) open(ctx context.Context, src formats.Sources, n int) (*formats.Image, *lowest, error) {
	if n == 0 {
		return nil, &lowest{tree: tree.New()}, nil
	}
	part := *s.m
	part.Manifest.Layers = s.m.Manifest.Layers[:n:n]
	img, err := s.reader.Open(ctx, &part, src)
	if err != nil {
		return nil, nil, err
	}
	opened := &lowest{n: n, tree: img.Tree, keys: make([]digest.Digest, len(img.Blobs))}
	for i := range img.Blobs {
		opened.keys[i] = img.Blobs[i].CacheKey()
	}
	return img, opened, nil
}

// take returns the n lowest layers if they are remembered, to the first who asks; else nil.
func (s *stack) take(n int) *lowest {
	s.mu.Lock()
	defer s.mu.Unlock()
	last := s.last
	if last == nil || last.n != n {
		return nil
	}
	s.last = nil
	return last
}

func (s *stack) keep(l *lowest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last = l
}

// difference returns what upper changes in lower. The content of files is the same where it lies in the same place.
func difference(lower, upper *lowest) *tree.Tree {
	lower.tree.CountLinks()
	upper.tree.CountLinks()
	return tarfs.Difference(lower.tree, upper.tree, func(a, b *tree.Node) bool {
		return slices.EqualFunc(a.Extents, b.Extents, func(x, y tree.Extent) bool {
			if x.Offset != y.Offset || x.Length != y.Length || (x.Blob == tree.Hole) != (y.Blob == tree.Hole) {
				return false
			}
			return x.Blob == tree.Hole || lower.keys[x.Blob] == upper.keys[y.Blob]
		})
	})
}
