package main

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/formats/nydus/nydusblob"
)

// tinyFiles compares a layer of very many very small files.
func (b *bench) tinyFiles(ctx context.Context, work string) error {
	if b.tiny == 0 {
		return nil
	}
	layout := filepath.Join(work, "tiny")
	if err := writeTiny(layout, b.tiny); err != nil {
		return fmt.Errorf("make the layer of tiny files: %w", err)
	}
	files, err := layers(layout)
	if err != nil {
		return err
	}
	runs := b.runs
	b.runs = 1 // the peer takes half a minute
	defer func() { b.runs = runs }()
	var peer func() (cost, error)
	if b.nydusImage != "" {
		peer = func() (cost, error) {
			c, _, err := b.create(ctx, files, filepath.Join(work, "peer"), 1, "--type", "targz-rafs", "--compressor", "zstd")
			return c, err
		}
	}
	o, p, err := b.alternate(func() (cost, error) {
		return b.convert(ctx, "oci:"+layout, "oci:"+filepath.Join(work, "ours"), "--jobs", "2")
	}, peer)
	if err != nil {
		return err
	}
	what := fmt.Sprintf("layer of %d tiny files", b.tiny)
	b.add(row{what + ": wall", "s", o.wall, p.wall, "0.4", ""})
	b.add(row{what + ": peak memory", "MiB", o.rss, p.rss, "0.4", ""})
	return nil
}

// writeTiny writes an OCI layout with one layer of n files in directories of a thousand.
func writeTiny(layout string, n int) (err error) {
	blobs := filepath.Join(layout, "blobs", "sha256")
	if err := os.MkdirAll(blobs, 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(blobs, "layer")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	stored, plain := sha256.New(), sha256.New()
	z, err := gzip.NewWriterLevel(io.MultiWriter(f, stored), gzip.BestSpeed)
	if err != nil {
		return err
	}
	tw := tar.NewWriter(io.MultiWriter(z, plain))
	at := time.Unix(1700000000, 0)
	for i := range n {
		if i%1000 == 0 {
			if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: fmt.Sprintf("d%04d/", i/1000), Mode: 0o755, ModTime: at}); err != nil {
				return err
			}
		}
		content := strings.Repeat(fmt.Sprintf("file %d\n", i), 1+i%10)
		if err := tw.WriteHeader(&tar.Header{Name: fmt.Sprintf("d%04d/f%06d", i/1000, i), Mode: 0o644, ModTime: at, Size: int64(len(content))}); err != nil {
			return err
		}
		if _, err := io.WriteString(tw, content); err != nil {
			return err
		}
	}
	if err := errors.Join(tw.Close(), z.Close()); err != nil {
		return err
	}
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	layer := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: digest.NewDigest(digest.SHA256, stored), Size: fi.Size()}
	if err := os.Rename(f.Name(), filepath.Join(blobs, layer.Digest.Encoded())); err != nil {
		return err
	}
	put := func(mediaType string, v any) (ocispec.Descriptor, error) {
		raw, err := json.Marshal(v)
		d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
		return d, errors.Join(err, os.WriteFile(filepath.Join(blobs, d.Digest.Encoded()), raw, 0o644))
	}
	config := ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"}}
	config.RootFS = ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.NewDigest(digest.SHA256, plain)}}
	c, err := put(ocispec.MediaTypeImageConfig, config)
	if err != nil {
		return err
	}
	m, err := put(ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: c, Layers: []ocispec.Descriptor{layer},
	})
	if err != nil {
		return err
	}
	index, err := json.Marshal(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: []ocispec.Descriptor{m}})
	return errors.Join(err, os.WriteFile(filepath.Join(layout, "index.json"), index, 0o644),
		os.WriteFile(filepath.Join(layout, "oci-layout"), []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o644))
}

// extractBootstrap takes the bootstrap out of a layer's blob, as nydusify does before it merges.
func extractBootstrap(ctx context.Context, file, boot string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close() // only read
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	src := blob.ReaderAtSource{R: f, N: fi.Size()}
	s, err := nydusblob.FindSection(ctx, src, nydusblob.SectionBootstrap)
	if err != nil || s == nil {
		return fmt.Errorf("%s has no bootstrap: %w", file, err)
	}
	d, err := nydusblob.NewDecoder()
	if err != nil {
		return err
	}
	p, err := s.Read(ctx, src, d, 1<<30)
	if err != nil {
		return err
	}
	return os.WriteFile(boot, p, 0o644)
}
