package nydus

import (
	"fmt"
	"hash/maphash"
	"io"
	"slices"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/formats/nydus/nydusblob"
	"github.com/lazuli-project/lazuli/formats/nydus/rafs6"
	"github.com/lazuli-project/lazuli/tarfs"
	"github.com/lazuli-project/lazuli/tree"
)

// chunkRef is a chunk of one of several blobs.
type chunkRef struct{ blob, index uint32 }

// merge lays the layers over each other and plans the image's bootstrap, and returns the blobs that it names.
//
// A chunk that several layers have is taken from the lowest of them. The layers' blobs stay as they are, so that they can be
// used in other images; but what is read through one of them is not read again through another.
func (w *Writer) merge(layers []formats.Layer) (plannedBootstrap, []*layerData, error) {
	merger := tarfs.NewMerger()
	known := make(map[string]uint32) // blobs by id: a layer may be there twice
	var blobs []*layerData
	for i, l := range layers {
		data, ok := l.Data.(*layerData)
		if !ok {
			return nil, nil, fmt.Errorf("layer %d was not made by this writer: %w", i, blob.ErrUnsupported)
		}
		var numbers []uint32 // by number in the layer
		for _, b := range data.blobs() {
			number, ok := known[b.Info.ID]
			if !ok {
				number = uint32(len(blobs))
				known[b.Info.ID] = number
				blobs = append(blobs, &layerData{info: b.Info, table: b.Table, digests: b.Digests})
			}
			numbers = append(numbers, number)
		}
		lay := merger.Add
		if l.Final {
			lay = merger.Take
		}
		if err := lay(l.Tree, func(k uint32) uint32 { return numbers[k] }); err != nil {
			return nil, nil, err
		}
	}
	merged, err := merger.Tree()
	if err != nil {
		return nil, nil, err
	}
	shareChunks(merged, blobs, int64(w.set.chunkSize))
	used := make([]bool, len(blobs))
	_ = merged.Nodes(func(n *tree.Node) error {
		for _, x := range n.Extents {
			used[x.Blob] = true
		}
		return nil
	})
	spec := &rafs6.Spec{Tree: merged, ChunkSize: uint32(w.set.chunkSize), Compressor: w.set.compressor, Digester: w.set.digester, Compact: true, Prefetch: w.set.prefetch}
	var kept []*layerData
	renumber := make([]uint32, len(blobs))
	for i, b := range blobs {
		if !used[i] {
			continue
		}
		renumber[i] = uint32(len(kept))
		kept = append(kept, b)
		spec.Blobs = append(spec.Blobs, rafs6.Blob{Info: b.info, Table: b.table, Digests: b.digests})
		// What is inflated together is verified together, and such a blob has the digests nowhere else.
		spec.AllChunks = spec.AllChunks || b.info.Features&nydusblob.FeatureSeparate != 0
	}
	if len(kept) < len(blobs) {
		merged.MapBlobs(func(i uint32) uint32 { return renumber[i] })
	}
	boot, err := w.set.plan(spec, kept)
	return boot, kept, err
}

// plannedBootstrap is a bootstrap in which everything has its place.
type plannedBootstrap interface {
	io.WriterTo
	Size() int64
}

// plan plans the bootstrap that s describes. blobs are those of s.
func (s *settings) plan(spec *rafs6.Spec, blobs []*layerData) (plannedBootstrap, error) {
	if s.version5 {
		return plan5(spec, blobs)
	}
	return rafs6.NewPlan(spec)
}

// shareChunks makes files refer to the lowest blob that has a chunk.
func shareChunks(t *tree.Tree, blobs []*layerData, unit int64) {
	if len(blobs) < 2 {
		return
	}
	moved := make([]map[uint32]chunkRef, len(blobs))
	first := knownChunks{seed: maphash.MakeSeed()}
	var places []chunkRef
	for i, b := range blobs {
		for k := range b.table.Len() {
			sum := (*[nydusblob.DigestSize]byte)(b.digests.Sums[k*nydusblob.DigestSize:])
			if *sum == [nydusblob.DigestSize]byte{} {
				continue // no file has it
			}
			n, fresh := first.put(sum)
			if fresh {
				places = append(places, chunkRef{uint32(i), uint32(k)})
				continue
			}
			if moved[i] == nil {
				moved[i] = make(map[uint32]chunkRef)
			}
			moved[i][uint32(k)] = places[n]
		}
	}
	if !slices.ContainsFunc(moved, func(m map[uint32]chunkRef) bool { return m != nil }) {
		return
	}
	_ = t.Nodes(func(n *tree.Node) error {
		if !slices.ContainsFunc(n.Extents, func(x tree.Extent) bool { return moved[x.Blob] != nil }) {
			return nil
		}
		old := n.Extents
		n.Extents = nil
		for _, x := range old {
			table := blobs[x.Blob].table
			k := table.Find(x.Offset)
			for x.Length > 0 {
				part := tree.Extent{Blob: x.Blob, Offset: x.Offset, Length: min(unit, x.Length)}
				x.Offset, x.Length = x.Offset+part.Length, x.Length-part.Length
				if to, ok := moved[x.Blob][uint32(k)]; ok {
					part.Blob, part.Offset = to.blob, blobs[to.blob].table.Entry(int(to.index)).Plain.Off
				}
				n.AppendExtent(part)
				k++
			}
		}
		return nil
	})
}
