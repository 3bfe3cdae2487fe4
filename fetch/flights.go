package fetch

import (
	"context"
	"errors"
	"fmt"

	"github.com/lazuli-project/lazuli/blob"
)

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
