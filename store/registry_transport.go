package store

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/lazuli-project/lazuli/fetch"
)

// newTransport makes the transport for one registry and the hosts that it redirects to.
func newTransport(opts Options) (*http.Transport, error) {
	config, err := tlsConfig(opts)
	if err != nil {
		return nil, err
	}
	return &http.Transport{
		Proxy:                 opts.Proxy,
		DialContext:           (&net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSClientConfig:       config,
		ForceAttemptHTTP2:     true,
		MaxIdleConnsPerHost:   16,
		IdleConnTimeout:       90 * time.Second,
		TLSHandshakeTimeout:   15 * time.Second,
		ExpectContinueTimeout: time.Second,
		// Registries check a blob's digest before they answer its last request.
		ResponseHeaderTimeout: 5 * time.Minute,
		DisableCompression:    true,
		WriteBufferSize:       64 << 10,
		ReadBufferSize:        64 << 10,
	}, nil
}

// observed tells Options.OnRequest about each request.
type observed struct {
	base http.RoundTripper
	tell func(RequestInfo)
}

// RoundTrip implements http.RoundTripper.
func (o observed) RoundTrip(req *http.Request) (*http.Response, error) {
	info := RequestInfo{Method: req.Method, Path: req.URL.Path}
	resp, err := o.base.RoundTrip(req)
	if err != nil {
		o.tell(info)
		return nil, err
	}
	info.Status = resp.StatusCode
	resp.Body = &observedBody{ReadCloser: resp.Body, info: info, tell: o.tell}
	return resp, nil
}

type observedBody struct {
	io.ReadCloser
	info RequestInfo
	tell func(RequestInfo)
	once sync.Once
}

func (b *observedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.info.Bytes += int64(n)
	return n, err
}

func (b *observedBody) Close() error {
	b.once.Do(func() { b.tell(b.info) })
	return b.ReadCloser.Close()
}

// retrying repeats requests that fail for a reason that passes, unless their bodies cannot be sent again.
type retrying struct {
	base  http.RoundTripper
	retry fetch.Retry
}

// RoundTrip implements http.RoundTripper.
func (t retrying) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	pacer := t.retry.Pacer()
	for {
		resp, err := t.base.RoundTrip(req)
		var after time.Duration
		if err == nil {
			if !passing(resp.StatusCode) {
				return resp, nil
			}
			after = fetch.RetryAfter(resp)
		}
		var cert *tls.CertificateVerificationError
		if ctx.Err() != nil || errors.As(err, &cert) || isPlainHTTP(err) || isAlert(err) {
			return resp, err
		}
		if req.Body != nil && req.Body != http.NoBody {
			if req.GetBody == nil {
				return resp, err
			}
			body, bodyErr := req.GetBody()
			if bodyErr != nil {
				return resp, err
			}
			req = req.Clone(ctx)
			req.Body = body
		}
		if !pacer.Wait(ctx, after) {
			return resp, err
		}
		if resp != nil {
			_, _ = io.CopyN(io.Discard, resp.Body, 64<<10)
			_ = resp.Body.Close()
		}
	}
}

// passing reports whether the same request may succeed later.
func passing(status int) bool {
	switch status {
	case http.StatusTooManyRequests, http.StatusRequestTimeout, http.StatusInternalServerError,
		http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// isPlainHTTP reports whether a TLS handshake met a server that speaks HTTP.
func isPlainHTTP(err error) bool {
	var header tls.RecordHeaderError
	return errors.As(err, &header) || errors.Is(err, http.ErrSchemeMismatch)
}

// isAlert reports whether the server ended a TLS connection with the reason: most often it wants a client certificate, or another.
func isAlert(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "remote error"
}
