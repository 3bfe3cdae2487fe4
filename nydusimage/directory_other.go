//go:build !unix

package nydusimage

import (
	"errors"
	"fmt"
	"io/fs"
	"runtime"

	"github.com/lazuli-project/lazuli/tree"
)

// node needs the file attributes of Unix.
func (w *dirWalker) node(path string, _ fs.FileInfo) (*tree.Node, error) {
	return nil, fmt.Errorf("read the directory %s on %s: %w", path, runtime.GOOS, errors.ErrUnsupported)
}
