package imagetest

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/blob"
)

// Layer is one layer, plain and as it is stored.
type Layer struct {
	MediaType string
	Stored    []byte
	Tar       []byte
}

// Plain stores a layer as it is.
func Plain(tar []byte) Layer {
	return Layer{MediaType: ocispec.MediaTypeImageLayer, Stored: tar, Tar: tar}
}

// Gzip compresses a layer.
func Gzip(tb testing.TB, tar []byte) Layer {
	tb.Helper()
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	if _, err := w.Write(tar); err != nil {
		tb.Fatal(err)
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return Layer{MediaType: ocispec.MediaTypeImageLayerGzip, Stored: buf.Bytes(), Tar: tar}
}

// GzipMembers compresses a layer into gzip members of up to 1024 bytes each, so that contents begin where members do.
func GzipMembers(tb testing.TB, tar []byte) Layer {
	tb.Helper()
	l := Layer{MediaType: ocispec.MediaTypeImageLayerGzip, Tar: tar}
	for rest := tar; ; {
		n := min(len(rest), 1024)
		l.Stored = append(l.Stored, Gzip(tb, rest[:n]).Stored...)
		if rest = rest[n:]; len(rest) == 0 {
			return l
		}
	}
}

// Zstd compresses a layer.
func Zstd(tb testing.TB, tar []byte) Layer {
	tb.Helper()
	w, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		tb.Fatal(err)
	}
	return Layer{MediaType: ocispec.MediaTypeImageLayerZstd, Stored: w.EncodeAll(tar, nil), Tar: tar}
}

// Image is an image or an index in memory. As formats.Sources it hands out the objects that it consists of, verified
// in so far as it made them.
type Image struct {
	// Desc is the descriptor of the manifest or index, with the platform.
	Desc ocispec.Descriptor
	// Objects by digest: layers, config, manifests.
	Objects map[digest.Digest][]byte
	// Layers of an image, lowest first; nil for an index.
	Layers []Layer
}

// NewImage makes an image for linux/amd64.
func NewImage(tb testing.TB, layers ...Layer) *Image {
	tb.Helper()
	return NewImageFor(tb, ocispec.Platform{OS: "linux", Architecture: "amd64"}, layers...)
}

// NewImageFor makes an image for a platform.
func NewImageFor(tb testing.TB, platform ocispec.Platform, layers ...Layer) *Image {
	tb.Helper()
	created := time.Unix(Time, 0).UTC()
	config := ocispec.Image{Created: &created, Platform: platform, RootFS: ocispec.RootFS{Type: "layers"},
		Config: ocispec.ImageConfig{Cmd: []string{"/bin/true"}}}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	img := &Image{Objects: make(map[digest.Digest][]byte), Layers: layers}
	for i, l := range layers {
		m.Layers = append(m.Layers, img.Add(l.MediaType, l.Stored))
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, digest.FromBytes(l.Tar))
		config.History = append(config.History, ocispec.History{Created: &created, CreatedBy: fmt.Sprintf("layer %d", i)})
	}
	m.Config = img.AddJSON(tb, ocispec.MediaTypeImageConfig, config)
	img.Desc = img.AddJSON(tb, m.MediaType, m)
	img.Desc.Platform = &platform
	return img
}

// NewIndex makes an index of images, in their order.
func NewIndex(tb testing.TB, images ...*Image) *Image {
	tb.Helper()
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	img := &Image{Objects: make(map[digest.Digest][]byte)}
	for _, i := range images {
		index.Manifests = append(index.Manifests, i.Desc)
		for d, p := range i.Objects {
			img.Objects[d] = p
		}
	}
	img.Desc = img.AddJSON(tb, index.MediaType, index)
	return img
}

// Attestation makes the manifest that BuildKit puts beside an image in an index.
func Attestation(tb testing.TB, of *Image) *Image {
	tb.Helper()
	img := NewImageFor(tb, ocispec.Platform{OS: "unknown", Architecture: "unknown"},
		Layer{MediaType: "application/vnd.in-toto+json", Stored: []byte(`{"_type":"https://in-toto.io/Statement/v0.1"}`)})
	img.Desc.Annotations = map[string]string{
		"vnd.docker.reference.digest": of.Desc.Digest.String(),
		"vnd.docker.reference.type":   "attestation-manifest",
	}
	return img
}

// Add adds an object.
func (i *Image) Add(mediaType string, p []byte) ocispec.Descriptor {
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(p), Size: int64(len(p))}
	i.Objects[desc.Digest] = p
	return desc
}

// AddJSON adds an object as JSON.
func (i *Image) AddJSON(tb testing.TB, mediaType string, v any) ocispec.Descriptor {
	tb.Helper()
	p, err := json.Marshal(v)
	if err != nil {
		tb.Fatal(err)
	}
	return i.Add(mediaType, p)
}

// Open implements formats.Sources.
func (i *Image) Open(_ context.Context, desc ocispec.Descriptor) (blob.Source, error) {
	p, ok := i.Objects[desc.Digest]
	if !ok {
		return nil, fmt.Errorf("object %s: %w", desc.Digest, os.ErrNotExist)
	}
	return blob.ReaderAtSource{R: bytes.NewReader(p), N: int64(len(p))}, nil
}

// Fetch implements formats.Sources.
func (i *Image) Fetch(_ context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	p, ok := i.Objects[desc.Digest]
	if !ok {
		return nil, fmt.Errorf("object %s: %w", desc.Digest, os.ErrNotExist)
	}
	return io.NopCloser(bytes.NewReader(p)), nil
}

// WriteLayout writes an OCI layout directory with one tag.
func (i *Image) WriteLayout(tb testing.TB, dir, tag string) {
	tb.Helper()
	desc := i.Desc
	desc.Annotations = map[string]string{ocispec.AnnotationRefName: tag}
	index, err := json.Marshal(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{desc}})
	if err != nil {
		tb.Fatal(err)
	}
	files := map[string][]byte{"index.json": index, "oci-layout": []byte(`{"imageLayoutVersion":"1.0.0"}`)}
	for d, p := range i.Objects {
		files[filepath.Join("blobs", d.Algorithm().String(), d.Encoded())] = p
	}
	for name, p := range files {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			tb.Fatal(err)
		}
		if err := os.WriteFile(file, p, 0o644); err != nil {
			tb.Fatal(err)
		}
	}
}

// Digests returns the digests of all objects, sorted.
func (i *Image) Digests() []digest.Digest {
	var all []digest.Digest
	for d := range i.Objects {
		all = append(all, d)
	}
	slices.Sort(all)
	return all
}
