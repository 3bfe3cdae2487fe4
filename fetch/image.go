package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/tree"
)

// Plain is random access to the plain space of a blob: a [Reader] or a [Stream].
type Plain interface {
	ReadAt(ctx context.Context, p []byte, off int64, class blob.Class) error
	Size() int64
	io.Closer
}

var (
	_ Plain = (*Reader)(nil)
	_ Plain = (*Stream)(nil)
)

// Image is an image whose files can be read. It may be used by any number of goroutines.
type Image struct {
	*formats.Image
	plain []Plain
}

// NewImage makes the blobs of an image readable. Nothing is fetched before the first read.
func NewImage(img *formats.Image, opt Options) (*Image, error) {
	im := &Image{Image: img}
	for i, b := range img.Blobs {
		if b.Layout == nil {
			im.plain = append(im.plain, NewStream(b))
			continue
		}
		r, err := NewReader(b, opt)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("blob %d: %w", i, err), im.Close())
		}
		im.plain = append(im.plain, r)
	}
	return im, nil
}

// Plain returns the plain space of blob i.
func (im *Image) Plain(i int) Plain { return im.plain[i] }

// Close closes all blobs.
func (im *Image) Close() error {
	errs := make([]error, 0, len(im.plain))
	for _, p := range im.plain {
		errs = append(errs, p.Close())
	}
	return errors.Join(errs...)
}

// Stats returns the figures of all blobs together.
func (im *Image) Stats() Stats {
	var sum Stats
	for _, p := range im.plain {
		if r, ok := p.(*Reader); ok {
			sum.Add(r.Stats())
		}
	}
	return sum
}

// Drain reads streamed blobs to their ends, so that their digests are compared.
func (im *Image) Drain() error {
	var errs []error
	for _, p := range im.plain {
		if s, ok := p.(*Stream); ok {
			errs = append(errs, s.Drain())
		}
	}
	return errors.Join(errs...)
}

// ReadAt reads the content of a regular file at off. It returns less than len(p) at the file's end only.
func (im *Image) ReadAt(ctx context.Context, n *tree.Node, p []byte, off int64, class blob.Class) (int, error) {
	if off < 0 || off >= n.Size {
		return 0, nil
	}
	p = p[:min(int64(len(p)), n.Size-off)]
	done := 0
	var at int64 // of the extent in the file
	for _, x := range n.Extents {
		if done == len(p) {
			break
		}
		end := at + x.Length
		if pos := off + int64(done); pos < end {
			piece := p[done:min(int64(len(p)), end-off)]
			if x.Blob == tree.Hole {
				clear(piece)
			} else if err := im.plain[x.Blob].ReadAt(ctx, piece, x.Offset+pos-at, class); err != nil {
				return done, err
			}
			done += len(piece)
		}
		at = end
	}
	return done, nil
}

// WriteContent writes the content of a regular file to w, through buf.
func (im *Image) WriteContent(ctx context.Context, n *tree.Node, w io.Writer, buf []byte, class blob.Class) error {
	for off := int64(0); off < n.Size; {
		k, err := im.ReadAt(ctx, n, buf, off, class)
		if err != nil {
			return err
		}
		if k == 0 {
			return fmt.Errorf("content ends at %d of %d: %w", off, n.Size, io.ErrUnexpectedEOF)
		}
		if _, err := w.Write(buf[:k]); err != nil {
			return err
		}
		off += int64(k)
	}
	return nil
}

// File is a regular file with one of its paths.
type File struct {
	Path string
	Node *tree.Node
}

// InStoredOrder lists the regular files of a tree, each once under its first path, in the order in which their content
// is stored. Reading them in this order goes through every blob once, forward.
func InStoredOrder(t *tree.Tree) []File {
	var files []File
	seen := make(map[*tree.Node]bool)
	_ = t.Walk(func(path string, n *tree.Node) error {
		if n.IsRegular() && (n.Nlink == 1 || !seen[n]) {
			files = append(files, File{path, n})
			if n.Nlink != 1 {
				seen[n] = true
			}
		}
		return nil
	})
	slices.SortStableFunc(files, func(a, b File) int {
		ab, ao := firstStored(a.Node)
		bb, bo := firstStored(b.Node)
		if ab != bb {
			return int(ab) - int(bb)
		}
		switch {
		case ao < bo:
			return -1
		case ao > bo:
			return 1
		}
		return 0
	})
	return files
}

func firstStored(n *tree.Node) (int64, int64) {
	for _, x := range n.Extents {
		if x.Blob != tree.Hole {
			return int64(x.Blob), x.Offset
		}
	}
	return -1, 0
}
