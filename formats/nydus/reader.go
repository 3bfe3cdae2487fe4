package nydus

import (
	"bytes"
	"context"
	"crypto/rsa"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/formats/nydus/nydusblob"
	"github.com/lazuli-project/lazuli/formats/nydus/rafs5"
	"github.com/lazuli-project/lazuli/formats/nydus/rafs6"
)

// Limits of what is read into memory, in bytes.
const (
	maxBootstrap = 1 << 30
	maxDigests   = nydusblob.MaxChunks * nydusblob.DigestSize
)

// Reader reads Nydus images with RAFS v6 and v5.
type Reader struct {
	// BootstrapKey, where it is set, is the key with which bootstraps must be signed.
	BootstrapKey *rsa.PublicKey
	// Unsealer decrypts bootstrap layers whose media type says that they are encrypted; nil refuses such layers.
	Unsealer Unsealer
}

// Unsealer decrypts layers. Its type must be comparable, as readers are compared.
type Unsealer interface {
	// Decrypt returns the plain form of a layer, which gives an error in place of its end where the layer is damaged.
	Decrypt(desc ocispec.Descriptor, r io.Reader) (io.Reader, error)
}

// ErrSealed says that a bootstrap layer is encrypted, and there is no key.
var ErrSealed = errors.New("encrypted bootstrap layer")

// encryptedSuffix ends the media types of encrypted layers.
const encryptedSuffix = "+encrypted"

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
func (rd Reader) Open(ctx context.Context, m *formats.Manifest, s formats.Sources) (*formats.Image, error) {
	if !(Reader{}).Recognize(m) {
		return nil, fmt.Errorf("the last layer is no nydus bootstrap: %w", blob.ErrUnsupported)
	}
	layer := m.Manifest.Layers[len(m.Manifest.Layers)-1]
	r, err := s.Fetch(ctx, layer)
	if err != nil {
		return nil, fmt.Errorf("bootstrap layer %s: %w", layer.Digest, err)
	}
	defer func() { _ = r.Close() }() // read to its verified end
	boot, metas, err := rd.readLayer(layer, r)
	if err != nil {
		return nil, fmt.Errorf("bootstrap layer %s: %w", layer.Digest, err)
	}
	img, err := openBootstrap(ctx, boot, metas, func(info *nydusblob.Info) (located, error) { return inManifest(info, m, s) })
	if err != nil {
		return nil, fmt.Errorf("bootstrap layer %s: %w", layer.Digest, err)
	}
	return img, nil
}

// readLayer reads a bootstrap layer, and opens and verifies it as the reader was told.
func (rd Reader) readLayer(layer ocispec.Descriptor, stored io.Reader) (boot []byte, metas map[string][]byte, err error) {
	plain := stored
	if strings.HasSuffix(layer.MediaType, encryptedSuffix) {
		if rd.Unsealer == nil {
			return nil, nil, ErrSealed
		}
		if plain, err = rd.Unsealer.Decrypt(layer, stored); err != nil {
			return nil, nil, err
		}
	}
	if boot, metas, err = readBootstrapLayer(plain); err != nil {
		return nil, nil, err
	}
	// The stored form ends in the check of its digest.
	if _, err := io.Copy(io.Discard, stored); err != nil {
		return nil, nil, err
	}
	if rd.BootstrapKey != nil {
		err = VerifySignature(rd.BootstrapKey, layer.Annotations, boot)
	}
	return boot, metas, err
}

// inManifest finds a blob that a bootstrap names among the layers of its manifest. Layers of the source image, which
// blobs may refer to, are not among them.
func inManifest(info *nydusblob.Info, m *formats.Manifest, s formats.Sources) (located, error) {
	d := ocispec.Descriptor{MediaType: MediaTypeBlob, Digest: digest.NewDigestFromEncoded(digest.SHA256, info.ID), Size: int64(info.StoredSize)}
	if err := d.Digest.Validate(); err != nil {
		return located{}, fmt.Errorf("name %q: %w: %w", info.ID, blob.ErrCorrupt, err)
	}
	var l located
	if info.Features&nydusblob.FeatureSeparate != 0 {
		d.MediaType = ocispec.MediaTypeImageLayerGzip
		meta, err := metaLayer(info, d.Digest, m)
		if err != nil {
			return located{}, err
		}
		l.meta = func(ctx context.Context) (blob.Source, error) { return fetchWhole(ctx, meta, s) }
		if sum := digest.Digest(meta.Annotations[AnnotationTable]); sum.Validate() == nil {
			l.table = func(ctx context.Context) ([]byte, error) { return fetchTable(ctx, meta, info, sum, s) }
		}
	}
	for _, layer := range m.Manifest.Layers {
		if layer.Digest == d.Digest {
			d = layer
		}
	}
	l.desc, l.open = d, func(ctx context.Context) (blob.Source, error) { return s.Open(ctx, d) }
	return l, nil
}

// metaLayer finds the layer with the chunk table of an original layer, which the bootstrap or the annotation tells.
func metaLayer(info *nydusblob.Info, original digest.Digest, m *formats.Manifest) (ocispec.Descriptor, error) {
	want := digest.NewDigestFromBytes(digest.SHA256, info.MetaDigest[:])
	for _, l := range m.Manifest.Layers {
		if l.Digest == want || info.MetaSize == 0 && l.Annotations[AnnotationRef] == original.String() {
			return l, nil
		}
	}
	return ocispec.Descriptor{}, fmt.Errorf("no layer with the chunk table of %s: %w", original, blob.ErrCorrupt)
}

// fetchTable fetches the chunk table alone, whose digest is known.
func fetchTable(ctx context.Context, meta ocispec.Descriptor, info *nydusblob.Info, sum digest.Digest, s formats.Sources) ([]byte, error) {
	src, err := s.Open(ctx, meta)
	if err != nil {
		return nil, err
	}
	p, err := readStoredTable(ctx, src, info)
	if err != nil {
		return nil, err
	}
	if got := sum.Algorithm().FromBytes(p); got != sum {
		return nil, fmt.Errorf("chunk table in %s has digest %s instead of %s: %w", meta.Digest, got, sum, blob.ErrDigest)
	}
	return p, nil
}

// fetchWhole fetches an object into memory and verifies it.
func fetchWhole(ctx context.Context, d ocispec.Descriptor, s formats.Sources) (_ blob.Source, err error) {
	if d.Size > maxBootstrap {
		return nil, fmt.Errorf("object %s of %d bytes: %w", d.Digest, d.Size, blob.ErrCorrupt)
	}
	r, err := s.Fetch(ctx, d)
	if err != nil {
		return nil, err
	}
	defer func() { _ = r.Close() }() // read to its verified end
	var p bytes.Buffer
	if _, err := p.ReadFrom(r); err != nil {
		return nil, fmt.Errorf("object %s: %w", d.Digest, err)
	}
	return blob.ReaderAtSource{R: bytes.NewReader(p.Bytes()), N: int64(p.Len())}, nil
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
	img, err := openBootstrap(ctx, boot, nil, func(info *nydusblob.Info) (located, error) {
		separate := info.Features&nydusblob.FeatureSeparate != 0
		own := info.ID == nydusblob.InlinedID || info.Features&nydusblob.FeatureInlinedMeta != 0
		if own && !separate {
			info.ID, _, _ = strings.Cut(name, ".")
		}
		d := ocispec.Descriptor{MediaType: MediaTypeBlob, Digest: digest.NewDigestFromEncoded(digest.SHA256, info.ID)}
		if d.Digest.Validate() != nil {
			d.Digest = digest.FromString(info.ID)
		}
		var l located
		b := src
		if !own || !inlined || separate {
			if b, err = find(info.ID); err != nil {
				if b, l.cache = findCache(ctx, info.ID, find); b == nil {
					return l, err
				}
			}
		}
		if separate {
			meta := src
			if !inlined {
				if meta, err = find(hex.EncodeToString(info.MetaDigest[:])); err != nil {
					return l, err
				}
			}
			l.meta = func(context.Context) (blob.Source, error) { return meta, nil }
		}
		d.Size = b.Size()
		l.desc, l.open = d, func(context.Context) (blob.Source, error) { return b, nil }
		return l, nil
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

// located says where a blob is.
type located struct {
	desc ocispec.Descriptor
	open func(context.Context) (blob.Source, error)
	// meta gives the object with the chunk table where that is another one; else nil.
	meta func(context.Context) (blob.Source, error)
	// cache is the chunk table, in the form of a cache file, where desc and open are of a cache with the plain space; else nil.
	cache []byte
	// table gives the stored form of the chunk table, verified; nil where that cannot be had alone.
	table func(context.Context) ([]byte, error)
}

// locator finds a blob. It may put the right id into info.
type locator func(info *nydusblob.Info) (located, error)

// openBootstrap makes the image of a bootstrap. metas are chunk tables by blob id, in the form of cache files. Those
// that are missing are fetched for all blobs at once.
func openBootstrap(ctx context.Context, boot []byte, metas map[string][]byte, locate locator) (*formats.Image, error) {
	if rafs5.IsBootstrap(boot) {
		return openBootstrap5(boot, locate)
	}
	b, err := rafs6.Parse(boot)
	if err != nil {
		return nil, err
	}
	decoder, err := nydusblob.NewDecoder()
	if err != nil {
		return nil, err
	}
	img := &formats.Image{Format: Name, Tree: b.Tree, Blobs: make([]formats.Blob, len(b.Blobs))}
	errs := make([]error, len(b.Blobs))
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var all sync.WaitGroup
	for i := range b.Blobs {
		if b.Blobs[i].Features&nydusblob.FeatureSeparate != 0 {
			img.Format = NameRef
		}
		l, err := locate(&b.Blobs[i])
		if err != nil {
			cancel(err)
			errs[i] = fmt.Errorf("blob %d, %.64q: %w", i, b.Blobs[i].ID, err)
			break
		}
		all.Go(func() {
			if img.Blobs[i], err = openBlob(ctx, b, i, metas, l, decoder); err != nil {
				errs[i] = fmt.Errorf("blob %d, %.64q: %w", i, b.Blobs[i].ID, err)
				cancel(errs[i])
			}
		})
	}
	all.Wait()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	img.Details = newDetails(b)
	if b.Mountable {
		img.EROFS = formats.NewEROFS(boot)
	}
	return img, nil
}

func openBlob(ctx context.Context, b *rafs6.Bootstrap, number int, metas map[string][]byte, l located, decoder *nydusblob.Decoder) (formats.Blob, error) {
	info := &b.Blobs[number]
	if info.Features&nydusblob.FeatureTarfs != 0 {
		layout := nydusblob.NewTarLayout(int64(info.PlainSize))
		return formats.Blob{Desc: l.desc, Layout: layout, Open: l.open, PlainSize: layout.Size()}, nil
	}
	if l.cache != nil {
		return openCache(b, number, l, decoder)
	}
	opener := l.open
	if l.meta != nil {
		opener = l.meta
	}
	var src blob.Source // with the chunk table, once opened
	opened := func() (_ blob.Source, err error) {
		if src == nil {
			src, err = opener(ctx)
		}
		return src, err
	}
	file := metas[info.ID]
	if f, ok := metas[hex.EncodeToString(info.MetaDigest[:])]; ok && l.meta != nil {
		file = f
	}
	table, err := nydusblob.DecodeTableFile(info, file)
	if err != nil && l.table != nil {
		var stored []byte
		if stored, err = l.table(ctx); err == nil {
			table, err = nydusblob.DecodeTable(decoder, info, stored)
		}
	}
	if err != nil {
		// A missing or damaged copy: the blob has the original.
		s, err := opened()
		if err != nil {
			return formats.Blob{}, err
		}
		if table, err = readTable(ctx, s, info, decoder); err != nil {
			return formats.Blob{}, err
		}
	}
	if err := b.Check(number, table); err != nil {
		return formats.Blob{}, err
	}
	digests := b.Digests(number, table.Len())
	// The bootstrap has the digests of the chunks that files use. That is enough, but for groups: these have to be
	// verified as a whole.
	enough := digests.Sums != nil && (table.Groups() == 0 || digests.Complete(table.Len()))
	if !enough && info.Features&nydusblob.FeatureInlinedDigest != 0 {
		s, err := opened()
		if err != nil {
			return formats.Blob{}, err
		}
		if digests.Sums, err = readDigests(ctx, s, table.Len(), decoder); err != nil {
			return formats.Blob{}, err
		}
	}
	layout := nydusblob.NewLayout(info, table, digests, decoder)
	open := l.open
	if src != nil && l.meta == nil {
		open = func(context.Context) (blob.Source, error) { return src, nil }
	}
	made := formats.Blob{Desc: l.desc, Layout: layout, Open: open, PlainSize: layout.Size()}
	if info.Features&nydusblob.FeatureSeparate != 0 {
		made.Key = layoutKey(l.desc.Digest, table) // other images may index the same layer in another way
	}
	return made, nil
}

// readTable reads the chunk table from a blob.
func readTable(ctx context.Context, src blob.Source, info *nydusblob.Info, d *nydusblob.Decoder) (*nydusblob.Table, error) {
	p, err := readStoredTable(ctx, src, info)
	if err != nil {
		return nil, err
	}
	return nydusblob.DecodeTable(d, info, p)
}

// readStoredTable reads the stored form of the chunk table in one piece with its header.
func readStoredTable(ctx context.Context, src blob.Source, info *nydusblob.Info) ([]byte, error) {
	n := int64(info.CIStoredSize + nydusblob.HeaderSize)
	if err := blob.CheckRange(int64(info.CIOffset), n, src.Size()); err != nil {
		return nil, fmt.Errorf("chunk table: %w", err)
	}
	p := make([]byte, n)
	if err := src.ReadRange(ctx, p, int64(info.CIOffset), blob.Demand); err != nil {
		return nil, fmt.Errorf("read the chunk table: %w", err)
	}
	return p, nil
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

// NeededObjects implements [formats.ObjectNeeder]: the layers that an image of nydus-ref refers to.
func (Reader) NeededObjects(m *formats.Manifest) []digest.Digest {
	var needed []digest.Digest
	for _, l := range m.Manifest.Layers {
		if d := l.Annotations[AnnotationRef]; d != "" {
			needed = append(needed, digest.Digest(d))
		}
	}
	return needed
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
