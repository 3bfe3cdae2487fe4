package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// BlobFinder is the optional ability of a [Source] to describe a blob by its digest alone. ErrNotFound where it is not there.
type BlobFinder interface {
	FindBlob(ctx context.Context, d digest.Digest) (ocispec.Descriptor, error)
}

// FindBlob describes a blob of a repository of which only the digest is known. ErrNotFound where it is not there.
func FindBlob(ctx context.Context, s Source, d digest.Digest) (ocispec.Descriptor, error) {
	f, ok := s.(BlobFinder)
	if !ok {
		return ocispec.Descriptor{}, fmt.Errorf("blob %s in %s: %w", d, s.Ref(), ErrNotFound)
	}
	return f.FindBlob(ctx, d)
}

// FindBlob implements [BlobFinder].
func (l *layout) FindBlob(_ context.Context, d digest.Digest) (ocispec.Descriptor, error) {
	if err := d.Validate(); err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("blob %.100q: %w: %w", d, ErrReference, err)
	}
	o, err := l.files.open(blobName(d))
	if errors.Is(err, fs.ErrNotExist) {
		err = ErrNotFound
	}
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("blob %s in %s: %w", d, l.ref, err)
	}
	return ocispec.Descriptor{MediaType: "application/octet-stream", Digest: d, Size: o.size}, o.Close()
}

// FindBlob implements [BlobFinder].
func (r *registryStore) FindBlob(ctx context.Context, d digest.Digest) (ocispec.Descriptor, error) {
	if err := d.Validate(); err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("blob %.100q: %w: %w", d, ErrReference, err)
	}
	desc, err := r.repo.Blobs().Resolve(r.scope(ctx), d.String())
	if err != nil {
		return desc, r.fail(ctx, "find blob "+d.String()+" in", err)
	}
	return desc, nil
}

// ManifestFinder is the optional ability of a [Source] to describe a manifest by its digest alone. ErrNotFound where it is not there.
type ManifestFinder interface {
	FindManifest(ctx context.Context, d digest.Digest) (ocispec.Descriptor, error)
}

// FindManifest describes a manifest of which only the digest is known, wherever in the source's repository or layout it is.
// ErrNotFound where it is not there.
func FindManifest(ctx context.Context, s Source, d digest.Digest) (ocispec.Descriptor, error) {
	f, ok := s.(ManifestFinder)
	if !ok {
		return ocispec.Descriptor{}, fmt.Errorf("manifest %s in %s: %w", d, s.Ref(), ErrNotFound)
	}
	return f.FindManifest(ctx, d)
}

// FindManifest implements [ManifestFinder].
func (r *registryStore) FindManifest(ctx context.Context, d digest.Digest) (ocispec.Descriptor, error) {
	if err := d.Validate(); err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("manifest %.100q: %w: %w", d, ErrReference, err)
	}
	desc, err := r.repo.Resolve(r.scope(ctx), d.String())
	if err != nil {
		return desc, r.fail(ctx, "find manifest "+d.String()+" in", err)
	}
	return desc, nil
}

// FindManifest implements [ManifestFinder].
func (l *layout) FindManifest(ctx context.Context, d digest.Digest) (ocispec.Descriptor, error) {
	if err := d.Validate(); err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("manifest %.100q: %w: %w", d, ErrReference, err)
	}
	o, err := l.files.open(blobName(d))
	if err != nil {
		return ocispec.Descriptor{}, fileError("find manifest "+d.String()+" in", l.ref.Path, err)
	}
	desc := ocispec.Descriptor{Digest: d, Size: o.size}
	_ = o.Close() // opened to learn the size
	raw, err := ReadAll(ctx, l, desc, maxManifest)
	if err != nil {
		return desc, fmt.Errorf("find manifest in %s: %w", l.ref, err)
	}
	return Sniff(desc, raw)
}
