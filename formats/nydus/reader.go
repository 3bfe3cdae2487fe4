package nydus

import (
	"bytes"
	"context"
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/formats/nydus/nydusblob"
	"github.com/lazuli-project/lazuli/formats/nydus/rafs6"
)

// Limits of what is read into memory, in bytes.
const (
	maxBootstrap = 1 << 30
	maxDigests   = nydusblob.MaxChunks * nydusblob.DigestSize
)

// Reader reads Nydus images with RAFS v6.
type Reader struct{}

var _ formats.Reader = Reader{}

// Name implements [formats.Reader].
func (Reader) Name() string { return Name }

// Recognize implements [formats.Reader]: a Nydus image's last layer has the bootstrap annotation.
func (Reader) Recognize(m *formats.Manifest) bool {
	n := len(m.Manifest.Layers)
	if n == 0 {
		return false
	}
	_, ok := m.Manifest.Layers[n-1].Annotations[AnnotationBootstrap]
	return ok
}

// Open implements [formats.Reader]. It fetches the bootstrap layer. Where that lacks the chunk table of a blob, the
// table is read from the blob's end; and where it lacks the digests of the chunks, so are they.
func (Reader) Open(ctx context.Context, m *formats.Manifest, s formats.Sources) (*formats.Image, error) {
	if !(Reader{}).Recognize(m) {
		return nil, fmt.Errorf("the last layer is no nydus bootstrap: %w", blob.ErrUnsupported)
	}
	layer := m.Manifest.Layers[len(m.Manifest.Layers)-1]
	r, err := s.Fetch(ctx, layer)
	if err != nil {
		return nil, fmt.Errorf("bootstrap layer %s: %w", layer.Digest, err)
	}
	defer func() { _ = r.Close() }() // read to its verified end
	boot, metas, err := readBootstrapLayer(r)
	if err != nil {
		return nil, fmt.Errorf("bootstrap layer %s: %w", layer.Digest, err)
	}
	img, err := openBootstrap(ctx, boot, metas, func(info *nydusblob.Info) (ocispec.Descriptor, func(context.Context) (blob.Source, error), error) {
		d := ocispec.Descriptor{MediaType: MediaTypeBlob, Digest: digest.NewDigestFromEncoded(digest.SHA256, info.ID), Size: int64(info.StoredSize)}
		if err := d.Digest.Validate(); err != nil {
			return d, nil, fmt.Errorf("name %q: %w: %w", info.ID, blob.ErrCorrupt, err)
		}
		for _, l := range m.Manifest.Layers {
			if l.Digest == d.Digest {
				d = l
			}
		}
		return d, func(ctx context.Context) (blob.Source, error) { return s.Open(ctx, d) }, nil
	})
	if err != nil {
		return nil, fmt.Errorf("bootstrap layer %s: %w", layer.Digest, err)
	}
	return img, nil
}

// OpenBare opens an image that is a bootstrap alone, or a layer's blob with its bootstrap inside. find gives the blobs
// by their ids; it is called for all of them before OpenBare returns. name is the bootstrap's file name: up to its
// first dot it is the id of a blob that holds this bootstrap itself, as such a blob cannot know its own digest.
//
// The digests in the descriptors of the blobs are made from the ids, which in some kinds of images are not the
// digests of the blobs.
func OpenBare(ctx context.Context, src blob.Source, name string, find func(id string) (blob.Source, error)) (*formats.Image, error) {
	boot, inlined, err := bareBootstrap(ctx, src)
	if err != nil {
		return nil, fmt.Errorf("bootstrap %s: %w", name, err)
	}
	img, err := openBootstrap(ctx, boot, nil, func(info *nydusblob.Info) (ocispec.Descriptor, func(context.Context) (blob.Source, error), error) {
		own := info.ID == nydusblob.InlinedID || info.Features&nydusblob.FeatureInlinedMeta != 0
		if own {
			info.ID, _, _ = strings.Cut(name, ".")
		}
		d := ocispec.Descriptor{MediaType: MediaTypeBlob, Digest: digest.NewDigestFromEncoded(digest.SHA256, info.ID)}
		if d.Digest.Validate() != nil {
			d.Digest = digest.FromString(info.ID)
		}
		b := src
		if !own || !inlined {
			if b, err = find(info.ID); err != nil {
				return d, nil, err
			}
		}
		d.Size = b.Size()
		return d, func(context.Context) (blob.Source, error) { return b, nil }, nil
	})
	if err != nil {
		return nil, fmt.Errorf("bootstrap %s: %w", name, err)
	}
	return img, nil
}

// bareBootstrap reads a bootstrap that is the whole source or a section of it.
func bareBootstrap(ctx context.Context, src blob.Source) (boot []byte, inlined bool, err error) {
	var head [1028]byte
	if src.Size() >= int64(len(head)) {
		if err := src.ReadRange(ctx, head[:], 0, blob.Demand); err != nil {
			return nil, false, err
		}
	}
	if !rafs6.IsBootstrap(head[:]) {
		boot, err := readLayerBootstrap(ctx, src)
		return boot, true, err
	}
	boot, err = blob.ReadAll(ctx, src, maxBootstrap, blob.Demand)
	return boot, false, err
}

// readLayerBootstrap reads the bootstrap in a layer's blob.
func readLayerBootstrap(ctx context.Context, src blob.Source) ([]byte, error) {
	d, err := nydusblob.NewDecoder()
	if err != nil {
		return nil, err
	}
	s, err := nydusblob.FindSection(ctx, src, nydusblob.SectionBootstrap)
	if err != nil {
		return nil, err
	}
	if s == nil {
		return nil, fmt.Errorf("neither a bootstrap nor a blob with one: %w", blob.ErrCorrupt)
	}
	return s.Read(ctx, src, d, maxBootstrap)
}

// locator says where a blob is. It may put the right id into info.
type locator func(info *nydusblob.Info) (ocispec.Descriptor, func(context.Context) (blob.Source, error), error)

// openBootstrap makes the image of a bootstrap. metas are chunk tables by blob id, in the form of cache files.
func openBootstrap(ctx context.Context, boot []byte, metas map[string][]byte, locate locator) (*formats.Image, error) {
	b, err := rafs6.Parse(boot)
	if err != nil {
		return nil, err
	}
	decoder, err := nydusblob.NewDecoder()
	if err != nil {
		return nil, err
	}
	img := &formats.Image{Format: Name, Tree: b.Tree}
	for i := range b.Blobs {
		ob, err := openBlob(ctx, b, i, metas, locate, decoder)
		if err != nil {
			return nil, fmt.Errorf("blob %d, %.64q: %w", i, b.Blobs[i].ID, err)
		}
		img.Blobs = append(img.Blobs, ob)
	}
	img.Details = newDetails(b)
	if b.Mountable {
		img.EROFS = &formats.EROFS{ReaderAt: bytes.NewReader(boot), Size: int64(len(boot))}
	}
	return img, nil
}

func openBlob(ctx context.Context, b *rafs6.Bootstrap, number int, metas map[string][]byte, locate locator, decoder *nydusblob.Decoder) (formats.Blob, error) {
	info := &b.Blobs[number]
	desc, open, err := locate(info)
	if err != nil {
		return formats.Blob{}, err
	}
	var src blob.Source // once opened
	opened := func(ctx context.Context) (blob.Source, error) {
		if src != nil {
			return src, nil
		}
		return open(ctx)
	}
	table, err := nydusblob.DecodeTableFile(info, metas[info.ID])
	if err != nil {
		// A missing or damaged copy: the blob has the original.
		if src, err = opened(ctx); err != nil {
			return formats.Blob{}, err
		}
		if table, err = readTable(ctx, src, info, decoder); err != nil {
			return formats.Blob{}, err
		}
	}
	if err := b.Check(number, table); err != nil {
		return formats.Blob{}, err
	}
	digests := b.Digests(number, table.Len())
	// The bootstrap has the digests of the chunks that files use. That is enough, but for batches: these have to be
	// verified as a whole.
	enough := digests.Sums != nil && (info.Features&nydusblob.FeatureBatch == 0 || digests.Complete(table.Len()))
	if !enough && info.Features&nydusblob.FeatureInlinedDigest != 0 {
		if src, err = opened(ctx); err != nil {
			return formats.Blob{}, err
		}
		if digests.Sums, err = readDigests(ctx, src, table.Len(), decoder); err != nil {
			return formats.Blob{}, err
		}
	}
	layout := nydusblob.NewLayout(info, table, digests, decoder)
	return formats.Blob{Desc: desc, Layout: layout, Open: opened, PlainSize: layout.Size()}, nil
}

// readTable reads the chunk table from a blob, in one piece with its header.
func readTable(ctx context.Context, src blob.Source, info *nydusblob.Info, d *nydusblob.Decoder) (*nydusblob.Table, error) {
	n := int64(info.CIStoredSize + nydusblob.HeaderSize)
	if err := blob.CheckRange(int64(info.CIOffset), n, src.Size()); err != nil {
		return nil, fmt.Errorf("chunk table: %w", err)
	}
	p := make([]byte, n)
	if err := src.ReadRange(ctx, p, int64(info.CIOffset), blob.Demand); err != nil {
		return nil, fmt.Errorf("read the chunk table: %w", err)
	}
	return nydusblob.DecodeTable(d, info, p)
}

// readDigests reads the digests of all n chunks from a blob.
func readDigests(ctx context.Context, src blob.Source, n int, d *nydusblob.Decoder) ([]byte, error) {
	s, err := nydusblob.FindSection(ctx, src, nydusblob.SectionDigest)
	if err != nil || s == nil {
		return nil, err
	}
	sums, err := s.Read(ctx, src, d, maxDigests)
	if err != nil {
		return nil, err
	}
	if len(sums) != n*nydusblob.DigestSize {
		return nil, fmt.Errorf("section %q: %d bytes for %d chunks: %w", s.Name, len(sums), n, blob.ErrCorrupt)
	}
	return sums, nil
}

// Details are the facts of an image that only Nydus has. Sizes are in bytes.
type Details struct {
	FSVersion  string        `json:"fs_version"`
	ChunkSize  int64         `json:"chunk_size"`
	Compressor string        `json:"compressor"`
	Digester   string        `json:"digester"`
	Blobs      []BlobDetails `json:"blobs"`
	Prefetch   []string      `json:"prefetch,omitempty"` // paths, each with a slash at its front
}

// BlobDetails are the facts of a blob.
type BlobDetails struct {
	ID         string   `json:"id"`
	Stored     int64    `json:"stored_bytes"`
	Plain      int64    `json:"plain_bytes"`
	Chunks     int64    `json:"chunks"`
	Compressor string   `json:"compressor"`
	Digester   string   `json:"digester"`
	Features   []string `json:"features"`
}

func newDetails(b *rafs6.Bootstrap) *Details {
	d := &Details{FSVersion: fsVersion, ChunkSize: int64(b.ChunkSize), Compressor: b.Compressor().String(), Digester: b.Digester().String(), Blobs: []BlobDetails{}}
	for i := range b.Blobs {
		info := &b.Blobs[i]
		d.Blobs = append(d.Blobs, BlobDetails{ID: info.ID, Stored: int64(info.StoredSize), Plain: int64(info.PlainSize),
			Chunks: int64(info.ChunkCount), Compressor: info.Compressor.String(), Digester: info.Digester.String(), Features: info.Features.Names()})
	}
	for _, p := range b.Prefetch {
		d.Prefetch = append(d.Prefetch, "/"+p)
	}
	return d
}
