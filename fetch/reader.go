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

// enqueue returns the flight of span i and lets it wait for take-off where it is new. mu is held.
func (r *Reader) enqueue(i int, class blob.Class) *flight {
	f := r.flights[i]
	if f == nil {
		f = &flight{span: r.layout.Span(i), class: class, done: make(chan struct{})}
		if r.ctx.Err() != nil {
			f.err = context.Canceled
			close(f.done)
			return f
		}
		r.flights[i] = f
		r.queue = append(r.queue, f)
	}
	f.class = min(f.class, class) // demand is the smallest
	return f
}

// missing reports whether span i is neither here nor on its way. mu is held.
func (r *Reader) missing(i int) bool {
	if i < 0 || i >= r.layout.NumSpans() || r.flights[i] != nil {
		return false
	}
	if _, ok := r.recent.get(i); ok {
		return false
	}
	return r.cached == nil || !r.cached.Present(i)
}

// readAhead keeps one more request waiting behind a bulk reader, whose next span is i. mu is held.
func (r *Reader) readAhead(i int) {
	if len(r.queue) > 0 || r.active >= r.opt.Requests {
		return
	}
	// What the last requests brought lies ahead of the reader; behind it is the next missing span.
	for n := i; n < min(i+4096, r.layout.NumSpans()); n++ {
		if r.missing(n) {
			r.enqueue(n, blob.Background)
			return
		}
		if r.layout.Span(n).Plain.End()-r.layout.Span(i).Plain.Off > r.opt.Memory/2 {
			return
		}
	}
}

// dispatch lets queued flights take off as long as requests are free. mu is held.
func (r *Reader) dispatch() {
	for r.active < r.opt.Requests && len(r.queue) > 0 {
		lead := 0
		for k, f := range r.queue {
			if f.class < r.queue[lead].class {
				lead = k
			}
		}
		run := r.run(r.queue[lead])
		r.active++
		r.wg.Add(1)
		class := run[0].class
		for _, f := range run {
			class = min(class, f.class)
		}
		go r.fly(run, class)
	}
}

// run takes lead and the neighbours that can share its request out of the queue, in the order of the blob. mu is held.
func (r *Reader) run(lead *flight) []*flight {
	run := []*flight{lead}
	// total is what is fetched: of a span that goes on where another ended, not what is here already.
	known := r.begun.size(lead.span.Stored.Off)
	total := lead.span.Stored.Len - known
	want := r.opt.MinRequest
	row := r.streaks[lead.span.Index]
	delete(r.streaks, lead.span.Index)
	if row.requests++; row.requests >= follow {
		want = max(want, min(r.opt.MaxRequest, 2*max(row.bytes, total)))
	}
	if lead.class == blob.Background {
		want = r.opt.MaxRequest
	}
	queued := make(map[int]bool, len(r.queue))
	for _, f := range r.queue {
		queued[f.span.Index] = true
	}
	// follows reports whether b may stand behind a in one request; blobs may have spans in another order than theirs.
	follows := func(a, b blob.Span) bool {
		return b.Stored.Off >= a.Stored.Off && b.Stored.End() >= a.Stored.End() && b.Stored.Off-a.Stored.End() <= r.opt.Gap
	}
	fits := func(first, last blob.Span) bool { return last.Stored.End()-first.Stored.Off <= r.opt.MaxRequest }
	take := func(i int) *flight {
		if queued[i] {
			return r.flights[i]
		}
		if total < want && r.missing(i) {
			return r.enqueue(i, max(lead.class, blob.Prefetch))
		}
		return nil
	}
	for {
		last := run[len(run)-1].span
		f := take(last.Index + 1)
		if f == nil || !follows(last, f.span) || !fits(run[0].span, f.span) {
			break
		}
		total = f.span.Stored.End() - run[0].span.Stored.Off - known
		run = append(run, f)
	}
	for { // behind the reader only what somebody waits for, or what lies in what is fetched anyway
		first := run[0].span
		f := r.flights[first.Index-1]
		if !queued[first.Index-1] {
			if !r.missing(first.Index-1) || r.layout.Span(first.Index-1).Stored.Off != first.Stored.Off {
				break
			}
			f = r.enqueue(first.Index-1, max(lead.class, blob.Prefetch))
		}
		if !follows(f.span, first) || !fits(f.span, run[len(run)-1].span) {
			break
		}
		total += first.Stored.Off - f.span.Stored.Off
		run = append([]*flight{f}, run...)
	}
	if lead.class == blob.Demand {
		row.bytes = total
		r.streaks[run[len(run)-1].span.Index+1] = row
	}
	flying := make(map[*flight]bool, len(run))
	for _, f := range run {
		flying[f] = true
	}
	keep := r.queue[:0]
	for _, f := range r.queue {
		switch {
		case flying[f]:
		case !queued[f.span.Index]: // was taken along, but did not fit
			delete(r.flights, f.span.Index)
			close(f.done)
		default:
			keep = append(keep, f)
		}
	}
	clear(r.queue[len(keep):])
	r.queue = keep
	return run
}

// fly fetches the spans of a run in one request, and lands their flights.
func (r *Reader) fly(run []*flight, class blob.Class) {
	defer r.wg.Done()
	from, to := run[0].span.Stored.Off, run[len(run)-1].span.Stored.End()
	stored := make([]byte, to-from)
	known := r.begun.take(stored, from)
	err := r.read(stored[known:], from+int64(known), class)
	for len(run) > 0 {
		n := r.together(run)
		if err == nil {
			r.decodeRun(run[:n], stored[run[0].span.Stored.Off-from:], class)
		}
		for _, f := range run[:n] {
			if err != nil {
				f.err = err
			}
			r.land(f)
		}
		if last := run[n-1]; n == len(run) && last.err == nil && r.goesOn(last.span) {
			r.begun.put(stored[last.span.Stored.Off-from:], last.span.Stored.Off)
		}
		run = run[n:]
	}
	r.mu.Lock()
	r.active--
	r.dispatch()
	r.mu.Unlock()
}

// together returns how many of the first flights have spans that begin at the same stored byte.
func (r *Reader) together(run []*flight) int {
	n := 1
	for n < len(run) && run[n].span.Stored.Off == run[0].span.Stored.Off && run[0].span.Stored.Len > 0 {
		n++
	}
	return n
}

// goesOn reports whether what is stored of a span is the beginning of what is stored of the next one.
func (r *Reader) goesOn(s blob.Span) bool {
	return s.Index+1 < r.layout.NumSpans() && s.Stored.Len > 0 && r.layout.Span(s.Index+1).Stored.Off == s.Stored.Off
}

// decodeRun decodes spans that begin where stored does.
func (r *Reader) decodeRun(run []*flight, stored []byte, class blob.Class) {
	many, ok := r.layout.(blob.SpansDecoder)
	if !ok || len(run) == 1 {
		for _, f := range run {
			f.plain, f.err = r.decode(stored[:f.span.Stored.Len], f.span, class)
		}
		return
	}
	plain, spans := make([][]byte, len(run)), make([]blob.Span, len(run))
	for i, f := range run {
		plain[i], spans[i] = make([]byte, f.span.Plain.Len), f.span
	}
	err := many.DecodeSpans(plain, stored[:spans[len(spans)-1].Stored.Len], spans)
	for i, f := range run {
		verified := err
		if err == nil {
			verified = r.layout.Verify(plain[i], f.span)
		}
		if verified == nil {
			r.spans.Add(1)
			f.plain = plain[i]
			continue
		}
		// Alone, with all that is done about damage.
		f.plain, f.err = r.decode(stored[:f.span.Stored.Len], f.span, class)
	}
}

// read fetches stored bytes.
func (r *Reader) read(p []byte, off int64, class blob.Class) error {
	if len(p) == 0 {
		return nil
	}
	r.openOnce.Do(func() { r.source, r.openErr = r.open(r.ctx) })
	if r.openErr != nil {
		return r.openErr
	}
	r.requests.Add(1)
	r.bytes.Add(int64(len(p)))
	return r.source.ReadRange(r.ctx, p, off, class)
}

// decode returns the verified plain bytes of a span. Bytes that are wrong are fetched anew.
func (r *Reader) decode(stored []byte, s blob.Span, class blob.Class) ([]byte, error) {
	plain := make([]byte, s.Plain.Len)
	for try := 1; ; try++ {
		err := r.layout.Decode(plain, stored, s)
		if err == nil {
			err = r.layout.Verify(plain, s)
		}
		if errors.Is(err, blob.ErrUnverified) {
			r.unverified.Add(1)
			err = nil
		}
		if err == nil {
			r.spans.Add(1)
			return plain, nil
		}
		r.damaged.Add(1)
		if try == attempts {
			return nil, fmt.Errorf("wrong in %d attempts: %w", attempts, err)
		}
		if err := r.read(stored, s.Stored.Off, class); err != nil {
			return nil, err
		}
	}
}

// land stores what a flight brought and wakes those who wait for it.
func (r *Reader) land(f *flight) {
	keep := f.err == nil
	if keep && r.cached != nil {
		if err := r.cached.Put(f.span, f.plain); err != nil {
			r.cacheErrors.Add(1) // a full disk must not stop a container
		} else {
			keep = false
		}
	}
	r.mu.Lock()
	if keep {
		r.recent.put(f.span.Index, f.plain)
	} else if f.err == nil {
		r.trusted[f.span.Index] = true
	}
	delete(r.flights, f.span.Index)
	r.mu.Unlock()
	close(f.done)
}
