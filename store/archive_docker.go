package store

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/blob"
)

// dockerManifestFile lists the images of what docker save writes:
// github.com/moby/moby/blob/master/image/tarexport/tarexport.go.
const dockerManifestFile = "manifest.json"

// dockerImage is an element of manifest.json.
type dockerImage struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// dockerArchive makes the layout that docker save did not write: a manifest of Docker's schema 2, with the digests
// that the layers have. The layers stay where they are in the archive.
type dockerArchive struct {
	*archive
	blobs map[string]string // members by the names that a layout has for them
	made  map[string][]byte // files of the layout that are not in the archive
}

// openDockerArchive reads an archive without a layout in it.
func openDockerArchive(ref Ref, a *archive) (Source, error) {
	raw, err := a.read(dockerManifestFile, maxManifest)
	if err != nil {
		return nil, err
	}
	images, err := parseDockerManifest(raw)
	if err != nil {
		return nil, err
	}
	d := &dockerArchive{archive: a, blobs: map[string]string{}, made: map[string][]byte{}}
	var x ocispec.Index
	for i, img := range images {
		if ref.Tag != "" && !slices.ContainsFunc(img.RepoTags, func(t string) bool { return sameDockerName(t, ref.Tag) }) {
			continue // without reading its layers
		}
		desc, err := d.add(img)
		if err != nil {
			return nil, fmt.Errorf("image %d: %w", i, err)
		}
		if ref.Tag != "" {
			desc.Annotations = map[string]string{annotationImageName: ref.Tag}
		}
		x.Manifests = append(x.Manifests, desc)
	}
	if d.made[ocispec.ImageIndexFile], err = encodeIndex(&x); err != nil {
		return nil, err
	}
	return newLayout(ref, d), nil
}

// parseDockerManifest decodes manifest.json.
func parseDockerManifest(raw []byte) ([]dockerImage, error) {
	var images []dockerImage
	if err := json.Unmarshal(raw, &images); err != nil {
		return nil, fmt.Errorf("%s: %w: %w", dockerManifestFile, blob.ErrCorrupt, err)
	}
	if len(images) == 0 {
		return nil, fmt.Errorf("%s: no images: %w", dockerManifestFile, blob.ErrCorrupt)
	}
	for i, img := range images {
		if img.Config == "" || len(img.Layers) > 4096 {
			return nil, fmt.Errorf("%s: image %d: no config, or too many layers: %w", dockerManifestFile, i, blob.ErrCorrupt)
		}
	}
	return images, nil
}

// sameDockerName compares a name of the archive with a normalised one.
func sameDockerName(name, normalised string) bool {
	r, err := parseDockerArchive("x:" + name)
	return err == nil && r.Tag == normalised
}

// read reads a whole member.
func (a *archive) read(name string, limit int64) ([]byte, error) {
	o, err := a.open(name)
	if err != nil {
		return nil, fmt.Errorf("no %.200q in it: %w", name, blob.ErrCorrupt)
	}
	if o.size > limit {
		return nil, fmt.Errorf("%.200q: %d bytes, the limit is %d: %w", name, o.size, limit, blob.ErrCorrupt)
	}
	p := make([]byte, o.size)
	if _, err := io.ReadFull(o.section(), p); err != nil {
		return nil, fmt.Errorf("%.200q: %w", name, err)
	}
	return p, nil
}

// add makes the manifest of an image.
func (d *dockerArchive) add(img dockerImage) (ocispec.Descriptor, error) {
	none := ocispec.Descriptor{}
	raw, err := d.read(img.Config, maxConfig)
	if err != nil {
		return none, err
	}
	var config ocispec.Image
	if err := json.Unmarshal(raw, &config); err != nil {
		return none, fmt.Errorf("config: %w: %w", blob.ErrCorrupt, err)
	}
	diffs := config.RootFS.DiffIDs
	if len(diffs) != len(img.Layers) {
		return none, fmt.Errorf("%d layers, and %d in the config: %w", len(img.Layers), len(diffs), blob.ErrCorrupt)
	}
	m := ocispec.Manifest{MediaType: dockerManifest, Layers: []ocispec.Descriptor{}}
	m.SchemaVersion = 2
	m.Config = ocispec.Descriptor{MediaType: dockerConfig, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
	d.blobs[blobName(m.Config.Digest)] = img.Config
	for i, name := range img.Layers {
		l, err := d.layer(name, diffs[i])
		if err != nil {
			return none, fmt.Errorf("layer %d: %w", i, err)
		}
		m.Layers = append(m.Layers, l)
	}
	body, err := json.Marshal(m)
	if err != nil {
		return none, err
	}
	desc := ocispec.Descriptor{
		MediaType: dockerManifest, Digest: digest.FromBytes(body), Size: int64(len(body)),
		Platform: &ocispec.Platform{Architecture: config.Architecture, OS: config.OS, Variant: config.Variant, OSVersion: config.OSVersion},
	}
	d.made[blobName(desc.Digest)] = body
	return desc, nil
}

// layer describes a layer. A plain tar has its diff ID for digest, which whoever reads it verifies; only compressed
// layers, which docker save does not write but others do, are read for theirs.
func (d *dockerArchive) layer(name string, diff digest.Digest) (ocispec.Descriptor, error) {
	o, err := d.open(name)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("no %.200q in it: %w", name, blob.ErrCorrupt)
	}
	desc := ocispec.Descriptor{MediaType: dockerLayer, Digest: diff, Size: o.size}
	var magic [2]byte
	if n, _ := o.ReadAt(magic[:], 0); isGzip(magic[:n]) {
		desc.MediaType = dockerLayerGz
		if desc.Digest, err = digest.FromReader(o.section()); err != nil {
			return desc, err
		}
	}
	if err := checkDescriptor(desc); err != nil {
		return desc, err
	}
	d.blobs[blobName(desc.Digest)] = name
	return desc, nil
}

func (d *dockerArchive) open(name string) (object, error) {
	if p, ok := d.made[name]; ok {
		return object{bytes.NewReader(p), nothing{}, int64(len(p))}, nil
	}
	if m, ok := d.blobs[name]; ok {
		name = m
	}
	return d.archive.open(name)
}
