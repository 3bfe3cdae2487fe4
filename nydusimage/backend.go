package nydusimage

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/lazuli-project/lazuli/backend"
	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/store"
)

// Backend finds blobs where nydusd would: kind is "registry", "http-proxy", "oss", "s3" or "localfs", and config the JSON that
// belongs to it. It does no I/O but for a registry on this host, which it asks for its scheme. so says how registries are reached beside
// what the configuration has: by which HTTP proxy.
func Backend(ctx context.Context, kind string, config []byte, so store.Options) (BlobSource, error) {
	switch kind {
	case "http-proxy":
		return HTTPProxy(config)
	case "registry":
		return openRegistry(ctx, config, so)
	}
	b, err := backend.New(kind, config, backend.Options{})
	if err != nil {
		return nil, err
	}
	return b.Open, nil
}

// openRegistry finds blobs in a repository, whose ids are their SHA-256 in hex. Mirrors, proxies and timeouts of the configuration
// are for daemons, and do nothing here.
func openRegistry(ctx context.Context, config []byte, o store.Options) (BlobSource, error) {
	var c struct {
		Scheme     string `json:"scheme"`
		Host       string `json:"host"`
		Repo       string `json:"repo"`
		Auth       string `json:"auth"` // USER:PASSWORD in base 64
		SkipVerify bool   `json:"skip_verify"`
	}
	if err := json.Unmarshal(config, &c); err != nil {
		return nil, fmt.Errorf("registry: configuration: %w", err)
	}
	if c.Host == "" || c.Repo == "" {
		return nil, errors.New("registry: configuration without host or repo")
	}
	o.PlainHTTP, o.Insecure = c.Scheme == "http", c.SkipVerify
	if c.Auth != "" {
		plain, err := base64.StdEncoding.DecodeString(c.Auth)
		user, password, ok := strings.Cut(string(plain), ":")
		if err != nil || !ok {
			return nil, errors.New("registry: configuration: auth is not USER:PASSWORD in base 64")
		}
		o.Username, o.Password = user, password
	}
	s, err := store.OpenSource(ctx, store.Ref{Transport: store.Registry, Host: c.Host, Repo: c.Repo}, o)
	if err != nil {
		return nil, fmt.Errorf("registry: %w", err)
	}
	return func(ctx context.Context, id string) (blob.Source, error) {
		desc, err := store.FindBlob(ctx, s, digest.NewDigestFromEncoded(digest.SHA256, id))
		if err != nil {
			return nil, err
		}
		return s.Open(ctx, desc)
	}, nil
}
