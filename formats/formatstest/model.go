package formatstest

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/lazuli-project/lazuli/internal/imagetest"
	"github.com/lazuli-project/lazuli/tarfs"
	"github.com/lazuli-project/lazuli/tree"
)

// readTar calls entry for each entry of a tar, with its node, and then data for each piece of its content.
func readTar(layer io.Reader, entry func(e *tarfs.Entry, n *tree.Node) error, data func(p []byte) error) (*tree.Tree, error) {
	r, b := tarfs.NewReader(layer), tarfs.NewBuilder()
	for {
		e, err := r.Next()
		if errors.Is(err, io.EOF) {
			return b.Tree(), nil
		}
		if err != nil {
			return nil, err
		}
		n, err := b.Add(e)
		if err != nil {
			return nil, err
		}
		if err := entry(e, n); err != nil {
			return nil, err
		}
		for e.Size > 0 {
			p, err := r.Data()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return nil, err
			}
			if err := data(p); err != nil {
				return nil, err
			}
		}
	}
}

// expected returns the listing of the layers merged by the rules of package tarfs.
func expected(layers [][]byte) ([]string, error) { return expectedOf(layers, &Format{}) }

// expectedOf is expected for a format.
func expectedOf(layers [][]byte, f *Format) ([]string, error) {
	var trees []*tree.Tree
	contents := make([][]byte, len(layers)) // of all files of a layer, one behind the other
	for i, layer := range layers {
		t, err := readTar(bytes.NewReader(layer), func(e *tarfs.Entry, n *tree.Node) error {
			if e.Size > 0 {
				n.Extents = []tree.Extent{{Offset: int64(len(contents[i])), Length: e.Size}}
			}
			return nil
		}, func(p []byte) error {
			contents[i] = append(contents[i], p...)
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("layer %d: %w", i, err)
		}
		trees = append(trees, t)
	}
	merged, err := tarfs.MergeBlobs(trees, func(layer int, _ uint32) uint32 { return uint32(layer) })
	if err != nil {
		return nil, err
	}
	if err := merged.Nodes(func(n *tree.Node) error {
		f.bound(n)
		return nil
	}); err != nil {
		return nil, err
	}
	if f.OnlyFilesLinked {
		unlink(merged.Root)
		merged.CountLinks()
	}
	return imagetest.List(merged, func(n *tree.Node) ([]byte, error) {
		var p []byte
		for _, x := range n.Extents {
			p = append(p, contents[x.Blob][x.Offset:][:x.Length]...)
		}
		return p, nil
	})
}

// bound brings a node's time into what the format can say.
func (f *Format) bound(n *tree.Node) {
	switch {
	case f.OldestTime != 0 && n.Mtime < f.OldestTime:
		n.Mtime, n.MtimeNsec = f.OldestTime, 0
	case f.LatestTime != 0 && n.Mtime > f.LatestTime:
		n.Mtime, n.MtimeNsec = f.LatestTime, 0
	}
}

// unlink makes a node of its own of every name of what is no regular file.
func unlink(dir *tree.Node) {
	for i, e := range dir.Entries {
		switch {
		case e.Node.IsDir():
			unlink(e.Node)
		case !e.Node.IsRegular():
			n := *e.Node
			dir.Entries[i].Node = &n
		}
	}
}
