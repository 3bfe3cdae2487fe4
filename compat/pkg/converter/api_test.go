package converter_test

import (
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	ctrd "github.com/containerd/containerd/v2/core/images/converter"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/containerd/nydus-snapshotter/pkg/backend"
	"github.com/containerd/nydus-snapshotter/pkg/converter"
)

// Importers are compiled against the original: functions with these types, and options with these fields.
var _ func(context.Context, io.Writer, converter.PackOption) (io.WriteCloser, error) = converter.Pack
var _ func(context.Context, []converter.Layer, io.Writer, converter.MergeOption) ([]digest.Digest, error) = converter.Merge
var _ func(context.Context, content.ReaderAt, io.Writer, converter.UnpackOption) error = converter.Unpack
var _ func(content.ReaderAt, string, io.Writer) (*converter.TOCEntry, error) = converter.UnpackEntry
var _ func(converter.PackOption) ctrd.ConvertFunc = converter.LayerConvertFunc
var _ func(converter.MergeOption) ctrd.ConvertHookFunc = converter.ConvertHookFunc
var _ func(context.Context, content.Store, []ocispec.Descriptor, converter.MergeOption) (*ocispec.Descriptor, []ocispec.Descriptor, error) = converter.MergeLayers
var _ func(converter.UnpackOption) ctrd.ConvertFunc = converter.LayerReconvertFunc
var _ func() ctrd.ConvertHookFunc = converter.ReconvertHookFunc
var _ func(ctrd.ConvertFunc, bool, platforms.MatchComparer) ctrd.ConvertFunc = converter.DefaultIndexConvertFunc
var _ func(string, []byte, bool) (backend.Backend, error) = backend.NewBackend
var _ *uint32 = new(converter.Compressor)
var _ converter.Backend = backend.Backend(nil)
var _ = converter.PackOption{WorkDir: "", BuilderPath: "", FsVersion: "", ChunkDictPath: "", PrefetchPatterns: "", Compressor: "", OCIRef: false, AlignedChunk: false, ChunkSize: "", BatchSize: "", Backend: nil, Timeout: new(time.Duration), Encrypt: false}
var _ = converter.MergeOption{WorkDir: "", BuilderPath: "", FsVersion: "", ChunkDictPath: "", ParentBootstrapPath: "", PrefetchPatterns: "", WithTar: false, OCI: false, OCIRef: false, WithReferrer: false, Backend: nil, Timeout: new(time.Duration), Encrypt: converter.Encrypter(nil), AppendFiles: []converter.File{{Name: "", Reader: nil, Size: 0}}, MergeManifest: false}
var _ = converter.UnpackOption{WorkDir: "", BuilderPath: "", Timeout: new(time.Duration), Stream: false, Compressor: "", Backend: nil}
var _ = converter.Layer{Digest: "", OriginalDigest: new(digest.Digest), ReaderAt: nil}

// A layer becomes its blob while it is written.
func ExamplePack() {
	layer, err := os.Open("layer.tar")
	if err != nil {
		fmt.Println("no layer")
		return
	}
	defer layer.Close()
	blob, err := os.Create("layer.nydus")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer blob.Close()
	w, err := converter.Pack(context.Background(), blob, converter.PackOption{})
	if err != nil {
		fmt.Println(err)
		return
	}
	_, err = io.Copy(w, layer)
	// Whether all of it worked is told by Close, even if the copy failed.
	if closed := w.Close(); closed != nil {
		err = closed
	}
	fmt.Println(err)
	// Output: no layer
}

// All platforms of an image that is in containerd's content store.
func ExampleConvertHookFunc() {
	convert := ctrd.IndexConvertFuncWithHook(converter.LayerConvertFunc(converter.PackOption{}), true, platforms.All,
		ctrd.ConvertHooks{PostConvertHook: converter.ConvertHookFunc(converter.MergeOption{OCI: true, FsVersion: "6"})})
	_ = func(ctx context.Context, store content.Store, image ocispec.Descriptor) (*ocispec.Descriptor, error) {
		return convert(ctx, store, image)
	}
}
