package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"maps"
	"os"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/formats"
)

// place is where a local target keeps objects until, and after, it is committed.
type place interface {
	files
	// create makes a temporary file.
	create() (*os.File, error)
	// keep makes a temporary file the blob, and takes it over.
	keep(f *os.File, d digest.Digest, size int64) error
	// discard removes a temporary file.
	discard(f *os.File)
	// link makes the place have a blob that is a file elsewhere, and reports whether it could.
	link(file string, d digest.Digest) bool
	// publish makes everything durable and adds the entries to index.json.
	publish(ctx context.Context, entries []ocispec.Descriptor) error
}

// localTarget writes an OCI layout into a directory or an archive.
type localTarget struct {
	*layout
	place place

	mu      sync.Mutex // guards entries
	entries []ocispec.Descriptor
}

var _ Target = (*localTarget)(nil)

func newLocalTarget(ref Ref, p place) *localTarget {
	return &localTarget{layout: newLayout(ref, p), place: p}
}

// Exists implements [Target]. An object of another size is not there: it will be replaced.
func (t *localTarget) Exists(_ context.Context, desc ocispec.Descriptor) (bool, error) {
	o, err := t.openBlob(desc)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	if err != nil {
		if checkDescriptor(desc) == nil && errors.Is(err, blob.ErrCorrupt) {
			return false, nil
		}
		return false, err
	}
	return true, o.Close()
}

// Mount implements [Target]: a blob of another directory becomes a hard link or a clone, after it was verified.
func (t *localTarget) Mount(ctx context.Context, desc ocispec.Descriptor, src Source) (bool, error) {
	from, ok := src.(*layout)
	if !ok {
		return false, nil
	}
	dir, ok := from.files.(directory)
	if !ok {
		return false, nil
	}
	if ok, err := t.Exists(ctx, desc); ok || err != nil {
		return ok, err
	}
	rc, err := from.Fetch(ctx, desc)
	if err != nil {
		return false, err
	}
	_, err = io.CopyBuffer(onlyWriter{io.Discard}, rc, make([]byte, 1<<20))
	if err := errors.Join(err, rc.Close()); err != nil {
		return false, err
	}
	return t.place.link(dir.path(blobName(desc.Digest)), desc.Digest), nil
}

// Push implements [Target].
func (t *localTarget) Push(ctx context.Context, desc ocispec.Descriptor, content io.Reader) error {
	if err := checkDescriptor(desc); err != nil {
		return err
	}
	var raw bytes.Buffer
	if isManifest(desc.MediaType) {
		if desc.Size > maxManifest {
			return fmt.Errorf("manifest %s: %d bytes, the limit is %d: %w", desc.Digest, desc.Size, maxManifest, blob.ErrCorrupt)
		}
		content = io.TeeReader(content, &raw)
	}
	if ok, err := t.Exists(ctx, desc); err != nil {
		return err
	} else if !ok {
		w, err := t.newObject(ctx, desc.Digest.Algorithm())
		if err != nil {
			return err
		}
		defer w.Abort()
		if _, err := io.CopyBuffer(onlyWriter{w}, verified(content, nil, desc), make([]byte, 1<<20)); err != nil {
			return fmt.Errorf("push %s to %s: %w", desc.Digest, t.ref, err)
		}
		if _, _, err := w.Commit(ctx); err != nil {
			return err
		}
	} else if isManifest(desc.MediaType) {
		if _, err := readContent(desc, content, maxManifest); err != nil {
			return err
		}
	}
	if isManifest(desc.MediaType) {
		return t.noteReferrer(desc, raw.Bytes())
	}
	return nil
}

// noteReferrer lists a manifest with a subject in index.json, where it can be found.
func (t *localTarget) noteReferrer(desc ocispec.Descriptor, raw []byte) error {
	g, err := parseGraph(desc, raw)
	if err != nil || g.Subject == nil {
		return err
	}
	t.enter(referrerEntry(desc, g))
	return nil
}

func (t *localTarget) enter(e ocispec.Descriptor) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.entries = merge(t.entries, []ocispec.Descriptor{e})
}

// pending returns the entries that Commit will add.
func (t *localTarget) pending() []ocispec.Descriptor {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]ocispec.Descriptor(nil), t.entries...)
}

// listed returns the entries of index.json as they will be.
func (t *localTarget) listed() ([]ocispec.Descriptor, error) {
	x, err := t.index()
	if errors.Is(err, ErrNotFound) {
		return t.pending(), nil
	}
	if err != nil {
		return nil, err
	}
	return merge(x.Manifests, t.pending()), nil
}

// Resolve implements [Target].
func (t *localTarget) Resolve(context.Context) (ocispec.Descriptor, error) {
	entries, err := t.listed()
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	desc, err := choose(entries, t.ref.Tag)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("resolve %s: %w", t.ref, err)
	}
	return desc, nil
}

// Referrers lists the referrers of a manifest, those before Commit included.
func (t *localTarget) Referrers(ctx context.Context, desc ocispec.Descriptor, artifactType string) ([]ocispec.Descriptor, error) {
	entries, err := t.listed()
	if err != nil {
		return nil, err
	}
	return findReferrers(ctx, t.layout, entries, desc, artifactType)
}

// Tag implements [Target].
func (t *localTarget) Tag(ctx context.Context, desc ocispec.Descriptor, tag string) error {
	if tag == "" {
		tag = t.ref.Tag
	}
	if tag != "" && !refName.MatchString(tag) {
		return fmt.Errorf("tag %q in %s: %w", tag, t.ref, ErrReference)
	}
	if ok, err := t.Exists(ctx, desc); err != nil || !ok {
		if err == nil {
			err = ErrNotFound
		}
		return fmt.Errorf("tag %s as %q in %s: %w", desc.Digest, tag, t.ref, err)
	}
	desc.Data, desc.URLs = nil, nil
	desc.Annotations = maps.Clone(desc.Annotations)
	delete(desc.Annotations, ocispec.AnnotationRefName)
	if tag != "" {
		if desc.Annotations == nil {
			desc.Annotations = map[string]string{}
		}
		desc.Annotations[ocispec.AnnotationRefName] = tag
	}
	t.enter(desc)
	return nil
}

// Commit implements [Target].
func (t *localTarget) Commit(ctx context.Context) error {
	if err := t.place.publish(ctx, t.pending()); err != nil {
		return fmt.Errorf("write %s: %w", t.ref, err)
	}
	return nil
}

// Put implements [formats.Sink].
func (t *localTarget) Put(ctx context.Context, desc ocispec.Descriptor, content []byte) error {
	return t.Push(ctx, desc, bytes.NewReader(content))
}

// Create implements [formats.Sink].
func (t *localTarget) Create(ctx context.Context, _ string) (formats.ObjectWriter, error) {
	return t.newObject(ctx, digest.SHA256)
}

func (t *localTarget) newObject(ctx context.Context, alg digest.Algorithm) (*localObject, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	f, err := t.place.create()
	if err != nil {
		return nil, fileError("write into", t.ref.Path, err)
	}
	return &localObject{target: t, ctx: ctx, f: f, alg: alg, sum: alg.Hash()}, nil
}

// CreateRandom implements [formats.RandomSink].
func (t *localTarget) CreateRandom(ctx context.Context, _ string) (formats.RandomObject, error) {
	o, err := t.newObject(ctx, digest.SHA256)
	if err != nil {
		return nil, err
	}
	o.sum = nil
	return &randomObject{o}, nil
}

// randomObject is an object whose digest is taken at its end.
type randomObject struct{ *localObject }

// WriteAt implements io.WriterAt, inside of what was written.
func (w *randomObject) WriteAt(p []byte, off int64) (int, error) {
	if w.err == nil && (w.f == nil || off < 0 || off > w.size-int64(len(p))) {
		w.err = errors.New("write outside of an object")
	}
	if w.err != nil {
		return 0, w.err
	}
	n, err := w.f.WriteAt(p, off)
	if err != nil {
		w.err = fileError("write into", w.target.ref.Path, err)
	}
	return n, w.err
}

// RunningSHA256 implements [formats.RunningDigest].
func (*randomObject) RunningSHA256() (sum [sha256.Size]byte, ok bool) { return sum, false }

// Commit implements [formats.ObjectWriter].
func (w *randomObject) Commit(ctx context.Context) (digest.Digest, int64, error) {
	if w.err == nil && w.f != nil {
		w.sum = w.alg.Hash()
		if _, err := io.CopyBuffer(onlyWriter{w.sum}, io.NewSectionReader(w.f, 0, w.size), make([]byte, 1<<20)); err != nil {
			return "", 0, fileError("read back", w.target.ref.Path, err)
		}
	}
	return w.localObject.Commit(ctx)
}

// localObject is an object that is being written to a temporary file.
type localObject struct {
	target *localTarget
	ctx    context.Context //nolint:containedctx // writes end with it
	f      *os.File        // nil once the object is kept or given up
	alg    digest.Algorithm
	sum    hash.Hash // nil where the digest is taken at the end
	size   int64
	err    error
}

// Write implements io.Writer.
func (w *localObject) Write(p []byte) (int, error) {
	if w.err == nil && w.ctx.Err() != nil {
		w.err = context.Cause(w.ctx)
	}
	if w.err == nil && w.f == nil {
		w.err = errors.New("write after the end of an object")
	}
	if w.err != nil {
		return 0, w.err
	}
	n, err := w.f.Write(p)
	if w.sum != nil {
		w.sum.Write(p[:n])
	}
	w.size += int64(n)
	if err != nil {
		w.err = fileError("write into", w.target.ref.Path, err)
	}
	return n, w.err
}

// RunningSHA256 implements [formats.RunningDigest].
func (w *localObject) RunningSHA256() ([sha256.Size]byte, bool) { return runningSHA256(w.alg, w.sum) }

// Commit implements [formats.ObjectWriter].
func (w *localObject) Commit(ctx context.Context) (digest.Digest, int64, error) {
	if w.err != nil {
		return "", 0, w.err
	}
	if ctx.Err() != nil {
		return "", 0, context.Cause(ctx)
	}
	d := digest.NewDigest(w.alg, w.sum)
	ok, err := w.target.Exists(ctx, ocispec.Descriptor{Digest: d, Size: w.size})
	if err != nil {
		return "", 0, err
	}
	if ok {
		w.Abort()
		return d, w.size, nil
	}
	if err := w.target.place.keep(w.f, d, w.size); err != nil {
		return "", 0, fileError("write into", w.target.ref.Path, err)
	}
	w.f = nil
	return d, w.size, nil
}

// Abort implements [formats.ObjectWriter].
func (w *localObject) Abort() {
	if w.f != nil {
		w.target.place.discard(w.f)
		w.f = nil
	}
}
