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

// ErrMoved means that somebody else moved the target's tag while an index for it was made.
var ErrMoved = errors.New("the tag was moved by somebody else meanwhile")

// indexTries is how often an index is made before ErrMoved.
const indexTries = 5

// attachIndex names an index that has the source's manifests first, so that runtimes that do not know the format take those.
// What the target's tag names already is kept, if it is an index of the same images: entries of other formats stay, those that
// this format had for the same platforms are replaced. Who moves the tag meanwhile is not overwritten: the index is made
// again on top of what is there then.
func (c *conversion) attachIndex(ctx context.Context, out Output, s *source, made []ocispec.Descriptor) (ocispec.Descriptor, error) {
	for range indexTries {
		before, err := currentTag(ctx, out.Target)
		if err != nil {
			return before, err
		}
		there, err := c.currentEntries(ctx, out.Target, before, s)
		if err != nil {
			return before, err
		}
		top, err := c.putIndex(ctx, out, s, mergeEntries(out.Writer, s, there, made))
		if err != nil {
			return top, err
		}
		now, err := currentTag(ctx, out.Target)
		if err != nil {
			return top, err
		}
		if now.Digest == before.Digest {
			return top, out.Target.Tag(ctx, top, "")
		}
	}
	return ocispec.Descriptor{}, fmt.Errorf("tag %s: %w, %d times", out.Target.Ref(), ErrMoved, indexTries)
}

// currentTag returns what the target's reference names; nothing where that is nothing, or no image alone.
func currentTag(ctx context.Context, t store.Target) (ocispec.Descriptor, error) {
	desc, err := t.Resolve(ctx)
	if errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrReference) {
		return ocispec.Descriptor{}, nil
	}
	return desc, err
}

// currentEntries returns the entries of the index that the target's tag names, if it has all images of the source. If it names
// something else, that is replaced, as with any tag; but not if the source is what the same tag named before.
func (c *conversion) currentEntries(ctx context.Context, t store.Target, now ocispec.Descriptor, s *source) ([]ocispec.Descriptor, error) {
	if now.Digest == "" || now.Digest == s.desc.Digest {
		return nil, nil
	}
	var entries []ocispec.Descriptor
	if store.IsIndex(now.MediaType) {
		x, err := store.LoadIndex(ctx, t, now)
		if err != nil {
			return nil, err
		}
		entries = x.Index.Manifests
	}
	for _, im := range s.images {
		if slices.ContainsFunc(entries, func(e ocispec.Descriptor) bool { return e.Digest == im.src.Desc.Digest }) {
			continue
		}
		if c.src.Ref().String() == t.Ref().String() {
			return nil, fmt.Errorf("tag %s names %s instead of %s, which was converted: %w", t.Ref(), now.Digest, s.desc.Digest, ErrMoved)
		}
		return nil, nil
	}
	return entries, nil
}

// mergeEntries puts together the entries of an index: the source's, others that are there, ours.
func mergeEntries(w formats.Writer, s *source, there, made []ocispec.Descriptor) []ocispec.Descriptor {
	var all []ocispec.Descriptor
	if s.index != nil {
		all = append(all, s.index.Index.Manifests...)
	} else {
		all = append(all, s.images[0].src.Desc)
	}
	for _, d := range there {
		if !hasEntry(all, d) {
			all = append(all, d)
		}
	}
	marker, _ := w.(formats.IndexMarker)
	made = slices.Clone(made)
	for i, d := range made {
		if marker != nil {
			made[i] = marker.MarkIndexEntry(d)
		}
	}
	sources := make([]ocispec.Descriptor, len(s.images))
	for i, im := range s.images {
		sources[i] = im.src.Desc
	}
	all = slices.DeleteFunc(all, func(e ocispec.Descriptor) bool {
		return hasEntry(made, e) || !hasEntry(sources, e) && isMarked(marker, e) && slices.ContainsFunc(made, func(d ocispec.Descriptor) bool {
			return e.Platform != nil && d.Platform != nil && platformName(e.Platform) == platformName(d.Platform)
		})
	})
	return append(all, made...)
}

// hasEntry reports whether the manifest is in the list.
func hasEntry(list []ocispec.Descriptor, d ocispec.Descriptor) bool {
	return slices.ContainsFunc(list, func(e ocispec.Descriptor) bool { return e.Digest == d.Digest })
}

// isMarked reports whether an entry is marked as the format marks its own, now or in earlier generations of the mark: by its
// artifact type or by a feature of its platform.
func isMarked(marker formats.IndexMarker, e ocispec.Descriptor) bool {
	if marker == nil {
		return false
	}
	mark := marker.MarkIndexEntry(ocispec.Descriptor{Platform: &ocispec.Platform{}})
	if mark.ArtifactType != "" && mark.ArtifactType == e.ArtifactType {
		return true
	}
	return e.Platform != nil && slices.ContainsFunc(e.Platform.OSFeatures, func(f string) bool {
		return slices.Contains(mark.Platform.OSFeatures, f)
	})
}
