package contentstore

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/store"
)

// Bounds of what is read, in bytes: manifests into memory, streams at once. Reading over containerd's API costs a call each time.
const (
	maxManifest = 4 << 20
	streamSize  = 1 << 20
)

// Source reads an image of a content store.
type Source struct {
	values
	cs   content.Provider
	ref  store.Ref
	root ocispec.Descriptor
}

var (
	_ store.Source         = (*Source)(nil)
	_ store.BlobFinder     = (*Source)(nil)
	_ store.ManifestFinder = (*Source)(nil)
)

// NewSource returns the image whose manifest or index is root. ref is what messages call it. All calls have the values of ctx beside
// those of their own contexts, and none ends with it. Where cs is a [content.InfoProvider] too, manifests that refer to the image are
// found by its labels.
func NewSource(ctx context.Context, cs content.Provider, ref store.Ref, root ocispec.Descriptor) *Source {
	return &Source{values: values{context.WithoutCancel(ctx)}, cs: cs, ref: ref, root: root}
}

// Ref implements [store.Source].
func (s *Source) Ref() store.Ref { return s.ref }

// Resolve implements [store.Source].
func (s *Source) Resolve(context.Context) (ocispec.Descriptor, error) { return s.root, nil }

// Close implements [store.Source]. The content store stays open.
func (s *Source) Close() error { return nil }

// reader opens an object and compares its size.
func (s *Source) reader(ctx context.Context, desc ocispec.Descriptor) (content.ReaderAt, error) {
	if err := desc.Digest.Validate(); err != nil {
		return nil, fmt.Errorf("digest %.100q: %w: %w", desc.Digest, blob.ErrCorrupt, err)
	}
	ra, err := s.readerAt(ctx, desc)
	if err != nil {
		return nil, err
	}
	if ra.Size() != desc.Size {
		err := fmt.Errorf("%s in %s: %d bytes, expected %d: %w", desc.Digest, s.ref, ra.Size(), desc.Size, blob.ErrCorrupt)
		return nil, errors.Join(err, ra.Close())
	}
	return ra, nil
}

// readerAt opens an object of whatever size.
func (s *Source) readerAt(ctx context.Context, desc ocispec.Descriptor) (content.ReaderAt, error) {
	ra, err := s.cs.ReaderAt(s.in(ctx), desc)
	if errdefs.IsNotFound(err) {
		err = fmt.Errorf("%w: %w", ErrMissing, err)
	}
	if err != nil {
		return nil, Fail(ctx, fmt.Sprintf("%s in %s", desc.Digest, s.ref), err)
	}
	return ra, nil
}

// Fetch implements [store.Source].
func (s *Source) Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	ra, err := s.reader(ctx, desc)
	if err != nil {
		return nil, err
	}
	what := fmt.Sprintf("read %s in %s", desc.Digest, s.ref)
	return store.Verify(&stream{ctx: ctx, what: what, r: bufio.NewReaderSize(content.NewReader(ra), streamSize), Closer: ra}, desc)
}

// stream is a whole object. It ends with its context.
type stream struct {
	ctx  context.Context //nolint:containedctx // a stream lives in the context that it was opened with
	what string
	r    *bufio.Reader
	io.Closer
}

// Read implements [io.Reader].
func (s *stream) Read(p []byte) (int, error) {
	if s.ctx.Err() != nil {
		return 0, Fail(s.ctx, s.what, nil)
	}
	n, err := s.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = Fail(s.ctx, s.what, err)
	}
	return n, err
}

// Open implements [store.Source].
func (s *Source) Open(ctx context.Context, desc ocispec.Descriptor) (blob.Source, error) {
	ra, err := s.reader(ctx, desc)
	if err != nil {
		return nil, err
	}
	return &object{s, desc}, ra.Close()
}

// object gives random access. Each read opens it anew: what a content store opens ends with the context that it was opened with, and
// reads of one object have different ones.
type object struct {
	source *Source
	desc   ocispec.Descriptor
}

var _ blob.Source = (*object)(nil)

// Size implements [blob.Source].
func (o *object) Size() int64 { return o.desc.Size }

// ReadRange implements [blob.Source].
func (o *object) ReadRange(ctx context.Context, p []byte, off int64, class blob.Class) error {
	ra, err := o.source.reader(ctx, o.desc)
	if err != nil {
		return err
	}
	err = blob.ReaderAtSource{R: ra, N: o.desc.Size}.ReadRange(ctx, p, off, class)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		err = Fail(ctx, fmt.Sprintf("%s in %s", o.desc.Digest, o.source.ref), err)
	}
	return errors.Join(err, ra.Close())
}

// FindBlob implements [store.BlobFinder].
func (s *Source) FindBlob(ctx context.Context, d digest.Digest) (ocispec.Descriptor, error) {
	if err := d.Validate(); err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("blob %.100q: %w: %w", d, store.ErrReference, err)
	}
	desc := ocispec.Descriptor{MediaType: "application/octet-stream", Digest: d}
	ra, err := s.readerAt(ctx, desc)
	if err != nil {
		return desc, err
	}
	desc.Size = ra.Size()
	return desc, ra.Close()
}

// FindManifest implements [store.ManifestFinder].
func (s *Source) FindManifest(ctx context.Context, d digest.Digest) (ocispec.Descriptor, error) {
	desc, err := s.FindBlob(ctx, d)
	if err != nil {
		return desc, err
	}
	desc.MediaType = ""
	raw, err := store.ReadAll(ctx, s, desc, maxManifest)
	if err != nil {
		return desc, fmt.Errorf("find manifest in %s: %w", s.ref, err)
	}
	return store.Sniff(desc, raw)
}

// Referrers implements [store.Source]: it finds what a [Target] noted in the labels of desc.
func (s *Source) Referrers(ctx context.Context, desc ocispec.Descriptor, artifactType string) ([]ocispec.Descriptor, error) {
	infos, ok := s.cs.(content.InfoProvider)
	if !ok {
		return nil, nil
	}
	info, err := infos.Info(s.in(ctx), desc.Digest)
	if err != nil {
		if err = Fail(ctx, fmt.Sprintf("referrers of %s in %s", desc.Digest, s.ref), err); errors.Is(err, store.ErrNotFound) {
			return nil, nil
		}
		return nil, err
	}
	var found []ocispec.Descriptor
	for k, v := range info.Labels {
		if !strings.HasPrefix(k, labelReferrer) {
			continue
		}
		r, err := s.referrer(ctx, digest.Digest(v), desc.Digest)
		if errors.Is(err, store.ErrNotFound) {
			continue // deleted since
		}
		if err != nil {
			return nil, fmt.Errorf("referrers of %s: %w", desc.Digest, err)
		}
		if r.Digest != "" && (artifactType == "" || artifactType == r.ArtifactType) {
			found = append(found, r)
		}
	}
	slices.SortFunc(found, func(a, b ocispec.Descriptor) int { return strings.Compare(string(a.Digest), string(b.Digest)) })
	return found, nil
}

// referrer describes a manifest as the referrers API does; it has no digest where the manifest does not refer to subject.
func (s *Source) referrer(ctx context.Context, d, subject digest.Digest) (ocispec.Descriptor, error) {
	desc, err := s.FindManifest(ctx, d)
	if err != nil {
		return desc, err
	}
	raw, err := store.ReadAll(ctx, s, desc, maxManifest)
	if err != nil {
		return desc, err
	}
	g, err := parseGraph(desc, raw)
	if err != nil {
		return desc, err
	}
	if g.Subject == nil || g.Subject.Digest != subject {
		return ocispec.Descriptor{}, nil
	}
	desc.ArtifactType, desc.Annotations = g.ArtifactType, g.Annotations
	if desc.ArtifactType == "" && g.Config != nil {
		desc.ArtifactType = g.Config.MediaType
	}
	return desc, nil
}
