package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"github.com/lazuli-project/lazuli/fetch"
)

const (
	pieceSize    = 4 << 20         // bytes sent at a time; what is sent again after a failure
	maxPieceSize = 64 << 20        // the largest least piece that a registry may ask for
	pieceTimeout = 5 * time.Minute // for one request of an upload
)

// upload pushes one blob in pieces: while one is sent, the next is filled, so it holds two. A blob of less than a
// piece is sent when its digest is known, and only if the target lacks it. Used by one goroutine.
type upload struct {
	target *registryTarget
	ctx    context.Context //nolint:containedctx // pieces are sent behind the back of Write
	stop   context.CancelFunc
	alg    digest.Algorithm
	sum    hash.Hash
	size   int64

	piece    int          // bytes
	buf      []byte       // being filled
	spare    []byte       // for after that; nil if there is none
	reading  atomic.Int32 // request bodies that the transport may still read, even after an answer
	sent     int64        // where the piece that is sent begins, then ends
	location *url.URL
	sending  chan error // nil while nothing is sent
	err      error      // all later calls give it
	ended    bool
}

func (t *registryTarget) newUpload(ctx context.Context, alg digest.Algorithm) *upload {
	ctx, stop := context.WithCancel(ctx)
	return &upload{target: t, ctx: ctx, stop: stop, alg: alg, sum: alg.Hash(), piece: pieceSize}
}

// RunningSHA256 implements [formats.RunningDigest].
func (u *upload) RunningSHA256() ([sha256.Size]byte, bool) { return runningSHA256(u.alg, u.sum) }

// Probe begins an upload and cancels it, to find out whether the user may push: [registryTarget.Create] sends nothing.
func (t *registryTarget) Probe(ctx context.Context) error {
	u := t.newUpload(ctx, digest.SHA256)
	defer u.Abort()
	if _, err := u.begin(ctx); err != nil {
		return t.fail(ctx, "begin an upload to", err)
	}
	return nil
}

// Write implements io.Writer.
func (u *upload) Write(p []byte) (int, error) {
	if u.err != nil {
		return 0, u.err
	}
	u.sum.Write(p)
	u.size += int64(len(p))
	for rest := p; len(rest) > 0; {
		if len(u.buf) == u.piece {
			if err := u.flush(); err != nil {
				return 0, err
			}
			continue // the piece may be larger now
		}
		n := min(len(rest), u.piece-len(u.buf))
		u.buf = appendWithin(u.buf, rest[:n], u.piece)
		rest = rest[n:]
	}
	return len(p), nil
}

// appendWithin appends, growing by doubling but not beyond limit, so that small objects take little memory.
func appendWithin(buf, p []byte, limit int) []byte {
	if need := len(buf) + len(p); need > cap(buf) {
		bigger := make([]byte, len(buf), min(max(2*cap(buf), need, 64<<10), limit))
		copy(bigger, buf)
		buf = bigger
	}
	return append(buf, p...)
}

// flush begins to send the full buffer, once the one before is sent.
func (u *upload) flush() error {
	if err := u.wait(); err != nil {
		return err
	}
	if u.location == nil {
		least, err := u.begin(u.ctx)
		if err != nil {
			return u.broken(err)
		}
		if u.piece = max(u.piece, min(least, maxPieceSize)); len(u.buf) < u.piece {
			return nil
		}
	}
	full := u.buf
	u.buf, u.spare = u.spare[:0], nil
	done := make(chan error, 1)
	u.sending = done
	go func() {
		err := u.sendPiece(u.ctx, full)
		if u.reading.Load() == 0 {
			u.spare = full
		}
		done <- err
	}()
	return nil
}

// wait waits until the piece that is being sent has arrived.
func (u *upload) wait() error {
	if u.sending != nil {
		err := <-u.sending
		u.sending = nil
		if err != nil {
			return u.broken(err)
		}
	}
	return u.err
}

func (u *upload) broken(err error) error {
	u.err = u.target.fail(u.ctx, "push a blob to", err)
	return u.err
}

// Commit implements [formats.ObjectWriter].
func (u *upload) Commit(ctx context.Context) (digest.Digest, int64, error) {
	return u.finish(ctx, true)
}

// finish ends the upload, or cancels it if the target has the blob. look says whether that is not known yet.
func (u *upload) finish(ctx context.Context, look bool) (digest.Digest, int64, error) {
	if err := u.wait(); err != nil {
		return "", 0, err
	}
	d := digest.NewDigest(u.alg, u.sum)
	desc := ocispec.Descriptor{MediaType: "application/octet-stream", Digest: d, Size: u.size}
	if look {
		ok, err := u.target.Exists(ctx, desc)
		if err != nil {
			return "", 0, err
		}
		if ok {
			u.Abort()
			return d, u.size, nil
		}
	}
	if err := u.complete(ctx, desc); err != nil {
		return "", 0, u.target.fail(ctx, "push "+d.String()+" to", err)
	}
	u.ended = true
	u.stop()
	return d, u.size, nil
}

// complete sends what is left and the digest. An answer that did not arrive is found out by looking for the blob.
func (u *upload) complete(ctx context.Context, desc ocispec.Descriptor) error {
	pieces := u.location != nil
	if pieces && len(u.buf) > 0 {
		if err := u.sendPiece(ctx, u.buf); err != nil {
			return err
		}
	}
	pacer := u.target.opts.Retry.Pacer()
	for {
		body := []byte(nil)
		if !pieces {
			// All of it is in memory, so each attempt may begin a new upload.
			if _, err := u.begin(ctx); err != nil {
				return err
			}
			body = u.buf
		}
		at := *u.location
		q := at.Query()
		q.Set("digest", desc.Digest.String())
		at.RawQuery = q.Encode()
		resp, err := u.request(ctx, http.MethodPut, &at, body, nil)
		if err == nil && resp.StatusCode == http.StatusCreated {
			return nil
		}
		var after time.Duration
		if err == nil {
			after = fetch.RetryAfter(resp)
			err = lostError(resp)
			if !passing(resp.StatusCode) && resp.StatusCode != http.StatusNotFound {
				return err
			}
		}
		if !pacer.Wait(ctx, after) {
			return err
		}
		if ok, err := u.target.Exists(ctx, desc); err != nil || ok {
			return err
		}
	}
}

// begin asks for a new upload and returns the least piece that the registry takes.
func (u *upload) begin(ctx context.Context) (int, error) {
	pacer := u.target.opts.Retry.Pacer()
	at := u.target.base.JoinPath("v2", u.target.ref.Repo, "blobs", "uploads/")
	// Whoever gives up while the request is under way would leave an upload at the registry that nobody knows of.
	asking, stop := outlive(ctx, beginGrace)
	defer stop()
	for {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		resp, err := u.request(asking, http.MethodPost, at, nil, nil)
		var after time.Duration
		switch {
		case err != nil:
		case resp.StatusCode == http.StatusAccepted:
			if err := u.moved(resp); err != nil {
				return 0, err
			}
			least, _ := strconv.Atoi(resp.Header.Get("OCI-Chunk-Min-Length"))
			return least, nil
		default:
			err = answerError(resp)
			if !passing(resp.StatusCode) {
				return 0, err
			}
			after = fetch.RetryAfter(resp)
		}
		if !pacer.Wait(ctx, after) {
			return 0, err
		}
	}
}

// beginGrace is how long a request that begins an upload may go on when nobody wants the upload any more.
const beginGrace = 3 * time.Second

// outlive returns a context that ends the given time after its parent.
func outlive(ctx context.Context, grace time.Duration) (context.Context, context.CancelFunc) {
	late, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		time.AfterFunc(grace, func() { cancel(context.Cause(ctx)) })
	})
	return late, func() {
		stop()
		cancel(context.Canceled)
	}
}

// sendPiece sends the bytes behind u.sent. After a failure it asks how much has arrived, and goes on there.
func (u *upload) sendPiece(ctx context.Context, p []byte) error {
	start, end := u.sent, u.sent+int64(len(p))
	pacer := u.target.opts.Retry.Pacer()
	for u.sent < end {
		rest := p[u.sent-start:]
		resp, err := u.request(ctx, http.MethodPatch, u.location, rest, http.Header{
			"Content-Type":  {"application/octet-stream"},
			"Content-Range": {fmt.Sprintf("%d-%d", u.sent, end-1)},
		})
		var after time.Duration
		if err == nil {
			if resp.StatusCode == http.StatusAccepted || resp.StatusCode == http.StatusNoContent ||
				resp.StatusCode == http.StatusCreated {
				u.sent = end
				return u.moved(resp)
			}
			after = fetch.RetryAfter(resp)
			err = lostError(resp)
			if !passing(resp.StatusCode) && resp.StatusCode != http.StatusRequestedRangeNotSatisfiable {
				return err
			}
		}
		if !pacer.Wait(ctx, after) {
			return err
		}
		arrived, asked := u.arrived(ctx)
		switch {
		case asked != nil:
			err = asked
		case arrived < start || arrived > end:
			return fmt.Errorf("upload of bytes %d-%d cannot be resumed, the registry has %d: %w: %w",
				start, end-1, arrived, ErrNetwork, err)
		default:
			u.sent = arrived
		}
		if asked != nil && !errors.Is(asked, ErrNetwork) {
			return err
		}
	}
	return nil
}

// arrived asks how many bytes of the upload the registry has.
func (u *upload) arrived(ctx context.Context) (int64, error) {
	resp, err := u.request(ctx, http.MethodGet, u.location, nil, nil)
	if err != nil {
		return 0, err
	}
	if resp.StatusCode != http.StatusNoContent && resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusAccepted {
		return 0, lostError(resp)
	}
	if err := u.moved(resp); err != nil {
		return 0, err
	}
	first, last, ok := strings.Cut(strings.TrimPrefix(resp.Header.Get("Range"), "bytes="), "-")
	n, err := strconv.ParseInt(last, 10, 64)
	if !ok || first != "0" || err != nil || n < 0 {
		return 0, fmt.Errorf("upload status with Range %.100q: %w", resp.Header.Get("Range"), ErrNetwork)
	}
	if n == 0 {
		return 0, nil // 0-0 is how registries write that there is nothing
	}
	return n + 1, nil
}

// moved takes the upload's next address from an answer.
func (u *upload) moved(resp *http.Response) error {
	at, err := resp.Location()
	if errors.Is(err, http.ErrNoLocation) && u.location != nil {
		return nil
	}
	if err != nil {
		return fmt.Errorf("upload without a valid Location: %w", ErrNetwork)
	}
	if at.Scheme != "https" && at.Scheme != u.target.base.Scheme {
		return fmt.Errorf("upload goes to %s://%s: %w", at.Scheme, at.Host, ErrNetwork)
	}
	u.location = at
	return nil
}

// request sends one request and reads the answer, whose body is small and of interest only in errors.
func (u *upload) request(ctx context.Context, method string, at *url.URL, body []byte, h http.Header) (*http.Response, error) {
	ctx, cancel := context.WithTimeout(ctx, pieceTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, at.String(), http.NoBody)
	if err != nil {
		return nil, fetch.Redact(err)
	}
	if len(body) > 0 {
		req.ContentLength = int64(len(body))
		req.GetBody = func() (io.ReadCloser, error) {
			u.reading.Add(1)
			return &pieceBody{Reader: bytes.NewReader(body), open: &u.reading}, nil
		}
		req.Body, _ = req.GetBody()
	}
	for k, v := range h {
		req.Header[k] = v
	}
	if method == http.MethodPut {
		req.Header.Set("Content-Type", "application/octet-stream")
	}
	resp, err := u.target.send(req)
	if err != nil {
		return nil, fetch.Redact(err)
	}
	defer resp.Body.Close()
	said, _ := io.ReadAll(io.LimitReader(resp.Body, 8<<10))
	resp.Body = io.NopCloser(bytes.NewReader(said))
	return resp, nil
}

// pieceBody is the body of a request. Its closing tells that nobody reads the buffer behind it any more.
type pieceBody struct {
	*bytes.Reader
	open *atomic.Int32
	once sync.Once
}

// Close implements io.Closer.
func (b *pieceBody) Close() error {
	b.once.Do(func() { b.open.Add(-1) })
	return nil
}

// lostError makes the error of an answer about an upload that was begun. A registry that does not know it any more
// is a failure of the registry, not something that the user looked for in vain.
func lostError(resp *http.Response) error {
	if err := answerError(resp); resp.StatusCode != http.StatusNotFound {
		return err
	}
	return fmt.Errorf("%w: the registry has forgotten the upload", ErrNetwork)
}

// answerError makes the error of an answer that request returned, with what the registry said.
func answerError(resp *http.Response) error {
	e := &fetch.StatusError{
		Method: resp.Request.Method, Host: resp.Request.URL.Host, Path: resp.Request.URL.Path, Status: resp.StatusCode,
	}
	var said struct {
		Errors errcode.Errors `json:"errors"`
	}
	if json.NewDecoder(resp.Body).Decode(&said) == nil {
		e.Detail = detail(said.Errors)
	}
	return e
}

// Abort implements [formats.ObjectWriter].
func (u *upload) Abort() {
	if u.ended {
		return
	}
	u.ended = true
	u.stop()
	if u.sending != nil {
		<-u.sending //nolint:errcheck // given up, whatever it came to
		u.sending = nil
	}
	if u.err == nil {
		u.err = errors.New("the upload was given up")
	}
	u.buf, u.spare = nil, nil
	if u.location != nil {
		u.target.cancel(u.ctx, u.location)
	}
}

// cancel tells the registry that an upload will not be finished, also when the context is done. Registries that do
// not listen remove it some day.
func (t *registryTarget) cancel(ctx context.Context, at *url.URL) {
	ctx, stop := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer stop()
	req, err := http.NewRequestWithContext(ctx, http.MethodDelete, at.String(), nil)
	if err != nil {
		return
	}
	resp, err := t.send(req)
	if err == nil {
		_ = resp.Body.Close()
	}
}
