package convert

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/store"
)

// sourceImage is an image to convert.
type sourceImage struct {
	src      *formats.Manifest
	platform string // "os/arch[/variant]"
}

// source is what a conversion starts from.
type source struct {
	desc   ocispec.Descriptor
	index  *store.Index // nil for a single image
	images []*sourceImage
	// carried are the index's other entries that go along: attestations, images of formats of ours.
	carried []ocispec.Descriptor
}

// Annotations by which BuildKit ties attestation manifests to images.
const (
	annotationReferenceType   = "vnd.docker.reference.type"
	annotationReferenceDigest = "vnd.docker.reference.digest"
)

// plan finds the images to convert.
func (c *conversion) plan(ctx context.Context) (*source, error) {
	desc, err := c.src.Resolve(ctx)
	if err != nil {
		return nil, err
	}
	s := &source{desc: desc}
	if !store.IsIndex(desc.MediaType) {
		im, err := c.load(ctx, desc)
		if err != nil {
			return nil, err
		}
		if !isContainerImage(im.src) {
			return nil, fmt.Errorf("%s: an artifact with a config of type %q, no container image: %w", c.src.Ref(), im.src.Manifest.Config.MediaType, blob.ErrUnsupported)
		}
		if c.converted(im.src) {
			return nil, fmt.Errorf("%s: %w: the image is of a lazy-loading format already", c.src.Ref(), ErrNothingToConvert)
		}
		s.images = append(s.images, im)
		return s, nil
	}
	if s.index, err = store.LoadIndex(ctx, c.src, desc); err != nil {
		return nil, err
	}
	var seen []string
	var missing error
	for i, d := range s.index.Index.Manifests {
		if !store.IsImage(d.MediaType) || d.Annotations[annotationReferenceType] != "" || store.IsArtifact(d) ||
			d.Platform != nil && (d.Platform.OS == "unknown" || marked(d.Platform)) {
			s.carried = append(s.carried, d)
			continue
		}
		im, err := c.loadWhole(ctx, d)
		if c.leftOut(d, err) {
			missing = err
			continue
		}
		if err != nil {
			return nil, err
		}
		if !isContainerImage(im.src) || c.converted(im.src) {
			s.carried = append(s.carried, d)
			continue
		}
		// An entry without a platform would come behind ours in the eyes of runtimes.
		s.index.Index.Manifests[i].Platform = im.src.Desc.Platform
		seen = append(seen, im.platform)
		if wanted(im.platform, c.opt.Platforms) {
			s.images = append(s.images, im)
		}
	}
	if len(s.images) == 0 && missing != nil {
		return nil, missing
	}
	if len(s.images) == 0 {
		return nil, fmt.Errorf("%s: %w: wanted %s, the index has %s", c.src.Ref(), ErrNothingToConvert,
			orAll(c.opt.Platforms), strings.Join(seen, ", "))
	}
	return s, nil
}

// leftOut reports whether an entry of the index may be missing, and tells of it where it would have been converted.
func (c *conversion) leftOut(d ocispec.Descriptor, err error) bool {
	if c.opt.OnMissing == nil || !errors.Is(err, store.ErrNotFound) {
		return false
	}
	if len(c.opt.Platforms) > 0 {
		return !wanted(platformName(d.Platform), c.opt.Platforms)
	}
	c.opt.OnMissing(d, platformName(d.Platform))
	return true
}

// marked reports whether a platform has features that mark an image of some format. Those of Windows are real ones.
func marked(p *ocispec.Platform) bool { return len(p.OSFeatures) > 0 && p.OS != "windows" }

func orAll(platforms []string) string {
	if len(platforms) == 0 {
		return "all platforms"
	}
	return strings.Join(platforms, ", ")
}

// load reads an image's manifest. A platform that the index does not give is filled in from the config.
func (c *conversion) load(ctx context.Context, desc ocispec.Descriptor) (*sourceImage, error) {
	m, err := store.LoadManifest(ctx, c.src, desc)
	if err != nil {
		return nil, err
	}
	if m.Desc.Platform == nil && m.Config.OS != "" {
		p := m.Config.Platform
		m.Desc.Platform = &p
	}
	return &sourceImage{m, platformName(m.Desc.Platform)}, nil
}

// loadWhole is load for an entry of an index that the source may lack: then, ErrNotFound is the error also where a layer is missing.
func (c *conversion) loadWhole(ctx context.Context, desc ocispec.Descriptor) (*sourceImage, error) {
	im, err := c.load(ctx, desc)
	if err != nil || c.opt.OnMissing == nil {
		return im, err
	}
	for i, l := range im.src.Manifest.Layers {
		if _, err := store.FindBlob(ctx, c.src, l.Digest); err != nil {
			return nil, fmt.Errorf("image %s%s: layer %d: %w", desc.Digest, onPlatform(im.platform), i, err)
		}
	}
	return im, nil
}

// isContainerImage tells images from artifacts, which have manifests of the same media type.
func isContainerImage(m *formats.Manifest) bool {
	switch m.Manifest.Config.MediaType {
	case ocispec.MediaTypeImageConfig, formats.MediaTypeDockerConfig:
		return true
	}
	return false
}

func platformName(p *ocispec.Platform) string {
	if p == nil || p.OS == "" {
		return ""
	}
	name := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		name += "/" + p.Variant
	}
	return name
}

// wanted reports whether the platform is one of those. A wanted platform without variant takes every variant.
func wanted(platform string, list []string) bool {
	return len(list) == 0 || slices.ContainsFunc(list, func(w string) bool {
		return platform == w || strings.HasPrefix(platform, w+"/")
	})
}

// converted reports whether the image is of one of our formats, and so is no source.
func (c *conversion) converted(m *formats.Manifest) bool {
	return slices.ContainsFunc(c.opt.Readers, func(r formats.Reader) bool { return r.Recognize(m) })
}
