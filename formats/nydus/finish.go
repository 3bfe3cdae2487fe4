package nydus

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/formats/nydus/nydusblob"
)

// gzipLevel of the bootstrap layer, which every start of a container waits for.
const gzipLevel = 6

// Finish implements [formats.Writer]. The manifest names every layer's blob, in the order of the layers, also those
// that the merged tree has nothing of, so that the image's history stays right; the bootstrap names only blobs with data
// that are used.
func (w *Writer) Finish(ctx context.Context, layers []formats.Layer, src *formats.Manifest, sink formats.Sink) (*formats.Result, error) {
	if err := w.set.cpu.Acquire(ctx); err != nil {
		return nil, err
	}
	// Layers are not touched behind the merge, so that their trees can go.
	descs := make([]ocispec.Descriptor, len(layers))
	for i, l := range layers {
		descs[i] = l.Desc
	}
	begin := time.Now()
	boot, blobs, err := w.merge(layers)
	merged := time.Now()
	var packed []byte
	var diffID digest.Digest
	if err == nil {
		packed, diffID, err = packBootstrap(boot, blobs)
	}
	cpu := map[string]float64{"merge": merged.Sub(begin).Seconds(), "pack": time.Since(merged).Seconds()}
	w.set.cpu.Release()
	if err != nil {
		return nil, fmt.Errorf("merge: %w", err)
	}
	docker := src.IsDocker()
	layerType := ocispec.MediaTypeImageLayerGzip
	manifest := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Annotations: map[string]string{}}
	if docker {
		layerType, manifest.MediaType = formats.MediaTypeDockerLayer+".gzip", formats.MediaTypeDockerManifest
	}
	bootLayer := formats.DigestOf(layerType, packed)
	bootLayer.Annotations = map[string]string{AnnotationBootstrap: "true", AnnotationFSVersion: w.set.fsVersion()}
	if w.set.seal != nil {
		if bootLayer, packed, err = w.set.seal(bootLayer, packed); err != nil {
			return nil, fmt.Errorf("seal the bootstrap layer: %w", err)
		}
	}
	if err := sink.Put(ctx, bootLayer, packed); err != nil {
		return nil, err
	}
	diffIDs := make([]digest.Digest, 0, len(descs)+1)
	if !w.set.detached {
		for _, d := range descs {
			manifest.Layers = append(manifest.Layers, d)
			diffIDs = append(diffIDs, d.Digest)
		}
	}
	needs := w.otherBlobs(blobs, descs)
	for _, d := range needs {
		manifest.Layers = append(manifest.Layers, d)
		diffIDs = append(diffIDs, d.Digest)
	}
	manifest.Layers = append(manifest.Layers, bootLayer)

	config, err := newConfig(src.ConfigRaw, append(diffIDs, diffID), w.set.detached, len(needs))
	if err != nil {
		return nil, err
	}
	manifest.Config = formats.DigestOf(src.Manifest.Config.MediaType, config)
	if err := sink.Put(ctx, manifest.Config, config); err != nil {
		return nil, err
	}
	maps.Copy(manifest.Annotations, src.Manifest.Annotations)
	manifest.Annotations[AnnotationFSVersion] = w.set.fsVersion()
	manifest.Annotations[AnnotationSourceDigest] = src.Desc.Digest.String()
	if w.set.sourceRef != "" {
		manifest.Annotations[AnnotationSourceRef] = w.set.sourceRef
	}
	raw, err := json.Marshal(manifest)
	if err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	desc := formats.DigestOf(manifest.MediaType, raw)
	desc.Platform = src.Desc.Platform
	return &formats.Result{Desc: desc, Manifest: raw, Needs: needs, Stats: map[string]int64{
		"bootstrap_bytes": boot.Size(), "bootstrap_layer_bytes": bootLayer.Size, "blobs": int64(len(blobs)),
	}, CPU: cpu}, nil
}

// otherBlobs returns the blobs of the dictionary among those that the bootstrap names. They are layers of the image too, so that
// registries keep them.
func (w *Writer) otherBlobs(blobs []*layerData, layers []ocispec.Descriptor) []ocispec.Descriptor {
	if w.set.dict == nil || w.set.detached {
		return nil
	}
	var others []ocispec.Descriptor
	for _, b := range blobs {
		d, ok := w.set.dict.objects[b.info.ID]
		if ok && !slices.ContainsFunc(layers, func(l ocispec.Descriptor) bool { return l.Digest == d.Digest }) {
			others = append(others, d)
		}
	}
	return others
}

// packBootstrap makes the bootstrap layer: the bootstrap, and the chunk tables of the blobs, so that a runtime needs
// nothing but data from the blobs.
func packBootstrap(boot plannedBootstrap, blobs []*layerData) ([]byte, digest.Digest, error) {
	var out bytes.Buffer
	out.Grow(int(boot.Size() / 2)) // growing later would take twice the memory for a while
	z, err := gzip.NewWriterLevel(&out, gzipLevel)
	if err != nil {
		return nil, "", fmt.Errorf("gzip: %w", err)
	}
	diffID := digest.SHA256.Digester()
	t := tar.NewWriter(&hashingWriter{z, diffID.Hash()})
	add := func(h tar.Header, content io.WriterTo) error {
		h.ModTime, h.Format = time.Unix(0, 0), tar.FormatUSTAR
		err := t.WriteHeader(&h)
		if err == nil && content != nil {
			_, err = content.WriteTo(t)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", h.Name, err)
		}
		return nil
	}
	if err := add(tar.Header{Typeflag: tar.TypeDir, Name: bootstrapDir, Mode: 0o755}, nil); err != nil {
		return nil, "", err
	}
	if err := add(tar.Header{Typeflag: tar.TypeReg, Name: bootstrapFile, Mode: 0o444, Size: boot.Size()}, boot); err != nil {
		return nil, "", err
	}
	for _, b := range blobs {
		if b.info.CISize == 0 {
			continue // all is in the bootstrap
		}
		if b.info.Features&nydusblob.FeatureSeparate != 0 {
			continue // it lies at the beginning of a small object, and not behind the data
		}
		table := b.table.File(&b.info)
		h := tar.Header{Typeflag: tar.TypeReg, Name: bootstrapDir + "/" + b.info.ID + metaSuffix, Mode: 0o444, Size: int64(len(table))}
		if err := add(h, bytes.NewReader(table)); err != nil {
			return nil, "", err
		}
	}
	if err := t.Close(); err != nil {
		return nil, "", err
	}
	if err := z.Close(); err != nil {
		return nil, "", err
	}
	return out.Bytes(), diffID.Digest(), nil
}

// newConfig returns the image's configuration with other layers, the last of which is the bootstrap's.
func newConfig(source []byte, diffIDs []digest.Digest, detached bool, others int) ([]byte, error) {
	return formats.ChangeConfig(source, diffIDs, func(history []json.RawMessage) []json.RawMessage {
		if detached {
			history = nil // of layers that the image does not have any more
		}
		history = append(history, json.RawMessage(`{"created_by":"Nydus Converter","comment":"`+bootstrapComment+`"}`))
		for range others { // behind it: what stands before it are the layers of the source
			history = append(history, json.RawMessage(`{"created_by":"Nydus Converter","comment":"`+dictionaryComment+`"}`))
		}
		return history
	})
}
