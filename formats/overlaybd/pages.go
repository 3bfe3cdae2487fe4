package overlaybd

import (
	"container/list"
	"context"
	"io"
	"sync"

	"github.com/lazuli-project/lazuli/blob"
)

const (
	// pageSize is how much of a stored layer is read at once where metadata are: these lie together, and each read is a request.
	pageSize = 256 << 10
	// pageLimit is how many pages of all layers together are kept while an image is opened: 32 MiB.
	pageLimit = 128
)

// pages are those of the stored layers that were read last.
type pages struct {
	mu    sync.Mutex // guards what follows
	known map[pageKey]*list.Element
	order list.List // of *page, the one that was used last first
}

type pageKey struct {
	layer  int
	number int64
}

// page is not changed.
type page struct {
	key  pageKey
	data []byte
}

func newPages() *pages { return &pages{known: make(map[pageKey]*list.Element)} }

// pagedSource reads a stored layer in pages.
type pagedSource struct {
	blob.Source
	layer int
	pages *pages
}

// ReadRange implements [blob.Source].
func (s *pagedSource) ReadRange(ctx context.Context, p []byte, off int64, class blob.Class) error {
	if err := blob.CheckRange(off, int64(len(p)), s.Size()); err != nil {
		return io.ErrUnexpectedEOF
	}
	for len(p) > 0 {
		data, err := s.page(ctx, off/pageSize, class)
		if err != nil {
			return err
		}
		n := copy(p, data[off%pageSize:])
		p, off = p[n:], off+int64(n)
	}
	return nil
}

// page returns a page, which is read if it is not known.
func (s *pagedSource) page(ctx context.Context, number int64, class blob.Class) ([]byte, error) {
	key := pageKey{s.layer, number}
	s.pages.mu.Lock()
	defer s.pages.mu.Unlock()
	if e, ok := s.pages.known[key]; ok {
		s.pages.order.MoveToFront(e)
		known, _ := e.Value.(*page)
		return known.data, nil
	}
	from := number * pageSize
	data := make([]byte, min(pageSize, s.Size()-from))
	if err := s.Source.ReadRange(ctx, data, from, class); err != nil {
		return nil, err
	}
	s.pages.known[key] = s.pages.order.PushFront(&page{key, data})
	if s.pages.order.Len() > pageLimit {
		old, _ := s.pages.order.Remove(s.pages.order.Back()).(*page)
		delete(s.pages.known, old.key)
	}
	return data, nil
}
