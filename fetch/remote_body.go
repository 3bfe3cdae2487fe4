package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/lazuli-project/lazuli/blob"
)

var errStall = errors.New("no answer in time")

// enoughProgress is how many bytes make up for earlier failures, so that a long body survives many cuts while a
// server that gives a byte at a time does not keep a reader forever.
const enoughProgress = 256 << 10

// body reads one range as a stream, over as many requests as it takes.
type body struct {
	remote    *Remote
	ctx       context.Context //nolint:containedctx // a stream lives in the context that it was opened with
	class     blob.Class
	gate      *Gate // nil for none
	skipLimit int64
	off, end  int64 // what is left to read
	pacer     *Pacer
	progress  int64 // bytes since the last failure
	cut       error // what ended the last answer early
	denied    bool  // a fresh redirect or token was refused once

	// Of the running request; resp is nil between requests.
	resp   *http.Response
	cancel context.CancelCauseFunc
	stall  *time.Timer
	reqCtx context.Context //nolint:containedctx // as above
}

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	if b.off == b.end {
		b.drop()
		return 0, io.EOF
	}
	if len(p) == 0 {
		return 0, nil
	}
	for {
		if b.cut != nil && !b.again(0) {
			return 0, b.final(b.cut)
		}
		b.cut = nil
		if b.resp == nil {
			if err := b.connect(); err != nil {
				return 0, err
			}
		}
		n, err := b.receive(p[:min(int64(len(p)), b.end-b.off)])
		b.off += int64(n)
		if b.progress += int64(n); b.progress >= enoughProgress {
			b.progress = 0
			b.pacer.Reset()
		}
		if err != nil && b.off < b.end {
			b.cut = b.failed(err)
			b.drop()
		}
		if n > 0 {
			return n, nil
		}
	}
}

// Close implements io.Closer.
func (b *body) Close() error {
	b.off = b.end
	b.drop()
	return nil
}

// receive reads from the running answer, which has the stall time for it.
func (b *body) receive(p []byte) (int, error) {
	if b.gate != nil {
		b.gate.yield(b.ctx, b.class)
	}
	b.stall.Reset(b.remote.opts.Stall)
	n, err := b.resp.Body.Read(p)
	b.stall.Stop()
	b.remote.opts.Counters.bytes[b.class].Add(int64(n))
	return n, err
}

// connect sends requests until one is answered with the bytes at off.
func (b *body) connect() error {
	for {
		after, err := b.request()
		if err == nil {
			return nil
		}
		b.drop()
		if after < 0 || !b.again(after) {
			return b.final(err)
		}
	}
}

// again waits before another request and reports whether to send it.
func (b *body) again(after time.Duration) bool {
	if !b.pacer.Wait(b.ctx, after) {
		return false
	}
	b.remote.opts.Counters.retries.Add(1)
	return true
}

// final is the error that the reader gets: that of the context if it has ended.
func (b *body) final(err error) error {
	if b.ctx.Err() != nil {
		return context.Cause(b.ctx)
	}
	return err
}

// failed makes the error of a request or body that did not come.
func (b *body) failed(err error) error {
	if errors.Is(context.Cause(b.reqCtx), errStall) {
		err = errStall
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return transportError(b.ctx, http.MethodGet, b.remote.url, err)
}

// never says that an error is not worth another request.
const never = time.Duration(-1)

// request sends one request. With an error it says how long the server wants to be left alone, or never.
func (b *body) request() (time.Duration, error) {
	r := b.remote
	if b.gate != nil {
		if err := b.gate.acquire(b.ctx, b.class); err != nil {
			return never, err
		}
	}
	b.reqCtx, b.cancel = context.WithCancelCause(b.ctx)
	cancel := b.cancel
	b.stall = time.AfterFunc(r.opts.Stall, func() { cancel(errStall) })
	resp, err := r.get(b.reqCtx, b.off, b.end, b.class)
	b.stall.Stop()
	if err != nil {
		return 0, b.failed(err)
	}
	b.resp = resp
	switch s := resp.StatusCode; {
	case s == http.StatusPartialContent:
		return b.checkRange(resp)
	case s == http.StatusOK:
		return b.skip(resp)
	case s == http.StatusRequestedRangeNotSatisfiable:
		return never, fmt.Errorf("%w: %w", statusError(resp, r.url), io.ErrUnexpectedEOF)
	case temporary(s):
		return RetryAfter(resp), statusError(resp, r.url)
	case refused(s) && (s == http.StatusUnauthorized || !sameOrigin(resp.Request.URL, r.url)) && !b.denied:
		b.denied = true // the token or the link may have run out on the way
		return 0, statusError(resp, r.url)
	}
	return never, statusError(resp, r.url)
}

// checkRange makes sure that a partial answer is the part that was asked for. It may end early.
func (b *body) checkRange(resp *http.Response) (time.Duration, error) {
	v := resp.Header.Get("Content-Range")
	first, last, total, ok := parseContentRange(v)
	if !ok || first != b.off || last >= b.remote.size || total >= 0 && total != b.remote.size {
		err := fmt.Errorf("%s%s: asked for bytes %d-%d of %d, got Content-Range %.100q: %w",
			b.remote.url.Host, b.remote.url.Path, b.off, b.end-1, b.remote.size, v, ErrNetwork)
		if ok && total >= 0 && total < b.remote.size {
			return never, fmt.Errorf("%w: %w", err, io.ErrUnexpectedEOF)
		}
		return 0, err
	}
	return 0, nil
}

// skip goes forward to off in an answer that is the whole object.
func (b *body) skip(resp *http.Response) (time.Duration, error) {
	if n := resp.ContentLength; n >= 0 && n != b.remote.size {
		err := fmt.Errorf("%s%s: %d bytes, expected %d: %w", b.remote.url.Host, b.remote.url.Path, n, b.remote.size, ErrNetwork)
		if n < b.remote.size {
			err = fmt.Errorf("%w: %w", err, io.ErrUnexpectedEOF)
		}
		return never, err
	}
	if b.off > b.skipLimit {
		return never, fmt.Errorf("%s%s: the server gives no ranges, only the whole object: %w",
			b.remote.url.Host, b.remote.url.Path, ErrNetwork)
	}
	buf := make([]byte, min(b.off, 64<<10))
	for left := b.off; left > 0; {
		n, err := b.receive(buf[:min(left, int64(len(buf)))])
		if left -= int64(n); left > 0 && err != nil {
			return 0, b.failed(err)
		}
	}
	return 0, nil
}

// drop ends the running request and gives its place away.
func (b *body) drop() {
	if b.cancel == nil {
		return
	}
	if b.resp != nil {
		_ = b.resp.Body.Close()
		b.resp = nil
	}
	b.stall.Stop()
	b.cancel(context.Canceled)
	b.cancel = nil
	if b.gate != nil {
		b.gate.release(b.class)
	}
}

// parseContentRange parses "bytes FIRST-LAST/TOTAL" of RFC 9110 section 14.4. total is -1 for "*".
func parseContentRange(v string) (first, last, total int64, ok bool) {
	v, ok = strings.CutPrefix(v, "bytes ")
	if !ok {
		return 0, 0, 0, false
	}
	span, size, ok1 := strings.Cut(v, "/")
	from, to, ok2 := strings.Cut(span, "-")
	if !ok1 || !ok2 {
		return 0, 0, 0, false
	}
	first, err1 := strconv.ParseInt(from, 10, 64)
	last, err2 := strconv.ParseInt(to, 10, 64)
	total = -1
	var err3 error
	if size != "*" {
		total, err3 = strconv.ParseInt(size, 10, 64)
	}
	ok = err1 == nil && err2 == nil && err3 == nil && first >= 0 && last >= first && (size == "*" || total > last)
	return first, last, total, ok
}
