package image

import (
	"bytes"
	"errors"
	"path/filepath"
	"testing"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/cache"
	"github.com/lazuli-project/lazuli/convert"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/formats/nydus"
	"github.com/lazuli-project/lazuli/internal/imagetest"
	"github.com/lazuli-project/lazuli/internal/registrytest"
	"github.com/lazuli-project/lazuli/store"
)

// What was read once is there offline, and the rest is a clear error.
func TestOffline(t *testing.T) {
	t.Parallel()
	r, err := registrytest.New(registrytest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	layout := filepath.Join(t.TempDir(), "layout")
	content := map[string]string{"read": string(bytes.Repeat([]byte("a"), 5000)), "unread": string(bytes.Repeat([]byte("b"), 5000))}
	imagetest.NewImage(t, imagetest.Gzip(t, imagetest.Tar(t, imagetest.File("read", content["read"]))),
		imagetest.Gzip(t, imagetest.Tar(t, imagetest.File("unread", content["unread"])))).WriteLayout(t, layout, "x")
	refs := make([]store.Ref, 2)
	for i, s := range []string{"oci:" + layout, r.Listen(t) + "/image:tag"} {
		if refs[i], err = store.Parse(s); err != nil {
			t.Fatal(err)
		}
	}
	src, err := store.OpenSource(t.Context(), refs[0], store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	dest, err := store.OpenTarget(t.Context(), refs[1], store.Options{PlainHTTP: true})
	if err != nil {
		t.Fatal(err)
	}
	defer dest.Close()
	w, err := nydus.NewWriter(nydus.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := convert.Convert(t.Context(), src, []convert.Output{{Writer: w, Target: dest}}, convert.Options{}); err != nil {
		t.Fatal(err)
	}

	opt := Options{Store: store.Options{PlainHTTP: true}, Readers: []formats.Reader{nydus.Reader{}}}
	if opt.Fetch.Cache, err = cache.Open(t.TempDir()); err != nil {
		t.Fatal(err)
	}
	read := func(im *Image, name string) (string, error) {
		n := im.Tree.Root.Child(name)
		p := make([]byte, n.Size)
		_, err := im.ReadAt(t.Context(), n, p, 0, blob.Demand)
		return string(p), err
	}
	offline := opt
	offline.Offline = true
	if _, err := Open(t.Context(), refs[1], offline); !errors.Is(err, ErrOffline) {
		t.Fatalf("offline with an empty cache: %v", err)
	}
	online, err := Open(t.Context(), refs[1], opt)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := read(online, "read"); err != nil || got != content["read"] {
		t.Fatal(err)
	}
	if err := online.Close(); err != nil {
		t.Fatal(err)
	}

	r.ResetStats()
	again, err := Open(t.Context(), refs[1], opt)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
	if n := r.Stats().Requests; n != 1 {
		t.Errorf("%d requests to open an image that is known, want one that asks what the tag means", n)
	}

	r.ResetStats()
	im, err := Open(t.Context(), refs[1], offline)
	if err != nil {
		t.Fatal(err)
	}
	defer im.Close()
	if got, err := read(im, "read"); err != nil || got != content["read"] {
		t.Errorf("what was read before: %v", err)
	}
	if _, err := read(im, "unread"); !errors.Is(err, ErrOffline) {
		t.Errorf("what was not: %v", err)
	}
	if n := r.Stats().Requests; n != 0 {
		t.Errorf("%d requests offline", n)
	}
	offline.Fetch.Cache = nil
	if _, err := Open(t.Context(), refs[1], offline); !errors.Is(err, ErrOffline) {
		t.Errorf("without a cache: %v", err)
	}
}
