package nydusify

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/store"
)

// CopyOptions are the flags of "nydusify copy".
type CopyOptions struct {
	Source store.Source
	Target store.Target
	// Platforms of an index to copy, as "os/arch[/variant]"; none means all that is in it.
	Platforms []string
	Jobs      int // blobs at a time; 0 means 4
}

// Copy copies an image, or those images of an index that are for the platforms: all formats of each. A part of an index is a new
// index, or the image if it is one. The target is committed.
func Copy(ctx context.Context, o CopyOptions) error {
	desc, err := o.Source.Resolve(ctx)
	if err != nil {
		return err
	}
	opts := store.CopyOptions{Concurrency: o.Jobs}
	whole := true
	if len(o.Platforms) > 0 && store.IsIndex(desc.MediaType) {
		if desc, whole, err = copyPart(ctx, &o, desc, opts); err != nil {
			return err
		}
	}
	if whole {
		err = store.Copy(ctx, o.Target, o.Source, desc, opts)
	}
	if err == nil {
		err = o.Target.Tag(ctx, desc, "")
	}
	if err != nil {
		return err
	}
	return o.Target.Commit(ctx)
}

// copyPart copies the images of an index that are for the platforms, and returns what has to be tagged. whole says that this is
// all of the index, and nothing was copied.
func copyPart(ctx context.Context, o *CopyOptions, desc ocispec.Descriptor, opts store.CopyOptions) (_ ocispec.Descriptor, whole bool, err error) {
	x, err := store.LoadIndex(ctx, o.Source, desc)
	if err != nil {
		return desc, false, err
	}
	var kept []ocispec.Descriptor
	for _, d := range x.Index.Manifests {
		if d.Platform == nil || wanted(d.Platform, o.Platforms) {
			kept = append(kept, d)
		}
	}
	switch len(kept) {
	case 0:
		return desc, false, fmt.Errorf("%s has no image for %s: %w", o.Source.Ref(), strings.Join(o.Platforms, ", "), store.ErrNotFound)
	case len(x.Index.Manifests):
		return desc, true, nil
	}
	for _, d := range kept {
		if err := store.Copy(ctx, o.Target, o.Source, d, opts); err != nil {
			return desc, false, err
		}
	}
	if len(kept) == 1 {
		return kept[0], false, nil
	}
	x.Index.Manifests = kept
	raw, err := json.Marshal(x.Index)
	if err != nil {
		return desc, false, fmt.Errorf("index: %w", err)
	}
	part := formats.DigestOf(desc.MediaType, raw)
	return part, false, o.Target.Put(ctx, part, raw)
}

// wanted reports whether the platform is one of those. One without variant takes every variant.
func wanted(p *ocispec.Platform, list []string) bool {
	name := p.OS + "/" + p.Architecture
	return slices.Contains(list, name) || p.Variant != "" && slices.Contains(list, name+"/"+p.Variant)
}
