package nydusimage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/flate"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/formats/nydus"
	"github.com/lazuli-project/lazuli/formats/nydus/nydusblob"
	"github.com/lazuli-project/lazuli/formats/nydus/rafs6"
	"github.com/lazuli-project/lazuli/tarfs"
	"github.com/lazuli-project/lazuli/tree"
)

// Conversion types of [CreateOptions].
const (
	TypeDir       = "dir-rafs"
	TypeTar       = "tar-rafs"
	TypeTargz     = "targz-rafs"
	TypeEStargz   = "estargz-rafs"
	TypeTargzRef  = "targz-ref"
	TypeStargzRef = "estargz-ref"
	TypeTOCRef    = "estargztoc-ref"
	TypeTarfs     = "tar-tarfs"
)

// Whiteout specifications of [CreateOptions].
const (
	WhiteoutOCI       = "oci"
	WhiteoutOverlayFS = "overlayfs"
	WhiteoutNone      = "none"
)

// Prefetch policies.
const (
	PrefetchNone = "none"
	PrefetchFS   = "fs"
	PrefetchBlob = "blob"
)

// maxBlobID is the longest name of a blob that a bootstrap has room for, in bytes.
const maxBlobID = 64

// CreateOptions are the flags of "nydus-image create". Strings have the values of the command line.
type CreateOptions struct {
	Type   string // default TypeDir
	Source string // "-" is Stdin
	Stdin  io.Reader

	Bootstrap    string // file; default: in BlobDir under its digest
	BlobDir      string
	Blob         string    // file or pipe
	Writer       io.Writer // gets the blob in place of Blob and BlobDir
	TempDir      string    // for a layer that TypeTargzRef cannot stream to Writer; default: the system's
	BlobCacheDir string    // for ready-made cache files instead of a blob
	InlineMeta   bool      // the blob has the bootstrap
	TOC          bool      // the blob has a table of contents

	BlobOffset     int    // of the data in the blob's file
	BlobID         string // default: the blob's SHA-256
	ChunkSize      int    // bytes; default 1 MiB
	BatchSize      int    // bytes; default 0, off
	Compressor     string // none, lz4_block, zstd (default)
	Digester       string // blake3 (default), sha256
	FSVersion      string // 6 (default), 5
	ChunkDict      string // bootstrap, or "bootstrap=" and its path
	Parent         string // bootstrap
	Repeatable     bool   // without owners and groups
	Whiteout       string // default WhiteoutOCI
	PrefetchPolicy string // default PrefetchNone
	Prefetch       []string
	Encrypt        bool
	Attributes     string
	ExternalBlob   string

	// CPU bounds the cores that are used. Default all.
	CPU *formats.CPU
}

// creation is a run of Create.
type creation struct {
	*CreateOptions
	base   *loaded // parent
	writer *nydus.Writer
	codec  nydusblob.Compressor
	digest nydusblob.Digester
}

// Create builds a RAFS file system from a directory or a tar.
func Create(ctx context.Context, o CreateOptions) (*Result, error) {
	c := &creation{CreateOptions: &o}
	if err := o.check(); err != nil {
		return nil, err
	}
	if o.Type == TypeTarfs {
		return c.createTarfs(ctx)
	}
	if err := c.prepare(ctx); err != nil {
		return nil, err
	}
	out, err := c.blobTarget().create(ctx)
	if err != nil {
		return nil, err
	}
	defer out.Abort()
	layer, err := c.layer(ctx, out)
	if err != nil {
		return nil, err
	}
	blobs := nydus.LayerBlobs(layer)
	res := newResult("", nil, c.codec)
	res.FSVersion = o.FSVersion
	res.BlobSize = layer.Desc.Size
	res.Trace.RegisteredEvents["blob_uncompressed_size"] = layer.Stats.Plain - layer.Stats.DedupedSize
	res.Trace.RegisteredEvents["dedup_chunks"] = layer.Stats.Deduped
	res.Trace.RegisteredEvents["dedup_uncompressed_size"] = layer.Stats.DedupedSize
	if o.BlobCacheDir != "" && len(blobs) > 0 && layer.Desc.Digest != "" {
		if err := writeCache(ctx, o.BlobCacheDir, out.final, &blobs[0]); err != nil {
			return nil, err
		}
	}
	if o.InlineMeta {
		for _, b := range blobs {
			res.Blobs = append(res.Blobs, b.Info.ID)
		}
		return res, nil
	}
	res.Bootstrap, res.Blobs, err = c.bootstrap(ctx, layer, blobs)
	return res, err
}

// check refuses what does not go together, and puts in defaults.
func (o *CreateOptions) check() error {
	for _, d := range []struct{ value, def *string }{
		{&o.Type, ptr(TypeDir)}, {&o.Compressor, ptr("zstd")}, {&o.Digester, ptr("blake3")}, {&o.FSVersion, ptr("6")},
		{&o.Whiteout, ptr(WhiteoutOCI)}, {&o.PrefetchPolicy, ptr(PrefetchNone)},
	} {
		if *d.value == "" {
			*d.value = *d.def
		}
	}
	switch o.Type {
	case "directory":
		o.Type = TypeDir
	case "stargz_index":
		o.Type = TypeTOCRef
	case TypeDir, TypeTar, TypeTargz, TypeEStargz, TypeTargzRef, TypeStargzRef, TypeTOCRef, TypeTarfs:
	default:
		return fmt.Errorf("conversion type %q is not known", o.Type)
	}
	if err := o.unsupported(); err != nil {
		return err
	}
	switch {
	case !slices.Contains([]string{WhiteoutOCI, WhiteoutOverlayFS, WhiteoutNone}, o.Whiteout):
		return fmt.Errorf("whiteout specification %q is not known", o.Whiteout)
	case !slices.Contains([]string{PrefetchNone, PrefetchFS, PrefetchBlob}, o.PrefetchPolicy):
		return fmt.Errorf("prefetch policy %q is not known", o.PrefetchPolicy)
	case o.Writer == nil && o.BlobCacheDir == "" && o.Blob == "" && o.BlobDir == "":
		return errors.New("both --blob and --blob-dir are missing, please specify one to store the generated data blob file")
	case o.isRef() && (o.BlobID != "" || o.PrefetchPolicy == PrefetchBlob || o.BatchSize > 0 || o.Encrypt || o.FSVersion == "5"):
		return fmt.Errorf("conversion type %s conflicts with --blob-id, --prefetch-policy blob, --batch-size, --encrypt and --fs-version 5", o.Type)
	case o.BlobCacheDir != "" && (o.Type == TypeEStargz || o.InlineMeta || o.TOC || o.BatchSize > 0):
		return fmt.Errorf("--blob-cache-dir conflicts with type %s, --blob-inline-meta, --features blob-toc and --batch-size", TypeEStargz)
	case len(o.BlobID) > maxBlobID:
		return fmt.Errorf("blob id is limited to length %d", maxBlobID)
	case !o.InlineMeta && o.Bootstrap == "" && o.BlobDir == "":
		return errors.New("both --bootstrap and --blob-dir are missing, please specify one to store the generated metadata blob file")
	}
	for dir, what := range map[string]string{o.BlobDir: "blobs", o.BlobCacheDir: "cache files"} {
		if dir != "" {
			if err := needDir(dir, what); err != nil {
				return err
			}
		}
	}
	return nil
}

func ptr(s string) *string { return &s }

// unsupported names what this version does not build.
func (o *CreateOptions) unsupported() error {
	for _, u := range []struct {
		asked bool
		what  string
	}{
		{o.FSVersion == "5" && !o.InlineMeta, "--fs-version 5 without --blob-inline-meta"},
		{o.Type == TypeTOCRef, "--type " + o.Type},
		{o.isRef() && (!o.InlineMeta || !o.TOC), "--type " + o.Type + " without --blob-inline-meta and --features blob-toc"},
		{o.Encrypt && !o.InlineMeta, "--encrypt without --blob-inline-meta"},
		{o.BlobOffset != 0, "--blob-offset"},
		{o.Attributes != "", "--attributes"},
		{o.ExternalBlob != "", "--external-blob"},
		{o.Parent != "" && o.InlineMeta, "--parent-bootstrap with --blob-inline-meta"},
	} {
		if u.asked {
			return fmt.Errorf("%s: %w", u.what, blob.ErrUnsupported)
		}
	}
	if o.FSVersion != "5" && o.FSVersion != "6" {
		return fmt.Errorf("invalid fs-version: %s", o.FSVersion)
	}
	return nil
}

// prepare loads what the layer builds on and makes the writer.
func (c *creation) prepare(ctx context.Context) error {
	opt := nydus.Options{ChunkSize: c.ChunkSize, BatchSize: c.BatchSize, Digest: c.Digester, CPU: c.CPU,
		Compression: c.Compressor, Encrypt: c.Encrypt, Builder: &nydus.BuilderOptions{ID: c.BlobID, NoOwners: c.Repeatable}}
	if opt.Compression == "lz4_block" {
		opt.Compression = "lz4"
	}
	if c.FSVersion == "5" {
		opt.FSVersion = 5
	}
	if c.BlobCacheDir != "" {
		opt.Compression = "none"
	}
	if opt.ChunkSize == 0 {
		opt.ChunkSize = 1 << 20
	}
	c.ChunkSize = opt.ChunkSize
	c.codec, c.digest = map[string]nydusblob.Compressor{"zstd": nydusblob.CompressorZstd, "lz4": nydusblob.CompressorLZ4}[opt.Compression],
		map[string]nydusblob.Digester{"sha256": nydusblob.DigesterSHA256}[opt.Digest]
	switch {
	case c.InlineMeta && c.TOC:
		opt.Builder.Form = nydus.FormLayer
	case c.InlineMeta:
		opt.Builder.Form = nydus.FormInlined
	case c.TOC:
		opt.Builder.Form = nydus.FormTOC
	default:
		opt.Builder.Form = nydus.FormData
	}
	c.Prefetch = prefetchPaths(c.Prefetch)
	if c.PrefetchPolicy == PrefetchNone {
		c.Prefetch = nil
	}
	if c.PrefetchPolicy == PrefetchFS {
		opt.Builder.Prefetch = c.Prefetch
	}
	if c.isRef() {
		c.codec, c.digest = nydusblob.CompressorGzip, nydusblob.DigesterSHA256
		return nil
	}
	own := config{uint32(opt.ChunkSize), !c.Repeatable}
	var known []rafs6.Blob
	for _, path := range []string{dictPath(c.ChunkDict), c.Parent} {
		if path == "" {
			continue
		}
		l, err := load(ctx, path)
		if err != nil {
			return err
		}
		if err := own.check(l.config(), path); err != nil {
			return err
		}
		known = append(known, l.blobs...)
		if path == c.Parent {
			c.base = l
		}
	}
	var err error
	if known != nil {
		if opt.Dictionary, err = nydus.NewDictionary(known); err != nil {
			return err
		}
	}
	c.writer, err = nydus.NewWriter(opt)
	return err
}

// blobTarget says where the blob goes. That of a cache directory is removed when the cache is made.
func (c *creation) blobTarget() target {
	switch {
	case c.Writer != nil:
		return target{writer: c.Writer}
	case c.BlobCacheDir != "":
		return target{dir: c.BlobCacheDir, temp: true}
	case c.Blob != "":
		return target{path: c.Blob}
	}
	return target{dir: c.BlobDir, name: c.BlobID}
}

// layer writes the blob.
func (c *creation) layer(ctx context.Context, out *object) (formats.Layer, error) {
	if c.isRef() {
		return c.refLayer(ctx, out)
	}
	w, err := c.writer.Layer(ctx, formats.LayerSource{}, sink{out})
	if err != nil {
		return formats.Layer{}, err
	}
	defer w.Abort()
	var t *tree.Tree
	if c.Type == TypeDir {
		if t, err = readDirectory(c.Source); err != nil {
			return formats.Layer{}, err
		}
		if c.base == nil {
			dropWhiteouts(t.Root, c.Whiteout)
			t.CountLinks()
		}
		err = feedDirectory(ctx, c.Source, dirFiles(t, c.Prefetch), w)
	} else {
		t, err = c.tar(ctx, w)
	}
	if err != nil {
		return formats.Layer{}, err
	}
	return w.Close(t)
}

func (c *creation) tar(ctx context.Context, w formats.LayerWriter) (*tree.Tree, error) {
	src, err := openSource(ctx, c.Source, c.Stdin)
	if err != nil {
		return nil, err
	}
	defer func() { _ = src.Close() }() // was read only
	plain, err := flate.NewReader(src)
	if err != nil {
		return nil, fmt.Errorf("source: %w", err)
	}
	defer func() { _ = plain.Close() }() // frees memory only
	return feedTar(ctx, plain, w)
}

// bootstrap writes the bootstrap that is apart, and returns its path and the ids of its blobs.
func (c *creation) bootstrap(ctx context.Context, layer formats.Layer, blobs []rafs6.Blob) (string, []string, error) {
	t := layer.Tree
	var table blobTable
	if c.base != nil {
		merger := tarfs.NewMerger()
		parent, err := table.addAll(c.base.blobs)
		if err == nil {
			err = merger.Take(c.base.Tree, parent)
		}
		if err != nil {
			return "", nil, err
		}
		// The own blob comes last.
		slices.Reverse(blobs)
		own, err := table.addAll(blobs)
		if err != nil {
			return "", nil, err
		}
		last := uint32(len(blobs)) - 1
		ociWhiteouts(t.Root, c.Whiteout)
		if err := merger.Take(t, func(n uint32) uint32 { return own(last - n) }); err != nil {
			return "", nil, err
		}
		if t, err = merger.Tree(); err != nil {
			return "", nil, err
		}
		revealNames(t.Root)
		blobs = table.blobs
	}
	s := &spec{chunkSize: uint32(c.ChunkSize), compressor: c.codec, digester: c.digest, noOwners: c.Repeatable}
	if c.PrefetchPolicy == PrefetchFS {
		s.prefetch = c.Prefetch
	}
	plan, ids, err := newPlan(t, blobs, s)
	if err != nil {
		return "", nil, err
	}
	path, err := writeFile(ctx, target{path: c.Bootstrap, dir: c.BlobDir}, plan)
	return path, ids, err
}
