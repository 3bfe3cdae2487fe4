package exporter

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	remoteserrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/moby/buildkit/util/errutil"
	"github.com/moby/buildkit/util/progress"
	"github.com/moby/buildkit/util/push"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/containerd/contentstore"
	"github.com/lazuli-project/lazuli/convert"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/store"
)

// mergeTries is how often an index is made before convert.ErrMoved.
const mergeTries = 5

// push pushes what was made to all names. It is all that an export does with the registry of its names.
func (x *export) push(ctx context.Context, m *made) error {
	for _, name := range x.names {
		if err := x.pushTo(ctx, name, m); err != nil {
			if status := (remoteserrors.ErrUnexpectedStatus{}); errors.As(err, &status) {
				err = errutil.WithDetails(err)
			}
			return fmt.Errorf("push %s: %w", name, err)
		}
	}
	return nil
}

func (x *export) pushTo(ctx context.Context, name string, m *made) error {
	if keepsLayers(m.writer) && !x.needsPlain() {
		// Its layers are the image's, and stay in the registry as long as it does.
		for _, im := range m.images {
			if err := x.pushByDigest(ctx, name, im.Source.Digest); err != nil {
				return err
			}
		}
	}
	switch {
	case x.opt.attach == convert.AttachReferrer:
		return x.pushReferrers(ctx, name, m)
	case x.opt.merge != mergeNothing:
		return x.pushMerged(ctx, name, m)
	case x.opt.pushByDigest:
		return x.pushByDigest(ctx, name, m.tagged.Digest)
	}
	return x.pushTag(ctx, name, m.tagged.Digest)
}

// pushTag pushes a manifest with all that it names under a name.
func (x *export) pushTag(ctx context.Context, name string, d digest.Digest) error {
	cs := x.worker.ContentStore()
	return push.Push(ctx, x.sessions, x.sessionID, cs, cs, d, name, x.opt.insecure, x.worker.RegistryHosts, false, nil)
}

// pushByDigest pushes a manifest with all that it names into the repository of a name.
func (x *export) pushByDigest(ctx context.Context, name string, d digest.Digest) error {
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return err
	}
	cs := x.worker.ContentStore()
	return push.Push(ctx, x.sessions, x.sessionID, cs, cs, d, reference.TrimNamed(named).String(), x.opt.insecure, x.worker.RegistryHosts, true, nil)
}

// pushReferrers pushes the plain image under the name, and then ours, which refer to it.
func (x *export) pushReferrers(ctx context.Context, name string, m *made) error {
	if err := x.pushTag(ctx, name, m.plain.Digest); err != nil {
		return err
	}
	r, err := x.repository(name, true)
	if err != nil {
		return err
	}
	for _, im := range m.images {
		if err := x.pushByDigest(ctx, name, im.Desc.Digest); err != nil {
			return err
		}
		if err := x.listReferrer(ctx, r, im.Source.Digest, x.describeReferrer(m, im)); err != nil {
			return err
		}
	}
	return nil
}

// describeReferrer describes an image as registries list referrers.
func (x *export) describeReferrer(m *made, im convert.Image) ocispec.Descriptor {
	d := ocispec.Descriptor{MediaType: im.Desc.MediaType, Digest: im.Desc.Digest, Size: im.Desc.Size}
	switch w := m.writer.(type) {
	case formats.ReferrerMarker:
		d.ArtifactType = w.ReferrerType()
	case formats.IndexMarker:
		d.ArtifactType = w.MarkIndexEntry(d).ArtifactType
	}
	return d
}

// listReferrer makes a referrer be found in registries that do not list referrers themselves: by a tag with a list.
func (x *export) listReferrer(ctx context.Context, r *repository, subject digest.Digest, desc ocispec.Descriptor) error {
	tag, err := r.tagged(fallbackTag(subject))
	if err != nil {
		return err
	}
	release, err := x.worker.tags.acquire(ctx, tag)
	if err != nil {
		return err
	}
	defer release()
	list, err := r.referrers(ctx, subject)
	if err != nil || slices.ContainsFunc(list, func(d ocispec.Descriptor) bool { return d.Digest == desc.Digest }) {
		return err
	}
	index, raw, err := marshalIndex(append(list, desc), nil)
	if err != nil {
		return err
	}
	return r.put(ctx, tag, index, raw)
}

// marshalIndex makes an index.
func marshalIndex(entries []ocispec.Descriptor, annotations map[string]string) (ocispec.Descriptor, []byte, error) {
	raw, err := json.Marshal(ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: entries, Annotations: annotations,
	})
	if err != nil {
		return ocispec.Descriptor{}, nil, fmt.Errorf("index: %w", err)
	}
	return formats.DigestOf(ocispec.MediaTypeImageIndex, raw), raw, nil
}

// pushMerged pushes what was made as a part of the index that a name names.
func (x *export) pushMerged(ctx context.Context, name string, m *made) error {
	ours, err := x.addition(ctx, m)
	if err != nil {
		return err
	}
	r, err := x.repository(name, true)
	if err != nil {
		return err
	}
	for _, d := range slices.Concat(ours.plain, ours.images, ours.beside) {
		if err := x.pushByDigest(ctx, name, d.Digest); err != nil {
			return err
		}
	}
	release, err := x.worker.tags.acquire(ctx, r.named.String())
	if err != nil {
		return err
	}
	defer release()
	done := progress.OneOff(ctx, "merging index of "+r.named.String())
	return done(r.mergeTag(ctx, ours, x.opt.merge))
}

// mergeTag makes the tag name an index with the addition. Registries cannot compare and swap: who moves the tag meanwhile is seen when it
// is resolved once more before it is written.
func (r *repository) mergeTag(ctx context.Context, ours *addition, how merging) error {
	for range mergeTries {
		before, err := r.current(ctx)
		if err != nil {
			return err
		}
		entries, annotations, err := r.entries(ctx, before, ours)
		if err != nil {
			return err
		}
		if how == mergeBuild && !ours.sameBuild(entries) {
			entries, annotations = nil, nil
		}
		if annotations == nil {
			annotations = ours.annotations
		}
		index, raw, err := marshalIndex(ours.merge(entries), annotations)
		if err != nil {
			return err
		}
		now, err := r.current(ctx)
		if err != nil {
			return err
		}
		if now.Digest == before.Digest {
			return r.put(ctx, r.named.String(), index, raw)
		}
	}
	return fmt.Errorf("%s: %w, %d times", r.named, convert.ErrMoved, mergeTries)
}

// entries returns what the tag names as entries of an index, with platforms, and the index's annotations. An image of our format that
// stands there alone is none: it is replaced.
func (r *repository) entries(ctx context.Context, desc ocispec.Descriptor, ours *addition) ([]ocispec.Descriptor, map[string]string, error) {
	if desc.Digest == "" {
		return nil, nil, nil
	}
	provider, err := r.provider(ctx)
	if err != nil {
		return nil, nil, err
	}
	src := contentstore.NewSource(ctx, provider, store.Ref{Transport: store.Registry, Host: reference.Domain(r.named), Repo: reference.Path(r.named)}, desc)
	list := []ocispec.Descriptor{desc}
	var annotations map[string]string
	if store.IsIndex(desc.MediaType) {
		x, err := store.LoadIndex(ctx, src, desc)
		if err != nil {
			return nil, nil, err
		}
		list, annotations = x.Index.Manifests, x.Index.Annotations
	}
	kept := make([]ocispec.Descriptor, 0, len(list))
	for _, d := range list {
		if d.Platform == nil && store.IsImage(d.MediaType) && d.Annotations[annotationReferenceType] == "" && d.ArtifactType == "" {
			m, err := store.LoadManifest(ctx, src, d)
			if errors.Is(err, store.ErrNotFound) || errdefs.IsNotFound(err) {
				continue // what is not there cannot be pulled, either
			}
			if err != nil {
				return nil, nil, err
			}
			if ours.recognize(m) {
				continue
			}
			if m.Config.OS != "" {
				d.Platform = &m.Config.Platform
			} else if len(ours.images) == 1 {
				d.Platform = ours.plainPlatform
			}
		}
		kept = append(kept, d)
	}
	return kept, annotations, nil
}
