package convertor

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/store"
)

// Nowhere is a target that takes everything, computes digests as others do, and keeps nothing but small objects, in memory: manifests
// and configurations can be read back. It does no I/O. It is made by [NewNowhere] and may be used concurrently.
type Nowhere struct {
	ref store.Ref

	mu    sync.Mutex // guards small
	small map[digest.Digest][]byte
}

var (
	_ store.Target         = (*Nowhere)(nil)
	_ store.ManifestPusher = (*Nowhere)(nil)
)

// NewNowhere returns a target in place of the one that ref names.
func NewNowhere(ref store.Ref) *Nowhere {
	return &Nowhere{ref: ref, small: make(map[digest.Digest][]byte)}
}

// Ref implements [store.Target].
func (n *Nowhere) Ref() store.Ref { return n.ref }

// Exists implements [store.Target]: nothing has to be brought here.
func (n *Nowhere) Exists(context.Context, ocispec.Descriptor) (bool, error) { return true, nil }

// Mount implements [store.Target].
func (n *Nowhere) Mount(context.Context, ocispec.Descriptor, store.Source) (bool, error) {
	return true, nil
}

// Resolve implements [store.Target].
func (n *Nowhere) Resolve(context.Context) (ocispec.Descriptor, error) {
	return ocispec.Descriptor{}, fmt.Errorf("resolve %s, which is not uploaded: %w", n.ref, store.ErrNotFound)
}

// Tag implements [store.Target].
func (n *Nowhere) Tag(context.Context, ocispec.Descriptor, string) error { return nil }

// Commit implements [store.Target].
func (n *Nowhere) Commit(context.Context) error { return nil }

// Close implements [store.Target].
func (n *Nowhere) Close() error { return nil }

// Open implements [formats.Sources].
func (n *Nowhere) Open(_ context.Context, desc ocispec.Descriptor) (blob.Source, error) {
	p, err := n.find(desc)
	if err != nil {
		return nil, err
	}
	return blob.ReaderAtSource{R: bytes.NewReader(p), N: int64(len(p))}, nil
}

// Fetch implements [formats.Sources].
func (n *Nowhere) Fetch(_ context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	p, err := n.find(desc)
	if err != nil {
		return nil, err
	}
	return io.NopCloser(bytes.NewReader(p)), nil
}

func (n *Nowhere) find(desc ocispec.Descriptor) ([]byte, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	p, ok := n.small[desc.Digest]
	if !ok {
		return nil, fmt.Errorf("%s of %s, which is not uploaded: %w", desc.Digest, n.ref, store.ErrNotFound)
	}
	return p, nil
}

// Push implements [store.Target].
func (n *Nowhere) Push(_ context.Context, desc ocispec.Descriptor, content io.Reader) error {
	if err := desc.Digest.Validate(); err != nil {
		return fmt.Errorf("digest %.100q: %w: %w", desc.Digest, blob.ErrCorrupt, err)
	}
	v := desc.Digest.Verifier()
	size, err := io.Copy(v, io.LimitReader(content, desc.Size+1))
	if err == nil && (size != desc.Size || !v.Verified()) {
		err = blob.ErrDigest
	}
	if err != nil {
		return fmt.Errorf("push %s: %w", desc.Digest, err)
	}
	return nil
}

// PushManifest implements [store.ManifestPusher].
func (n *Nowhere) PushManifest(ctx context.Context, desc ocispec.Descriptor, raw []byte) error {
	return n.Put(ctx, desc, raw)
}

// Put implements [formats.Sink].
func (n *Nowhere) Put(ctx context.Context, desc ocispec.Descriptor, content []byte) error {
	if err := n.Push(ctx, desc, bytes.NewReader(content)); err != nil {
		return err
	}
	if isDocument(desc.MediaType) {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.small[desc.Digest] = bytes.Clone(content)
	}
	return nil
}

// isDocument reports whether a media type is that of a manifest, an index or an image's configuration.
func isDocument(mediaType string) bool {
	return store.IsIndex(mediaType) || store.IsImage(mediaType) || isConfig(mediaType)
}

func isConfig(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageConfig || mediaType == formats.MediaTypeDockerConfig
}

// Create implements [formats.Sink].
func (n *Nowhere) Create(context.Context, string) (formats.ObjectWriter, error) {
	return &vanishing{h: sha256.New()}, nil
}

// vanishing is an object of which only the digest is left.
type vanishing struct {
	h    hash.Hash
	size int64
	done bool
}

var (
	_ formats.ObjectWriter  = (*vanishing)(nil)
	_ formats.RunningDigest = (*vanishing)(nil)
)

var errEnded = errors.New("the object was ended")

// Write implements io.Writer.
func (v *vanishing) Write(p []byte) (int, error) {
	if v.done {
		return 0, errEnded
	}
	v.size += int64(len(p))
	return v.h.Write(p)
}

// RunningSHA256 implements [formats.RunningDigest].
func (v *vanishing) RunningSHA256() (sum [32]byte, ok bool) {
	v.h.Sum(sum[:0])
	return sum, true
}

// Commit implements [formats.ObjectWriter].
func (v *vanishing) Commit(context.Context) (digest.Digest, int64, error) {
	if v.done {
		return "", 0, errEnded
	}
	v.done = true
	return digest.NewDigest(digest.SHA256, v.h), v.size, nil
}

// Abort implements [formats.ObjectWriter].
func (v *vanishing) Abort() { v.done = true }
