package store

import (
	"context"
	"net/http"
	"net/url"

	"oras.land/oras-go/v2/registry"
)

// Endpoint returns where the API of a registry is, without a path, and a transport for requests to it that need nothing of this package:
// no credentials are added, nothing is repeated. The host is normalised, as in [Ref]. Loopback hosts, and with Insecure all, are asked which
// scheme they speak.
func Endpoint(ctx context.Context, host string, opts Options) (*url.URL, *http.Transport, error) {
	transport, err := newTransport(opts)
	if err != nil {
		return nil, nil, err
	}
	return endpoint(ctx, registry.Reference{Registry: host}.Host(), opts, transport), transport, nil
}

// endpoint finds the scheme of a host.
func endpoint(ctx context.Context, host string, opts Options, rt http.RoundTripper) *url.URL {
	u := &url.URL{Scheme: "https", Host: host, Path: "/"}
	if opts.PlainHTTP || (opts.Insecure || loopback(host)) && speaksHTTP(ctx, host, rt) {
		u.Scheme = "http"
	}
	return u
}

// authorized sends a ready-made Authorization header to one host.
type authorized struct {
	base        http.RoundTripper
	host, value string
}

// RoundTrip implements http.RoundTripper.
func (a authorized) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Host == a.host && req.Header.Get("Authorization") == "" {
		req = req.Clone(req.Context())
		req.Header.Set("Authorization", a.value)
	}
	return a.base.RoundTrip(req)
}
