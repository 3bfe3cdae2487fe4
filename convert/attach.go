package convert

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/store"
)

// dress gives a finished manifest what the way of attaching asks for.
func (c *conversion) dress(out Output, im *sourceImage, fin *formats.Result) (ocispec.Descriptor, []byte, error) {
	desc, raw := fin.Desc, fin.Manifest
	if c.opt.Attach == AttachReferrer || c.opt.Subject {
		var m ocispec.Manifest
		if err := json.Unmarshal(raw, &m); err != nil {
			return desc, nil, fmt.Errorf("manifest: %w", err)
		}
		m.Subject = subject(im.src.Desc)
		m.ArtifactType = referrerType(out.Writer)
		var err error
		if c.opt.ArtifactManifest {
			desc, raw, err = store.MarshalArtifact(&m)
		} else if raw, err = json.Marshal(m); err == nil {
			desc = formats.DigestOf(desc.MediaType, raw)
		}
		if err != nil {
			return desc, nil, fmt.Errorf("manifest: %w", err)
		}
	}
	desc.Platform = im.src.Desc.Platform
	return desc, raw, nil
}

// subject names an object without the platform, which some registries refuse in a subject.
func subject(d ocispec.Descriptor) *ocispec.Descriptor {
	return &ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}
}

// referrerType returns the artifact type of what a writer made, where it refers to its source.
func referrerType(w formats.Writer) string {
	switch e := w.(type) {
	case formats.ReferrerMarker:
		return e.ReferrerType()
	case formats.IndexMarker:
		return e.MarkIndexEntry(ocispec.Descriptor{}).ArtifactType
	}
	return ""
}

// attach makes the output's target name the converted images, and returns what it names.
func (c *conversion) attach(ctx context.Context, out Output, s *source, made []madeImage) (ocispec.Descriptor, error) {
	top := s.desc
	if c.opt.Attach != AttachTag {
		// Before our manifests: a referrer comes after its subject.
		if err := store.Copy(ctx, out.Target, c.src, s.desc, store.CopyOptions{Concurrency: c.opt.Jobs}); err != nil {
			return top, fmt.Errorf("copy the source: %w", err)
		}
	}
	descs := make([]ocispec.Descriptor, len(made))
	if keepsLayers(out) {
		for _, im := range s.images {
			if err := store.Copy(ctx, out.Target, c.src, im.src.Desc, store.CopyOptions{Concurrency: c.opt.Jobs}); err != nil {
				return top, fmt.Errorf("keep the source's layers: %w", err)
			}
		}
	}
	for i, m := range made {
		if err := out.Target.Put(ctx, m.desc, m.raw); err != nil {
			return top, err
		}
		descs[i] = m.desc
	}
	var err error
	switch c.opt.Attach {
	case AttachIndex:
		return c.attachIndex(ctx, out, s, descs)
	case AttachTag:
		top, err = c.attachTag(ctx, out, s, descs)
	case AttachReferrer: // the tag names the source
	}
	if err != nil || c.opt.Untagged {
		return top, err
	}
	return top, out.Target.Tag(ctx, top, "")
}

// attachTag names the image alone, or an index of the images and of what the source's index carries beside them.
func (c *conversion) attachTag(ctx context.Context, out Output, s *source, made []ocispec.Descriptor) (ocispec.Descriptor, error) {
	if s.index == nil || len(made) == 1 && len(s.carried) == 0 && !c.opt.Index.Always {
		return made[0], nil
	}
	for i, im := range s.images {
		made[i].Annotations = im.src.Desc.Annotations // of the index's entry
	}
	carried, err := c.carry(ctx, out, s, made)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return c.putIndex(ctx, out, s, slices.Concat(made, carried))
}

// carry copies what stands beside the images in the source's index. Attestations of an image that was converted are pointed
// at the converted one; those of images that were left out stay behind.
func (c *conversion) carry(ctx context.Context, out Output, s *source, made []ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	becomes := make(map[digest.Digest]digest.Digest)
	for i, im := range s.images {
		becomes[im.src.Desc.Digest] = made[i].Digest
	}
	var entries []ocispec.Descriptor
	for _, d := range s.carried {
		if d.Annotations[annotationReferenceType] != "" && c.indexType(s) == formats.MediaTypeDockerIndex {
			continue // Docker's lists have none, and their readers stumble over an image without layers
		}
		if of := d.Annotations[annotationReferenceDigest]; of != "" {
			target, ok := becomes[digest.Digest(of)]
			if !ok {
				continue
			}
			d.Annotations = maps.Clone(d.Annotations)
			d.Annotations[annotationReferenceDigest] = target.String()
		}
		err := store.Copy(ctx, out.Target, c.src, d, store.CopyOptions{Concurrency: c.opt.Jobs})
		if c.opt.OnMissing != nil && errors.Is(err, store.ErrNotFound) {
			c.opt.OnMissing(d, platformName(d.Platform))
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("carry %s along: %w", d.Digest, err)
		}
		entries = append(entries, d)
	}
	return entries, nil
}

// indexType returns the media type of an index that is made of the source's.
func (c *conversion) indexType(s *source) string {
	if t := c.opt.Index.MediaType; t != "" && c.opt.Attach == AttachTag {
		return t
	}
	return s.index.Desc.MediaType
}

// putIndex stores an index with the source's media type and annotations.
func (c *conversion) putIndex(ctx context.Context, out Output, s *source, entries []ocispec.Descriptor) (ocispec.Descriptor, error) {
	x := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: entries}
	for i := range x.Manifests {
		if a := x.Manifests[i].Annotations; a[ocispec.AnnotationRefName] != "" { // a layout's own note, no part of the image
			a = maps.Clone(a)
			delete(a, ocispec.AnnotationRefName)
			x.Manifests[i].Annotations = a
		}
	}
	if s.index != nil {
		x.Annotations = s.index.Index.Annotations
		x.MediaType = c.indexType(s)
		if c.opt.Attach == AttachTag && c.opt.Index.Subject {
			x.Subject, x.ArtifactType = subject(s.desc), referrerType(out.Writer)
		}
	}
	raw, err := json.Marshal(x)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("index: %w", err)
	}
	desc := formats.DigestOf(x.MediaType, raw)
	return desc, out.Target.Put(ctx, desc, raw)
}
