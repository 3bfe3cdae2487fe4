package nydusimage

import (
	"context"
	"fmt"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/fetch"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/formats/nydus"
	"github.com/lazuli-project/lazuli/formats/nydus/nydusblob"
	"github.com/lazuli-project/lazuli/formats/nydus/rafs6"
	"github.com/lazuli-project/lazuli/tarfs"
	"github.com/lazuli-project/lazuli/tree"
)

// place is where a chunk lies: the number of its blob, and its offset in the blob's plain space.
type place struct {
	blob uint32
	off  int64
}

// repacker puts chunks of an image's blobs into new blobs.
type repacker struct {
	l     *loaded
	im    *fetch.Image
	dir   string // for the new blobs
	blobs []rafs6.Blob
	moved map[place]place
}

// openRepacker opens a bootstrap and its blobs.
func openRepacker(ctx context.Context, bootstrap, out string, finder *blobFinder) (*repacker, error) {
	l, err := load(ctx, bootstrap)
	if err != nil {
		return nil, err
	}
	img, err := finder.open(ctx, bootstrap)
	if err != nil {
		return nil, err
	}
	im, err := fetch.NewImage(img, fetch.Options{})
	if err != nil {
		return nil, err
	}
	return &repacker{l: l, im: im, dir: out, blobs: l.blobs, moved: make(map[place]place)}, nil
}

// pack writes chunks into a new blob, in their order. What they are is read and verified first.
func (r *repacker) pack(ctx context.Context, chunks []chunkOf, features nydusblob.Features) error {
	if len(chunks) == 0 {
		return nil
	}
	w, err := nydus.NewWriter(nydus.Options{ChunkSize: int(r.l.ChunkSize), Digest: r.l.Digester().String(), Compression: r.l.Compressor().String(),
		Builder: &nydus.BuilderOptions{Form: nydus.FormTOC, Features: features}})
	if err != nil {
		return err
	}
	o, err := target{dir: r.dir}.create(ctx)
	if err != nil {
		return err
	}
	defer o.Abort()
	layer, err := w.Layer(ctx, formats.LayerSource{}, sink{o})
	if err != nil {
		return err
	}
	defer layer.Abort()
	t := tree.New()
	files := make([]*tree.Node, len(chunks))
	buf := make([]byte, r.l.ChunkSize)
	for i, c := range chunks {
		files[i] = &tree.Node{Mode: tree.TypeRegular | 0o444, Size: c.Plain.Len}
		t.Root.Put(fmt.Sprintf("%08x", i), files[i])
		p := buf[:c.Plain.Len]
		if err := r.im.Plain(int(c.blob)).ReadAt(ctx, p, c.Plain.Off, blob.Background); err != nil {
			return fmt.Errorf("blob %s: %w", r.l.blobs[c.blob].Info.ID, err)
		}
		if err := layer.Entry(&tarfs.Entry{Mode: files[i].Mode, Size: c.Plain.Len}, files[i]); err != nil {
			return err
		}
		if err := layer.Data(p); err != nil {
			return err
		}
	}
	done, err := layer.Close(t)
	if err != nil {
		return err
	}
	number := uint32(len(r.blobs))
	r.blobs = append(r.blobs, nydus.LayerBlobs(done)...)
	for i, c := range chunks {
		r.moved[place{c.blob, c.Plain.Off}] = place{number, files[i].Extents[0].Offset}
	}
	return nil
}

// apply makes the files of the image refer to the new places.
func (r *repacker) apply() {
	_ = r.l.Tree.Nodes(func(n *tree.Node) error {
		chunks := r.l.chunks(n)
		n.Extents = nil
		for _, c := range chunks {
			at := place{c.blob, c.Plain.Off}
			if to, ok := r.moved[at]; ok {
				at = to
			}
			n.AppendExtent(tree.Extent{Blob: at.blob, Offset: at.off, Length: c.Plain.Len})
		}
		return nil
	})
}

// write writes the image's bootstrap with the new places.
func (r *repacker) write(ctx context.Context, path string, prefetch []string) (*Result, error) {
	r.apply()
	plan, ids, err := newPlan(r.l.Tree, r.blobs, &spec{chunkSize: r.l.ChunkSize, compressor: r.l.Compressor(), digester: r.l.Digester(),
		noOwners: !r.l.explicitOwner(), prefetch: prefetch})
	if err != nil {
		return nil, err
	}
	written, err := writeFile(ctx, target{path: path}, plan)
	if err != nil {
		return nil, err
	}
	return newResult(written, ids, r.l.Compressor()), nil
}
