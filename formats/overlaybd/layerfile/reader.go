package layerfile

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/lazuli-project/lazuli/blob"
)

const (
	// cacheSize is how many plain bytes a reader keeps.
	cacheSize = 1 << 20
	// readSize is how many stored bytes are read at once, about.
	readSize = 1 << 20
)

// ReaderAt returns a reader of the layer's bytes, for those who read metadata here and there: it keeps the last 1 MiB of decoded spans.
// Spans that lie together are read together. What the layout has digests of is verified. It is for concurrent use, as
// long as ctx lives.
func (f *File) ReaderAt(ctx context.Context, src blob.Source) io.ReaderAt {
	return &reader{ctx: ctx, src: src, layout: f.Layout, spans: make(map[int]*list.Element)}
}

type reader struct {
	ctx    context.Context //nolint:containedctx // io.ReaderAt has none
	src    blob.Source
	layout blob.Layout

	mu    sync.Mutex // guards what follows
	spans map[int]*list.Element
	order list.List // of *span, the one that was used last first
	size  int64
}

// span is decoded, and not changed.
type span struct {
	index int
	plain []byte
}

// ReadAt implements [io.ReaderAt].
func (r *reader) ReadAt(p []byte, off int64) (int, error) {
	size := r.layout.Size()
	if off < 0 {
		return 0, fmt.Errorf("read at %d: negative offset", off)
	}
	if off >= size {
		return 0, io.EOF
	}
	var short error
	if int64(len(p)) > size-off {
		p, short = p[:size-off], io.EOF
	}
	done := 0
	for done < len(p) {
		at := off + int64(done)
		i := r.layout.SpanAt(at)
		plain := r.cached(i)
		if plain == nil {
			n, err := r.load(p[done:], at, i)
			done += n
			if err != nil {
				return done, fmt.Errorf("read layer at %d: %w", at, err)
			}
			continue
		}
		done += copy(p[done:], plain[at-r.layout.Span(i).Plain.Off:])
	}
	return done, short
}

// load reads the spans from one on up to the end of p, or up to readSize stored bytes, and copies to p, which begins at an
// offset, what it has of it.
func (r *reader) load(p []byte, off int64, first int) (int, error) {
	from := r.layout.Span(first)
	last := from
	for last.Plain.End() < off+int64(len(p)) {
		next := r.layout.Span(last.Index + 1)
		if next.Stored.End()-from.Stored.Off > readSize {
			break
		}
		last = next
	}
	stored := make([]byte, last.Stored.End()-from.Stored.Off)
	if err := r.src.ReadRange(r.ctx, stored, from.Stored.Off, blob.Demand); err != nil {
		return 0, err
	}
	done := 0
	for i := first; i <= last.Index; i++ {
		s := r.layout.Span(i)
		plain := make([]byte, s.Plain.Len)
		if err := r.layout.Decode(plain, stored[s.Stored.Off-from.Stored.Off:][:s.Stored.Len], s); err != nil {
			return done, err
		}
		if err := r.layout.Verify(plain, s); err != nil && !errors.Is(err, blob.ErrUnverified) {
			return done, err
		}
		done += copy(p[done:], plain[off+int64(done)-s.Plain.Off:])
		r.keep(&span{i, plain})
	}
	return done, nil
}

func (r *reader) cached(i int) []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	e, ok := r.spans[i]
	if !ok {
		return nil
	}
	r.order.MoveToFront(e)
	s, _ := e.Value.(*span)
	return s.plain
}

func (r *reader) keep(s *span) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.spans[s.index]; ok {
		return
	}
	r.spans[s.index] = r.order.PushFront(s)
	for r.size += int64(len(s.plain)); r.size > cacheSize && r.order.Len() > 1; {
		old, _ := r.order.Remove(r.order.Back()).(*span)
		delete(r.spans, old.index)
		r.size -= int64(len(old.plain))
	}
}
