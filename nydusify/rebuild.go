package nydusify

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/formats/nydus"
	"github.com/lazuli-project/lazuli/store"
)

// Names in a bootstrap layer, and what bounds it in bytes.
const (
	layerDir     = "image"
	layerBoot    = "image/image.boot"
	layerFiles   = "image/prefetch-files"
	maxBootLayer = 2 << 30
)

// bootstrapLayer is the content of a bootstrap layer: its files by name, in order.
type bootstrapLayer struct {
	names []string
	files map[string][]byte
}

// readBootstrapLayer reads the last layer of an image, verified.
func readBootstrapLayer(ctx context.Context, m *formats.Manifest, s formats.Sources) (_ *bootstrapLayer, err error) {
	if !(nydus.Reader{}).Recognize(m) {
		return nil, fmt.Errorf("image %s is no Nydus image: %w", m.Desc.Digest, blob.ErrUnsupported)
	}
	desc := m.Manifest.Layers[len(m.Manifest.Layers)-1]
	r, err := s.Fetch(ctx, desc)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	fail := func(err error) (*bootstrapLayer, error) {
		return nil, fmt.Errorf("bootstrap layer %s: %w: %w", desc.Digest, blob.ErrCorrupt, err)
	}
	z, err := gzip.NewReader(r)
	if err != nil {
		return fail(err)
	}
	l := &bootstrapLayer{files: make(map[string][]byte)}
	t := tar.NewReader(io.LimitReader(z, maxBootLayer))
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fail(err)
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		var p bytes.Buffer // grows with what is there
		if _, err := p.ReadFrom(t); err != nil {
			return fail(err)
		}
		l.set(path.Clean(h.Name), p.Bytes())
	}
	if _, err := io.Copy(io.Discard, r); err != nil { // to its verified end
		return nil, err
	}
	if l.files[layerBoot] == nil {
		return fail(fmt.Errorf("no %s", layerBoot))
	}
	return l, nil
}

// set adds or replaces a file.
func (l *bootstrapLayer) set(name string, content []byte) {
	if _, ok := l.files[name]; !ok {
		l.names = append(l.names, name)
	}
	l.files[name] = content
}

// pack makes the stored layer, and returns its diff ID too.
func (l *bootstrapLayer) pack() ([]byte, digest.Digest, error) {
	var out bytes.Buffer
	z, err := gzip.NewWriterLevel(&out, gzip.DefaultCompression)
	if err != nil {
		return nil, "", fmt.Errorf("gzip: %w", err)
	}
	sum := digest.SHA256.Digester()
	t := tar.NewWriter(io.MultiWriter(sum.Hash(), z))
	err = t.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: layerDir, Mode: 0o755, ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR})
	for _, name := range l.names {
		if err == nil {
			err = t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o444, Size: int64(len(l.files[name])), ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR})
		}
		if err == nil {
			_, err = t.Write(l.files[name])
		}
	}
	if err := errors.Join(err, t.Close(), z.Close()); err != nil {
		return nil, "", fmt.Errorf("bootstrap layer: %w", err)
	}
	return out.Bytes(), sum.Digest(), nil
}

// newImage is a Nydus image to be put together.
type newImage struct {
	blobs      []ocispec.Descriptor // that the target has
	bootstrap  *bootstrapLayer
	bootMarks  map[string]string // annotations of the bootstrap layer
	config     []byte            // its diff IDs are replaced
	annots     map[string]string
	mediaTypes *formats.Manifest // those of this image, or OCI's
}

// put stores the image in the target and returns what has to be tagged.
func (n *newImage) put(ctx context.Context, target store.Target) (ocispec.Descriptor, error) {
	fail := func(err error) (ocispec.Descriptor, error) { return ocispec.Descriptor{}, err }
	packed, diffID, err := n.bootstrap.pack()
	if err != nil {
		return fail(err)
	}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Annotations: n.annots}
	boot := formats.DigestOf(ocispec.MediaTypeImageLayerGzip, packed)
	configType := ocispec.MediaTypeImageConfig
	if n.mediaTypes != nil {
		old := n.mediaTypes.Manifest
		m.MediaType, configType, boot.MediaType = n.mediaTypes.Desc.MediaType, old.Config.MediaType, old.Layers[len(old.Layers)-1].MediaType
	}
	boot.Annotations = n.bootMarks
	m.Layers = append(append(m.Layers, n.blobs...), boot)
	diffIDs := make([]digest.Digest, 0, len(m.Layers))
	for _, b := range n.blobs {
		diffIDs = append(diffIDs, b.Digest)
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(n.config, &fields); err != nil {
		return fail(fmt.Errorf("config: %w: %w", blob.ErrCorrupt, err))
	}
	if fields["rootfs"], err = json.Marshal(ocispec.RootFS{Type: "layers", DiffIDs: append(diffIDs, diffID)}); err != nil {
		return fail(fmt.Errorf("config: %w", err))
	}
	config, err := json.Marshal(fields)
	if err != nil {
		return fail(fmt.Errorf("config: %w", err))
	}
	m.Config = formats.DigestOf(configType, config)
	raw, err := json.Marshal(m)
	if err != nil {
		return fail(fmt.Errorf("manifest: %w", err))
	}
	desc := formats.DigestOf(m.MediaType, raw)
	if err := target.Put(ctx, boot, packed); err != nil {
		return fail(err)
	}
	if err := target.Put(ctx, m.Config, config); err != nil {
		return fail(err)
	}
	return desc, target.Put(ctx, desc, raw)
}

// marks returns the annotations of a bootstrap layer with more.
func marks(old map[string]string, more map[string]string) map[string]string {
	all := maps.Clone(old)
	if all == nil {
		all = make(map[string]string)
	}
	maps.Copy(all, more)
	return all
}
