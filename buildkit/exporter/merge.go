package exporter

import (
	"context"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/catalog"
	"github.com/lazuli-project/lazuli/containerd/contentstore"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/store"
)

// Annotations by which BuildKit ties attestation manifests to images.
const (
	annotationReferenceType   = "vnd.docker.reference.type"
	annotationReferenceDigest = "vnd.docker.reference.digest"
)

// addition is what an export adds to an index.
type addition struct {
	plain         []ocispec.Descriptor // the plain images of the build, with what belongs to them
	images        []ocispec.Descriptor // ours, as the format marks them
	beside        []ocispec.Descriptor // what belongs to ours
	annotations   map[string]string    // of the index that the build made
	plainPlatform *ocispec.Platform    // of ours, without marks
	marker        formats.IndexMarker  // nil for a format without
	format        string
}

// addition says what of the things that were made is added to an index.
func (x *export) addition(ctx context.Context, m *made) (*addition, error) {
	a := &addition{format: x.format}
	a.marker, _ = m.writer.(formats.IndexMarker)
	entries := []ocispec.Descriptor{m.tagged}
	if store.IsIndex(m.tagged.MediaType) {
		index, err := store.LoadIndex(ctx, contentstore.NewSource(ctx, x.worker.ContentStore(), store.Ref{}, m.tagged), m.tagged)
		if err != nil {
			return nil, err
		}
		entries, a.annotations = index.Index.Manifests, index.Index.Annotations
	}
	made := make(map[digest.Digest]bool)
	for _, im := range m.images {
		made[im.Desc.Digest] = true
		a.plainPlatform = im.Source.Platform
	}
	for _, d := range entries {
		switch {
		case made[d.Digest]:
			a.images = append(a.images, a.mark(d))
		case made[digest.Digest(d.Annotations[annotationReferenceDigest])]:
			a.beside = append(a.beside, d)
		default:
			a.plain = append(a.plain, d)
		}
	}
	return a, nil
}

// mark marks an entry, unless it is.
func (a *addition) mark(d ocispec.Descriptor) ocispec.Descriptor {
	if a.marker == nil || a.isMarked(d) {
		return d
	}
	return a.marker.MarkIndexEntry(d)
}

// isMarked reports whether an entry is marked as the format marks its own, now or in earlier generations of the mark: by its artifact
// type or by a feature of its platform.
func (a *addition) isMarked(e ocispec.Descriptor) bool {
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
func (a *addition) recognize(m *formats.Manifest) bool {
	return slices.ContainsFunc(catalog.LazyReaders(), func(r formats.Reader) bool { return r.Name() == a.format && r.Recognize(m) })
}

// sameBuild reports whether an index has all that the build made beside ours, so that the rest of it are other formats of the same.
func (a *addition) sameBuild(there []ocispec.Descriptor) bool {
	return !slices.ContainsFunc(a.plain, func(p ocispec.Descriptor) bool { return !hasDigest(there, p.Digest) })
}

// merge puts the addition into an index: plain images first, as runtimes that do not know the format take the first one for their
// platform; of what is there, what the format had for the same platforms goes, with what belonged to that.
func (a *addition) merge(there []ocispec.Descriptor) []ocispec.Descriptor {
	own := slices.Concat(a.plain, a.images, a.beside)
	gone := make(map[digest.Digest]bool)
	for _, e := range there {
		if a.isMarked(e) && slices.ContainsFunc(a.images, func(d ocispec.Descriptor) bool { return samePlatform(e.Platform, d.Platform) }) {
			gone[e.Digest] = true
		}
	}
	all := slices.Clone(a.plain)
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
	return slices.Concat(all, marked, a.images, a.beside)
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
