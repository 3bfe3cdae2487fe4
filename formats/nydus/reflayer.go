package nydus

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/formats/nydus/nydusblob"
	"github.com/lazuli-project/lazuli/formats/nydus/rafs6"
	"github.com/lazuli-project/lazuli/tarfs"
	"github.com/lazuli-project/lazuli/tree"
)

// refLayerWriter makes the blob that goes beside a layer: where its chunks lie, and what is needed to inflate them. Its chunker
// digests and deduplicates; what that stores is dropped.
type refLayerWriter struct {
	layerWriter
	src   formats.LayerSource
	index *zranIndex    // nil for a layer that is not compressed
	sum   digest.Digest // of the stored chunk table with its header

	file   int64      // bytes that the entry still wants
	chunk  int64      // bytes that the open chunk still wants
	begun  int64      // where it began
	places []refChunk // of all chunks, by number
}

// Entry implements [formats.LayerWriter].
func (l *refLayerWriter) Entry(e *tarfs.Entry, node *tree.Node) error {
	if e.Size > 0 && node != nil {
		if len(e.Data) != 1 || e.Data[0].Blob == tree.Hole {
			return fmt.Errorf("sparse file: %w", formats.ErrAgain) // its chunks do not lie in one piece
		}
		l.file = e.Size
	}
	return l.layerWriter.Entry(e, node)
}

// Data implements [formats.LayerWriter].
func (l *refLayerWriter) Data(p []byte) error {
	at := l.at
	if err := l.layerWriter.Data(p); err != nil || l.drop {
		return err
	}
	for len(p) > 0 {
		if l.chunk == 0 {
			l.chunk, l.begun = min(int64(l.w.set.chunkSize), l.file), at
			if l.index != nil {
				l.index.begin(at)
			}
		}
		n := min(l.chunk, int64(len(p)))
		p = p[n:]
		at, l.file, l.chunk = at+n, l.file-n, l.chunk-n
		if l.chunk > 0 {
			continue
		}
		place := refChunk{stored: blob.Range{Off: l.begun, Len: at - l.begun}}
		if l.index != nil {
			if place = l.index.end(at); l.index.tooLarge() {
				return fmt.Errorf("DEFLATE block of more than %d bytes: %w", nydusblob.MaxContext, formats.ErrAgain)
			}
		}
		l.places = append(l.places, place)
	}
	return nil
}

// Close implements [formats.LayerWriter].
func (l *refLayerWriter) Close(t *tree.Tree) (formats.Layer, error) {
	defer l.chunks.abort() // frees its context
	if err := l.chunks.finish(); err != nil {
		return formats.Layer{}, err
	}
	if err := l.w.set.cpu.Acquire(l.ctx); err != nil {
		return formats.Layer{}, err
	}
	data, err := l.writeIndex(t)
	l.w.set.cpu.Release()
	if err != nil {
		return formats.Layer{}, err
	}
	dgst, size, err := l.obj.Commit(l.ctx)
	if err != nil {
		return formats.Layer{}, err
	}
	desc := ocispec.Descriptor{Digest: dgst, Size: size}
	data.info.Features &^= nydusblob.FeatureInlinedMeta
	if err := data.setMeta(desc); err != nil {
		return formats.Layer{}, err
	}
	c := l.chunks
	l.stats.Stored, l.stats.CPU, l.stats.Referred = size, c.cpu, true
	l.stats.Chunks, l.stats.Deduped, l.stats.DedupedSize = int64(c.count), c.deduped, c.saved
	layer := formats.Layer{Desc: layerDesc(desc), Tree: t, Data: data, TOCDigest: l.out.tocDigest, Stats: l.stats}
	if data.table.Len() > 0 {
		layer.Desc = refDesc(desc, l.src.Desc.Digest, l.sum)
	}
	return layer, nil
}

// refFeatures are those of a layer that is referred to, as in a merged bootstrap.
func refFeatures(zran bool) nydusblob.Features {
	f := nydusblob.FeatureAligned | nydusblob.FeatureChunkInfoV2 | nydusblob.FeatureSeparate | nydusblob.FeatureTarHeader |
		nydusblob.FeatureTOC | nydusblob.FeatureCapTarTOC
	if zran {
		f |= nydusblob.FeatureZran
	}
	return f
}

// table makes the chunk table of the chunks that are not duplicates.
func (l *refLayerWriter) table() *nydusblob.Table {
	c := l.chunks
	t := nydusblob.NewTableV2()
	for number, index := range c.refs {
		if int(index) != t.Len() {
			continue // a duplicate
		}
		place := &l.places[number]
		e := nydusblob.Entry{Plain: c.table.Entry(int(index)).Plain, Stored: place.stored}
		if l.index == nil {
			t.AppendV2(e)
			continue
		}
		e.Compressed, e.InGroup, e.Group, e.GroupOffset = true, true, place.context, place.offset
		t.AppendZran(e)
	}
	if l.index != nil {
		l.index.appendContexts(t)
	}
	return t
}

// writeIndex writes the blob: chunk table, bootstrap, table of contents. Digests of the chunks are in the bootstrap.
func (l *refLayerWriter) writeIndex(t *tree.Tree) (*layerData, error) {
	data := &layerData{table: l.table(), digests: nydusblob.Digests{Sums: l.chunks.known.sums}}
	l.setExtents(data)
	l.places, l.index = nil, nil
	t.CountLinks()
	set := &l.w.set
	spec := &rafs6.Spec{Tree: t, ChunkSize: uint32(set.chunkSize), Compressor: set.compressor, Digester: set.digester,
		AllChunks: true, Compact: true, Prefetch: []string{"/"}}
	if data.table.Len() > 0 {
		if err := l.writeTable(data); err != nil {
			return nil, err
		}
		spec.Blobs = []rafs6.Blob{{Info: data.info, Table: data.table, Digests: data.digests}}
	}
	boot, err := rafs6.NewPlan(spec)
	if err != nil {
		return nil, fmt.Errorf("bootstrap: %w", err)
	}
	if err := l.out.compressed(nydusblob.SectionBootstrap, boot.Size(), boot); err != nil {
		return nil, fmt.Errorf("bootstrap: %w", err)
	}
	_, _, err = l.out.writeTOC()
	return data, err
}

// writeTable writes the chunk table and makes the blob's information.
func (l *refLayerWriter) writeTable(data *layerData) error {
	set := &l.w.set
	info := &data.info
	*info = nydusblob.Info{ID: l.src.Desc.Digest.Encoded(), ChunkSize: uint32(set.chunkSize), ChunkCount: uint32(data.table.Len()),
		Compressor: set.compressor, Digester: set.digester, Features: refFeatures(data.table.Groups() > 0) | nydusblob.FeatureInlinedMeta,
		StoredSize: uint64(l.src.Desc.Size), PlainSize: uint64(data.table.PlainSize()), CISize: uint64(data.table.Size())}
	stored, err := compressTable(data.table)
	if err != nil {
		return fmt.Errorf("chunk table: %w", err)
	}
	info.CICompressor = nydusblob.CompressorZstd
	if int64(len(stored)) >= data.table.Size() {
		stored, info.CICompressor = data.table.Bytes(), nydusblob.CompressorNone
	}
	info.CIStoredSize = uint64(len(stored))
	header := data.table.AppendHeader(nil, info)
	l.sum = digest.FromBytes(slices.Concat(stored, header))
	return l.out.meta(data.table, stored, info.CICompressor, header, header)
}

// compressTable makes the stored form of a chunk table, most of which are windows. These are worth a better search: they are a good part
// of what is added to the layers.
func compressTable(t *nydusblob.Table) ([]byte, error) {
	var out bytes.Buffer
	z, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBetterCompression), zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false),
		zstd.WithWindowSize(metaWindow))
	if err != nil {
		return nil, err
	}
	z.ResetContentSize(&out, t.Size())
	if _, err := t.WriteTo(z); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}
