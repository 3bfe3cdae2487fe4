package nydusimage

import (
	"context"
	"errors"
	"fmt"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/formats/nydus"
	"github.com/lazuli-project/lazuli/formats/nydus/nydusblob"
	"github.com/lazuli-project/lazuli/formats/nydus/rafs5"
	"github.com/lazuli-project/lazuli/tarfs"
	"github.com/lazuli-project/lazuli/tree"
)

// readBootstrap reads the bytes of a bootstrap, which may lie in a layer's blob.
func readBootstrap(ctx context.Context, path string) ([]byte, error) {
	f, size, err := openFile(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // was read only
	return nydus.ReadBootstrap(ctx, blob.ReaderAtSource{R: f, N: size})
}

// merge5 merges layers of RAFS v5. They have no chunks of other blobs.
func (m *merge) merge5(ctx context.Context) (*Result, error) {
	if m.Parent != "" || m.ChunkDict != "" || m.OriginalBlobIDs != nil || m.BlobDigests != nil || m.BlobSizes != nil || m.TOCDigests != nil || m.TOCSizes != nil {
		return nil, fmt.Errorf("merge of RAFS v5 with --parent-bootstrap, --chunk-dict or lists of blobs: %w", blob.ErrUnsupported)
	}
	var top, first *rafs5.Bootstrap
	var blobs []rafs5.Blob
	number := make(map[string]uint32) // by id
	for i, path := range m.Sources {
		l, err := m.layer5(ctx, i)
		if err != nil {
			return nil, fmt.Errorf("load bootstrap %q: %w", path, err)
		}
		if top = l; first == nil {
			first = l
		}
		numbers := make([]uint32, len(l.Blobs))
		for k := range l.Blobs {
			n, ok := number[l.Blobs[k].Info.ID]
			if !ok {
				n = uint32(len(blobs))
				number[l.Blobs[k].Info.ID] = n
				blobs = append(blobs, l.Blobs[k])
			}
			numbers[k] = n
		}
		if err := m.merger.Take(l.Tree, func(n uint32) uint32 { return numbers[n] }); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
	}
	t, err := m.merger.Tree()
	if err != nil {
		return nil, err
	}
	s := &rafs5.Spec{Tree: t, ChunkSize: top.ChunkSize, Compressor: top.Compressor, Digester: top.Digester, NoOwners: top.Flags&rafs5.FlagExplicitOwner == 0}
	if m.PrefetchPolicy == PrefetchFS {
		s.Prefetch = prefetchPaths(m.Prefetch)
	}
	ids := []string{}
	used := usedBlobs(t, len(blobs))
	renumber := make([]uint32, len(blobs))
	for i := range blobs {
		if !used[i] {
			continue
		}
		renumber[i] = uint32(len(ids))
		ids = append(ids, blobs[i].Info.ID)
		blobs[i].Info.Features &^= nydusblob.FeatureInlinedMeta
		s.Blobs = append(s.Blobs, blobs[i])
	}
	t.MapBlobs(func(n uint32) uint32 { return renumber[n] })
	plan, err := rafs5.NewPlan(s)
	if err != nil {
		return nil, fmt.Errorf("bootstrap: %w", err)
	}
	path, err := writeFile(ctx, m.target(), plan)
	if err != nil {
		return nil, err
	}
	res := newResult(path, ids, first.Compressor)
	res.FSVersion = "5"
	return res, nil
}

// layer5 loads source i.
func (m *merge) layer5(ctx context.Context, i int) (*rafs5.Bootstrap, error) {
	path := m.Sources[i]
	raw, err := m.read(ctx, i)
	if err != nil {
		return nil, err
	}
	if !rafs5.IsBootstrap(raw) {
		return nil, fmt.Errorf("%w: version: 5 vs another one of %s", ErrInconsistent, path)
	}
	l, err := rafs5.Parse(raw)
	if err != nil {
		return nil, err
	}
	c := config{l.ChunkSize, l.Flags&rafs5.FlagExplicitOwner != 0}
	if m.config == nil {
		m.config = &c
	}
	if err := m.config.check(c, path); err != nil {
		return nil, err
	}
	if len(l.Blobs) > 1 {
		return nil, errors.New("invalid per layer bootstrap, having multiple associated data blobs")
	}
	for k := range l.Blobs {
		was := l.Blobs[k].Info
		if err := m.rename(&l.Blobs[k].Info, &was, i); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// usedBlobs tells which of n blobs the files of a tree need.
func usedBlobs(t *tree.Tree, n int) []bool {
	used := make([]bool, n)
	_ = t.Nodes(func(n *tree.Node) error {
		for _, x := range n.Extents {
			if x.Blob != tree.Hole {
				used[x.Blob] = true
			}
		}
		return nil
	})
	return used
}

// newMerge prepares a run of Merge.
func newMerge(o *MergeOptions) *merge {
	return &merge{MergeOptions: o, merger: tarfs.NewMerger(), dict: make(map[string]bool)}
}
