// Command converter converts the image of an OCI layout in place by containerd's nydus-snapshotter, called as its users
// call it. scripts/compare-clients.sh builds it in a module of its own.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"log"
	"os"
	"path/filepath"
	"sync"

	"github.com/containerd/containerd/v2/core/images/converter"
	"github.com/containerd/containerd/v2/plugins/content/local"
	nydus "github.com/containerd/nydus-snapshotter/pkg/converter"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func main() {
	var pack nydus.PackOption
	merge := nydus.MergeOption{OCI: true}
	var unpack nydus.UnpackOption
	flag.StringVar(&pack.FsVersion, "fs-version", "6", "")
	flag.StringVar(&pack.Compressor, "compressor", "", "")
	flag.StringVar(&pack.ChunkSize, "chunk-size", "", "")
	flag.StringVar(&pack.BatchSize, "batch-size", "", "")
	flag.StringVar(&pack.ChunkDictPath, "chunk-dict", "", "")
	flag.StringVar(&pack.PrefetchPatterns, "prefetch", "", "")
	flag.BoolVar(&pack.OCIRef, "oci-ref", false, "")
	flag.BoolVar(&pack.Encrypt, "encrypt", false, "")
	flag.BoolVar(&unpack.Stream, "stream", false, "")
	reverse := flag.Bool("reverse", false, "")
	flag.Parse()
	merge.FsVersion, merge.ChunkDictPath = pack.FsVersion, pack.ChunkDictPath
	merge.PrefetchPatterns, merge.OCIRef = pack.PrefetchPatterns, pack.OCIRef

	convert := converter.IndexConvertFuncWithHook(nydus.LayerConvertFunc(pack), true, platforms.All,
		converter.ConvertHooks{PostConvertHook: nydus.ConvertHookFunc(merge)})
	if *reverse {
		convert = nydus.DefaultIndexConvertFunc(nydus.LayerReconvertFunc(unpack), true, platforms.All)
	}
	if err := run(context.Background(), flag.Arg(0), convert); err != nil {
		log.Fatal(err)
	}
}

// run converts the first image of a layout. Layouts keep their blobs where containerd's content store does.
func run(ctx context.Context, layout string, convert converter.ConvertFunc) error {
	file := filepath.Join(layout, "index.json")
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var index ocispec.Index
	if err := json.Unmarshal(text, &index); err != nil {
		return err
	}
	store, err := local.NewLabeledStore(layout, &labels{all: map[digest.Digest]map[string]string{}})
	if err != nil {
		return err
	}
	converted, err := convert(ctx, store, index.Manifests[0])
	if err != nil {
		return err
	}
	index.Manifests = []ocispec.Descriptor{*converted}
	if text, err = json.Marshal(index); err != nil {
		return err
	}
	return os.WriteFile(file, text, 0o644)
}

// labels are those of a content store, in memory.
type labels struct {
	mu  sync.Mutex
	all map[digest.Digest]map[string]string
}

func (l *labels) Get(d digest.Digest) (map[string]string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all[d], nil
}

func (l *labels) Set(d digest.Digest, labels map[string]string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all[d] = labels
	return nil
}

func (l *labels) Update(d digest.Digest, update map[string]string) (map[string]string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	merged := map[string]string{}
	for k, v := range l.all[d] {
		merged[k] = v
	}
	for k, v := range update {
		if merged[k] = v; v == "" {
			delete(merged, k)
		}
	}
	l.all[d] = merged
	return merged, nil
}
