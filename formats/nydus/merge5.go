package nydus

import (
	"context"
	"fmt"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/formats/nydus/nydusblob"
	"github.com/lazuli-project/lazuli/formats/nydus/rafs5"
	"github.com/lazuli-project/lazuli/formats/nydus/rafs6"
	"github.com/lazuli-project/lazuli/tree"
)

// known5 is what a layer of RAFS v5 that was taken up again has beside the chunks that its files use.
type known5 struct {
	places   []rafs5.Place
	chunks   uint32
	plainEnd uint64
}

// blob5 is the layer's blob for a bootstrap of RAFS v5.
func (d *layerData) blob5() rafs5.Blob {
	return rafs5.Blob{Blob: nydusblob.Blob{Info: d.info, Table: d.table, Digests: d.digests}, Chunks: d.known.chunks, PlainEnd: d.known.plainEnd, Places: d.known.places}
}

// plan5 plans the bootstrap that s describes as one of RAFS v5.
func plan5(s *rafs6.Spec, blobs []*layerData) (*rafs5.Plan, error) {
	out := &rafs5.Spec{Tree: s.Tree, ChunkSize: s.ChunkSize, Compressor: s.Compressor, Digester: s.Digester, NoOwners: s.NoOwners, Prefetch: s.Prefetch}
	for _, b := range blobs {
		out.Blobs = append(out.Blobs, b.blob5())
	}
	return rafs5.NewPlan(out)
}

// forgetUnused clears the digests of chunks of files that later entries of the same layer have replaced. Bootstraps of RAFS v5 have
// chunks in files only, so that a layer that is taken up again knows nothing of them; and both must be merged alike.
func (d *layerData) forgetUnused(t *tree.Tree, chunkSize int64) {
	used := make([]bool, d.table.Len())
	_ = t.Nodes(func(n *tree.Node) error {
		for _, x := range n.Extents {
			for k := d.table.Find(x.Offset); x.Length > 0; k++ {
				used[k] = true
				x.Length -= chunkSize
			}
		}
		return nil
	})
	for k, u := range used {
		if !u {
			clear(d.digests.Sums[k*nydusblob.DigestSize:][:nydusblob.DigestSize])
		}
	}
}

// reopen5 is [Writer.Reopen] for layers of RAFS v5.
func (w *Writer) reopen5(ctx context.Context, desc ocispec.Descriptor, src blob.Source) (formats.Layer, error) {
	boot, err := readLayerBootstrap(ctx, src)
	if err != nil {
		return formats.Layer{}, err
	}
	b, err := rafs5.Parse(boot)
	if err != nil {
		return formats.Layer{}, err
	}
	data := &layerData{table: &nydusblob.Table{}}
	layer := formats.Layer{Desc: layerDesc(desc), Tree: b.Tree, Data: data, Stats: formats.LayerStats{Stored: src.Size()}}
	if len(b.Blobs) > 1 || int(b.ChunkSize) != w.set.chunkSize || b.Digester != w.set.digester || b.Compressor != w.set.compressor ||
		len(b.Blobs) == 1 && b.Blobs[0].Info.Features != w.set.features() {
		return formats.Layer{}, fmt.Errorf("made with other options: %w", blob.ErrUnsupported)
	}
	if len(b.Blobs) == 0 {
		return layer, nil
	}
	x := &b.Blobs[0]
	data.info, data.table, data.digests = x.Info, x.Table, x.Digests
	data.known = known5{x.Places, x.Chunks, x.PlainEnd}
	data.info.ID, data.info.StoredSize = desc.Digest.Encoded(), uint64(src.Size())
	data.info.Features &^= nydusblob.FeatureInlinedMeta
	layer.Stats.Chunks = int64(x.Chunks)
	return layer, nil
}
