package nydus

import (
	"context"
	"fmt"
	"slices"
	"sync"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/flate"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/formats/nydus/nydusblob"
	"github.com/lazuli-project/lazuli/formats/nydus/rafs6"
	"github.com/lazuli-project/lazuli/tarfs"
	"github.com/lazuli-project/lazuli/tree"
)

// layerVersion changes with what is written for a layer.
const layerVersion = 3

// Writer makes Nydus images. It may be used concurrently. See [Options] for what is made.
type Writer struct {
	set  settings
	enc  *nydusblob.Encoder // of chunks
	pool sync.Pool          // of *job
}

var (
	_ formats.Writer      = (*Writer)(nil)
	_ formats.Reopener    = (*Writer)(nil)
	_ formats.IndexMarker = (*Writer)(nil)
	_ formats.Tracer      = (*Writer)(nil)
)

// NewWriter returns a writer.
func NewWriter(o Options) (*Writer, error) {
	set, err := o.validate()
	if err != nil {
		return nil, err
	}
	w := &Writer{set: set}
	if w.enc, err = nydusblob.NewEncoder(set.compressor, set.zstdLevel(), set.cpu.Size(), set.chunkSize); err != nil {
		return nil, err
	}
	return w, nil
}

// Name implements [formats.Writer].
func (*Writer) Name() string { return Name }

// Version implements [formats.Writer]. Prefetch paths and the source's name are in the image, not in its layers.
func (w *Writer) Version() string { return w.set.version() }

// Trace implements [formats.Tracer]: chunks are compressed by the matches that the layer's own compressor found.
func (w *Writer) Trace() flate.Trace {
	if w.set.search || w.set.compressor == nydusblob.CompressorNone {
		return 0
	}
	return flate.TraceMatches
}

// MarkIndexEntry implements [formats.IndexMarker]: the artifact type is for today's runtimes, the platform's feature makes
// those that do not know it pass the entry over.
func (*Writer) MarkIndexEntry(d ocispec.Descriptor) ocispec.Descriptor {
	d.ArtifactType = artifactType
	if d.Platform != nil {
		p := *d.Platform
		p.OSFeatures = append(slices.Clone(p.OSFeatures), osFeature)
		d.Platform = &p
	}
	return d
}

// Layer implements [formats.Writer].
func (w *Writer) Layer(ctx context.Context, src formats.LayerSource, sink formats.Sink) (formats.LayerWriter, error) {
	obj, err := sink.Create(ctx, MediaTypeBlob)
	if err != nil {
		return nil, err
	}
	lw := &layerWriter{w: w, ctx: ctx, obj: obj}
	lw.out = newSectionWriter(obj, w.set.form)
	var cipher *nydusblob.Cipher
	if w.set.encrypt.on {
		lw.key = w.set.encrypt.key()
		if cipher, err = nydusblob.NewCipher(&lw.key); err != nil {
			obj.Abort()
			return nil, err
		}
	}
	lw.chunks = newChunker(ctx, w, lw.out)
	lw.chunks.cipher = cipher
	if !w.set.search {
		lw.chunks.stream = src.Stream
	}
	return lw, nil
}

// layerData is what a layer has for the merge.
type layerData struct {
	info    nydusblob.Info // as in a merged bootstrap; unused without chunks
	table   *nydusblob.Table
	digests nydusblob.Digests
	// dict are the blobs of the dictionary that the layer uses. The numbers of the tree's extents go on with them behind the
	// layer's own blob, which has none if it has no chunks.
	dict []rafs6.Blob
	// known is set for layers of RAFS v5 that were taken up again.
	known known5
}

// blobs lists the blobs of a layer in the order of their numbers.
func (d *layerData) blobs() []rafs6.Blob {
	if d.table.Len() == 0 {
		return d.dict
	}
	return append([]rafs6.Blob{{Info: d.info, Table: d.table, Digests: d.digests}}, d.dict...)
}

// LayerBlobs returns the blobs of a layer that a [Writer] made, as the extents of its tree name them, for a bootstrap of one's
// own. The layer's own blob, if it has chunks, is the first; the others are from the dictionary.
func LayerBlobs(l formats.Layer) []rafs6.Blob {
	d, ok := l.Data.(*layerData)
	if !ok {
		return nil
	}
	return d.blobs()
}

// layerDesc returns the descriptor of a layer's blob as it stands in the manifest.
func layerDesc(d ocispec.Descriptor) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: MediaTypeBlob, Digest: d.Digest, Size: d.Size, Annotations: map[string]string{AnnotationBlob: "true"}}
}

// layerDesc says too whether the layer is encrypted.
func (w *Writer) layerDesc(d ocispec.Descriptor) ocispec.Descriptor {
	d = layerDesc(d)
	if w.set.encrypt.on {
		d.Annotations[AnnotationEncrypted] = "true"
	}
	return d
}

// layerWriter converts one layer.
type layerWriter struct {
	w      *Writer
	ctx    context.Context //nolint:containedctx // of the layer's conversion: LayerWriter's methods take none
	obj    formats.ObjectWriter
	out    *sectionWriter
	chunks *chunker
	key    nydusblob.Key // where the layer is encrypted
	files  []layerFile
	drop   bool  // the content of the current entry has no node
	at     int64 // of what comes next of it in the layer's tar; -1 where it has holes
	stats  formats.LayerStats
}

// layerFile is a file with content.
type layerFile struct {
	node  *tree.Node
	size  int64
	first uint32 // number of its first chunk
}

// Entry implements [formats.LayerWriter].
func (l *layerWriter) Entry(e *tarfs.Entry, node *tree.Node) error {
	if err := l.chunks.begin(0); err != nil {
		return err
	}
	l.stats.Entries++
	l.drop = node == nil
	if e.Size == 0 || l.drop {
		return nil
	}
	l.at = -1
	if len(e.Data) == 1 && e.Data[0].Blob != tree.Hole {
		l.at = e.Data[0].Offset
	}
	l.stats.Plain += e.Size
	l.files = append(l.files, layerFile{node, e.Size, uint32(l.chunks.count)})
	return l.chunks.begin(e.Size)
}

// Data implements [formats.LayerWriter].
func (l *layerWriter) Data(p []byte) error {
	if l.drop {
		return nil
	}
	if err := l.chunks.add(p, l.at); err != nil {
		return err
	}
	if l.at >= 0 {
		l.at += int64(len(p))
	}
	return nil
}

// Abort implements [formats.LayerWriter].
func (l *layerWriter) Abort() {
	l.chunks.abort()
	l.obj.Abort()
}

// Close implements [formats.LayerWriter].
func (l *layerWriter) Close(t *tree.Tree) (formats.Layer, error) {
	defer l.chunks.abort() // frees its context
	if err := l.chunks.finish(); err != nil {
		return formats.Layer{}, err
	}
	// What follows computes as one.
	if err := l.w.set.cpu.Acquire(l.ctx); err != nil {
		return formats.Layer{}, err
	}
	data, err := l.writeSections(t)
	l.w.set.cpu.Release()
	if err != nil {
		return formats.Layer{}, err
	}
	l.stats.CPU = l.chunks.cpu
	l.stats.Chunks, l.stats.Deduped, l.stats.DedupedSize = int64(l.chunks.count), l.chunks.deduped, l.chunks.saved
	layer := formats.Layer{Tree: t, Data: data, TOCDigest: l.out.tocDigest}
	if l.out.offset == 0 {
		layer.Stats = l.stats
		return layer, nil // a layer without content has no blob where the bootstrap is apart
	}
	dgst, size, err := l.obj.Commit(l.ctx)
	if err != nil {
		return formats.Layer{}, err
	}
	data.info.ID, data.info.StoredSize = dgst.Encoded(), uint64(size)
	if b := l.w.set.builder; b != nil && b.ID != "" {
		data.info.ID = b.ID
	}
	data.info.Features &^= nydusblob.FeatureInlinedMeta
	l.stats.Stored = size
	layer.Desc, layer.Stats = l.w.layerDesc(ocispec.Descriptor{Digest: dgst, Size: size}), l.stats
	return layer, nil
}

// setExtents gives the files their places in the blobs.
func (l *layerWriter) setExtents(data *layerData) {
	c := l.chunks
	var own uint32
	if c.table.Len() > 0 {
		own = 1
	}
	numbers := make(map[uint32]uint32) // by number in the dictionary
	unit := int64(l.w.set.chunkSize)
	var slab []tree.Extent // one allocation for many files
	for _, f := range l.files {
		n := int((f.size + unit - 1) / unit)
		if cap(slab)-len(slab) < n {
			slab = make([]tree.Extent, 0, max(n, 1024))
		}
		f.node.Extents = slab[len(slab) : len(slab) : len(slab)+n]
		for _, ref := range c.refs[f.first:][:n] {
			var number uint32
			p := c.table
			if b := ref >> refBlobShift; b > 0 {
				in := &l.w.set.dict.blobs[b-1]
				p = *in.Table
				k, ok := numbers[b]
				if !ok {
					k = own + uint32(len(data.dict))
					numbers[b] = k
					data.dict = append(data.dict, *in)
				}
				number = k
			}
			x := p.Entry(int(ref & refIndexMask)).Plain
			f.node.AppendExtent(tree.Extent{Blob: number, Offset: x.Off, Length: x.Len})
		}
		slab = slab[:len(slab)+len(f.node.Extents)]
	}
	l.files, c.refs = nil, nil
}

// writeSections writes what follows the chunks, and returns what is needed to merge the layer. The info in it is as in
// the layer's own bootstrap.
func (l *layerWriter) writeSections(t *tree.Tree) (*layerData, error) {
	c, set := l.chunks, &l.w.set
	table := c.table // the chunker and what it knows can go
	data := &layerData{table: &table, digests: nydusblob.Digests{Sums: c.known.sums, CRC32C: c.crcs}}
	l.setExtents(data)
	t.CountLinks()
	if set.version5 {
		data.forgetUnused(t, int64(set.chunkSize))
	}
	if c.table.Len() > 0 {
		if err := l.writeData(data); err != nil {
			return nil, err
		}
	}
	if set.form.inlined() {
		if err := l.writeBootstrap(t, data); err != nil {
			return nil, fmt.Errorf("bootstrap: %w", err)
		}
	}
	if !set.form.toc() || l.out.offset == 0 && !set.sealed() {
		return data, nil
	}
	size, sum, err := l.out.writeTOC()
	if !set.form.inlined() {
		data.info.TOCSize, data.info.TOCDigest = size, sum
	}
	return data, err
}

// writeBootstrap writes the bootstrap into the blob.
func (l *layerWriter) writeBootstrap(t *tree.Tree, data *layerData) error {
	set := &l.w.set
	spec := &rafs6.Spec{Tree: t, ChunkSize: uint32(set.chunkSize), Compressor: set.compressor, Digester: set.digester,
		AllChunks: true, Compact: true, Prefetch: []string{"/"}, Blobs: data.blobs()}
	if b := set.builder; b != nil {
		spec.AllChunks, spec.Compact, spec.Prefetch, spec.NoOwners = false, false, b.Prefetch, b.NoOwners
	}
	boot, err := set.plan(spec, []*layerData{data}[:min(1, data.table.Len())])
	if err != nil {
		return err
	}
	if !set.form.toc() {
		return l.out.plain(nydusblob.SectionBootstrap, boot.Size(), boot)
	}
	return l.out.compressed(nydusblob.SectionBootstrap, boot.Size(), boot)
}

// writeData ends the chunks and writes their table and digests.
func (l *layerWriter) writeData(data *layerData) error {
	c, set := l.chunks, &l.w.set
	info := &data.info
	*info = nydusblob.Info{ID: nydusblob.InlinedID, ChunkSize: uint32(set.chunkSize), ChunkCount: uint32(c.table.Len()),
		Compressor: set.compressor, Digester: set.digester, PlainSize: uint64(c.table.PlainSize()), Features: set.features(), Key: l.key}
	if set.builder != nil && set.builder.ID != "" {
		info.ID = set.builder.ID
	}
	if err := l.out.endData(c.table.PlainSize()); err != nil {
		return err
	}
	if set.version5 {
		info.StoredSize = uint64(l.out.offset) // where the bootstrap begins
		return nil
	}
	info.CIOffset = uint64(l.out.offset)
	raw := c.table.Bytes()
	stored := l.w.enc.Append(nil, raw)
	if len(stored) < len(raw) {
		info.CICompressor = set.compressor
	}
	if c.cipher != nil {
		stored = c.cipher.Append(nil, stored)
	}
	info.CISize, info.CIStoredSize = uint64(len(raw)), uint64(len(stored))
	header := c.table.AppendHeader(nil, info)
	storedHeader := header
	if c.cipher != nil {
		storedHeader = c.cipher.Append(nil, header)
	}
	if err := l.out.meta(&c.table, stored, info.CICompressor, header, storedHeader); err != nil {
		return err
	}
	if set.form.toc() {
		if err := l.out.section(nydusblob.SectionDigest, data.digests.Sums); err != nil {
			return err
		}
	}
	info.StoredSize = uint64(l.out.offset) // where the bootstrap begins
	return nil
}

// Reopen implements [formats.Reopener]. It reads what follows the chunks.
func (w *Writer) Reopen(ctx context.Context, desc ocispec.Descriptor, src blob.Source) (formats.Layer, error) {
	fail := func(err error) (formats.Layer, error) {
		return formats.Layer{}, fmt.Errorf("layer %s: %w", desc.Digest, err)
	}
	if w.set.version5 {
		l, err := w.reopen5(ctx, desc, src)
		if err != nil {
			return fail(err)
		}
		return l, nil
	}
	boot, err := readLayerBootstrap(ctx, src)
	if err != nil {
		return fail(err)
	}
	b, err := rafs6.Parse(boot)
	if err != nil {
		return fail(err)
	}
	data := &layerData{table: &nydusblob.Table{}}
	layer := formats.Layer{Desc: w.layerDesc(desc), Tree: b.Tree, Data: data, Stats: formats.LayerStats{Stored: src.Size()}}
	if len(b.Blobs) > 1 || int(b.ChunkSize) != w.set.chunkSize || b.Digester() != w.set.digester || b.Compressor() != w.set.compressor {
		return fail(fmt.Errorf("made with other options: %w", blob.ErrUnsupported))
	}
	if len(b.Blobs) == 0 {
		return layer, nil
	}
	decoder, err := nydusblob.NewDecoder()
	if err != nil {
		return fail(err)
	}
	info := b.Blobs[0]
	if data.table, err = readTable(ctx, src, &info, decoder); err != nil {
		return fail(err)
	}
	if err := b.Check(0, data.table); err != nil {
		return fail(err)
	}
	data.digests = b.Digests(0, data.table.Len())
	if !data.digests.Complete(data.table.Len()) || info.Features != w.set.features() {
		return fail(fmt.Errorf("made with other options: %w", blob.ErrUnsupported))
	}
	info.ID, info.StoredSize = desc.Digest.Encoded(), uint64(src.Size())
	info.Features &^= nydusblob.FeatureInlinedMeta
	data.info = info
	layer.Stats.Chunks = int64(data.table.Len())
	return layer, nil
}
