package oci

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/flate"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/tarfs"
	"github.com/lazuli-project/lazuli/tree"
)

// Name of the format.
const Name = "oci"

// Reader reads plain images. Its zero value is ready.
type Reader struct{}

var _ formats.Reader = Reader{}

// Name implements [formats.Reader].
func (Reader) Name() string { return Name }

// layerTypes are the media types of layers, without the suffix of their compression.
var layerTypes = []string{
	ocispec.MediaTypeImageLayer,
	"application/vnd.oci.image.layer.nondistributable.v1.tar",
	"application/vnd.docker.image.rootfs.diff.tar",
	"application/vnd.docker.image.rootfs.foreign.diff.tar",
}

// Recognize implements [formats.Reader]. It is true for every image whose layers are all tars by their media types, so other
// formats that use these types have to be asked first.
func (Reader) Recognize(m *formats.Manifest) bool {
	for _, l := range m.Manifest.Layers {
		base := l.MediaType
		for _, suffix := range []string{"+gzip", "+zstd", ".gzip", ".zstd"} {
			base = strings.TrimSuffix(base, suffix)
		}
		if !slices.Contains(layerTypes, base) {
			return false
		}
	}
	return true
}

// Open implements [formats.Reader]. It reads all layers.
func (Reader) Open(ctx context.Context, m *formats.Manifest, s formats.Sources) (*formats.Image, error) {
	layers := m.Manifest.Layers
	if got := len(m.Config.RootFS.DiffIDs); got != len(layers) {
		return nil, fmt.Errorf("manifest with %d layers, config with %d diff IDs: %w", len(layers), got, blob.ErrCorrupt)
	}
	img := &formats.Image{Format: Name}
	var trees []*tree.Tree
	for i, desc := range layers {
		if err := m.Config.RootFS.DiffIDs[i].Validate(); err != nil {
			return nil, fmt.Errorf("layer %d (%s): diff ID %q: %w: %w", i, desc.Digest, m.Config.RootFS.DiffIDs[i], blob.ErrCorrupt, err)
		}
		l := &layer{desc: desc, diffID: m.Config.RootFS.DiffIDs[i], sources: s}
		t, err := l.readTree(ctx)
		if err != nil {
			return nil, fmt.Errorf("layer %d (%s): %w", i, desc.Digest, err)
		}
		trees = append(trees, t)
		img.Blobs = append(img.Blobs, formats.Blob{Desc: desc, Stream: l.stream, PlainSize: l.size})
	}
	var err error
	img.Tree, err = tarfs.MergeBlobs(trees, func(layer int, _ uint32) uint32 { return uint32(layer) })
	return img, err
}

// layer is a stored layer.
type layer struct {
	desc    ocispec.Descriptor
	diffID  digest.Digest
	sources formats.Sources
	size    int64 // of the tar, once it has been read
}

// stream gives the layer's tar. Both digests are compared at its end.
func (l *layer) stream(ctx context.Context) (io.ReadCloser, error) {
	return l.open(ctx)
}

func (l *layer) open(ctx context.Context) (*tarStream, error) {
	stored, err := l.sources.Fetch(ctx, l.desc)
	if err != nil {
		return nil, err
	}
	plain, err := flate.NewReader(stored)
	if err != nil {
		return nil, errors.Join(err, stored.Close())
	}
	return &tarStream{plain: plain, stored: stored, h: l.diffID.Algorithm().Hash(), want: l.diffID}, nil
}

// readTree goes through the layer once.
func (l *layer) readTree(ctx context.Context) (_ *tree.Tree, err error) {
	s, err := l.open(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	r, b := tarfs.NewReader(s), tarfs.NewBuilder()
	for {
		e, err := r.Next()
		if errors.Is(err, io.EOF) {
			l.size = s.n
			return b.Tree(), nil
		}
		if err != nil {
			return nil, err
		}
		n, err := b.Add(e)
		if err != nil {
			return nil, err
		}
		if n != nil && n.IsRegular() && e.Hardlink == "" {
			n.Extents = e.Data
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
}

// tarStream is a layer's tar, in pieces for package tarfs and as a reader for the others. At the end it compares the diff ID.
type tarStream struct {
	plain  *flate.Reader
	stored io.Closer
	h      hash.Hash
	want   digest.Digest
	n      int64
	rest   []byte // of the last piece, for Read
}

// Next implements [tarfs.Pieces].
func (s *tarStream) Next() ([]byte, error) {
	p, err := s.plain.Next()
	s.h.Write(p)
	s.n += int64(len(p))
	if errors.Is(err, io.EOF) {
		if got := digest.NewDigest(s.want.Algorithm(), s.h); got != s.want {
			return nil, fmt.Errorf("uncompressed bytes have digest %s, the config says %s: %w", got, s.want, blob.ErrDigest)
		}
	}
	return p, err
}

func (s *tarStream) Read(p []byte) (int, error) {
	for len(s.rest) == 0 {
		var err error
		if s.rest, err = s.Next(); err != nil {
			return 0, err
		}
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

// Close frees the stream.
func (s *tarStream) Close() error { return errors.Join(s.plain.Close(), s.stored.Close()) }
