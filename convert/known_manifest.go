package convert

import (
	"context"
	"errors"
	"fmt"
	"slices"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/store"
)

// manifestKey is what the record knows an image by; false where it is not asked for images as a whole.
func (c *conversion) manifestKey(o int, im *sourceImage) (ManifestRecord, ManifestKey, bool) {
	record, ok := c.opt.Record.(ManifestRecord)
	if !ok || c.opt.ArtifactManifest { // which names no layers
		return nil, ManifestKey{}, false
	}
	w := c.outputs[o].Writer
	v, ok := w.(formats.ImageVersioner)
	if !ok {
		return nil, ManifestKey{}, false
	}
	k := ManifestKey{Source: im.src.Desc.Digest, Format: w.Name(), Writer: v.ImageVersion()}
	// See dress.
	if c.opt.Attach == AttachReferrer || c.opt.Subject {
		k.Writer += " subject"
	}
	return record, k, true
}

// rememberImage notes an image that the target has.
func (c *conversion) rememberImage(ctx context.Context, o int, im *sourceImage, made ocispec.Descriptor) {
	record, k, ok := c.manifestKey(o, im)
	here := c.outputs[o].Target.Ref().Place()
	if !ok || here == "" {
		return
	}
	made.Platform = nil                                                         // that is the source's
	_ = record.StoreManifest(ctx, k, Known{Desc: made, Places: []string{here}}) // see Record
}

// knownImages returns an image as it was converted before for all outputs, once their targets have all of it but the manifests. No
// layer of the source is touched. Where one output lacks it, it is converted for all: its layers are still known.
func (c *conversion) knownImages(ctx context.Context, im *sourceImage) ([]Image, []madeImage, bool, error) {
	images, manifests := make([]Image, len(c.outputs)), make([]madeImage, len(c.outputs))
	for o := range c.outputs {
		m, from, ok := c.knownManifest(ctx, o, im)
		if !ok {
			return nil, nil, false, nil
		}
		if keepsLayers(c.outputs[o]) {
			if err := bringAll(ctx, c.outputs[o].Target, im.src.Manifest.Layers, c.src); err != nil {
				return nil, nil, false, fmt.Errorf("keep the source's layers: %w", err)
			}
		}
		desc := m.Desc
		desc.Platform = im.src.Desc.Platform
		manifests[o] = madeImage{desc, m.Raw}
		images[o] = c.describe(ctx, o, im, m, from)
		images[o].Desc = desc
	}
	for o, made := range manifests {
		if err := c.beforeTag(ctx, o, im, made); err != nil {
			return nil, nil, false, err
		}
	}
	if f := c.opt.OnProgress; f != nil {
		layers := im.src.Manifest.Layers
		for i, l := range layers {
			f(Progress{Platform: im.platform, Layer: i, Layers: len(layers), State: Reused, Done: l.Size, Total: l.Size})
		}
	}
	return images, manifests, true, nil
}

// describe tells of an image that is taken up as a whole.
func (c *conversion) describe(ctx context.Context, o int, im *sourceImage, m *formats.Manifest, from string) Image {
	image := Image{Format: c.outputs[o].Writer.Name(), Output: o, Platform: im.platform, Source: im.src.Desc}
	if checkLayers(im.src) != nil {
		return image
	}
	layers := newImageLayers(c, im)
	for i, l := range im.src.Manifest.Layers {
		// What each layer became is not in the manifest: there may be layers of the writer's own.
		known, _, _ := c.lookup(ctx, o, layers.key(o, i))
		image.Layers = append(image.Layers, LayerResult{
			Source: l, Desc: known.Desc, Reused: true, From: from, LayerStats: formats.LayerStats{Stored: known.Desc.Size},
		})
		image.SourceSize += l.Size
	}
	for _, l := range m.Manifest.Layers {
		image.Size += l.Size
	}
	return image
}

// knownManifest returns the manifest of an image that was converted before, once the target has all that it names, and says from where
// that came. Whatever goes wrong, the image is converted anew.
func (c *conversion) knownManifest(ctx context.Context, o int, im *sourceImage) (*formats.Manifest, string, bool) {
	record, k, ok := c.manifestKey(o, im)
	if !ok {
		return nil, "", false
	}
	t := c.outputs[o].Target
	here := t.Ref().Place()
	known, ok, err := record.LookupManifest(ctx, k, here)
	if err != nil || !ok || !store.IsImage(known.Desc.MediaType) {
		return nil, "", false
	}
	if has, err := t.Exists(ctx, known.Desc); err != nil {
		return nil, "", false
	} else if has {
		if m, err := store.LoadManifest(ctx, t, known.Desc); err == nil && hasAll(ctx, t, m) {
			return m, here, true
		}
	}
	if slices.Contains(known.Places, here) {
		_ = record.ForgetManifest(ctx, k, here) // deleted since, all or a part of it; a record that fails is no reason to stop
	}
	for _, place := range nearest(known.Places, here) {
		src := c.places.open(ctx, place, c.opt.OpenPlace)
		if src == nil {
			continue
		}
		m, err := bringImage(ctx, t, known.Desc, src)
		switch {
		case err == nil:
			return m, place, true
		case ctx.Err() != nil:
			return nil, "", false
		case errors.Is(err, store.ErrNotFound):
			_ = record.ForgetManifest(ctx, k, place) // as above
		case errors.Is(err, store.ErrNetwork):
			c.places.giveUp(place)
		}
	}
	return nil, "", false
}

// parts are the objects that a manifest names, but for its subject.
func parts(m *formats.Manifest) []ocispec.Descriptor {
	return append([]ocispec.Descriptor{m.Manifest.Config}, m.Manifest.Layers...)
}

// hasAll reports whether a target has all that a manifest names.
func hasAll(ctx context.Context, t store.Target, m *formats.Manifest) bool {
	return !slices.ContainsFunc(parts(m), func(d ocispec.Descriptor) bool {
		has, err := t.Exists(ctx, d)
		return err != nil || !has
	})
}

// bringImage makes the target have all that a manifest of a place names, and returns the manifest.
func bringImage(ctx context.Context, t store.Target, desc ocispec.Descriptor, src store.Source) (*formats.Manifest, error) {
	m, err := store.LoadManifest(ctx, src, desc)
	if err != nil {
		return nil, err
	}
	return m, bringAll(ctx, t, parts(m), src)
}

// bringAll makes the target have the objects of a place that it lacks.
func bringAll(ctx context.Context, t store.Target, descs []ocispec.Descriptor, src store.Source) error {
	for _, d := range descs {
		has, err := t.Exists(ctx, d)
		if err == nil && !has {
			err = bring(ctx, t, d, src)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
