package store

import (
	"context"
	"fmt"

	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/lazuli-project/lazuli/blob"
)

// Opener opens references of a transport.
type Opener interface {
	OpenSource(ctx context.Context, ref Ref, opts Options) (Source, error)
	OpenTarget(ctx context.Context, ref Ref, opts Options) (Target, error)
}

// OpenSource connects to where an image is read from. What does not exist is told here for files, and by Resolve for
// registries. A bare bootstrap is no image and is refused with blob.ErrUnsupported.
func OpenSource(ctx context.Context, ref Ref, opts Options) (Source, error) {
	switch ref.Transport {
	case Registry:
		return openRegistry(ctx, ref, opts, auth.ActionPull)
	case Layout:
		return openLayout(ref)
	case Archive, DockerArchive:
		return openArchive(ctx, ref, opts)
	}
	if o := opts.Openers[ref.Transport]; o != nil {
		return o.OpenSource(ctx, ref, opts)
	}
	return nil, fmt.Errorf("%s: no images are read from %q references: %w", ref, ref.Transport, blob.ErrUnsupported)
}

// OpenTarget connects to where an image is written to. Nothing is created before something is stored. Targets have a
// tag or no name, never a digest.
func OpenTarget(ctx context.Context, ref Ref, opts Options) (Target, error) {
	if ref.Digest != "" {
		return nil, fmt.Errorf("%s: a target is named by a tag, its digest comes from its content: %w", ref, ErrReference)
	}
	switch ref.Transport {
	case Registry:
		r, err := openRegistry(ctx, ref, opts, auth.ActionPull, auth.ActionPush)
		if err != nil {
			return nil, err
		}
		return &registryTarget{registryStore: r}, nil
	case Layout:
		return newLayoutTarget(ref)
	case Archive:
		return newArchiveTarget(ref, opts)
	}
	if o := opts.Openers[ref.Transport]; o != nil {
		return o.OpenTarget(ctx, ref, opts)
	}
	return nil, fmt.Errorf("%s: no images are written to %q references: %w", ref, ref.Transport, blob.ErrUnsupported)
}
