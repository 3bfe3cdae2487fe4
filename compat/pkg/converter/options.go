package converter

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/nydusimage"
)

// Encrypter encrypts a bootstrap layer that is in a content store, and returns the new layer, which it has stored there.
type Encrypter = func(context.Context, content.Store, ocispec.Descriptor) (ocispec.Descriptor, error)

// Layer is a layer's Nydus blob, for [Merge].
type Layer struct {
	// Digest is the SHA-256 of the whole blob.
	Digest digest.Digest
	// OriginalDigest is the digest of the OCI layer that the blob is an index of (PackOption.OCIRef). Either all layers have it
	// or none.
	OriginalDigest *digest.Digest
	// ReaderAt reads the whole blob. It is not closed.
	ReaderAt content.ReaderAt
}

// Backend keeps blobs outside of the image's registry. Package backend has such.
type Backend interface {
	// Push stores a blob of the content store.
	Push(ctx context.Context, cs content.Store, desc ocispec.Descriptor) error
	// Check returns the path of a blob. One that is not there is an error.
	Check(blobDigest digest.Digest) (string, error)
	// Type returns the kind of backend.
	Type() string
}

// File is a further file of a bootstrap layer.
type File struct {
	// Name is its path below "image/".
	Name string
	// Reader gives the content. One that is an [io.ReaderAt], too, is read from its beginning every time, and so serves any
	// number of manifests; others serve one.
	Reader io.Reader
	// Size is the content's size in bytes.
	Size int64
}

// PackOption are the options of [Pack] and [LayerConvertFunc]. The zero value is good.
type PackOption struct {
	// WorkDir is for a temporary file that OCIRef needs; "" is the system's. It is made if it is not there.
	WorkDir string
	// BuilderPath is ignored: there is no builder program.
	BuilderPath string
	// FsVersion is the version of RAFS: "6" (default) or "5".
	FsVersion string
	// ChunkDictPath is the file of a bootstrap whose chunks are referred to instead of being stored again. Only for version 6.
	ChunkDictPath string
	// PrefetchPatterns are paths, one a line, that runtimes read in advance. Default "/".
	PrefetchPatterns string
	// Compressor of chunks: "zstd" (default), "lz4_block" or "none".
	Compressor string
	// OCIRef makes an index of the layer as it is stored (gzip or plain), in place of a copy of its data. The stream is the layer
	// as it is stored then. The options on chunks, compression, prefetching and encryption do not apply.
	OCIRef bool
	// AlignedChunk is ignored: chunks are always aligned.
	AlignedChunk bool
	// ChunkSize in bytes, decimal or hexadecimal with "0x": a power of two from 0x1000 to 0x1000000. Default 0x100000.
	ChunkSize string
	// BatchSize in bytes packs small chunks together: a power of two from 0x1000 to the chunk size. Default "0", off. Only for version 6.
	BatchSize string
	// Backend gets the blobs, too, that LayerConvertFunc makes.
	Backend Backend
	// Timeout ends a conversion that takes longer. Default none.
	Timeout *time.Duration
	// Encrypt encrypts the chunks with a key that is in the bootstrap. Only for version 6 without batches.
	Encrypt bool
}

// MergeOption are the options of [Merge], [MergeLayers] and [ConvertHookFunc]. The zero value is good.
type MergeOption struct {
	// WorkDir is ignored: merging needs no files.
	WorkDir string
	// BuilderPath is ignored: there is no builder program.
	BuilderPath string
	// FsVersion is the version of RAFS that the layers have: "6" or "5". With "6" Merge puts the layers' chunk tables into the tar, too;
	// with "" it does not.
	FsVersion string
	// ChunkDictPath is as in [PackOption], for layers that were made with it.
	ChunkDictPath string
	// ParentBootstrapPath is the file of a bootstrap below all layers. Only for version 6.
	ParentBootstrapPath string
	// PrefetchPatterns is as in [PackOption].
	PrefetchPatterns string
	// WithTar puts the bootstrap into a tar. ConvertHookFunc always does.
	WithTar bool
	// OCI gives the bootstrap layer the OCI's media type and not Docker's. ConvertHookFunc always does so for OCI manifests.
	OCI bool
	// OCIRef is as in [PackOption].
	OCIRef bool
	// WithReferrer makes the manifest refer to the one that it was made of ("subject").
	WithReferrer bool
	// Backend has the blobs; manifests then name the bootstrap layer alone.
	Backend Backend
	// Timeout ends a merge that takes longer. Default none.
	Timeout *time.Duration
	// Encrypt encrypts the bootstrap layer.
	Encrypt Encrypter
	// AppendFiles are further files of the bootstrap layer's tar.
	AppendFiles []File
	// MergeManifest gives the config a media type that makes clients who do not know Nydus pass the manifest over in an index that has
	// the OCI manifest, too.
	MergeManifest bool
}

// UnpackOption are the options of [Unpack] and [LayerReconvertFunc]. The zero value is good.
type UnpackOption struct {
	// WorkDir is ignored: unpacking needs no files.
	WorkDir string
	// BuilderPath is ignored: there is no builder program.
	BuilderPath string
	// Timeout ends what takes longer. Default none.
	Timeout *time.Duration
	// Stream is ignored: blobs are always read where they are.
	Stream bool
	// Compressor of the layers that LayerReconvertFunc makes: "gzip" (default), "zstd" or "uncompressed".
	Compressor string
	// Backend gets the layers, too, that LayerReconvertFunc makes.
	Backend Backend
}

// create returns the options of the engine.
func (o *PackOption) create() (nydusimage.CreateOptions, error) {
	c := nydusimage.CreateOptions{Type: nydusimage.TypeTar, Source: "-", InlineMeta: true, FSVersion: o.FsVersion, Compressor: o.Compressor, ChunkDict: o.ChunkDictPath,
		Whiteout: nydusimage.WhiteoutNone, PrefetchPolicy: nydusimage.PrefetchFS, Prefetch: prefetch(o.PrefetchPatterns), Encrypt: o.Encrypt}
	if c.FSVersion == "" {
		c.FSVersion = "6"
	}
	c.TOC = c.FSVersion == "6"
	if o.OCIRef {
		if !c.TOC {
			return c, fmt.Errorf("oci ref can only be supported by fs version 6")
		}
		return nydusimage.CreateOptions{Type: nydusimage.TypeTargzRef, Source: "-", InlineMeta: true, TOC: true, TempDir: o.WorkDir}, nil
	}
	var err error
	if c.ChunkSize, err = parseSize("chunk size", o.ChunkSize); err != nil {
		return c, err
	}
	if c.BatchSize, err = parseSize("batch size", o.BatchSize); err != nil {
		return c, err
	}
	switch {
	case c.BatchSize != 0 && !c.TOC:
		return c, fmt.Errorf("'--batch-size' can only be supported by fs version 6")
	case c.FSVersion != "5" && c.FSVersion != "6":
		return c, fmt.Errorf("fs version %q: 5 and 6 are possible", c.FSVersion)
	}
	return c, nil
}

// parseSize reads a number of bytes; "" is 0.
func parseSize(what, s string) (int, error) {
	if s == "" {
		return 0, nil
	}
	digits, base := s, 10
	if hex, ok := strings.CutPrefix(strings.ToLower(s), "0x"); ok {
		digits, base = hex, 16
	}
	n, err := strconv.ParseUint(digits, base, 31)
	if err != nil {
		return 0, fmt.Errorf("%s %q: %w", what, s, err)
	}
	return int(n), nil
}

func prefetch(patterns string) []string {
	if patterns == "" {
		patterns = "/"
	}
	return strings.Split(patterns, "\n")
}

// withTimeout returns a context that ends after timeout, if there is one.
func withTimeout(ctx context.Context, timeout *time.Duration) (context.Context, context.CancelFunc) {
	if timeout == nil {
		return context.WithCancel(ctx)
	}
	return context.WithTimeoutCause(ctx, *timeout, fmt.Errorf("longer than %v: %w", *timeout, context.DeadlineExceeded))
}
