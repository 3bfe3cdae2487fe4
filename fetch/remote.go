package fetch

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/lazuli-project/lazuli/blob"
)

// Doer sends requests. An *http.Client is one; a registry client that adds and renews credentials is another.
type Doer interface {
	Do(*http.Request) (*http.Response, error)
}

// RemoteOptions say how a [Remote] reads. Only Client is required.
type RemoteOptions struct {
	// Client has the credentials for the object's URL, renews them, and follows redirects.
	Client Doer
	// Direct reads from where Client was redirected to on another host, without credentials. nil means that
	// redirects are not remembered.
	Direct Doer
	// Gate is shared by all objects of a host; nil means no bound.
	Gate *Gate
	// Counters are added to; nil means own ones.
	Counters *Counters
	Retry    Retry
	// Stall is how long a server may be silent before the request is given up and repeated; 0 means 30 s.
	Stall time.Duration
	// SkipLimit is how many bytes [Remote.ReadRange] throws away when a server answers a range with the whole
	// object; 0 means 16 MiB.
	SkipLimit int64
}

// Remote is an object behind a URL that is read by ranges: a [blob.Source]. It never asks for the object's size, it
// repeats what fails for a while, takes up bodies where they were cut, and remembers where the URL redirects to until
// that place refuses. It may be used concurrently.
type Remote struct {
	url    *url.URL
	size   int64
	opts   RemoteOptions
	target atomic.Pointer[url.URL] // where url redirects to; nil while unknown
}

var _ blob.Source = (*Remote)(nil)

// NewRemote returns the object of size bytes at a URL. It does no I/O.
func NewRemote(u *url.URL, size int64, opts RemoteOptions) *Remote {
	if opts.Counters == nil {
		opts.Counters = new(Counters)
	}
	if opts.Stall <= 0 {
		opts.Stall = 30 * time.Second
	}
	if opts.SkipLimit <= 0 {
		opts.SkipLimit = 16 << 20
	}
	return &Remote{url: u, size: size, opts: opts}
}

// Size returns the size that the object is known to have.
func (r *Remote) Size() int64 { return r.size }

// Stats returns what was fetched, by all who share the counters.
func (r *Remote) Stats() RemoteStats { return r.opts.Counters.Stats() }

// ReadRange implements [blob.Source]. Errors wrap [ErrNotFound], [ErrDenied], [ErrNetwork] or io.ErrUnexpectedEOF,
// or are the cause of the context's end.
func (r *Remote) ReadRange(ctx context.Context, p []byte, off int64, class blob.Class) error {
	if off < 0 || off > r.size || int64(len(p)) > r.size-off {
		return fmt.Errorf("read %d bytes at %d of %d: %w", len(p), off, r.size, io.ErrUnexpectedEOF)
	}
	if len(p) == 0 {
		return nil
	}
	b := &body{
		remote: r, ctx: ctx, class: class, gate: r.opts.Gate, skipLimit: r.opts.SkipLimit,
		off: off, end: off + int64(len(p)), pacer: r.opts.Retry.Pacer(),
	}
	defer b.drop()
	if _, err := io.ReadFull(b, p); err != nil {
		return fmt.Errorf("read %d bytes at %d: %w", len(p), off, err)
	}
	return nil
}

// Stream reads the object from off to its end in one request. Unlike ranges, streams take no place in the gate: who
// reads one may be waiting for another. ctx rules all of the stream, which is used by one goroutine.
func (r *Remote) Stream(ctx context.Context, off int64, class blob.Class) (io.ReadCloser, error) {
	if off < 0 || off > r.size {
		return nil, fmt.Errorf("read at %d of %d: %w", off, r.size, io.ErrUnexpectedEOF)
	}
	b := &body{
		remote: r, ctx: ctx, class: class, skipLimit: r.size,
		off: off, end: r.size, pacer: r.opts.Retry.Pacer(),
	}
	if b.off == b.end {
		return b, nil
	}
	if err := b.connect(); err != nil {
		return nil, err
	}
	return b, nil
}

// get asks for the bytes from off to end, of the remembered place if there is one. An answer that this place gives
// to expired links makes it ask the URL itself.
func (r *Remote) get(ctx context.Context, off, end int64, class blob.Class) (*http.Response, error) {
	if target := r.target.Load(); target != nil {
		resp, err := r.send(ctx, r.opts.Direct, target, off, end, class)
		if err == nil && !refused(resp.StatusCode) {
			return resp, nil
		}
		r.target.CompareAndSwap(target, nil)
		if err != nil {
			return nil, err
		}
		discard(resp)
	}
	resp, err := r.send(ctx, r.opts.Client, r.url, off, end, class)
	if err != nil {
		return nil, err
	}
	if at := resp.Request.URL; r.opts.Direct != nil && !sameOrigin(at, r.url) && resp.StatusCode < 300 {
		r.opts.Counters.redirects.Add(1)
		r.target.Store(at)
	}
	return resp, nil
}

func (r *Remote) send(ctx context.Context, c Doer, u *url.URL, off, end int64, class blob.Class) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, Redact(err)
	}
	if off > 0 || end < r.size {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", off, end-1))
	}
	// Without this, a transport may ask for gzip and undo it, and ranges would be of something else.
	req.Header.Set("Accept-Encoding", "identity")
	r.opts.Counters.requests[class].Add(1)
	return c.Do(req)
}

// refused reports whether a redirect target no longer honours its link. Object stores differ in how they say it.
func refused(status int) bool {
	switch status {
	case http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusGone:
		return true
	}
	return false
}

func sameOrigin(a, b *url.URL) bool {
	return strings.EqualFold(a.Scheme, b.Scheme) && strings.EqualFold(a.Host, b.Host)
}

// discard ends an answer of which nothing is needed, keeping its connection if little is left.
func discard(resp *http.Response) {
	_, _ = io.CopyN(io.Discard, resp.Body, 64<<10)
	_ = resp.Body.Close()
}
