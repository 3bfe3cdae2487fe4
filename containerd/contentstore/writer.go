package contentstore

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/formats"
)

// abortTime bounds giving an ingest up: it is done also when the context of the object has ended.
const abortTime = 10 * time.Second

// objectWriter is an object on its way into a content store: an ingest with a reference of its own, so that it never goes on where
// another one ended.
type objectWriter struct {
	target *Target
	ctx    context.Context //nolint:containedctx // writes end with it
	cancel context.CancelFunc
	ref    string
	w      content.Writer // nil once the object is committed or given up
	buf    *bufio.Writer  // before w: over containerd's API each write is a call
	sum    hash.Hash
	size   int64
	err    error
}

var (
	_ formats.ObjectWriter  = (*objectWriter)(nil)
	_ formats.RunningDigest = (*objectWriter)(nil)
)

// begin begins an object. The digest of desc may be empty; if it is not, and the object is there, it is leased and the error is
// errdefs.ErrAlreadyExists.
func (t *Target) begin(ctx context.Context, desc ocispec.Descriptor) (*objectWriter, error) {
	w := &objectWriter{target: t, ref: "lazuli-" + rand.Text(), sum: sha256.New()}
	w.ctx, w.cancel = context.WithCancel(t.in(ctx)) // frees what a remote writer holds
	opts := []content.WriterOpt{content.WithRef(w.ref)}
	if desc.Digest != "" {
		opts = append(opts, content.WithDescriptor(ocispec.Descriptor{MediaType: desc.MediaType, Digest: desc.Digest, Size: desc.Size}))
	}
	var err error
	if w.w, err = t.cs.Writer(w.ctx, opts...); err != nil { //nolint:contextcheck // it is made of ctx
		w.end()
		if !errdefs.IsAlreadyExists(err) {
			w.abort() //nolint:contextcheck // it has that of the object; the answer may have been lost
		}
		return nil, err
	}
	w.buf = bufio.NewWriterSize(w.w, streamSize)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.writers[w] = true
	return w, nil
}

// shared commits an object whose bytes the store has already, of another namespace, and reports whether it has.
func (w *objectWriter) shared(ctx context.Context, desc ocispec.Descriptor, labels map[string]string) (bool, error) {
	st, err := w.w.Status()
	if err != nil {
		return false, w.fail(ctx, err)
	}
	if st.Offset == 0 || st.Offset != desc.Size {
		return false, nil
	}
	err = w.w.Commit(w.target.in(ctx), desc.Size, desc.Digest, content.WithLabels(labels))
	if err != nil && !errdefs.IsAlreadyExists(err) {
		return false, w.fail(ctx, err)
	}
	w.end()
	return true, nil
}

// fail classifies an error of the store.
func (w *objectWriter) fail(ctx context.Context, err error) error {
	return Fail(ctx, fmt.Sprintf("write into %s", w.target.ref), err)
}

// Write implements [formats.ObjectWriter].
func (w *objectWriter) Write(p []byte) (int, error) {
	switch {
	case w.err != nil:
	case w.ctx.Err() != nil:
		w.err = w.fail(w.ctx, nil)
	case w.w == nil:
		w.err = errors.New("write after the end of an object")
	}
	if w.err != nil {
		return 0, w.err
	}
	n, err := w.buf.Write(p)
	w.sum.Write(p[:n])
	w.size += int64(n)
	if err != nil {
		w.err = w.fail(w.ctx, err)
	}
	return n, w.err
}

// RunningSHA256 implements [formats.RunningDigest].
func (w *objectWriter) RunningSHA256() (sum [sha256.Size]byte, ok bool) {
	w.sum.Sum(sum[:0])
	return sum, true
}

// Commit implements [formats.ObjectWriter].
func (w *objectWriter) Commit(ctx context.Context) (digest.Digest, int64, error) {
	_, err := w.commit(ctx, nil)
	if err != nil {
		return "", 0, err
	}
	return digest.NewDigest(digest.SHA256, w.sum), w.size, nil
}

// commit ends the object and reports whether the store had it already.
func (w *objectWriter) commit(ctx context.Context, labels map[string]string) (existed bool, err error) {
	if w.err == nil && w.w == nil {
		w.err = errors.New("commit after the end of an object")
	}
	if w.err == nil && ctx.Err() != nil {
		w.err = w.fail(ctx, nil)
	}
	if w.err != nil {
		return false, w.err
	}
	if err := w.buf.Flush(); err != nil {
		w.err = w.fail(ctx, err)
		return false, w.err
	}
	desc := ocispec.Descriptor{Digest: digest.NewDigest(digest.SHA256, w.sum), Size: w.size}
	err = w.w.Commit(w.target.in(ctx), w.size, desc.Digest, content.WithLabels(labels))
	if err != nil && !errdefs.IsAlreadyExists(err) {
		w.err = w.fail(ctx, err)
		return false, w.err
	}
	w.end()
	if err == nil {
		return false, nil
	}
	// Over containerd's API, an object that is there already is not leased by this.
	ok, err := w.target.hold(ctx, desc)
	if err == nil && !ok {
		err = w.fail(ctx, fmt.Errorf("%s vanished: %w", desc.Digest, errdefs.ErrNotFound))
	}
	return true, err
}

// end forgets an ingest that is no more.
func (w *objectWriter) end() {
	w.cancel()
	w.w = nil
	w.target.mu.Lock()
	defer w.target.mu.Unlock()
	delete(w.target.writers, w)
}

// Abort implements [formats.ObjectWriter].
func (w *objectWriter) Abort() {
	if w.w == nil {
		return
	}
	_ = w.w.Close() // its bytes are given up
	w.end()
	w.abort()
}

// abort removes the ingest from the store.
func (w *objectWriter) abort() {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(w.ctx), abortTime)
	defer cancel()
	_ = w.target.cs.Abort(ctx, w.ref) // what stays is removed with the lease, or after a day
}
