package baseimage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"github.com/containerd/containerd/v2/pkg/reference"
	distribution "github.com/distribution/reference"
	"github.com/moby/buildkit/cache"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/solver"
	buildsource "github.com/moby/buildkit/source"
	"github.com/moby/buildkit/source/containerimage"
	"github.com/moby/buildkit/util/cachedigest"
	"github.com/moby/buildkit/util/leaseutil"
	"github.com/opencontainers/go-digest"
)

// instance is an image in a build.
type instance struct {
	buildsource.SourceInstance // of the image as it is, or of the plain one that it was made of
	source                     *source
	id                         *containerimage.ImageIdentifier
	sessions                   *session.Manager
	vertex                     solver.Vertex

	mu    sync.Mutex // held while the image is looked at
	known bool       // the rest is set
	lazy  *lazyImage // nil for a plain image
	whole bool       // the image's layers have to be made plain
	key   string     // of an image that is whole
}

var _ buildsource.SourceInstance = (*instance)(nil)

// look finds out what the image is.
func (i *instance) look(ctx context.Context, job solver.JobContext) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.known {
		return nil
	}
	lazy, err := i.source.find(ctx, i.id, i.sessions, groupOf(job))
	if err != nil || lazy == nil {
		i.known = err == nil
		return err
	}
	if sum := i.id.Checksum; sum != "" && sum != lazy.root.Digest {
		return fmt.Errorf("image digest %s for %s does not match expected checksum %s", lazy.root.Digest, i.id.Reference, sum)
	}
	original, err := lazy.original(ctx)
	if err != nil {
		return err
	}
	if original != nil {
		plain := *i.id
		if plain.Reference, err = at(i.id.Reference, original.Desc.Digest); err != nil {
			return err
		}
		plain.Checksum = ""
		if i.SourceInstance, err = i.source.Source.Resolve(ctx, &plain, i.sessions, i.vertex); err != nil {
			return err
		}
	} else {
		i.whole = true
		if i.key, err = i.wholeKey(lazy); err != nil {
			return err
		}
	}
	i.lazy, i.known = lazy, true
	return nil
}

// wholeKey is what caches know the image by.
func (i *instance) wholeKey(lazy *lazyImage) (string, error) {
	raw, err := json.Marshal(struct {
		Image, Manifest string
		Limit           *int
	}{"lazuli plain layers v1", lazy.manifest.Desc.Digest.String(), i.id.LayerLimit})
	if err != nil {
		return "", err
	}
	d, err := cachedigest.FromBytes(raw, cachedigest.TypeJSON)
	return d.String(), err
}

// at returns the reference of another manifest in the same repository.
func at(ref reference.Spec, d digest.Digest) (reference.Spec, error) {
	named, err := distribution.ParseNormalizedNamed(ref.Locator)
	if err != nil {
		return ref, err
	}
	return reference.Parse(named.Name() + "@" + d.String())
}

func groupOf(job solver.JobContext) session.Group {
	if job == nil {
		return nil
	}
	return job.Session()
}

// CacheKey implements [buildsource.SourceInstance].
func (i *instance) CacheKey(ctx context.Context, job solver.JobContext, index int) (key, pin string, opts solver.CacheOpts, done bool, err error) {
	if err := i.look(ctx, job); err != nil {
		return "", "", nil, false, err
	}
	if i.whole {
		return i.key, i.lazy.root.Digest.String(), nil, true, nil
	}
	key, pin, opts, done, err = i.SourceInstance.CacheKey(ctx, job, index)
	if i.lazy != nil {
		pin = i.lazy.root.Digest.String()
	}
	return key, pin, opts, done, err
}

// Snapshot implements [buildsource.SourceInstance].
func (i *instance) Snapshot(ctx context.Context, job solver.JobContext) (_ cache.ImmutableRef, err error) {
	if !i.whole {
		return i.SourceInstance.Snapshot(ctx, job)
	}
	ctx, done, err := leaseutil.WithLease(ctx, i.source.LeaseManager, leaseutil.MakeTemporary)
	if err != nil {
		return nil, fmt.Errorf("hold the layers: %w", err)
	}
	defer func() { err = errors.Join(err, done(context.WithoutCancel(ctx))) }()
	// With the credentials of who asks now.
	lazy, err := i.source.find(ctx, i.id, i.sessions, groupOf(job))
	if err == nil && lazy == nil {
		err = fmt.Errorf("%s is another image than before", i.id.Reference)
	}
	if err != nil {
		return nil, err
	}
	m, err := lazy.reverse(ctx)
	if err != nil {
		return nil, err
	}
	list, err := layers(m)
	if err != nil {
		return nil, err
	}
	if n := i.id.LayerLimit; n != nil {
		if *n > len(list) {
			return nil, fmt.Errorf("layer limit %d is greater than the number of layers in the image %d", *n, len(list))
		}
		list = list[:*n]
	}
	ref, err := i.source.refOf(ctx, i.id, list)
	if err != nil || ref == nil {
		return nil, err
	}
	if err := i.source.hold(ctx, ref, m.Desc.Digest, m.Manifest.Config.Digest); err != nil {
		return nil, errors.Join(err, ref.Release(context.WithoutCancel(ctx)))
	}
	return ref, nil
}
