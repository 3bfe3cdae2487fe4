package nydusimage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"

	"github.com/lazuli-project/lazuli/blob"
)

// unixHost stands where a URL of a Unix socket needs a host.
const unixHost = "unix"

// HTTPProxy finds blobs at a server that answers HEAD requests and ranges, as the backend "http-proxy" of nydusd does. config is that
// backend's: {"addr":ADDRESS,"path":PREFIX}, where the address is a URL or the path of a Unix socket. containerd's converter starts
// such a server to unpack a layer without a copy of it; that takes one request at a time and does not say what range it sends.
func HTTPProxy(config []byte) (BlobSource, error) {
	var c struct {
		Addr string `json:"addr"`
		Path string `json:"path"`
	}
	if err := json.Unmarshal(config, &c); err != nil {
		return nil, fmt.Errorf("http-proxy: configuration: %w", err)
	}
	if c.Addr == "" {
		return nil, errors.New("http-proxy: configuration without addr")
	}
	client := &http.Client{}
	base := &url.URL{Scheme: "http", Host: unixHost, Path: "/"}
	if strings.HasPrefix(c.Addr, "http://") || strings.HasPrefix(c.Addr, "https://") {
		var err error
		if base, err = url.Parse(c.Addr); err != nil {
			return nil, fmt.Errorf("http-proxy: %w", err)
		}
	} else {
		var d net.Dialer
		client.Transport = &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return d.DialContext(ctx, "unix", c.Addr)
		}}
	}
	turn := new(sync.Mutex)
	return func(ctx context.Context, id string) (blob.Source, error) {
		s := &proxied{client: client, turn: turn, url: base.String()}
		if base.Host != unixHost {
			s.url = base.JoinPath(c.Path, id).String()
		}
		resp, err := s.do(ctx, http.MethodHead, "")
		if err != nil {
			return nil, err
		}
		if err := resp.Body.Close(); err != nil {
			return nil, fmt.Errorf("http-proxy: %w", err)
		}
		if resp.ContentLength < 0 {
			return nil, fmt.Errorf("http-proxy: %s: the size of the blob is missing", s.url)
		}
		s.size = resp.ContentLength
		return s, nil
	}, nil
}

// proxied is a blob behind a proxy.
type proxied struct {
	client *http.Client
	turn   *sync.Mutex // one request at a time
	url    string
	size   int64
}

// Size implements [blob.Source].
func (p *proxied) Size() int64 { return p.size }

func (p *proxied) do(ctx context.Context, method, ranges string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, p.url, http.NoBody)
	if err != nil {
		return nil, fmt.Errorf("http-proxy: %w", err)
	}
	if ranges != "" {
		req.Header.Set("Range", ranges)
	}
	resp, err := p.client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("http-proxy: %w", err)
	}
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusPartialContent {
		return nil, errors.Join(fmt.Errorf("http-proxy: %s %s: status %s", method, p.url, resp.Status), resp.Body.Close())
	}
	return resp, nil
}

// ReadRange implements [blob.Source].
func (p *proxied) ReadRange(ctx context.Context, dst []byte, off int64, _ blob.Class) error {
	if len(dst) == 0 {
		return nil
	}
	if off < 0 || off > p.size || int64(len(dst)) > p.size-off {
		return fmt.Errorf("read %d bytes at %d of %d: %w", len(dst), off, p.size, io.ErrUnexpectedEOF)
	}
	p.turn.Lock()
	defer p.turn.Unlock()
	resp, err := p.do(ctx, http.MethodGet, fmt.Sprintf("bytes=%d-%d", off, off+int64(len(dst))-1))
	if err != nil {
		return err
	}
	_, err = io.ReadFull(resp.Body, dst)
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		return fmt.Errorf("http-proxy: read %d bytes at %d: %w", len(dst), off, err)
	}
	return nil
}
