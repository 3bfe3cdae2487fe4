package contentstore

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/store"
)

// Options of a [Target]. The zero value is a good default.
type Options struct {
	// Needed, if set, returns the objects that an image needs and its manifest does not list. They stay as long as the manifest.
	Needed func(desc ocispec.Descriptor, m *ocispec.Manifest) []digest.Digest
	// Current, if set, returns what the target's reference names now. Without it, that is nothing until it is tagged.
	Current func(ctx context.Context) (ocispec.Descriptor, error)
	// Publish, if set, is called by Commit for everything that was tagged: it names the image. tag is "" for the reference's own.
	Publish func(ctx context.Context, tag string, desc ocispec.Descriptor) error
}

// Target writes an image into a content store. Objects are there once they are complete; what is given up leaves no ingest behind.
type Target struct {
	*Source // reads what is there
	cs      content.Store
	opt     Options

	mu        sync.Mutex                    // guards what follows
	writers   map[*objectWriter]bool        // that are neither committed nor given up
	tagged    map[string]ocispec.Descriptor // by tag
	referrers []referrer
}

// referrer is a manifest and what it refers to.
type referrer struct{ subject, manifest digest.Digest }

var (
	_ store.Target         = (*Target)(nil)
	_ store.ManifestPusher = (*Target)(nil)
)

// NewTarget returns a target that ref names in messages. What is said of [NewSource] and ctx holds here too.
func NewTarget(ctx context.Context, cs content.Store, ref store.Ref, opt Options) *Target {
	return &Target{
		Source: NewSource(ctx, cs, ref, ocispec.Descriptor{}), cs: cs, opt: opt,
		writers: make(map[*objectWriter]bool), tagged: make(map[string]ocispec.Descriptor),
	}
}

// Resolve implements [store.Target].
func (t *Target) Resolve(ctx context.Context) (ocispec.Descriptor, error) {
	if desc := t.Tagged(); desc.Digest != "" {
		return desc, nil
	}
	if t.opt.Current == nil {
		return ocispec.Descriptor{}, fmt.Errorf("resolve %s: %w", t.ref, store.ErrNotFound)
	}
	return t.opt.Current(t.in(ctx))
}

// Exists implements [store.Target]. What is there is held by the context's lease from then on.
func (t *Target) Exists(ctx context.Context, desc ocispec.Descriptor) (bool, error) {
	if err := desc.Digest.Validate(); err != nil {
		return false, fmt.Errorf("digest %.100q: %w: %w", desc.Digest, blob.ErrCorrupt, err)
	}
	info, err := t.cs.Info(t.in(ctx), desc.Digest)
	if err != nil {
		if err = Fail(ctx, fmt.Sprintf("look for %s in %s", desc.Digest, t.ref), err); errors.Is(err, store.ErrNotFound) {
			return false, nil
		}
		return false, err
	}
	if info.Size != desc.Size {
		return false, nil
	}
	return t.hold(ctx, desc)
}

// hold makes the context's lease hold an object, and reports whether it is there. What another namespace of the store has and shares is
// there afterwards.
func (t *Target) hold(ctx context.Context, desc ocispec.Descriptor) (bool, error) {
	w, err := t.begin(ctx, desc)
	if err != nil {
		return errdefs.IsAlreadyExists(err), t.notThere(ctx, desc, err)
	}
	defer w.Abort() //nolint:contextcheck // it has that of the object
	return w.shared(ctx, desc, nil)
}

// notThere is the error of an object that could not be begun.
func (t *Target) notThere(ctx context.Context, desc ocispec.Descriptor, err error) error {
	if errdefs.IsAlreadyExists(err) {
		return nil
	}
	return Fail(ctx, fmt.Sprintf("write %s into %s", desc.Digest, t.ref), err)
}

// Mount implements [store.Target] for sources in namespaces of the same containerd that share their content.
func (t *Target) Mount(ctx context.Context, desc ocispec.Descriptor, src store.Source) (bool, error) {
	if _, ok := src.(interface{ inContentStore() }); !ok {
		return false, nil
	}
	return t.hold(ctx, desc)
}

// inContentStore marks sources, and what embeds them.
func (s *Source) inContentStore() {}

// Push implements [store.Target].
func (t *Target) Push(ctx context.Context, desc ocispec.Descriptor, content io.Reader) error {
	if store.IsIndex(desc.MediaType) || store.IsImage(desc.MediaType) {
		if desc.Size > maxManifest {
			return fmt.Errorf("push %s to %s: %d bytes, the limit is %d: %w", desc.Digest, t.ref, desc.Size, maxManifest, blob.ErrCorrupt)
		}
		checked, err := store.Verify(io.NopCloser(content), desc)
		if err != nil {
			return fmt.Errorf("push to %s: %w", t.ref, err)
		}
		raw, err := io.ReadAll(checked)
		if err != nil {
			return fmt.Errorf("push %s to %s: %w", desc.Digest, t.ref, err)
		}
		return t.PushManifest(ctx, desc, raw)
	}
	_, err := t.push(ctx, desc, content, nil)
	return err
}

// push stores an object with labels, and reports whether it was there already, without these.
func (t *Target) push(ctx context.Context, desc ocispec.Descriptor, from io.Reader, labels map[string]string) (existed bool, err error) {
	checked, err := store.Verify(io.NopCloser(from), desc)
	if err != nil {
		return false, fmt.Errorf("push to %s: %w", t.ref, err)
	}
	if desc.Digest.Algorithm() != digest.SHA256 {
		return false, fmt.Errorf("push %s to %s: containerd knows SHA-256 only: %w", desc.Digest, t.ref, blob.ErrUnsupported)
	}
	w, err := t.begin(ctx, desc)
	if err != nil {
		return true, t.notThere(ctx, desc, err)
	}
	defer w.Abort() //nolint:contextcheck // it has that of the object
	if ok, err := w.shared(ctx, desc, labels); ok || err != nil {
		return false, err
	}
	if _, err := io.CopyBuffer(struct{ io.Writer }{w}, checked, make([]byte, streamSize)); err != nil {
		return false, fmt.Errorf("push %s to %s: %w", desc.Digest, t.ref, err)
	}
	return w.commit(ctx, labels)
}

// PushManifest implements [store.ManifestPusher].
func (t *Target) PushManifest(ctx context.Context, desc ocispec.Descriptor, raw []byte) error {
	g, err := parseGraph(desc, raw)
	if err != nil {
		return err
	}
	var needed []digest.Digest
	if t.opt.Needed != nil && g.Config != nil {
		var m ocispec.Manifest
		if err := json.Unmarshal(raw, &m); err != nil {
			return fmt.Errorf("manifest %s: %w: %w", desc.Digest, blob.ErrCorrupt, err)
		}
		needed = t.opt.Needed(desc, &m)
	}
	labels := g.labels(needed)
	existed, err := t.push(ctx, desc, bytes.NewReader(raw), labels)
	if err == nil && existed {
		if err = addLabels(t.in(ctx), t.cs, desc.Digest, labels); err != nil {
			err = Fail(ctx, fmt.Sprintf("label %s in %s", desc.Digest, t.ref), err)
		}
	}
	if err == nil && g.Subject != nil {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.referrers = append(t.referrers, referrer{g.Subject.Digest, desc.Digest})
	}
	return err
}

// Put implements [formats.Sink].
func (t *Target) Put(ctx context.Context, desc ocispec.Descriptor, content []byte) error {
	return t.Push(ctx, desc, bytes.NewReader(content))
}

// Create implements [formats.Sink].
func (t *Target) Create(ctx context.Context, _ string) (formats.ObjectWriter, error) {
	w, err := t.begin(ctx, ocispec.Descriptor{})
	if err != nil {
		return nil, Fail(ctx, fmt.Sprintf("write into %s", t.ref), err)
	}
	return w, nil
}

// Tag implements [store.Target].
func (t *Target) Tag(ctx context.Context, desc ocispec.Descriptor, tag string) error {
	ok, err := t.Exists(ctx, desc)
	if err == nil && !ok {
		err = store.ErrNotFound
	}
	if err != nil {
		return fmt.Errorf("tag %s in %s: %w", desc.Digest, t.ref, err)
	}
	if tag == t.ref.Tag {
		tag = ""
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.tagged[tag] = desc
	return nil
}

// Tagged returns what was tagged with the reference's own name, and nothing before that.
func (t *Target) Tagged() ocispec.Descriptor {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.tagged[""]
}

// Commit implements [store.Target]. Manifests that refer to others are noted there, so that they stay as long as these.
func (t *Target) Commit(ctx context.Context) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, r := range t.referrers {
		label := labelReferrer + r.manifest.Encoded()[:shortDigest]
		err := addLabels(t.in(ctx), t.cs, r.subject, map[string]string{label: r.manifest.String()})
		if err != nil && !errdefs.IsNotFound(err) { // a subject may be in another place
			return Fail(ctx, fmt.Sprintf("note a referrer of %s in %s", r.subject, t.ref), err)
		}
	}
	t.referrers = nil
	if t.opt.Publish == nil {
		return nil
	}
	for tag, desc := range t.tagged {
		if err := t.opt.Publish(t.in(ctx), tag, desc); err != nil {
			return err
		}
	}
	return nil
}

// Close implements [store.Target]: objects that were not committed are given up.
func (t *Target) Close() error {
	t.mu.Lock()
	left := make([]*objectWriter, 0, len(t.writers))
	for w := range t.writers {
		left = append(left, w)
	}
	t.mu.Unlock()
	for _, w := range left {
		w.Abort()
	}
	return nil
}
