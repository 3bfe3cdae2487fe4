package nydus

import (
	"crypto/sha256"
	"fmt"

	"github.com/opencontainers/go-digest"

	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/formats/nydus/nydusblob"
	"github.com/lazuli-project/lazuli/formats/nydus/rafs5"
	"github.com/lazuli-project/lazuli/formats/nydus/rafs6"
)

const fsVersion5 = "5"

// openBootstrap5 makes the image of a bootstrap of RAFS v5, which has all that is to know about its blobs.
func openBootstrap5(boot []byte, locate locator) (*formats.Image, error) {
	b, err := rafs5.Parse(boot)
	if err != nil {
		return nil, err
	}
	decoder, err := nydusblob.NewDecoder()
	if err != nil {
		return nil, err
	}
	img := &formats.Image{Format: Name, Tree: b.Tree, Blobs: make([]formats.Blob, len(b.Blobs))}
	for i := range b.Blobs {
		x := &b.Blobs[i]
		l, err := locate(&x.Info)
		if err != nil {
			return nil, fmt.Errorf("blob %d, %.64q: %w", i, x.Info.ID, err)
		}
		layout := nydusblob.NewLayout(&x.Info, x.Table, x.Digests, decoder)
		img.Blobs[i] = formats.Blob{Desc: l.desc, Key: layoutKey(l.desc.Digest, x.Table), Layout: layout, Open: l.open, PlainSize: layout.Size()}
	}
	img.Details = newDetails5(b)
	img.EROFS = erofsOf5(b)
	return img, nil
}

// layoutKey is the key of caches for a blob whose plain space is made of the chunks that one bootstrap uses.
func layoutKey(object digest.Digest, t *nydusblob.Table) digest.Digest {
	h := sha256.New()
	h.Write([]byte(object))
	h.Write(t.Bytes())
	return digest.NewDigest(digest.SHA256, h)
}

// erofsOf5 makes an EROFS image of a v5 tree, so that Linux mounts it like one of v6: every chunk begins at a block of the plain
// space. It returns nil where the tree has what EROFS cannot say; then the image is mounted in another way.
func erofsOf5(b *rafs5.Bootstrap) *formats.EROFS {
	spec := &rafs6.Spec{Tree: b.Tree, ChunkSize: b.ChunkSize, Compressor: b.Compressor, Digester: b.Digester, NoChunks: true}
	for i := range b.Blobs {
		if b.Blobs[i].Table.Len() == 0 {
			return nil // a device of no blocks
		}
		spec.Blobs = append(spec.Blobs, b.Blobs[i].Blob)
	}
	p, err := rafs6.Build(spec)
	if err != nil {
		return nil
	}
	return formats.NewEROFS(p)
}

func newDetails5(b *rafs5.Bootstrap) *Details {
	d := &Details{FSVersion: fsVersion5, ChunkSize: int64(b.ChunkSize), Compressor: b.Compressor.String(), Digester: b.Digester.String(), Blobs: []BlobDetails{}}
	for i := range b.Blobs {
		x := &b.Blobs[i]
		d.Blobs = append(d.Blobs, BlobDetails{ID: x.Info.ID, Stored: int64(x.Info.StoredSize), Plain: int64(x.PlainEnd), Chunks: int64(max(x.Chunks, x.Info.ChunkCount)),
			Compressor: b.Compressor.String(), Digester: b.Digester.String(), Features: x.Info.Features.Names()})
	}
	for _, p := range b.Prefetch {
		d.Prefetch = append(d.Prefetch, "/"+p)
	}
	return d
}
