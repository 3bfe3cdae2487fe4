package baseimage

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/containerd/containerd/v2/pkg/reference"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/moby/buildkit/cache"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/solver"
	buildsource "github.com/moby/buildkit/source"
	"github.com/moby/buildkit/source/containerimage"
	"github.com/moby/buildkit/util/contentutil"
	"github.com/moby/buildkit/util/imageutil"
	"github.com/moby/buildkit/util/leaseutil"
	"github.com/moby/buildkit/util/progress"
	"github.com/moby/buildkit/util/resolver"
	"github.com/moby/buildkit/worker/base"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/catalog"
	"github.com/lazuli-project/lazuli/containerd/contentstore"
	"github.com/lazuli-project/lazuli/convert"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/store"
)

// labelPlainOf is on the manifest of an image that was made plain again: the digest of the manifest that it was made of.
const labelPlainOf = "lazuli.plain-of"

// leaseTime is how long what was read for the metadata of an image stays for the build that asks for it, as in BuildKit.
const leaseTime = 5 * time.Minute

// source gives images of registries to builds.
type source struct {
	*containerimage.Source
	worker *base.Worker
}

var _ buildsource.Source = (*source)(nil)

// Resolve implements [buildsource.Source].
func (s *source) Resolve(ctx context.Context, id buildsource.Identifier, sm *session.Manager, vtx solver.Vertex) (buildsource.SourceInstance, error) {
	inner, err := s.Source.Resolve(ctx, id, sm, vtx)
	if err != nil {
		return nil, err
	}
	image, ok := id.(*containerimage.ImageIdentifier)
	if !ok {
		return inner, nil
	}
	return &instance{SourceInstance: inner, source: s, id: image, sessions: sm, vertex: vtx}, nil
}

// lazyImage is an image of one of our formats.
type lazyImage struct {
	source   *source
	id       *containerimage.ImageIdentifier
	resolver remotes.Resolver
	root     ocispec.Descriptor // what the reference names
	objects  *contentstore.Source
	manifest *formats.Manifest
	reader   formats.Reader
}

// find returns the image that a build gets for an identifier if it is of one of our formats; nil for others.
func (s *source) find(ctx context.Context, id *containerimage.ImageIdentifier, sm *session.Manager, g session.Group) (*lazyImage, error) {
	r := resolver.DefaultPool.GetResolver(s.RegistryHosts, id.Reference.String(), resolver.ScopeType{}, sm, g).WithImageStore(s.ImageStore, id.ResolveMode)
	root, err := s.resolve(ctx, r, id)
	if err != nil {
		return nil, err
	}
	objects := &provider{local: s.ContentStore, resolver: r, ref: id.Reference}
	platform := platforms.DefaultSpec()
	if id.Platform != nil {
		platform = *id.Platform
	}
	// The choice that BuildKit makes.
	only := platforms.Only(platform)
	desc := root
	if store.IsIndex(root.MediaType) {
		children, err := images.LimitManifests(images.FilterPlatforms(images.ChildrenHandler(objects), only), only, 1).Handle(ctx, root)
		if err != nil || len(children) == 0 {
			return nil, err
		}
		desc = children[0]
	}
	if !store.IsImage(desc.MediaType) {
		return nil, nil
	}
	ref, err := store.Parse(id.Reference.String())
	if err != nil {
		return nil, err
	}
	lazy := &lazyImage{source: s, id: id, resolver: r, root: root, objects: contentstore.NewSource(ctx, objects, ref, desc)}
	if lazy.manifest, err = store.LoadManifest(ctx, lazy.objects, desc); err != nil {
		return nil, err
	}
	for _, reader := range catalog.LazyReaders() {
		if reader.Recognize(lazy.manifest) {
			lazy.reader = reader
			return lazy, nil
		}
	}
	return nil, nil
}

// resolve returns what an image's reference names. Nobody is asked for what a digest names and the content store has.
func (s *source) resolve(ctx context.Context, r remotes.Resolver, id *containerimage.ImageIdentifier) (ocispec.Descriptor, error) {
	if d := id.Reference.Digest(); d != "" {
		if ra, err := s.ContentStore.ReaderAt(ctx, ocispec.Descriptor{Digest: d}); err == nil {
			mediaType, err := imageutil.DetectManifestMediaType(ra)
			if err = errors.Join(err, ra.Close()); err == nil {
				return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: ra.Size()}, nil
			}
		}
	}
	_, desc, err := r.Resolve(ctx, id.Reference.String())
	return desc, err
}

// provider gives objects of a content store or, where that has them not, of a repository.
type provider struct {
	local    content.Provider
	resolver remotes.Resolver
	ref      reference.Spec // in the repository
}

// ReaderAt implements [content.Provider]. What is asked for without its size is looked for in the repository alone: the content store may
// have the plain image of the build that made this one, whose layers nobody compressed.
func (p *provider) ReaderAt(ctx context.Context, desc ocispec.Descriptor) (content.ReaderAt, error) {
	if desc.Size > 0 {
		if ra, err := p.local.ReaderAt(ctx, desc); !errdefs.IsNotFound(err) {
			return ra, err
		}
	}
	if desc.Size == 0 {
		ref, err := at(p.ref, desc.Digest)
		if err != nil {
			return nil, err
		}
		if _, desc, err = p.resolver.Resolve(ctx, ref.String()); err != nil {
			return nil, err
		}
	}
	f, err := p.resolver.Fetcher(ctx, p.ref.String())
	if err != nil {
		return nil, err
	}
	return contentutil.FromFetcher(f).ReaderAt(ctx, desc)
}

// original returns the manifest that the image was made of, if it is in the repository with its configuration.
func (l *lazyImage) original(ctx context.Context) (*formats.Manifest, error) {
	r, ok := l.reader.(formats.Reverser)
	if !ok {
		return nil, nil
	}
	desc, ok := r.SourceManifest(l.manifest)
	if !ok {
		return nil, nil
	}
	at, err := at(l.id.Reference, desc.Digest)
	if err != nil {
		return nil, err
	}
	if _, desc, err = l.resolver.Resolve(ctx, at.String()); err != nil {
		if errdefs.IsNotFound(err) {
			err = nil
		}
		return nil, err
	}
	if !store.IsImage(desc.MediaType) {
		return nil, nil
	}
	m, err := store.LoadManifest(ctx, l.objects, desc)
	if errors.Is(err, store.ErrNotFound) {
		err = nil
	}
	return m, err
}

// plain returns the manifest of the plain image. Where that is not in the repository, it is in the content store, with all its layers
// for some minutes at least.
func (l *lazyImage) plain(ctx context.Context) (*formats.Manifest, error) {
	if m, err := l.original(ctx); m != nil || err != nil {
		return m, err
	}
	ctx, done, err := leaseutil.WithLease(ctx, l.source.LeaseManager, leases.WithExpiration(leaseTime), leaseutil.MakeTemporary)
	if err != nil {
		return nil, fmt.Errorf("hold the layers: %w", err)
	}
	imageutil.AddLease(done) // ends with its time, or when the daemon is idle
	return l.reverse(ctx)
}

// reverse makes the image plain again, in the content store.
func (l *lazyImage) reverse(ctx context.Context) (*formats.Manifest, error) {
	cs := l.source.ContentStore
	target := contentstore.NewTarget(ctx, cs, l.objects.Ref(), contentstore.Options{})
	if m := l.known(ctx, target); m != nil {
		return m, nil
	}
	res, err := func() (*convert.Result, error) {
		finish := progress.OneOff(ctx, fmt.Sprintf("making %s of %s plain", l.manifest.Desc.Digest, l.reader.Name()))
		res, err := convert.Reverse(ctx, l.objects, target, convert.Options{Readers: catalog.LazyReaders()})
		return res, finish(err)
	}()
	err = errors.Join(err, target.Close()) //nolint:contextcheck // objects have their own
	if err != nil {
		return nil, fmt.Errorf("read the layers of %s: %w", l.id.Reference, err)
	}
	desc := res.Tagged[0]
	_, err = cs.Update(ctx, content.Info{Digest: desc.Digest, Labels: map[string]string{labelPlainOf: l.manifest.Desc.Digest.String()}}, "labels."+labelPlainOf)
	if err != nil {
		return nil, fmt.Errorf("note the plain image: %w", err)
	}
	return store.LoadManifest(ctx, target, desc)
}

// known returns the plain image that was made before, if all of it is still there. It is held by the context's lease then.
func (l *lazyImage) known(ctx context.Context, target *contentstore.Target) *formats.Manifest {
	var desc ocispec.Descriptor
	err := l.source.ContentStore.Walk(ctx, func(info content.Info) error {
		desc = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: info.Digest, Size: info.Size}
		return nil
	}, fmt.Sprintf("labels.%q==%s", labelPlainOf, l.manifest.Desc.Digest))
	if err != nil || desc.Digest == "" {
		return nil
	}
	m, err := store.LoadManifest(ctx, target, desc)
	if err != nil {
		return nil // it is made again
	}
	for _, d := range append([]ocispec.Descriptor{desc, m.Manifest.Config}, m.Manifest.Layers...) {
		if ok, err := target.Exists(ctx, d); err != nil || !ok {
			return nil
		}
	}
	return m
}

// layers returns an image's layers as BuildKit describes them.
func layers(m *formats.Manifest) ([]ocispec.Descriptor, error) {
	if len(m.Manifest.Layers) != len(m.Config.RootFS.DiffIDs) {
		return nil, fmt.Errorf("manifest with %d layers, config with %d diff IDs", len(m.Manifest.Layers), len(m.Config.RootFS.DiffIDs))
	}
	list := make([]ocispec.Descriptor, len(m.Manifest.Layers))
	for i, l := range m.Manifest.Layers {
		list[i] = ocispec.Descriptor{
			MediaType: l.MediaType, Digest: l.Digest, Size: l.Size, Annotations: map[string]string{labels.LabelUncompressed: m.Config.RootFS.DiffIDs[i].String()},
		}
	}
	return list, nil
}

// refOf returns the file system of plain layers that are in the content store; nil for none.
func (s *source) refOf(ctx context.Context, id *containerimage.ImageIdentifier, list []ocispec.Descriptor) (ref cache.ImmutableRef, err error) {
	defer func() {
		if err != nil && ref != nil {
			err = errors.Join(err, ref.Release(context.WithoutCancel(ctx)))
			ref = nil
		}
	}()
	for _, desc := range list {
		parent := ref
		// The name says that the layer comes from elsewhere.
		ref, err = s.worker.CacheManager().GetByBlob(ctx, desc, parent, cache.WithImageRef(id.Reference.String()))
		if parent != nil {
			err = errors.Join(err, parent.Release(context.WithoutCancel(ctx)))
		}
		if err != nil {
			return ref, err
		}
	}
	if ref != nil && id.RecordType != "" && ref.GetRecordType() == "" {
		err = ref.SetRecordType(id.RecordType)
	}
	return ref, err
}

// hold makes objects stay as long as a file system.
func (s *source) hold(ctx context.Context, ref cache.ImmutableRef, list ...digest.Digest) error {
	for _, d := range list {
		if err := s.LeaseManager.AddResource(ctx, leases.Lease{ID: ref.ID()}, leases.Resource{ID: d.String(), Type: "content"}); err != nil {
			return fmt.Errorf("keep %s with its layers: %w", d, err)
		}
	}
	return nil
}
