package contentstore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/containerd/contentstore"
	"github.com/lazuli-project/lazuli/convert"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/internal/containerdtest"
	"github.com/lazuli-project/lazuli/internal/imagetest"
)

// Damage is found wherever it comes in, and nothing of it stays.
func TestDamage(t *testing.T) {
	t.Parallel()
	c := containerdtest.New(t)
	ctx, cs := c.Leased(t), c.Content()
	target := newTarget(ctx, t, cs, contentstore.Options{})
	for _, mediaType := range []string{"application/octet-stream", ocispec.MediaTypeImageManifest} {
		for _, n := range []int{100, 3 << 20} {
			p := bytes.Repeat([]byte("x"), n)
			good := formats.DigestOf(mediaType, p)
			flipped := bytes.Clone(p)
			flipped[n/2] ^= 1
			short, long, sha512 := good, good, good
			short.Size--
			long.Size++
			sha512.Digest = digest.SHA512.FromBytes(p)
			for _, c := range []struct {
				name string
				desc ocispec.Descriptor
				p    []byte
				want error
			}{
				{"digest", good, flipped, blob.ErrDigest},
				{"too long", short, p, blob.ErrCorrupt},
				{"too short", long, p, blob.ErrCorrupt},
				{"no digest", ocispec.Descriptor{MediaType: mediaType, Size: int64(n)}, p, blob.ErrCorrupt},
			} {
				if err := target.Push(ctx, c.desc, bytes.NewReader(c.p)); !errors.Is(err, c.want) {
					t.Errorf("%s, %s of %d bytes: %v", mediaType, c.name, n, err)
				}
			}
			if mediaType != ocispec.MediaTypeImageManifest {
				if err := target.Push(ctx, sha512, bytes.NewReader(p)); !errors.Is(err, blob.ErrUnsupported) {
					t.Errorf("SHA-512: %v", err)
				}
			}
		}
	}
	for _, bad := range []string{"[]", `{"layers":[{"digest":"../x"}]}`} {
		desc := formats.DigestOf(ocispec.MediaTypeImageManifest, []byte(bad))
		if err := target.Put(ctx, desc, []byte(bad)); !errors.Is(err, blob.ErrCorrupt) {
			t.Errorf("%s: %v", bad, err)
		}
	}
	if left := c.Digests(t, containerdtest.Namespace); len(left) > 0 {
		t.Errorf("stored: %v", left)
	}
	if left := c.Ingests(t, containerdtest.Namespace); len(left) > 0 {
		t.Errorf("ingests left: %v", left)
	}
}

// Objects that are given up, in whatever way, leave nothing.
func TestGivenUp(t *testing.T) {
	t.Parallel()
	content := bytes.Repeat([]byte("x"), 3<<20)
	for name, end := range map[string]func(w formats.ObjectWriter, target *contentstore.Target, cancel func()) error{
		"aborted": func(w formats.ObjectWriter, _ *contentstore.Target, _ func()) error { w.Abort(); return nil },
		"closed":  func(_ formats.ObjectWriter, target *contentstore.Target, _ func()) error { return target.Close() },
		"cancelled": func(w formats.ObjectWriter, _ *contentstore.Target, cancel func()) error {
			cancel()
			w.Abort()
			return nil
		},
		"committed without a context": func(w formats.ObjectWriter, target *contentstore.Target, cancel func()) error {
			cancel()
			ctx, stop := context.WithCancel(context.Background())
			stop()
			if _, _, err := w.Commit(ctx); !errors.Is(err, context.Canceled) {
				return fmt.Errorf("commit: %w", err)
			}
			w.Abort()
			return target.Close()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := containerdtest.New(t)
			ctx, cancel := context.WithCancel(c.Leased(t))
			defer cancel()
			target := newTarget(ctx, t, c.Content(), contentstore.Options{})
			w, err := target.Create(ctx, "")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write(content); err != nil {
				t.Fatal(err)
			}
			if len(c.Ingests(t, containerdtest.Namespace)) != 1 {
				t.Error("nothing is written")
			}
			if err := end(w, target, cancel); err != nil {
				t.Error(err)
			}
			if _, err := w.Write(content); err == nil {
				t.Error("written after the end")
			}
			w.Abort()
			if left := c.Ingests(t, containerdtest.Namespace); len(left) > 0 {
				t.Errorf("ingests left: %v", left)
			}
		})
	}
}

// failing is a content store whose writers fail after some bytes.
type failing struct {
	content.Store
	after int
	err   error
}

type failingWriter struct {
	content.Writer
	of *failing
	n  int
}

func (f *failing) Writer(ctx context.Context, opts ...content.WriterOpt) (content.Writer, error) {
	w, err := f.Store.Writer(ctx, opts...)
	if err != nil {
		return nil, err
	}
	return &failingWriter{Writer: w, of: f}, nil
}

func (f *failingWriter) Write(p []byte) (int, error) {
	if f.n += len(p); f.n > f.of.after {
		return 0, f.of.err
	}
	return f.Writer.Write(p)
}

// A conversion whose target fails, or that is cancelled, names nothing and leaves no ingest.
func TestFaults(t *testing.T) {
	t.Parallel()
	src := layout(t, imagetest.Edge(t))
	for _, w := range writers(t) {
		for after := 0; after < 4096; after += 1000 {
			c := containerdtest.New(t)
			ctx := c.Leased(t)
			broken := errors.New("broken")
			published := false
			target := newTarget(ctx, t, &failing{c.Content(), after, broken}, contentstore.Options{Publish: func(context.Context, string, ocispec.Descriptor) error {
				published = true
				return nil
			}})
			_, err := convert.Convert(ctx, src, []convert.Output{{Writer: w, Target: target}}, convert.Options{TempDir: t.TempDir()})
			if !errors.Is(err, broken) || published {
				t.Errorf("%s, after %d bytes: published: %t, %v", w.Name(), after, published, err)
			}
			if err := target.Close(); err != nil {
				t.Error(err)
			}
			if left := c.Ingests(t, containerdtest.Namespace); len(left) > 0 {
				t.Errorf("%s, after %d bytes: ingests left: %v", w.Name(), after, left)
			}
		}
		c := containerdtest.New(t)
		ctx, cancel := context.WithCancel(c.Leased(t))
		target := newTarget(ctx, t, c.Content(), contentstore.Options{})
		_, err := convert.Convert(ctx, src, []convert.Output{{Writer: w, Target: target}}, convert.Options{TempDir: t.TempDir(), OnProgress: func(convert.Progress) { cancel() }})
		cancel()
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s, cancelled: %v", w.Name(), err)
		}
		if err := target.Close(); err != nil {
			t.Error(err)
		}
		if left := c.Ingests(t, containerdtest.Namespace); len(left) > 0 {
			t.Errorf("%s, cancelled: ingests left: %v", w.Name(), left)
		}
	}
}
