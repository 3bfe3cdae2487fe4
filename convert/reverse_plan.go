package convert

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/store"
)

// planReverse finds the images to make plain. Of an index, a platform's image is made of its lazy one if the source of that is at
// hand, or else is the plain one that stands there, or is made of the lazy one.
func (r *reversal) planReverse(ctx context.Context) (*source, error) {
	desc, err := r.src.Resolve(ctx)
	if err != nil {
		return nil, err
	}
	s := &source{desc: desc}
	if !store.IsIndex(desc.MediaType) {
		im, err := r.load(ctx, desc)
		if err != nil {
			return nil, err
		}
		if reader, _ := r.reverser(im.src); reader == nil {
			return nil, fmt.Errorf("%s: %w: the image is of no lazy-loading format", r.src.Ref(), ErrNothingToConvert)
		}
		im.setPlatform()
		s.images = append(s.images, im)
		return s, nil
	}
	if s.index, err = store.LoadIndex(ctx, r.src, desc); err != nil {
		return nil, err
	}
	var all []*sourceImage
	var seen []string
	lazy := false
	for _, d := range s.index.Index.Manifests {
		if !store.IsImage(d.MediaType) || d.Annotations[annotationReferenceType] != "" || d.Platform != nil && d.Platform.OS == "unknown" {
			s.carried = append(s.carried, d)
			continue
		}
		im, err := r.loadWhole(ctx, d)
		if r.leftOut(d, err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		reader, _ := r.reverser(im.src)
		if reader == nil && !isContainerImage(im.src) {
			s.carried = append(s.carried, d)
			continue
		}
		lazy = lazy || reader != nil
		im.setPlatform()
		seen = append(seen, im.platform)
		if wanted(im.platform, r.opt.Platforms) {
			all = append(all, im)
		}
	}
	if !lazy || len(all) == 0 {
		return nil, fmt.Errorf("%s: %w: wanted images of lazy-loading formats for %s, the index has images for %s", r.src.Ref(), ErrNothingToConvert,
			orAll(r.opt.Platforms), strings.Join(seen, ", "))
	}
	for _, im := range all {
		if slices.ContainsFunc(s.images, func(other *sourceImage) bool { return other.platform == im.platform }) {
			continue
		}
		chosen, err := r.chooseImage(ctx, all, im.platform)
		if err != nil {
			return nil, err
		}
		s.images = append(s.images, chosen)
	}
	return s, nil
}

// setPlatform takes the platform from the configuration, which has no features that mark formats.
func (im *sourceImage) setPlatform() {
	if p := im.src.Config.Platform; p.OS != "" {
		im.src.Desc.Platform = &p
		im.platform = platformName(&p)
	}
}

// chooseImage chooses what a platform's plain image is made of.
func (r *reversal) chooseImage(ctx context.Context, all []*sourceImage, platform string) (*sourceImage, error) {
	var plain, lazy *sourceImage
	for _, im := range all {
		if im.platform != platform {
			continue
		}
		reader, re := r.reverser(im.src)
		if reader == nil {
			if plain == nil {
				plain = im
			}
			continue
		}
		if lazy == nil {
			lazy = im
		}
		if re == nil {
			continue
		}
		// A plain image beside it may have been changed when the index was made.
		if _, ok, err := r.findOriginal(ctx, im, re); err != nil || ok {
			return im, err
		}
	}
	if plain != nil {
		return plain, nil
	}
	if lazy == nil {
		return nil, fmt.Errorf("no image for %s: %w", platform, blob.ErrUnsupported)
	}
	return lazy, nil
}
