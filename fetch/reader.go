package fetch

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/cache"
	"github.com/lazuli-project/lazuli/formats"
)

// Options of lazy reading. The zero value is a good default.
type Options struct {
	// Cache keeps verified spans on disk; nil means in memory only.
	Cache *cache.Dir
	// Memory is how many decoded bytes a blob keeps in memory (32 MiB). With a disk cache nothing is kept.
	Memory int64
	// MaxRequest is how many stored bytes are fetched in one request at the most (4 MiB), unless one span is larger.
	MaxRequest int64
	// MinRequest makes a demand request at least so large (32 KiB) by taking missing neighbours along.
	MinRequest int64
	// Gap is how many stored bytes between two spans are fetched for nothing to save a request (16 KiB).
	Gap int64
	// Requests is how many requests of one blob are under way at once (2).
	Requests int
}

func (o Options) withDefaults() Options {
	set := func(p *int64, v int64) {
		if *p == 0 {
			*p = v
		}
	}
	set(&o.Memory, 32<<20)
	set(&o.MaxRequest, 4<<20)
	set(&o.MinRequest, 32<<10)
	set(&o.Gap, 16<<10)
	if o.Requests == 0 {
		o.Requests = 2
	}
	return o
}

// Stats are the figures of a reader since it was opened.
type Stats struct {
	Requests    int64 `json:"requests"`     // ranges asked of the source
	Bytes       int64 `json:"bytes"`        // stored bytes fetched
	Spans       int64 `json:"spans"`        // spans decoded
	CacheHits   int64 `json:"cache_hits"`   // spans taken from the disk cache
	Damaged     int64 `json:"damaged"`      // spans whose digest was wrong, from the cache or the source
	Unverified  int64 `json:"unverified"`   // spans that have no digest
	CacheErrors int64 `json:"cache_errors"` // spans that could not be written to the cache
}

// Add adds the figures of another reader.
func (s *Stats) Add(o Stats) {
	s.Requests += o.Requests
	s.Bytes += o.Bytes
	s.Spans += o.Spans
	s.CacheHits += o.CacheHits
	s.Damaged += o.Damaged
	s.Unverified += o.Unverified
	s.CacheErrors += o.CacheErrors
}

// follow is the how manieth demand request in a row, each where the one before ended, takes for a reader that goes forward: from
// then on requests double in size. A program that starts jumps about in its files, with short runs that mean nothing.
const follow = 3

// streak is where a demand request ended: how many there were in a row, and the stored bytes of the last.
type streak struct {
	requests int
	bytes    int64
}

// attempts is how often a span is fetched when its digest is wrong.
const attempts = 3

// Reader reads the plain space of one blob. It may be used by any number of goroutines. Memory: the decoded
// bytes kept (Options.Memory) and for each request under way its stored and decoded bytes.
type Reader struct {
	layout blob.Layout
	open   func(context.Context) (blob.Source, error)
	name   string
	opt    Options
	cached *cache.Blob // nil without a disk cache

	ctx    context.Context //nolint:containedctx // of the requests, which outlive the reads that began them; ended by Close
	cancel context.CancelFunc
	wg     sync.WaitGroup

	openOnce sync.Once
	source   blob.Source
	openErr  error

	requests, bytes, spans, cacheHits, damaged, unverified, cacheErrors atomic.Int64

	mu      sync.Mutex // guards what follows
	flights map[int]*flight
	queue   []*flight // not started, oldest first
	active  int       // requests under way
	trusted []bool    // spans in the cache that this process has verified
	recent  recent
	begun   begun
	streaks map[int]streak // by the span behind their end; at most one for each span
}

// flight is a span on its way. err and plain are set before done is closed.
type flight struct {
	span  blob.Span
	class blob.Class
	done  chan struct{}
	plain []byte
	err   error
}

// NewReader returns a reader of a blob that has a layout. Nothing is fetched before the first read.
func NewReader(b formats.Blob, opt Options) (*Reader, error) {
	ctx, cancel := context.WithCancel(context.Background())
	r := &Reader{
		layout: b.Layout, open: b.Open, name: b.Desc.Digest.String(), opt: opt.withDefaults(),
		ctx: ctx, cancel: cancel, flights: make(map[int]*flight), streaks: make(map[int]streak),
	}
	if opt.Cache != nil {
		c, err := opt.Cache.Blob(b.CacheKey(), b.Layout.Size(), b.Layout.NumSpans())
		if err != nil {
			cancel()
			return nil, err
		}
		r.cached = c
		r.trusted = make([]bool, b.Layout.NumSpans())
	}
	r.recent.limit = r.opt.Memory
	return r, nil
}

// Size returns the size of the plain space.
func (r *Reader) Size() int64 { return r.layout.Size() }

// Cached reports whether every span is in the disk cache.
func (r *Reader) Cached() bool { return r.cached != nil && r.cached.Complete() }

// SealedFile returns the cache's file with the plain space, if that is complete and every byte of it has been verified since
// it was last written; otherwise it verifies now, which reads all of the file. Damaged spans are taken out of the cache.
func (r *Reader) SealedFile(ctx context.Context) (string, bool, error) {
	if !r.Cached() {
		return "", false, nil
	}
	if r.cached.Sealed() {
		return r.cached.DataPath(), true, nil
	}
	err := r.cached.Seal(func() error {
		var plain []byte
		for i := range r.layout.NumSpans() {
			if err := ctx.Err(); err != nil {
				return err
			}
			s := r.layout.Span(i)
			plain = slices.Grow(plain[:0], int(s.Plain.Len))[:s.Plain.Len]
			err := r.cached.ReadAt(plain, s.Plain.Off)
			if err == nil {
				err = r.layout.Verify(plain, s)
			}
			if err != nil && !errors.Is(err, blob.ErrUnverified) {
				r.damaged.Add(1)
				return errors.Join(err, r.cached.Drop(i))
			}
		}
		return nil
	})
	switch {
	case err == nil:
		return r.cached.DataPath(), true, nil
	case ctx.Err() != nil:
		return "", false, context.Cause(ctx)
	}
	return "", false, nil // the damaged span is fetched again, and a file that cannot be sealed is not used as a whole
}

// Stats returns the figures so far.
func (r *Reader) Stats() Stats {
	return Stats{
		Requests: r.requests.Load(), Bytes: r.bytes.Load(), Spans: r.spans.Load(), CacheHits: r.cacheHits.Load(),
		Damaged: r.damaged.Load(), Unverified: r.unverified.Load(), CacheErrors: r.cacheErrors.Load(),
	}
}

// Close ends requests under way and frees the reader. Reads that wait get an error.
func (r *Reader) Close() error {
	r.cancel()
	r.mu.Lock()
	for _, f := range r.queue {
		f.err = context.Canceled
		delete(r.flights, f.span.Index)
		close(f.done)
	}
	r.queue = nil
	r.mu.Unlock()
	r.wg.Wait()
	if r.cached != nil {
		return r.cached.Close()
	}
	return nil
}

// ReadAt fills p with verified plain bytes at off. A range outside of the plain space is an error.
func (r *Reader) ReadAt(ctx context.Context, p []byte, off int64, class blob.Class) error {
	if err := blob.CheckRange(off, int64(len(p)), r.layout.Size()); err != nil {
		return fmt.Errorf("blob %s: %w", r.name, err)
	}
	if len(p) == 0 {
		return nil
	}
	first, last := r.layout.SpanAt(off), r.layout.SpanAt(off+int64(len(p))-1)
	// All missing spans take off before any is waited for, so that neighbours share a request.
	waits := make([]*flight, last-first+1)
	for i := first; i <= last; i++ {
		done, err := r.fromCache(p, off, i)
		if err != nil {
			return err
		}
		if !done {
			waits[i-first] = r.start(p, off, i, class)
		}
	}
	r.mu.Lock()
	if class == blob.Background {
		r.readAhead(last + 1)
	}
	r.dispatch()
	r.mu.Unlock()
	for _, f := range waits {
		if f == nil {
			continue
		}
		select {
		case <-f.done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if f.err != nil {
			return fmt.Errorf("blob %s: plain bytes %d to %d: %w", r.name, f.span.Plain.Off, f.span.Plain.End(), f.err)
		}
		overlap(p, off, f.plain, f.span.Plain.Off)
	}
	return nil
}

// Prefetch begins to fetch what is missing of the range and does not wait for it.
func (r *Reader) Prefetch(rg blob.Range, class blob.Class) {
	if rg.Len <= 0 || blob.CheckRange(rg.Off, rg.Len, r.layout.Size()) != nil {
		return
	}
	first, last := r.layout.SpanAt(rg.Off), r.layout.SpanAt(rg.End()-1)
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := first; i <= last; i++ {
		if r.missing(i) {
			r.enqueue(i, class)
		}
	}
	r.dispatch()
}

// overlap copies what src, which begins at srcOff, has of dst, which begins at dstOff.
func overlap(dst []byte, dstOff int64, src []byte, srcOff int64) {
	if srcOff < dstOff {
		src = src[min(dstOff-srcOff, int64(len(src))):]
		srcOff = dstOff
	}
	if at := srcOff - dstOff; at < int64(len(dst)) {
		copy(dst[at:], src)
	}
}

// fromCache fills p's part of span i from the disk cache and reports whether it could. A span is verified on
// the first read of it by this process; a damaged one is taken out of the cache.
func (r *Reader) fromCache(p []byte, off int64, i int) (bool, error) {
	if r.cached == nil || !r.cached.Present(i) {
		return false, nil
	}
	s := r.layout.Span(i)
	r.mu.Lock()
	trusted := r.trusted[i]
	r.mu.Unlock()
	if trusted {
		from, to := max(off, s.Plain.Off), min(off+int64(len(p)), s.Plain.End())
		if r.cached.ReadAt(p[from-off:to-off], from) == nil {
			return true, nil
		}
		return false, nil
	}
	plain := make([]byte, s.Plain.Len)
	err := r.cached.ReadAt(plain, s.Plain.Off)
	if err == nil {
		err = r.layout.Verify(plain, s)
	}
	if err != nil && !errors.Is(err, blob.ErrUnverified) {
		r.damaged.Add(1)
		return false, r.cached.Drop(i)
	}
	r.cacheHits.Add(1)
	r.mu.Lock()
	r.trusted[i] = true
	r.mu.Unlock()
	overlap(p, off, plain, s.Plain.Off)
	return true, nil
}

// start returns the flight of span i, or nil after it has filled p's part of the span from memory.
func (r *Reader) start(p []byte, off int64, i int, class blob.Class) *flight {
	r.mu.Lock()
	defer r.mu.Unlock()
	if plain, ok := r.recent.get(i); ok {
		overlap(p, off, plain, r.layout.Span(i).Plain.Off)
		return nil
	}
	return r.enqueue(i, class)
}
