package backend

import (
	"context"
	"errors"
	"io"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/fetch"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/store"
)

// objects gives what a backend has of an image.
type objects struct {
	backend Backend
	inner   formats.Sources
}

// Open implements [formats.Sources]. What the backend lacks is asked of the image's own place.
func (o *objects) Open(ctx context.Context, desc ocispec.Descriptor) (blob.Source, error) {
	if desc.Digest.Validate() == nil && desc.Digest.Algorithm() == digest.SHA256 {
		s, err := o.backend.Open(ctx, desc.Digest.Encoded())
		if err == nil || !errors.Is(err, fetch.ErrNotFound) {
			return s, err
		}
	}
	return o.inner.Open(ctx, desc)
}

// NewSource returns an image's place of which random access goes to the backend first. What is fetched as a whole, manifests and
// metadata, comes from the place itself. Closing it closes the place.
func NewSource(s store.Source, b Backend) store.Source { return &source{s, objects{b, s}} }

type source struct {
	store.Source
	objects objects
}

// Open implements [formats.Sources].
func (s *source) Open(ctx context.Context, desc ocispec.Descriptor) (blob.Source, error) {
	return s.objects.Open(ctx, desc)
}

// NewTarget returns a target whose objects of one media type go to the backend, and all others to the target itself.
func NewTarget(t store.Target, b Backend, mediaType string) store.Target {
	return &target{Target: t, objects: objects{b, t}, mediaType: mediaType}
}

type target struct {
	store.Target
	objects   objects
	mediaType string
}

// Create implements [formats.Sink].
func (t *target) Create(ctx context.Context, mediaType string) (formats.ObjectWriter, error) {
	if mediaType == t.mediaType {
		return t.objects.backend.Create(ctx)
	}
	return t.Target.Create(ctx, mediaType)
}

// Open implements [formats.Sources].
func (t *target) Open(ctx context.Context, desc ocispec.Descriptor) (blob.Source, error) {
	return t.objects.Open(ctx, desc)
}

// Fetch implements [formats.Sources].
func (t *target) Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	if desc.MediaType != t.mediaType {
		return t.Target.Fetch(ctx, desc)
	}
	s, err := t.objects.backend.Open(ctx, desc.Digest.Encoded())
	if err != nil {
		return nil, err
	}
	return store.Verify(io.NopCloser(&sequential{ctx: ctx, src: s}), desc)
}

// Exists implements [store.Target].
func (t *target) Exists(ctx context.Context, desc ocispec.Descriptor) (bool, error) {
	if desc.MediaType != t.mediaType {
		return t.Target.Exists(ctx, desc)
	}
	s, err := t.objects.backend.Open(ctx, desc.Digest.Encoded())
	if errors.Is(err, fetch.ErrNotFound) {
		return false, nil
	}
	return err == nil && s.Size() == desc.Size, err
}

// Mount implements [store.Target].
func (t *target) Mount(ctx context.Context, desc ocispec.Descriptor, src store.Source) (bool, error) {
	if desc.MediaType == t.mediaType {
		return false, nil
	}
	return t.Target.Mount(ctx, desc, src)
}

// Push implements [store.Target].
func (t *target) Push(ctx context.Context, desc ocispec.Descriptor, content io.Reader) error {
	if desc.MediaType != t.mediaType {
		return t.Target.Push(ctx, desc, content)
	}
	if has, err := t.Exists(ctx, desc); has || err != nil {
		return err
	}
	verified, err := store.Verify(io.NopCloser(content), desc)
	if err != nil {
		return err
	}
	w, err := t.objects.backend.Create(ctx)
	if err != nil {
		return err
	}
	defer w.Abort()
	if _, err := io.Copy(w, verified); err != nil {
		return err
	}
	_, _, err = w.Commit(ctx)
	return err
}

// sequential reads a source from its beginning.
type sequential struct {
	ctx context.Context //nolint:containedctx // of the one stream that it is
	src blob.Source
	off int64
}

// streamStep is how much one request of a stream reads.
const streamStep = 4 << 20

func (s *sequential) Read(p []byte) (int, error) {
	n := min(int64(len(p)), streamStep, s.src.Size()-s.off)
	if n <= 0 {
		return 0, io.EOF
	}
	if err := s.src.ReadRange(s.ctx, p[:n], s.off, blob.Background); err != nil {
		return 0, err
	}
	s.off += n
	return int(n), nil
}
