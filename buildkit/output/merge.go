package output

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/catalog"
	"github.com/lazuli-project/lazuli/convert"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/store"
)

// Annotations by which BuildKit ties attestation manifests to images.
const (
	annotationReferenceType   = "vnd.docker.reference.type"
	annotationReferenceDigest = "vnd.docker.reference.digest"
)

// Made is what became of a build's plain image.
type Made struct {
	Format string
	Writer formats.Writer
	Tagged ocispec.Descriptor // the image, or the index of all platforms with what belongs to them
	Images []convert.Image
	// Name is by what attestations call their subjects; "" leaves what they say.
	Name string
}

// Addition is what an output adds to an index.
type Addition struct {
	Plain       []ocispec.Descriptor // the plain images of the build, with what belongs to them
	Images      []ocispec.Descriptor // ours, as the format marks them
	Beside      []ocispec.Descriptor // what belongs to ours
	annotations map[string]string    // of the index that the build made
	platform    *ocispec.Platform    // of ours, without marks
	marker      formats.IndexMarker  // nil for a format without
	format      string
}

// Addition says what of the things that were made, which are in src, is added to an index.
func (m *Made) Addition(ctx context.Context, src formats.Sources) (*Addition, error) {
	a := &Addition{format: m.Format}
	a.marker, _ = m.Writer.(formats.IndexMarker)
	entries := []ocispec.Descriptor{m.Tagged}
	if store.IsIndex(m.Tagged.MediaType) {
		index, err := store.LoadIndex(ctx, src, m.Tagged)
		if err != nil {
			return nil, err
		}
		entries, a.annotations = index.Index.Manifests, index.Index.Annotations
	}
	made := make(map[digest.Digest]bool)
	for _, im := range m.Images {
		made[im.Desc.Digest] = true
		a.platform = im.Source.Platform
	}
	for _, d := range entries {
		switch {
		case made[d.Digest]:
			a.Images = append(a.Images, a.mark(d))
		case made[digest.Digest(d.Annotations[annotationReferenceDigest])]:
			a.Beside = append(a.Beside, d)
		default:
			a.Plain = append(a.Plain, d)
		}
	}
	return a, nil
}

// mark marks an entry, unless it is.
func (a *Addition) mark(d ocispec.Descriptor) ocispec.Descriptor {
	if a.marker == nil || a.isMarked(d) {
		return d
	}
	return a.marker.MarkIndexEntry(d)
}

// isMarked reports whether an entry is marked as the format marks its own, now or in earlier generations of the mark: by its artifact
// type or by a feature of its platform.
func (a *Addition) isMarked(e ocispec.Descriptor) bool {
	if a.marker == nil {
		return false
	}
	mark := a.marker.MarkIndexEntry(ocispec.Descriptor{Platform: &ocispec.Platform{}})
	if mark.ArtifactType != "" && mark.ArtifactType == e.ArtifactType {
		return true
	}
	return e.Platform != nil && slices.ContainsFunc(e.Platform.OSFeatures, func(f string) bool { return slices.Contains(mark.Platform.OSFeatures, f) })
}

// recognize reports whether a manifest is of the format.
func (a *Addition) recognize(m *formats.Manifest) bool {
	return slices.ContainsFunc(catalog.LazyReaders(), func(r formats.Reader) bool { return r.Name() == a.format && r.Recognize(m) })
}

// sameBuild reports whether an index has all that the build made beside ours, so that the rest of it are other formats of the same.
func (a *Addition) sameBuild(there []ocispec.Descriptor) bool {
	return !slices.ContainsFunc(a.Plain, func(p ocispec.Descriptor) bool { return !hasDigest(there, p.Digest) })
}

// merge puts the addition into an index: plain images first, as runtimes that do not know the format take the first one for their
// platform; of what is there, what the format had for the same platforms goes, with what belonged to that.
func (a *Addition) merge(there []ocispec.Descriptor) []ocispec.Descriptor {
	own := slices.Concat(a.Plain, a.Images, a.Beside)
	gone := make(map[digest.Digest]bool)
	for _, e := range there {
		if a.isMarked(e) && slices.ContainsFunc(a.Images, func(d ocispec.Descriptor) bool { return samePlatform(e.Platform, d.Platform) }) {
			gone[e.Digest] = true
		}
	}
	all := slices.Clone(a.Plain)
	var marked []ocispec.Descriptor
	for _, e := range there {
		switch {
		case hasDigest(own, e.Digest), gone[e.Digest], gone[digest.Digest(e.Annotations[annotationReferenceDigest])]:
		case e.ArtifactType != "" || e.Platform != nil && e.Platform.OS != "windows" && len(e.Platform.OSFeatures) > 0:
			marked = append(marked, e)
		default:
			all = append(all, e)
		}
	}
	return slices.Concat(all, marked, a.Images, a.Beside)
}

func hasDigest(list []ocispec.Descriptor, d digest.Digest) bool {
	return slices.ContainsFunc(list, func(e ocispec.Descriptor) bool { return e.Digest == d })
}

// samePlatform compares what decides for which machines an image is. Marks are no part of that.
func samePlatform(a, b *ocispec.Platform) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.OS == b.OS && a.Architecture == b.Architecture && a.Variant == b.Variant && a.OSVersion == b.OSVersion
}

// Place is a name in a registry that may name an index. Its objects are read by way of [formats.Sources].
type Place interface {
	formats.Sources
	// Current returns what the name names; nothing, and no error, where that is nothing.
	Current(ctx context.Context) (ocispec.Descriptor, error)
	// PutIndex makes it name an index.
	PutIndex(ctx context.Context, desc ocispec.Descriptor, raw []byte) error
}

// mergeTries is how often an index is made before convert.ErrMoved.
const mergeTries = 5

// MergeInto makes a place name an index with the addition, whose manifests are in its repository. Registries cannot compare and swap: who
// moves the name meanwhile is seen when it is resolved once more before it is written.
func (a *Addition) MergeInto(ctx context.Context, p Place, how Merging) error {
	for range mergeTries {
		before, err := p.Current(ctx)
		if err != nil {
			return err
		}
		entries, annotations, err := a.entries(ctx, p, before)
		if err != nil {
			return err
		}
		if how == MergeBuild && !a.sameBuild(entries) {
			entries, annotations = nil, nil
		}
		if annotations == nil {
			annotations = a.annotations
		}
		index, raw, err := MarshalIndex(a.merge(entries), annotations)
		if err != nil {
			return err
		}
		now, err := p.Current(ctx)
		if err != nil {
			return err
		}
		if now.Digest == before.Digest {
			return p.PutIndex(ctx, index, raw)
		}
	}
	return fmt.Errorf("%w, %d times", convert.ErrMoved, mergeTries)
}

// entries returns what a place names as entries of an index, with platforms, and the index's annotations. An image of our format that
// stands there alone is none: it is replaced.
func (a *Addition) entries(ctx context.Context, p Place, desc ocispec.Descriptor) ([]ocispec.Descriptor, map[string]string, error) {
	if desc.Digest == "" {
		return nil, nil, nil
	}
	list := []ocispec.Descriptor{desc}
	var annotations map[string]string
	if store.IsIndex(desc.MediaType) {
		x, err := store.LoadIndex(ctx, p, desc)
		if err != nil {
			return nil, nil, err
		}
		list, annotations = x.Index.Manifests, x.Index.Annotations
	}
	kept := make([]ocispec.Descriptor, 0, len(list))
	for _, d := range list {
		if d.Platform == nil && store.IsImage(d.MediaType) && d.Annotations[annotationReferenceType] == "" && d.ArtifactType == "" {
			m, err := store.LoadManifest(ctx, p, d)
			if errors.Is(err, store.ErrNotFound) {
				continue // what is not there cannot be pulled, either
			}
			if err != nil {
				return nil, nil, err
			}
			if a.recognize(m) {
				continue
			}
			if m.Config.OS != "" {
				d.Platform = &m.Config.Platform
			} else if len(a.Images) == 1 {
				d.Platform = a.platform
			}
		}
		kept = append(kept, d)
	}
	return kept, annotations, nil
}

// MarshalIndex makes an index.
func MarshalIndex(entries []ocispec.Descriptor, annotations map[string]string) (ocispec.Descriptor, []byte, error) {
	raw, err := json.Marshal(ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: entries, Annotations: annotations,
	})
	if err != nil {
		return ocispec.Descriptor{}, nil, fmt.Errorf("index: %w", err)
	}
	return formats.DigestOf(ocispec.MediaTypeImageIndex, raw), raw, nil
}
