package exporter

import (
	"context"
	"errors"
	"fmt"
	"slices"

	remoteserrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/distribution/reference"
	"github.com/moby/buildkit/util/errutil"
	"github.com/moby/buildkit/util/progress"
	"github.com/moby/buildkit/util/push"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/buildkit/output"
	"github.com/lazuli-project/lazuli/containerd/contentstore"
	"github.com/lazuli-project/lazuli/convert"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/store"
)

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
	if output.KeepsLayers(m.Writer) && !x.opt.NeedsPlain() {
		// Its layers are the image's, and stay in the registry as long as it does.
		for _, im := range m.Images {
			if err := x.pushByDigest(ctx, name, im.Source.Digest); err != nil {
				return err
			}
		}
	}
	switch {
	case x.opt.Attach == convert.AttachReferrer:
		return x.pushReferrers(ctx, name, m)
	case x.opt.Merge != output.MergeNothing:
		return x.pushMerged(ctx, name, m)
	case x.opt.PushByDigest:
		return x.pushByDigest(ctx, name, m.Tagged.Digest)
	}
	return x.pushTag(ctx, name, m.Tagged.Digest)
}

// pushTag pushes a manifest with all that it names under a name.
func (x *export) pushTag(ctx context.Context, name string, d digest.Digest) error {
	cs := x.worker.ContentStore()
	return push.Push(ctx, x.sessions, x.sessionID, cs, cs, d, name, x.opt.Insecure, x.worker.RegistryHosts, false, nil)
}

// pushByDigest pushes a manifest with all that it names into the repository of a name.
func (x *export) pushByDigest(ctx context.Context, name string, d digest.Digest) error {
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return err
	}
	cs := x.worker.ContentStore()
	return push.Push(ctx, x.sessions, x.sessionID, cs, cs, d, reference.TrimNamed(named).String(), x.opt.Insecure, x.worker.RegistryHosts, true, nil)
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
	for _, im := range m.Images {
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
	switch w := m.Writer.(type) {
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
	index, raw, err := output.MarshalIndex(append(list, desc), nil)
	if err != nil {
		return err
	}
	return r.put(ctx, tag, index, raw)
}

// pushMerged pushes what was made as a part of the index that a name names.
func (x *export) pushMerged(ctx context.Context, name string, m *made) error {
	ours, err := m.Addition(ctx, contentstore.NewSource(ctx, x.worker.ContentStore(), store.Ref{}, m.Tagged))
	if err != nil {
		return err
	}
	r, err := x.repository(name, true)
	if err != nil {
		return err
	}
	for _, d := range slices.Concat(ours.Plain, ours.Images, ours.Beside) {
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
	p, err := r.place(ctx)
	if err == nil {
		err = ours.MergeInto(ctx, p, x.opt.Merge)
	}
	return done(err)
}
