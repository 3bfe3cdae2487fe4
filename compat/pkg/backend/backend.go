// Package backend stores blobs of containerd's content store outside of registries: in a directory, or in an object store (S3,
// OSS), by package backend of github.com/lazuli-project/lazuli. A blob's name is its SHA-256 in hex, behind the object prefix.
package backend

import (
	"context"
	"fmt"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/backend"
)

// Kinds of backends.
const (
	BackendTypeOSS     = backend.KindOSS
	BackendTypeS3      = backend.KindS3
	BackendTypeLocalFS = backend.KindLocal
)

// MultipartChunkSize is the size of the parts in which large blobs are uploaded, in bytes.
const MultipartChunkSize int64 = 16 << 20

// Backend stores blobs. It may be used concurrently.
type Backend interface {
	// Push stores a blob of the content store. One that is there already is stored again only by force.
	Push(ctx context.Context, cs content.Store, desc ocispec.Descriptor) error
	// Check returns the path of a blob, or its name. One that is not there gives an error that is containerd's errdefs.ErrNotFound.
	Check(blobDigest digest.Digest) (string, error)
	// Size returns the size of a blob in bytes.
	Size(blobDigest digest.Digest) (int64, error)
	// Type returns the kind of backend.
	Type() string
}

// LocalFSBackend is a directory.
type LocalFSBackend struct {
	stored
	dir string
}

// OSSBackend is a bucket of Alibaba's object store.
type OSSBackend struct{ stored }

// S3Backend is a bucket of an S3-compatible object store.
type S3Backend struct{ stored }

// NewBackend returns the backend of a kind. config is its configuration as JSON: {"dir"} for localfs; {"endpoint", "bucket_name",
// "object_prefix", "access_key_id", "access_key_secret"} for oss; [S3Config] for s3. forcePush stores blobs that are there again.
func NewBackend(kind string, config []byte, forcePush bool) (Backend, error) {
	var prepare func([]byte) ([]byte, error)
	var wrap func(stored) Backend
	switch kind {
	case BackendTypeOSS:
		prepare, wrap = ossConfig, func(s stored) Backend { return &OSSBackend{s} }
	case BackendTypeS3:
		prepare, wrap = s3Config, func(s stored) Backend { return &S3Backend{s} }
	case BackendTypeLocalFS:
		dir := ""
		prepare = func(raw []byte) (_ []byte, err error) {
			dir, err = localDir(raw)
			return raw, err
		}
		wrap = func(s stored) Backend { return &LocalFSBackend{s, dir} }
	default:
		return nil, fmt.Errorf("unsupported backend type %s", kind)
	}
	config, err := prepare(config)
	if err != nil {
		return nil, fmt.Errorf("backend %s: configuration: %w", kind, err)
	}
	place, err := backend.New(kind, config, backend.Options{})
	if err != nil {
		return nil, err
	}
	return wrap(stored{kind, place, forcePush}), nil
}
