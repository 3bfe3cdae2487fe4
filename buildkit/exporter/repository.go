package exporter

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/util/contentutil"
	"github.com/moby/buildkit/util/push"
	"github.com/moby/buildkit/util/resolver"
	resolverconfig "github.com/moby/buildkit/util/resolver/config"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/buildkit/output"
	"github.com/lazuli-project/lazuli/containerd/contentstore"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/store"
)

// repository is a name in a registry, reached as BuildKit reaches registries: by its configuration, with the client's credentials.
type repository struct {
	named    reference.Named // with a tag or digest
	resolver remotes.Resolver
}

// repository returns the repository of a name. pushing says that it will be written.
func (x *export) repository(name string, pushing bool) (*repository, error) {
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return nil, fmt.Errorf("%q: %w", name, err)
	}
	named = reference.TagNameOnly(named)
	hosts := x.worker.RegistryHosts
	if x.opt.Insecure {
		yes := true
		hosts = resolver.NewRegistryConfig(map[string]resolverconfig.RegistryConfig{reference.Domain(named): {Insecure: &yes, PlainHTTP: &yes}})
	}
	scope := resolver.ScopeType{Push: pushing, Insecure: x.opt.Insecure}
	return &repository{named, x.worker.pool.GetResolver(withReferrers(hosts), named.String(), scope, x.sessions, session.NewGroup(x.sessionID))}, nil
}

// withReferrers lets hosts be asked for referrers, which BuildKit's configuration does not know.
func withReferrers(hosts docker.RegistryHosts) docker.RegistryHosts {
	return func(domain string) ([]docker.RegistryHost, error) {
		list, err := hosts(domain)
		list = slices.Clone(list)
		for i := range list {
			if list[i].Capabilities.Has(docker.HostCapabilityPush) {
				list[i].Capabilities |= docker.HostCapabilityReferrers
			}
		}
		return list, err
	}
}

// tagged returns the reference of a tag of the repository.
func (r *repository) tagged(tag string) (string, error) {
	named, err := reference.WithTag(reference.TrimNamed(r.named), tag)
	if err != nil {
		return "", err
	}
	return named.String(), nil
}

// resolve returns what the repository's reference names. It is an errdefs.ErrNotFound where that is nothing.
func (r *repository) resolve(ctx context.Context) (ocispec.Descriptor, error) {
	return r.resolveAt(ctx, r.named.String())
}

func (r *repository) resolveAt(ctx context.Context, ref string) (ocispec.Descriptor, error) {
	_, desc, err := r.resolver.Resolve(ctx, ref)
	if err != nil {
		return desc, fmt.Errorf("resolve %s: %w", ref, err)
	}
	return desc, nil
}

// current is resolve, and nothing where the reference names nothing.
func (r *repository) current(ctx context.Context) (ocispec.Descriptor, error) {
	desc, err := r.resolve(ctx)
	if errdefs.IsNotFound(err) {
		return ocispec.Descriptor{}, nil
	}
	return desc, err
}

// place is a repository's reference as a place for an index.
type place struct {
	formats.Sources
	*repository
}

var _ output.Place = place{}

// place returns it.
func (r *repository) place(ctx context.Context) (place, error) {
	p, err := r.provider(ctx)
	if err != nil {
		return place{}, err
	}
	ref := store.Ref{Transport: store.Registry, Host: reference.Domain(r.named), Repo: reference.Path(r.named)}
	return place{contentstore.NewSource(ctx, p, ref, ocispec.Descriptor{}), r}, nil
}

// Current implements [output.Place].
func (p place) Current(ctx context.Context) (ocispec.Descriptor, error) { return p.current(ctx) }

// PutIndex implements [output.Place].
func (p place) PutIndex(ctx context.Context, desc ocispec.Descriptor, raw []byte) error {
	return p.put(ctx, p.named.String(), desc, raw)
}

// provider gives the objects of the repository.
func (r *repository) provider(ctx context.Context) (content.Provider, error) {
	f, err := r.resolver.Fetcher(ctx, r.named.String())
	if err != nil {
		return nil, fmt.Errorf("fetch from %s: %w", r.named, err)
	}
	return contentutil.FromFetcher(f), nil
}

// referrers lists what refers to a manifest.
func (r *repository) referrers(ctx context.Context, subject digest.Digest) ([]ocispec.Descriptor, error) {
	f, err := r.resolver.Fetcher(ctx, r.named.String())
	if err != nil {
		return nil, fmt.Errorf("fetch from %s: %w", r.named, err)
	}
	rf, ok := f.(remotes.ReferrersFetcher)
	if !ok {
		return nil, nil
	}
	list, err := rf.FetchReferrers(ctx, subject)
	if err != nil && !errdefs.IsNotFound(err) {
		return nil, fmt.Errorf("referrers of %s in %s: %w", subject, r.named.Name(), err)
	}
	return list, nil
}

// put writes a manifest under a reference with a tag.
func (r *repository) put(ctx context.Context, ref string, desc ocispec.Descriptor, raw []byte) error {
	p, err := push.Pusher(contentutil.RegisterContentPayloadTypes(ctx), r.resolver, ref+"@"+desc.Digest.String())
	if err != nil {
		return fmt.Errorf("push %s: %w", ref, err)
	}
	w, err := p.Push(ctx, desc)
	if err == nil {
		err = content.Copy(ctx, w, bytes.NewReader(raw), desc.Size, desc.Digest)
	}
	if err != nil && !errdefs.IsAlreadyExists(err) {
		return fmt.Errorf("push %s: %w", ref, err)
	}
	return nil
}

// fallbackTag is where referrers of a manifest are listed in registries that do not list them.
func fallbackTag(subject digest.Digest) string { return strings.Replace(subject.String(), ":", "-", 1) }
