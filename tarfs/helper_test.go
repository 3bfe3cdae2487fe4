package tarfs_test

import (
	"errors"
	"io"

	"github.com/lazuli-project/lazuli/tarfs"
	"github.com/lazuli-project/lazuli/tree"
)

// readTree makes the tree of a layer and leaves the content.
func readTree(r *tarfs.Reader) (*tree.Tree, error) {
	b := tarfs.NewBuilder()
	for {
		e, err := r.Next()
		if errors.Is(err, io.EOF) {
			return b.Tree(), nil
		}
		if err != nil {
			return nil, err
		}
		if _, err := b.Add(e); err != nil {
			return nil, err
		}
	}
}
