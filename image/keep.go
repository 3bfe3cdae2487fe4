package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/cache"
	"github.com/lazuli-project/lazuli/store"
)

// ErrOffline means: something is not in the cache, and may not be fetched.
var ErrOffline = errors.New("not in the cache, and offline")

// maxKept is how large an object may be that is kept as a whole, in bytes. Metadata is smaller.
const maxKept = 64 << 20

// keeper is a source in a registry, of which what is read while an image is opened is kept in the cache: what the reference
// means, manifests, configurations, metadata layers, and ranges of blobs. So the next time works with fewer requests, and
// offline with none.
type keeper struct {
	ref   store.Ref
	cache *cache.Dir
	inner store.Source // nil when offline
	// opening: what is fetched is metadata.
	opening atomic.Bool
}

func newKeeper(ref store.Ref, c *cache.Dir, inner store.Source) *keeper {
	k := &keeper{ref: ref, cache: c, inner: inner}
	k.opening.Store(true)
	return k
}

var _ store.Source = (*keeper)(nil)

// Ref implements [store.Source].
func (k *keeper) Ref() store.Ref { return k.ref }

// Close implements [store.Source].
func (k *keeper) Close() error {
	if k.inner == nil {
		return nil
	}
	return k.inner.Close()
}

// Resolve implements [store.Source]. The registry is asked, unless offline: a tag may have moved.
func (k *keeper) Resolve(ctx context.Context) (ocispec.Descriptor, error) {
	name := "ref " + k.ref.String()
	if k.inner == nil {
		var desc ocispec.Descriptor
		p, ok := k.cache.Note(name)
		if !ok || json.Unmarshal(p, &desc) != nil {
			return desc, fmt.Errorf("resolve %s: %w", k.ref, ErrOffline)
		}
		return desc, nil
	}
	desc, err := k.inner.Resolve(ctx)
	if err != nil {
		return desc, err
	}
	if p, err := json.Marshal(desc); err == nil {
		_ = k.cache.PutNote(name, p) // a cache that takes nothing is no reason to stop
	}
	return desc, nil
}

// Referrers implements [store.Source]. Offline there are none.
func (k *keeper) Referrers(ctx context.Context, desc ocispec.Descriptor, artifactType string) ([]ocispec.Descriptor, error) {
	if k.inner == nil {
		return nil, nil
	}
	return k.inner.Referrers(ctx, desc, artifactType)
}

// Fetch implements [formats.Sources].
func (k *keeper) Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	if !k.opening.Load() || desc.Size > maxKept {
		return k.fetch(ctx, desc)
	}
	var failed error
	path, err := k.cache.File(desc.Digest, func(w io.Writer) error {
		rc, err := k.fetch(ctx, desc)
		if err != nil {
			failed = err
			return err
		}
		_, err = io.Copy(w, errorKeeper{rc, &failed})
		return errors.Join(err, rc.Close())
	})
	if failed != nil {
		return nil, failed
	}
	if err == nil {
		f, err := os.Open(path)
		if err == nil {
			return f, nil
		}
	}
	return k.fetch(ctx, desc)
}

// errorKeeper keeps the error of a reader, so that it can be told from one of the writer.
type errorKeeper struct {
	io.Reader
	err *error
}

func (r errorKeeper) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		*r.err = err
	}
	return n, err
}

func (k *keeper) fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	if k.inner == nil {
		return nil, fmt.Errorf("%s of %s: %w", desc.Digest, k.ref, ErrOffline)
	}
	return k.inner.Fetch(ctx, desc)
}

// Open implements [formats.Sources].
func (k *keeper) Open(ctx context.Context, desc ocispec.Descriptor) (blob.Source, error) {
	s := &keptSource{keeper: k, desc: desc}
	if k.inner != nil {
		var err error
		if s.inner, err = k.inner.Open(ctx, desc); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// keptSource is a blob of which ranges that are read as metadata are kept.
type keptSource struct {
	keeper *keeper
	desc   ocispec.Descriptor
	inner  blob.Source // nil when offline
}

// Size implements [blob.Source].
func (s *keptSource) Size() int64 { return s.desc.Size }

// ReadRange implements [blob.Source].
func (s *keptSource) ReadRange(ctx context.Context, p []byte, off int64, class blob.Class) error {
	opening := s.keeper.opening.Load()
	name := fmt.Sprintf("range %s %d %d", s.desc.Digest, off, len(p))
	if opening {
		if kept, ok := s.keeper.cache.Note(name); ok && len(kept) == len(p) {
			copy(p, kept)
			return nil
		}
	}
	if s.inner == nil {
		return fmt.Errorf("%d bytes at %d of %s: %w", len(p), off, s.desc.Digest, ErrOffline)
	}
	if err := s.inner.ReadRange(ctx, p, off, class); err != nil {
		return err
	}
	if opening {
		_ = s.keeper.cache.PutNote(name, p) // as above
	}
	return nil
}
