package formats

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/tree"
)

// Manifest is an image manifest for one platform with its configuration, both also as stored, so that what
// this version does not know is kept. Docker's media types stand in the same fields.
type Manifest struct {
	Desc      ocispec.Descriptor // of the manifest
	Raw       []byte             // of the manifest, verified
	Manifest  ocispec.Manifest
	Config    ocispec.Image
	ConfigRaw []byte // verified
}

// ParseManifest decodes a manifest and its configuration, whose digests have been verified by the caller.
func ParseManifest(desc ocispec.Descriptor, raw, config []byte) (*Manifest, error) {
	m := &Manifest{Desc: desc, Raw: raw, ConfigRaw: config}
	if err := json.Unmarshal(raw, &m.Manifest); err != nil {
		return nil, fmt.Errorf("manifest %s: %w: %w", desc.Digest, blob.ErrCorrupt, err)
	}
	if err := json.Unmarshal(config, &m.Config); err != nil {
		return nil, fmt.Errorf("config %s: %w: %w", m.Manifest.Config.Digest, blob.ErrCorrupt, err)
	}
	for i, l := range m.Manifest.Layers {
		if err := l.Digest.Validate(); err != nil {
			return nil, fmt.Errorf("manifest %s: layer %d: %w: %w", desc.Digest, i, blob.ErrCorrupt, err)
		}
		if l.Size < 0 {
			return nil, fmt.Errorf("manifest %s: layer %d: size %d: %w", desc.Digest, i, l.Size, blob.ErrCorrupt)
		}
	}
	return m, nil
}

// Sources gives the stored objects of one image. Both methods may be called concurrently.
type Sources interface {
	// Open gives random access to an object. Its bytes are not verified.
	Open(ctx context.Context, desc ocispec.Descriptor) (blob.Source, error)
	// Fetch streams a whole object. Size and digest are verified: a difference is an error before EOF.
	Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error)
}

// Image is what a format's reader gives: the files and the blobs that hold their content.
type Image struct {
	Format string // the format's name
	Tree   *tree.Tree
	Blobs  []Blob // extents of the tree name them by their place here
	// EROFS is the tree as an EROFS image that Linux mounts as it is, where the format's metadata is one; else nil.
	EROFS *EROFS
	// Disk is the virtual disk that the image is; nil where it is none.
	Disk Disk
	// Details are the format's own facts about the image for inspect, marshalled as JSON; may be nil.
	Details any
}

// EROFS is a metadata image. Its device number i+1 is the plain space of the image's blob i.
type EROFS struct {
	io.ReaderAt
	Size int64 // in bytes
}

// NewEROFS returns a metadata image in memory.
func NewEROFS(p []byte) *EROFS { return &EROFS{ReaderAt: bytes.NewReader(p), Size: int64(len(p))} }

// Disk is a virtual disk whose bytes lie in the blobs of an image. It may be used concurrently.
type Disk interface {
	// FileSystem returns Linux's name of the file system on the disk.
	FileSystem() string
	// Size returns the size of the disk in bytes.
	Size() int64
	// Extents calls fn for the pieces of n bytes at off of the disk, which lie inside of it, in order, until fn returns false.
	Extents(off, n int64, fn func(tree.Extent) bool)
}

// Blob is one stored data object of an image.
type Blob struct {
	// Desc names the stored object. Its digest is the key of local caches, unless Key is set.
	Desc ocispec.Descriptor
	// Key is the key of local caches where the plain space depends on the image too: another image that has the same object may
	// lay it out in another way. Else it is empty.
	Key digest.Digest
	// Layout maps the plain space. It is nil where the format has no random access; then Stream is set.
	Layout blob.Layout
	// Open gives the stored object. It is called once, on the first read.
	Open func(ctx context.Context) (blob.Source, error)
	// Stream gives the plain space from its beginning, verified at its end. Set where Layout is nil.
	Stream func(ctx context.Context) (io.ReadCloser, error)
	// PlainSize is the size of the plain space in bytes; -1 where only Stream's end tells.
	PlainSize int64
}

// CacheKey returns the key of local caches.
func (b *Blob) CacheKey() digest.Digest { return cmp.Or(b.Key, b.Desc.Digest) }

// Reader reads images of one format. Implementations hold no state and may be used concurrently.
type Reader interface {
	// Name returns the format's name as in flags, files and metrics.
	Name() string
	// Recognize reports whether the manifest is of this format. It does no I/O.
	Recognize(m *Manifest) bool
	// Open reads the image's metadata; no data is touched. Metadata is validated: structure,
	// limits, and that extents lie inside their blobs. Damage gives blob.ErrCorrupt, a variant that
	// cannot be read blob.ErrUnsupported with its name.
	Open(ctx context.Context, m *Manifest, s Sources) (*Image, error)
}

// ObjectNeeder is the optional ability of a [Reader] whose images need objects that their manifests do not list.
type ObjectNeeder interface {
	// NeededObjects returns their digests. It does no I/O, and does not look at the configuration.
	NeededObjects(m *Manifest) []digest.Digest
}

// DigestOf returns the descriptor of content with the given media type.
func DigestOf(mediaType string, content []byte) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(content), Size: int64(len(content))}
}
