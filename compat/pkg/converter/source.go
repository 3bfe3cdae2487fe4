package converter

import (
	"io"
	"sync"

	"github.com/containerd/containerd/v2/core/content"

	"github.com/lazuli-project/lazuli/blob"
)

// source makes a source of what a content store gives.
func source(ra content.ReaderAt) blob.Source {
	return blob.ReaderAtSource{R: &readerAt{ra: ra}, N: ra.Size()}
}

// readerAt keeps the promises of [io.ReaderAt], which readers of remote blobs do not: some read less than they were asked for, and some
// have one position.
type readerAt struct {
	mu sync.Mutex // guards ra
	ra content.ReaderAt
}

// ReadAt implements [io.ReaderAt].
func (r *readerAt) ReadAt(p []byte, off int64) (n int, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for n < len(p) {
		k, err := r.ra.ReadAt(p[n:], off+int64(n))
		n += k
		switch {
		case n == len(p):
			return n, nil
		case err != nil:
			return n, err
		case k == 0:
			return n, io.ErrNoProgress
		}
	}
	return n, nil
}
