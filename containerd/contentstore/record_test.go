package contentstore_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/containerd/contentstore"
	"github.com/lazuli-project/lazuli/convert"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/internal/containerdtest"
	"github.com/lazuli-project/lazuli/store"
)

// What was recorded stays as long as the source's layer.
func TestRecordKeeps(t *testing.T) {
	t.Parallel()
	c := containerdtest.New(t)
	ctx, cs := c.Leased(t), c.Content()
	put := func(p string) ocispec.Descriptor {
		desc := formats.DigestOf("application/octet-stream", []byte(p))
		if err := newTarget(ctx, t, cs, contentstore.Options{}).Put(ctx, desc, []byte(p)); err != nil {
			t.Fatal(err)
		}
		return desc
	}
	source, made := put("source"), put("made")
	made.Annotations = map[string]string{"k": "v"}
	r := contentstore.NewRecord(cs)
	key := convert.Key{Source: source.Digest, Format: "nydus", Writer: "1"}
	if _, ok, err := r.Lookup(ctx, key); ok || err != nil {
		t.Errorf("before: %t, %v", ok, err)
	}
	for range 2 {
		if err := r.Store(ctx, key, convert.Known{Desc: made, Places: []string{"here"}}); err != nil {
			t.Fatal(err)
		}
	}
	got, ok, err := r.Lookup(ctx, key)
	if err != nil || !ok || got.Desc.Digest != made.Digest || got.Desc.Annotations["k"] != "v" || got.Desc.Size != made.Size {
		t.Errorf("%+v, %t, %v", got, ok, err)
	}
	for _, other := range []convert.Key{
		{Source: source.Digest, Format: "nydus", Writer: "2"}, {Source: source.Digest, Format: "other", Writer: "1"},
		{Source: source.Digest, Format: "nydus", Writer: "1", Below: source.Digest}, {Source: source.Digest, Format: "nydus", Writer: "1", Chain: source.Digest},
		{Source: digest.FromString("absent"), Format: "nydus", Writer: "1"},
	} {
		if _, ok, err := r.Lookup(ctx, other); ok || err != nil {
			t.Errorf("%+v: %t, %v", other, ok, err)
		}
	}
	if err := r.Store(ctx, convert.Key{Source: digest.FromString("absent")}, convert.Known{Desc: made}); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("of a layer that is not there: %v", err)
	}
	// Only the source is leased.
	list, err := c.Leases.List(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range list {
		if err := c.Leases.DeleteResource(ctx, l, leases.Resource{ID: made.Digest.String(), Type: "content"}); err != nil {
			t.Fatal(err)
		}
	}
	c.Collect(t)
	unleased := containerdtest.Context(t, containerdtest.Namespace)
	if ok, err := newTarget(unleased, t, cs, contentstore.Options{}).Exists(unleased, made); !ok || err != nil {
		t.Errorf("after garbage collection: %t, %v", ok, err)
	}
	if err := r.Forget(ctx, key, "here"); err != nil {
		t.Fatal(err)
	}
	if _, ok, err := r.Lookup(ctx, key); ok || err != nil {
		t.Errorf("forgotten: %t, %v", ok, err)
	}
	c.Collect(t)
	if left := c.Digests(t, containerdtest.Namespace); !slices.Equal(left, []digest.Digest{source.Digest}) {
		t.Errorf("left: %v", left)
	}
}

// A label that somebody else wrote is an error, not a layer.
func TestRecordDamaged(t *testing.T) {
	t.Parallel()
	c := containerdtest.New(t)
	ctx, cs := c.Leased(t), c.Content()
	desc := formats.DigestOf("", []byte("x"))
	if err := newTarget(ctx, t, cs, contentstore.Options{}).Put(ctx, desc, []byte("x")); err != nil {
		t.Fatal(err)
	}
	r, key := contentstore.NewRecord(cs), convert.Key{Source: desc.Digest, Format: "f"}
	if err := r.Store(ctx, key, convert.Known{Desc: desc}); err != nil {
		t.Fatal(err)
	}
	info, err := cs.Info(ctx, desc.Digest)
	if err != nil {
		t.Fatal(err)
	}
	for k := range info.Labels {
		for _, bad := range []string{"{", `{"digest":"x"}`, `{"digest":"` + desc.Digest.String() + `","size":-1}`} {
			if _, err := cs.Update(ctx, content.Info{Digest: desc.Digest, Labels: map[string]string{k: bad}}); err != nil {
				t.Fatal(err)
			}
			if _, ok, err := r.Lookup(ctx, key); ok || err != nil && !errors.Is(err, blob.ErrCorrupt) {
				t.Errorf("%s: %t, %v", bad, ok, err)
			}
		}
	}
}
