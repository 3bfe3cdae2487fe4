package exporter

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/cache"
	cacheconfig "github.com/moby/buildkit/cache/config"
	"github.com/moby/buildkit/exporter"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/solver"
	"github.com/moby/buildkit/util/compression"
	"github.com/moby/buildkit/util/overlay"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// keyPlain is where a layer of the cache notes the digest of its plain tar. BuildKit knows nothing of it: a layer that BuildKit gave a
// plain tar would be pushed as that by every exporter from then on.
const keyPlain = "lazuli.plain"

// Keys of BuildKit's own that tell where a layer comes from. They are in its database, so they stay; without them, the layer is taken as
// BuildKit gives it, which is always right.
const (
	keyImageRefs = "cache.imageRefs"       // names of images that have the layer
	keyBlobOnly  = "cache.blobonly"        // the layer has not been unpacked
	keyDiffLower = "cache.lowerDiffParent" // the layer is the difference of two others
	keyDiffUpper = "cache.upperDiffParent"
)

// layerSource gives the layers of a build to the exporter of the plain image: those that came from elsewhere as they came, and those
// that steps made as plain tars.
type layerSource struct {
	worker  *wrapped
	session session.Group
	asIs    bool // as BuildKit's own exporters get them
}

// wrap returns the build with file systems that have such layers.
func (s *layerSource) wrap(src *exporter.Source) *exporter.Source {
	src = src.Clone()
	if src.Ref != nil {
		src.Ref = &plainRef{src.Ref, s}
	}
	for id, ref := range src.Refs {
		if ref != nil {
			src.Refs[id] = &plainRef{ref, s}
		}
	}
	return src
}

// plainRef is a file system in BuildKit's cache.
type plainRef struct {
	cache.ImmutableRef
	source *layerSource
}

// Clone implements [cache.ImmutableRef].
func (r *plainRef) Clone() cache.ImmutableRef { return &plainRef{r.ImmutableRef.Clone(), r.source} }

// GetRemotes implements [cache.ImmutableRef]: it returns the layers, all of which the content store has then.
func (r *plainRef) GetRemotes(ctx context.Context, _ bool, cfg cacheconfig.RefConfig, _ bool, g session.Group) ([]*solver.Remote, error) {
	if err := r.Finalize(ctx); err != nil {
		return nil, err
	}
	chain := r.LayerChain()
	defer func() { _ = chain.Release(context.WithoutCancel(ctx)) }() // they are r's
	descs := make([]ocispec.Descriptor, len(chain))
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(r.source.worker.cpu.Size())
	for i, layer := range chain {
		group.Go(func() (err error) {
			descs[i], err = r.source.layer(gctx, layer, cfg, g)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return []*solver.Remote{{Descriptors: descs, Provider: r.source.worker.ContentStore()}}, nil
}

// layer returns one layer.
func (s *layerSource) layer(ctx context.Context, layer cache.ImmutableRef, cfg cacheconfig.RefConfig, g session.Group) (ocispec.Descriptor, error) {
	release, err := s.worker.refs.acquire(ctx, layer.ID())
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	defer release()
	if desc, ok, err := s.known(ctx, layer); ok || err != nil {
		return desc, err
	}
	if !isStep(layer) {
		descs, err := fetchRemote(ctx, layer, cfg, g)
		if err != nil {
			return ocispec.Descriptor{}, err
		}
		if len(descs) == 0 {
			return ocispec.Descriptor{}, fmt.Errorf("BuildKit gives no layer for %s", layer.ID())
		}
		return descs[len(descs)-1], nil
	}
	return s.pack(ctx, layer, g)
}

// isStep reports whether a layer is what a step changed in the one below. Layers of Windows have a form of their own.
func isStep(layer cache.ImmutableRef) bool {
	return layer.GetString(keyDiffLower) == "" && layer.GetString(keyDiffUpper) == "" && layer.Get(keyImageRefs) == nil && !isTrue(layer, keyBlobOnly) &&
		layer.GetLayerType() != "windows"
}

// isTrue reports whether a layer has something noted as true.
func isTrue(layer cache.ImmutableRef, key string) bool {
	v := layer.Get(key)
	if v == nil {
		return false
	}
	var b bool
	return v.Unmarshal(&b) == nil && b
}

// fetchRemote returns the layers of a file system, all of which the content store has then.
func fetchRemote(ctx context.Context, ref cache.ImmutableRef, cfg cacheconfig.RefConfig, g session.Group) ([]ocispec.Descriptor, error) {
	if cfg.Compression.Type == nil {
		cfg.Compression = compression.New(compression.Default)
	}
	remotes, err := ref.GetRemotes(ctx, true, cfg, false, g)
	if err != nil {
		return nil, err
	}
	if u, ok := remotes[0].Provider.(cache.Unlazier); ok {
		if err := u.Unlazy(ctx); err != nil {
			return nil, fmt.Errorf("fetch layers: %w", err)
		}
	}
	return remotes[0].Descriptors, nil
}

// known returns the plain tar of a layer that was packed before, if it is still there.
func (s *layerSource) known(ctx context.Context, layer cache.ImmutableRef) (ocispec.Descriptor, bool, error) {
	d, err := digest.Parse(layer.GetString(keyPlain))
	if err != nil {
		return ocispec.Descriptor{}, false, nil //nolint:nilerr // there is none
	}
	info, err := s.worker.ContentStore().Info(ctx, d)
	if errdefs.IsNotFound(err) {
		return ocispec.Descriptor{}, false, nil
	}
	if err != nil {
		return ocispec.Descriptor{}, false, err
	}
	return describe(layer, d, info.Size), true, hold(ctx, s.worker, layer.ID(), d)
}

// describe describes a plain tar as BuildKit does its layers.
func describe(layer cache.ImmutableRef, d digest.Digest, size int64) ocispec.Descriptor {
	desc := ocispec.Descriptor{
		MediaType: ocispec.MediaTypeImageLayer, Digest: d, Size: size, Annotations: map[string]string{labels.LabelUncompressed: d.String()},
	}
	if t := layer.GetCreatedAt(); !t.IsZero() {
		if text, err := t.MarshalText(); err == nil {
			desc.Annotations["buildkit/createdat"] = string(text)
		}
	}
	return desc
}

// pack makes the plain tar of a layer, by what changed between its parent and itself.
func (s *layerSource) pack(ctx context.Context, layer cache.ImmutableRef, g session.Group) (ocispec.Descriptor, error) {
	own := layer.LayerChain()
	defer func() { _ = own.Release(context.WithoutCancel(ctx)) }() // they are the layer's
	var lower []mount.Mount
	if len(own) > 1 {
		m, release, err := mounts(ctx, own[len(own)-2], g)
		if err != nil {
			return ocispec.Descriptor{}, err
		}
		defer release()
		lower = m
	}
	upper, release, err := mounts(ctx, layer, g)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	defer release()
	desc, err := s.packUpper(ctx, lower, upper)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("pack layer %s: %w", layer.ID(), err)
	}
	if err := hold(ctx, s.worker, layer.ID(), desc.Digest); err != nil {
		return ocispec.Descriptor{}, err
	}
	return describe(layer, desc.Digest, desc.Size), layer.SetString(keyPlain, desc.Digest.String(), "")
}

// mounts returns how a file system is mounted, and what ends that it can be.
func mounts(ctx context.Context, ref cache.ImmutableRef, g session.Group) ([]mount.Mount, func(), error) {
	m, err := ref.Mount(ctx, true, g)
	if err != nil {
		return nil, nil, err
	}
	list, release, err := m.Mount()
	if err != nil {
		return nil, nil, err
	}
	return list, func() {
		if release != nil {
			_ = release() // the snapshot stays until its last user has gone
		}
	}, nil
}

// packUpper stores the tar of what changed: from overlayfs' upper directory where there is one, else by comparing.
func (s *layerSource) packUpper(ctx context.Context, lower, upper []mount.Mount) (desc ocispec.Descriptor, err error) {
	ref := "lazuli-plain-" + rand.Text()
	dir, err := overlay.GetUpperdir(lower, upper)
	if err != nil { // no overlayfs
		return s.worker.Differ.Compare(ctx, lower, upper, diff.WithMediaType(ocispec.MediaTypeImageLayer), diff.WithReference(ref))
	}
	cs := s.worker.ContentStore()
	w, err := cs.Writer(ctx, content.WithRef(ref))
	if err != nil {
		return desc, err
	}
	defer func() {
		err = errors.Join(err, w.Close())
		if err != nil {
			_ = cs.Abort(context.WithoutCancel(ctx), ref) // else it goes with the lease
		}
	}()
	buffered := bufio.NewWriterSize(w, 1<<20)
	if err := overlay.WriteUpperdir(ctx, buffered, dir, lower); err != nil {
		return desc, err
	}
	if err := buffered.Flush(); err != nil {
		return desc, err
	}
	status, err := w.Status()
	if err != nil {
		return desc, err
	}
	desc = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: w.Digest(), Size: status.Offset}
	label := content.WithLabels(map[string]string{labels.LabelUncompressed: desc.Digest.String()})
	if err := w.Commit(ctx, desc.Size, desc.Digest, label); err != nil && !errdefs.IsAlreadyExists(err) {
		return desc, err
	}
	return desc, nil
}
