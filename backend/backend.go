package backend

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/fetch"
	"github.com/lazuli-project/lazuli/formats"
)

// Backend keeps blobs by their names. It may be used concurrently.
type Backend interface {
	// Open gives a blob. One that is not there gives an error that wraps [fetch.ErrNotFound].
	Open(ctx context.Context, id string) (blob.Source, error)
	// Create begins a blob, which appears under its SHA-256 when it is committed. Backends that are only read give an error that
	// wraps [blob.ErrUnsupported].
	Create(ctx context.Context) (formats.ObjectWriter, error)
}

// Kinds of backends, as in configurations.
const (
	KindLocal = "localfs"
	KindS3    = "s3"
	KindOSS   = "oss"
	KindProxy = "http-proxy"
)

// config has the fields of all kinds, by the names that nydusd and nydusify use.
type config struct {
	// localfs
	Dir     string   `json:"dir"`
	AltDirs []string `json:"alt_dirs"`
	// s3 and oss
	Scheme   string `json:"scheme"`
	Endpoint string `json:"endpoint"`
	Region   string `json:"region"`
	Bucket   string `json:"bucket_name"`
	Prefix   string `json:"object_prefix"`
	KeyID    string `json:"access_key_id"`
	Secret   string `json:"access_key_secret"`
	// http-proxy
	Addr string `json:"addr"`
	Path string `json:"path"`
}

// Options of all kinds. The zero value is good.
type Options struct {
	Retry    fetch.Retry
	Counters *fetch.Counters
}

// New returns the backend of a kind. raw is its configuration as JSON: the part that belongs to the kind, or all of a configuration
// of nydusd of version 2, or of version 1 ("device"), which has such a part; then kind may be "".
func New(kind string, raw []byte, o Options) (Backend, error) {
	kind, raw, err := find(kind, raw)
	if err != nil {
		return nil, fmt.Errorf("backend: configuration: %w", err)
	}
	var c config
	if err := json.Unmarshal(raw, &c); err != nil {
		return nil, fmt.Errorf("backend %s: configuration: %w", kind, err)
	}
	var b Backend
	switch kind {
	case KindLocal:
		b, err = newLocal(&c)
	case KindS3, KindOSS:
		b, err = newBucket(kind, &c, o)
	case KindProxy:
		b, err = newProxy(&c, o)
	default:
		return nil, fmt.Errorf("backend %q: %s, %s, %s and %s are possible: %w", kind, KindLocal, KindS3, KindOSS, KindProxy, blob.ErrUnsupported)
	}
	if err != nil {
		return nil, fmt.Errorf("backend %s: %w", kind, err)
	}
	return b, nil
}

// find returns the part of a configuration that is a backend's.
func find(kind string, raw []byte) (string, []byte, error) {
	type section struct {
		Type   string          `json:"type"`
		Config json.RawMessage `json:"config"`
	}
	var whole struct {
		Backend json.RawMessage `json:"backend"`
		Device  struct {
			Backend section `json:"backend"`
		} `json:"device"`
	}
	if err := json.Unmarshal(raw, &whole); err != nil {
		return "", nil, err
	}
	inner := whole.Device.Backend
	if whole.Backend != nil {
		parts := make(map[string]json.RawMessage)
		if err := json.Unmarshal(whole.Backend, &parts); err != nil {
			return "", nil, err
		}
		if err := json.Unmarshal(whole.Backend, &inner); err != nil {
			return "", nil, err
		}
		if part, ok := parts[inner.Type]; ok {
			inner.Config = part
		}
	}
	if inner.Type == "" {
		if kind == "" {
			return "", nil, errors.New("it names no type")
		}
		return kind, raw, nil
	}
	if kind != "" && kind != inner.Type {
		return "", nil, fmt.Errorf("it is of type %q and not %q", inner.Type, kind)
	}
	if inner.Config == nil {
		return "", nil, fmt.Errorf("nothing for type %q", inner.Type)
	}
	return inner.Type, inner.Config, nil
}
