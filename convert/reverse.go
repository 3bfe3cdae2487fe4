package convert

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/store"
)

// FormatOCI is the format of what [Reverse] makes.
const FormatOCI = "oci"

// reversal is one call of [Reverse].
type reversal struct {
	conversion
	target store.Target
	spool  *spool
}

// Reverse turns the lazy images that src names into plain OCI images whose layers unpack to the same trees. opt.Readers are the
// formats that it knows. An image whose source is at hand, in the repository or layout of src, becomes that source again,
// with its digest; one that refers to the layers of its source gets these as they are; for others layers are written as tars and
// gzip'd, the same bytes for the same image. Objects are verified as a whole before they are used: those of registries go through
// files in opt.TempDir. The target is committed, and not closed.
func Reverse(ctx context.Context, src store.Source, target store.Target, opt Options) (_ *Result, err error) {
	if err := opt.setDefaults(); err != nil {
		return nil, err
	}
	if opt.Attach != AttachTag {
		return nil, fmt.Errorf("attach a plain image as %q: %w", opt.Attach, blob.ErrUnsupported)
	}
	r := &reversal{conversion: conversion{src: src, outputs: []Output{{Target: target}}, opt: opt}, target: target, spool: newSpool(src, opt.TempDir)}
	defer func() { err = errors.Join(err, r.spool.Close()) }()
	begin := time.Now()
	s, err := r.planReverse(ctx)
	if err != nil {
		return nil, err
	}
	res := &Result{}
	made := make([]madeImage, len(s.images))
	for i, im := range s.images {
		image, m, err := r.reverseImage(ctx, im)
		if err != nil {
			return nil, fmt.Errorf("image %s%s: %w", im.src.Desc.Digest, onPlatform(im.platform), err)
		}
		made[i] = *m
		res.Images = append(res.Images, *image)
	}
	tagged, err := r.attach(ctx, r.outputs[0], s, made)
	if err != nil {
		return nil, err
	}
	res.Tagged = []ocispec.Descriptor{tagged}
	res.Wall = time.Since(begin)
	return res, target.Commit(ctx)
}

// reverser finds the format of an image and its ability to be taken apart. The format is nil for images that are plain.
func (r *reversal) reverser(m *formats.Manifest) (formats.Reader, formats.Reverser) {
	for _, reader := range r.opt.Readers {
		if reader.Recognize(m) {
			re, _ := reader.(formats.Reverser)
			return reader, re
		}
	}
	return nil, nil
}

// reverseImage makes one plain image. What it returns is not stored yet.
func (r *reversal) reverseImage(ctx context.Context, im *sourceImage) (*Image, *madeImage, error) {
	reader, re := r.reverser(im.src)
	if reader == nil {
		image, made, err := r.keepImage(ctx, im, im.src.Desc)
		return image, made, err
	}
	if re != nil {
		image, made, err := r.original(ctx, im, re)
		if err != nil || image != nil {
			return image, made, err
		}
	}
	layers, re, err := r.storedLayers(ctx, im.src, reader, re)
	if err != nil {
		return nil, nil, err
	}
	image, diffIDs, err := r.plainLayers(ctx, im, layers)
	if err != nil {
		return nil, nil, err
	}
	made, err := r.plainManifest(ctx, im, re, image, diffIDs)
	if err != nil {
		return nil, nil, err
	}
	image.Desc = made.desc
	if r.opt.BeforeTag != nil {
		out := Output{Target: &unstored{r.target, *made, im.src}}
		if err := r.opt.BeforeTag(ctx, out, made.desc, im.src.Desc); err != nil {
			return nil, nil, err
		}
	}
	return image, made, nil
}

// findOriginal describes the manifest of the image's source, if that is at hand.
func (r *reversal) findOriginal(ctx context.Context, im *sourceImage, re formats.Reverser) (desc ocispec.Descriptor, ok bool, err error) {
	named, ok := re.SourceManifest(im.src)
	if !ok {
		return desc, false, nil
	}
	desc, err = store.FindManifest(ctx, r.src, named.Digest)
	if errors.Is(err, store.ErrNotFound) {
		return desc, false, nil
	}
	return desc, err == nil && store.IsImage(desc.MediaType), err
}

// original returns the image's source, if that and all of its layers are at hand; else nil.
func (r *reversal) original(ctx context.Context, im *sourceImage, re formats.Reverser) (*Image, *madeImage, error) {
	desc, ok, err := r.findOriginal(ctx, im, re)
	if err != nil || !ok {
		return nil, nil, err
	}
	image, made, err := r.keepImage(ctx, im, desc)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil, nil // the manifest outlived its layers
	}
	return image, made, err
}

// keepImage copies a plain image as it is.
func (r *reversal) keepImage(ctx context.Context, im *sourceImage, desc ocispec.Descriptor) (*Image, *madeImage, error) {
	m, err := store.LoadManifest(ctx, r.src, desc)
	if err != nil {
		return nil, nil, err
	}
	// The manifest itself is stored with the others.
	image := &Image{Format: FormatOCI, Platform: im.platform, Source: im.src.Desc, Desc: desc}
	for _, l := range im.src.Manifest.Layers {
		image.SourceSize += l.Size
	}
	for _, l := range m.Manifest.Layers {
		image.Size += l.Size
		image.Layers = append(image.Layers, LayerResult{Source: l, Desc: l, Reused: true, From: r.src.Ref().Place()})
	}
	if err := store.Copy(ctx, r.target, r.src, desc, store.CopyOptions{Concurrency: r.opt.Jobs}); err != nil {
		return nil, nil, err
	}
	desc.Platform, desc.Annotations, desc.ArtifactType = im.src.Desc.Platform, nil, ""
	image.Desc = desc
	return image, &madeImage{desc, m.Raw}, nil
}

// storedLayers lists the layers. An image that does not hold them apart has one, its whole tree.
func (r *reversal) storedLayers(ctx context.Context, m *formats.Manifest, reader formats.Reader, re formats.Reverser) ([]formats.StoredLayer, formats.Reverser, error) {
	if re != nil {
		layers, err := re.Layers(ctx, m, r.spool)
		if !errors.Is(err, blob.ErrUnsupported) {
			return layers, re, err
		}
	}
	n := len(m.Manifest.Layers)
	if n == 0 {
		return nil, nil, fmt.Errorf("an image without layers: %w", blob.ErrUnsupported)
	}
	return []formats.StoredLayer{{Desc: m.Manifest.Layers[n-1], Open: func(ctx context.Context, s formats.Sources) (*formats.Image, error) {
		return reader.Open(ctx, m, s)
	}}}, re, nil
}

// plainLayers makes plain layers of all. Figures go into the image; the diff IDs are returned.
func (r *reversal) plainLayers(ctx context.Context, im *sourceImage, layers []formats.StoredLayer) (*Image, []digest.Digest, error) {
	image := &Image{Format: FormatOCI, Platform: im.platform, Source: im.src.Desc, Layers: make([]LayerResult, len(layers))}
	diffIDs := make([]digest.Digest, len(layers))
	first := make(map[digest.Digest]int) // a layer that stands twice is made once
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(r.opt.Jobs)
	for i, l := range layers {
		image.SourceSize += l.Desc.Size
		if _, ok := first[l.Desc.Digest]; ok {
			continue
		}
		first[l.Desc.Digest] = i
		group.Go(func() error {
			j := &plainJob{r: r, image: im, index: i, layers: len(layers), layer: l}
			var err error
			if image.Layers[i], diffIDs[i], err = j.run(gctx); err != nil {
				return fmt.Errorf("layer %d (%s): %w", i, l.Desc.Digest, err)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, nil, err
	}
	for i, l := range layers {
		k := first[l.Desc.Digest]
		image.Layers[i], diffIDs[i] = image.Layers[k], diffIDs[k]
		image.Size += image.Layers[i].Desc.Size
	}
	return image, diffIDs, nil
}

// plainManifest makes the manifest, and stores the configuration.
func (r *reversal) plainManifest(ctx context.Context, im *sourceImage, re formats.Reverser, image *Image, diffIDs []digest.Digest) (*madeImage, error) {
	config, annotations := im.src.ConfigRaw, im.src.Manifest.Annotations
	var err error
	if re != nil {
		config, err = re.SourceConfig(im.src)
		annotations = re.SourceAnnotations(im.src)
	}
	if err == nil {
		config, err = fitConfig(config, diffIDs)
	}
	if err != nil {
		return nil, err
	}
	docker := im.src.IsDocker()
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Annotations: annotations}
	configType := ocispec.MediaTypeImageConfig
	if docker {
		m.MediaType, configType = formats.MediaTypeDockerManifest, formats.MediaTypeDockerConfig
	}
	m.Config = formats.DigestOf(configType, config)
	for _, l := range image.Layers {
		m.Layers = append(m.Layers, l.Desc)
	}
	if err := r.target.Put(ctx, m.Config, config); err != nil {
		return nil, err
	}
	raw, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	made := &madeImage{formats.DigestOf(m.MediaType, raw), raw}
	made.desc.Platform = im.src.Desc.Platform
	return made, nil
}
