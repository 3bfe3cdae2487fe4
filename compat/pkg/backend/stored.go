package backend

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/backend"
	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/fetch"
)

// stored does the work for all kinds.
type stored struct {
	kind  string
	place backend.Backend
	force bool
}

// Push implements [Backend].
func (s stored) Push(ctx context.Context, cs content.Store, desc ocispec.Descriptor) error {
	if !s.force {
		_, err := s.open(ctx, desc.Digest)
		if err == nil {
			return nil
		}
		if !errdefs.IsNotFound(err) {
			return err
		}
	}
	if err := s.push(ctx, cs, desc); err != nil {
		return fmt.Errorf("backend %s: push %s: %w", s.kind, desc.Digest, err)
	}
	return nil
}

func (s stored) push(ctx context.Context, cs content.Store, desc ocispec.Descriptor) error {
	ra, err := cs.ReaderAt(ctx, desc)
	if err != nil {
		return err
	}
	defer func() { _ = ra.Close() }() // was read only
	w, err := s.place.Create(ctx)
	if err != nil {
		return err
	}
	defer w.Abort()
	size := ra.Size()
	if _, err := io.CopyBuffer(struct{ io.Writer }{w}, readerOf{ctx, io.NewSectionReader(ra, 0, size)}, make([]byte, 1<<20)); err != nil {
		return err
	}
	d, n, err := w.Commit(ctx)
	if err != nil {
		return err
	}
	if d != desc.Digest || n != size {
		return fmt.Errorf("%d bytes came out as %d bytes of %s: %w", size, n, d, blob.ErrDigest)
	}
	return nil
}

// readerOf ends with its context.
type readerOf struct {
	ctx context.Context //nolint:containedctx // io.Reader takes none
	r   io.Reader
}

func (r readerOf) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.r.Read(p)
}

// Check implements [Backend].
func (s stored) Check(blobDigest digest.Digest) (string, error) {
	if _, err := s.open(context.Background(), blobDigest); err != nil {
		return "", err
	}
	return blobDigest.Encoded(), nil
}

// Size implements [Backend].
func (s stored) Size(blobDigest digest.Digest) (int64, error) {
	b, err := s.open(context.Background(), blobDigest)
	if err != nil {
		return 0, err
	}
	return b.Size(), nil
}

// Type implements [Backend].
func (s stored) Type() string { return s.kind }

func (s stored) open(ctx context.Context, d digest.Digest) (blob.Source, error) {
	err := d.Validate()
	if err == nil && d.Algorithm() != digest.SHA256 {
		err = fmt.Errorf("blobs have names by SHA-256: %w", blob.ErrUnsupported)
	}
	if err != nil {
		return nil, fmt.Errorf("backend %s: blob %q: %w", s.kind, d, err)
	}
	b, err := s.place.Open(ctx, d.Encoded())
	if errors.Is(err, fetch.ErrNotFound) {
		err = fmt.Errorf("%w: %w", errdefs.ErrNotFound, err)
	}
	if err != nil {
		return nil, fmt.Errorf("backend %s: blob %s: %w", s.kind, d, err)
	}
	return b, nil
}

// Check implements [Backend]: it returns the blob's path.
func (b *LocalFSBackend) Check(blobDigest digest.Digest) (string, error) {
	name, err := b.stored.Check(blobDigest)
	if err != nil {
		return "", err
	}
	return filepath.Join(b.dir, name), nil
}
