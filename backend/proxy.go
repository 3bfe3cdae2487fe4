package backend

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/fetch"
	"github.com/lazuli-project/lazuli/formats"
)

// proxy is a server that gives blobs by their names.
type proxy struct {
	client *http.Client
	base   *url.URL
	opts   fetch.RemoteOptions
}

func newProxy(c *config, o Options) (*proxy, error) {
	if c.Addr == "" {
		return nil, errors.New("configuration without addr")
	}
	p := &proxy{client: &http.Client{}}
	if strings.HasPrefix(c.Addr, "/") {
		d := net.Dialer{Timeout: 10 * time.Second}
		p.client.Transport = &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return d.DialContext(ctx, "unix", c.Addr)
		}}
		p.base = &url.URL{Scheme: "http", Host: "unix", Path: "/"}
	} else {
		u, err := url.Parse(c.Addr)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return nil, fmt.Errorf("addr %q is neither a URL nor the path of a socket", c.Addr)
		}
		p.base = u
	}
	p.base = p.base.JoinPath(c.Path)
	p.opts = fetch.RemoteOptions{Client: p.client, Counters: o.Counters, Retry: o.Retry}
	return p, nil
}

// Open implements [Backend].
func (p *proxy) Open(ctx context.Context, id string) (blob.Source, error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	return openRemote(ctx, p.client, p.base.JoinPath(id), p.opts)
}

// openRemote asks for an object's size.
func openRemote(ctx context.Context, client fetch.Doer, u *url.URL, o fetch.RemoteOptions) (blob.Source, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, u.String(), nil)
	if err != nil {
		return nil, err
	}
	pacer := o.Retry.Pacer()
	for {
		resp, err := client.Do(req)
		again := err != nil
		if err == nil {
			_ = resp.Body.Close() // empty
			switch {
			case resp.StatusCode == http.StatusOK && resp.ContentLength >= 0:
				return fetch.NewRemote(u, resp.ContentLength, o), nil
			case resp.StatusCode == http.StatusNotFound:
				return nil, fmt.Errorf("%s: %w", u.Redacted(), fetch.ErrNotFound)
			case resp.StatusCode == http.StatusUnauthorized, resp.StatusCode == http.StatusForbidden:
				return nil, fmt.Errorf("%s: %s: %w", u.Redacted(), resp.Status, fetch.ErrDenied)
			}
			again = resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests
			err = fmt.Errorf("%s: %s: %w", u.Redacted(), resp.Status, fetch.ErrNetwork)
		} else {
			err = fmt.Errorf("%w: %w", fetch.ErrNetwork, err)
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if !again || !pacer.Wait(ctx, 0) {
			return nil, err
		}
	}
}

// Create implements [Backend].
func (p *proxy) Create(context.Context) (formats.ObjectWriter, error) {
	return nil, fmt.Errorf("writing to %s: %w", p.base.Redacted(), blob.ErrUnsupported)
}
