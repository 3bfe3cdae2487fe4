package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/lazuli-project/lazuli/blob"
)

// CopyOptions say how [Copy] works. The zero value is a good default.
type CopyOptions struct {
	Concurrency int  // blobs at a time; 0 means 4
	Referrers   bool // also copy the manifests that refer to what is copied, and those that refer to them
	// Needed, if set, returns the objects that an image needs and its manifest does not list.
	Needed func(desc ocispec.Descriptor, m *ocispec.Manifest) []digest.Digest
	// OnBlob, if set, is called after each object, concurrently. how says whether its bytes moved.
	OnBlob func(desc ocispec.Descriptor, how CopyResult)
}

// CopyResult says how an object came to the target.
type CopyResult int

// How objects come to a target.
const (
	Copied  CopyResult = iota // its bytes were sent
	Mounted                   // from another place of the target's host
	Present                   // it was there
	Skipped                   // it is not meant to be distributed, and the source does not have it
)

// Bounds of what one Copy follows.
const (
	maxDepth   = 8
	maxObjects = 1 << 16
)

// ManifestPusher is the optional ability of a [Target] to be told that an object of any media type is a manifest.
type ManifestPusher interface {
	PushManifest(ctx context.Context, desc ocispec.Descriptor, raw []byte) error
}

// Copy copies what desc names and all that this names: children, configs, layers. Blobs come before the manifests
// that name them, and nothing is tagged or committed. Children of unknown media types are copied as they are. A child
// that the source lacks is an error: the copy would be another image.
func Copy(ctx context.Context, dst Target, src Source, desc ocispec.Descriptor, opts CopyOptions) error {
	if opts.Concurrency <= 0 {
		opts.Concurrency = 4
	}
	c := &copier{dst: dst, src: src, opts: opts, seen: map[digest.Digest]bool{}}
	if desc.MediaType == "" {
		return c.manifest(ctx, desc, maxDepth)
	}
	return c.child(ctx, desc, maxDepth)
}

type copier struct {
	dst  Target
	src  Source
	opts CopyOptions

	mu   sync.Mutex // guards seen
	seen map[digest.Digest]bool
}

// first reports whether an object has not been copied yet, and notes it.
func (c *copier) first(d digest.Digest) (bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.seen[d] {
		return false, nil
	}
	c.seen[d] = true
	if len(c.seen) > maxObjects {
		return false, fmt.Errorf("more than %d objects: %w", maxObjects, blob.ErrCorrupt)
	}
	return true, nil
}

// manifest copies a manifest or index, after what it names, and then its referrers.
func (c *copier) manifest(ctx context.Context, desc ocispec.Descriptor, depth int) error {
	if ok, err := c.first(desc.Digest); !ok || err != nil {
		return err
	}
	if depth == 0 {
		return fmt.Errorf("manifest %s: more than %d deep: %w", desc.Digest, maxDepth, blob.ErrCorrupt)
	}
	raw, err := ReadAll(ctx, c.src, desc, maxManifest)
	if err != nil {
		return fmt.Errorf("copy manifest: %w", err)
	}
	g, err := parseGraph(desc, raw)
	if err != nil {
		return err
	}
	for _, child := range g.Manifests {
		if err := c.child(ctx, child, depth-1); err != nil {
			return err
		}
	}
	if err := c.blobs(ctx, g); err != nil {
		return fmt.Errorf("copy manifest %s: %w", desc.Digest, err)
	}
	if err := c.needed(ctx, desc, raw); err != nil {
		return fmt.Errorf("copy what manifest %s needs: %w", desc.Digest, err)
	}
	if err := c.pushManifest(ctx, desc, raw); err != nil {
		return err
	}
	c.done(desc, Copied)
	if !c.opts.Referrers {
		return nil
	}
	refs, err := c.src.Referrers(ctx, desc, "")
	if err != nil {
		return fmt.Errorf("copy referrers: %w", err)
	}
	for _, r := range refs {
		if err := c.manifest(ctx, r, depth-1); err != nil {
			return fmt.Errorf("copy referrer: %w", err)
		}
	}
	return nil
}

// needed copies what an image needs beside what its manifest lists.
func (c *copier) needed(ctx context.Context, desc ocispec.Descriptor, raw []byte) error {
	if c.opts.Needed == nil || IsIndex(desc.MediaType) {
		return nil
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		return fmt.Errorf("%w: %w", blob.ErrCorrupt, err)
	}
	for _, d := range c.opts.Needed(desc, &m) {
		found, err := FindBlob(ctx, c.src, d)
		if err == nil {
			err = c.blob(ctx, found)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (c *copier) pushManifest(ctx context.Context, desc ocispec.Descriptor, raw []byte) error {
	if p, ok := c.dst.(ManifestPusher); ok {
		return p.PushManifest(ctx, desc, raw)
	}
	return c.dst.Put(ctx, desc, raw)
}

// child copies what an index names: a manifest, or something that only looks like a blob.
func (c *copier) child(ctx context.Context, desc ocispec.Descriptor, depth int) error {
	if isManifest(desc.MediaType) {
		return c.manifest(ctx, desc, depth)
	}
	if desc.Size <= maxManifest && strings.HasSuffix(desc.MediaType, "json") {
		raw, err := ReadAll(ctx, c.src, desc, maxManifest)
		if err != nil {
			return fmt.Errorf("copy %s: %w", desc.Digest, err)
		}
		// What names other objects is a manifest, of whatever kind.
		if g, err := parseGraph(desc, raw); err == nil && (g.Config != nil || len(g.Manifests)+len(g.Layers)+len(g.Blobs) > 0) {
			return c.manifest(ctx, desc, depth)
		}
	}
	return c.blob(ctx, desc)
}

// blobs copies the blobs of a manifest, some at a time.
func (c *copier) blobs(ctx context.Context, g *graph) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(c.opts.Concurrency)
	all := append(append([]ocispec.Descriptor(nil), g.Layers...), g.Blobs...)
	if g.Config != nil {
		all = append(all, *g.Config)
	}
	for _, d := range all {
		group.Go(func() error { return c.blob(ctx, d) })
	}
	return group.Wait()
}

func (c *copier) blob(ctx context.Context, desc ocispec.Descriptor) error {
	if ok, err := c.first(desc.Digest); !ok || err != nil {
		return err
	}
	if ok, err := c.dst.Exists(ctx, desc); ok || err != nil {
		c.done(desc, Present)
		return err
	}
	if ok, err := c.dst.Mount(ctx, desc, c.src); ok || err != nil {
		c.done(desc, Mounted)
		return err
	}
	rc, err := c.src.Fetch(ctx, desc)
	if errors.Is(err, ErrNotFound) && len(desc.URLs) > 0 {
		c.done(desc, Skipped)
		return nil
	}
	if err != nil {
		return fmt.Errorf("copy %s: %w", desc.Digest, err)
	}
	err = errors.Join(c.dst.Push(ctx, desc, rc), rc.Close())
	if err != nil {
		return err
	}
	c.done(desc, Copied)
	return nil
}

func (c *copier) done(desc ocispec.Descriptor, how CopyResult) {
	if c.opts.OnBlob != nil {
		c.opts.OnBlob(desc, how)
	}
}
