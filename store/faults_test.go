package store_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/fetch"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/internal/registrytest"
	"github.com/lazuli-project/lazuli/store"
)

// pullFaults are what may go wrong with a registry. want is nil where the work must succeed all the same.
var pullFaults = []struct {
	name  string
	opts  registrytest.Options
	fault registrytest.Fault
	want  error
}{
	{name: "none"},
	{name: "token used up", opts: registrytest.Options{Token: true, TokenUses: 2}},
	{name: "no HEAD", opts: registrytest.Options{NoHead: true}},
	{name: "no ranges", opts: registrytest.Options{NoRange: true}},
	{name: "500 twice", fault: registrytest.Fault{Status: 500, Times: 2}},
	{name: "500 always", fault: registrytest.Fault{Status: 500}, want: store.ErrNetwork},
	{name: "429 with Retry-After", fault: registrytest.Fault{Status: 429, RetryAfter: "1", Times: 1, Path: "/blobs/"}},
	{name: "429 for too long", fault: registrytest.Fault{Status: 429, RetryAfter: "3600"}, want: store.ErrNetwork},
	{name: "403", fault: registrytest.Fault{Status: 403}, want: store.ErrDenied},
	{name: "404", fault: registrytest.Fault{Status: 404}, want: store.ErrNotFound},
	{name: "418", fault: registrytest.Fault{Status: 418}, want: store.ErrNetwork},
	{name: "blob cut thrice", fault: registrytest.Fault{Path: "/blobs/", CutAfter: 300_000, Times: 3}},
	{name: "blob cut always", fault: registrytest.Fault{Path: "/blobs/", CutAfter: 10}, want: store.ErrNetwork},
	{name: "manifest cut", fault: registrytest.Fault{Method: "GET", Path: "/manifests/", CutAfter: 100, Times: 1}},
	{name: "wrong bytes in blobs", fault: registrytest.Fault{Path: "/blobs/", Flip: true}, want: blob.ErrDigest},
	{name: "wrong bytes in manifests", fault: registrytest.Fault{Method: "GET", Path: "/manifests/", Flip: true}, want: blob.ErrDigest},
}

// TestPullFaults fetches an image whole from registries that fail: the right bytes or an error of the right class.
func TestPullFaults(t *testing.T) {
	t.Parallel()
	for _, c := range pullFaults {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			reg := newRegistry(t, c.opts)
			ref := mustParse(t, reg.host+"/image:v1")
			dst := openTarget(t, ref)
			layer := content(1, 1<<20)
			desc := image(t, dst, nil, layer)
			if err := dst.Tag(t.Context(), desc, ""); err != nil {
				t.Fatal(err)
			}
			src := openSource(t, ref)
			reg.Inject(c.fault)
			err := pull(t.Context(), src, layer)
			if !errors.Is(err, c.want) {
				t.Errorf("%v, expected %v", err, c.want)
			}
		})
	}
}

var errWrongBytes = errors.New("wrong bytes")

func pull(ctx context.Context, src store.Source, layer []byte) error {
	desc, err := src.Resolve(ctx)
	if err != nil {
		return err
	}
	m, err := store.LoadManifest(ctx, src, desc)
	if err != nil {
		return err
	}
	rc, err := src.Fetch(ctx, m.Manifest.Layers[0])
	if err != nil {
		return err
	}
	got, err := io.ReadAll(rc)
	if err := errors.Join(err, rc.Close()); err != nil {
		return err
	}
	if !bytes.Equal(got, layer) {
		return errWrongBytes
	}
	return nil
}

// TestPushFaults pushes a large object of unknown digest, a large and a small one of known digest, and a manifest.
func TestPushFaults(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		opts  registrytest.Options
		fault registrytest.Fault
		want  error
	}{
		{name: "none"},
		{name: "token used up", opts: registrytest.Options{Token: true, TokenUses: 2}},
		{name: "no HEAD", opts: registrytest.Options{NoHead: true}},
		{name: "piece refused", fault: registrytest.Fault{Method: "PATCH", Status: 503, Times: 2}},
		{name: "piece cut", fault: registrytest.Fault{Method: "PATCH", CutUpload: 1 << 20, Times: 3}},
		{name: "piece cut at once", fault: registrytest.Fault{Method: "PATCH", Status: 500, Skip: 1, Times: 1}},
		{name: "pieces always cut", fault: registrytest.Fault{Method: "PATCH", Status: 500}, want: store.ErrNetwork},
		{name: "no pieces", opts: registrytest.Options{NoPieces: true}, want: store.ErrNetwork},
		{name: "upload lost", fault: registrytest.Fault{Method: "PATCH", Status: 404, Skip: 1}, want: store.ErrNetwork},
		{name: "begin refused", fault: registrytest.Fault{Method: "POST", Status: 500, Times: 2}},
		{name: "begin denied", fault: registrytest.Fault{Method: "POST", Status: 403}, want: store.ErrDenied},
		{name: "end refused", fault: registrytest.Fault{Method: "PUT", Path: "/blobs/", Status: 500, Times: 2}},
		{name: "end refused with Retry-After", fault: registrytest.Fault{Method: "PUT", Path: "/blobs/", Status: 429, RetryAfter: "1", Times: 1}},
		{name: "answer of the end lost", fault: registrytest.Fault{Method: "PUT", Path: "/blobs/", CutUpload: 1 << 30, Times: 1}},
		{name: "manifest refused", fault: registrytest.Fault{Method: "PUT", Path: "/manifests/", Status: 502, Times: 2}},
		{name: "manifest denied", fault: registrytest.Fault{Method: "PUT", Path: "/manifests/", Status: 401}, want: store.ErrDenied},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			reg := newRegistry(t, c.opts)
			dst := openTarget(t, mustParse(t, reg.host+"/image:v1"))
			reg.Inject(c.fault)
			err := push(t.Context(), dst)
			if !errors.Is(err, c.want) {
				t.Fatalf("%v, expected %v", err, c.want)
			}
			if s := reg.Stats(); err == nil && s.OpenPushes > 1 {
				t.Errorf("%d uploads were left open", s.OpenPushes)
			}
		})
	}
}

func push(ctx context.Context, dst store.Target) error {
	large := content(1, 10<<20)
	w, err := dst.Create(ctx, ocispec.MediaTypeImageLayer)
	if err != nil {
		return err
	}
	defer w.Abort()
	for p := large; len(p) > 0; p = p[min(len(p), 1<<20):] {
		if _, err := w.Write(p[:min(len(p), 1<<20)]); err != nil {
			return err
		}
	}
	d, _, err := w.Commit(ctx)
	if err != nil {
		return err
	}
	if d != digest.FromBytes(large) {
		return errWrongBytes
	}
	known := content(2, 9<<20)
	if err := dst.Push(ctx, formats.DigestOf(ocispec.MediaTypeImageLayer, known), bytes.NewReader(known)); err != nil {
		return err
	}
	config := []byte("{}")
	desc := formats.DigestOf(ocispec.MediaTypeImageConfig, config)
	if err := dst.Put(ctx, desc, config); err != nil {
		return err
	}
	raw := []byte(`{"schemaVersion":2,"config":{"mediaType":"` + desc.MediaType + `","digest":"` + desc.Digest.String() + `","size":2},"layers":[]}`)
	m := formats.DigestOf(ocispec.MediaTypeImageManifest, raw)
	if err := dst.Put(ctx, m, raw); err != nil {
		return err
	}
	for _, o := range []struct {
		desc ocispec.Descriptor
		p    []byte
	}{{formats.DigestOf("", large), large}, {formats.DigestOf("", known), known}, {m, raw}} {
		got, err := store.ReadAll(ctx, dst, o.desc, 1<<30)
		if err != nil {
			return err
		}
		if !bytes.Equal(got, o.p) {
			return errWrongBytes
		}
	}
	return nil
}

// TestNothingTwice counts what goes over the line when the target has everything.
func TestNothingTwice(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t, registrytest.Options{Token: true})
	dst := openTarget(t, mustParse(t, reg.host+"/image:v1"))
	if err := push(t.Context(), dst); err != nil {
		t.Fatal(err)
	}
	if s := reg.Stats(); s.Uploads != 3 || s.Tokens != 1 || s.OpenPushes != 0 {
		t.Errorf("first: %+v", s)
	}
	reg.ResetStats()
	if err := push(t.Context(), dst); err != nil {
		t.Fatal(err)
	}
	// The digest of the streamed object is known at its end only, and then its upload is cancelled.
	s := reg.Stats()
	if s.Uploads != 0 || s.Uploaded > 8<<20 || s.OpenPushes != 0 || s.ByMethod[http.MethodDelete] != 1 {
		t.Errorf("second: %+v", s)
	}
	other := openTarget(t, mustParse(t, reg.host+"/other:v1"))
	desc := formats.DigestOf("", content(2, 9<<20))
	reg.ResetStats()
	ok, err := other.Mount(t.Context(), desc, openSource(t, mustParse(t, reg.host+"/image:v1")))
	if s := reg.Stats(); !ok || err != nil || s.Mounts != 1 || s.Uploaded != 0 {
		t.Errorf("mount: %v, %v, %+v", ok, err, s)
	}
	if ok, err := other.Mount(t.Context(), formats.DigestOf("", []byte("absent")), openSource(t, mustParse(t, reg.host+"/image:v1"))); ok || err != nil {
		t.Errorf("mount of what is not there: %v, %v", ok, err)
	}
	if s := reg.Stats(); s.OpenPushes != 0 {
		t.Errorf("a failed mount left %d uploads open", s.OpenPushes)
	}
}

// TestLazyFaults reads ranges at random places, lazily, from registries that fail.
func TestLazyFaults(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name     string
		opts     registrytest.Options
		redirect bool
		fault    registrytest.Fault
		want     error
	}{
		{name: "none"},
		{name: "redirect", redirect: true},
		{name: "redirect that expires", redirect: true, opts: registrytest.Options{RedirectUses: 2}},
		{name: "redirect and token that expire", redirect: true, opts: registrytest.Options{RedirectUses: 4, Token: true, TokenUses: 10}},
		{name: "redirect that never works", redirect: true, fault: registrytest.Fault{Path: "/signed/", Status: 403}, want: store.ErrDenied},
		{name: "token used up", opts: registrytest.Options{Token: true, TokenUses: 10}},
		{name: "no ranges", opts: registrytest.Options{NoRange: true}},
		{name: "sometimes no ranges", fault: registrytest.Fault{NoRange: true, Times: 2}},
		{name: "wrong range once", fault: registrytest.Fault{WrongRange: true, Times: 1}},
		{name: "wrong range always", fault: registrytest.Fault{WrongRange: true}, want: store.ErrNetwork},
		{name: "cut", fault: registrytest.Fault{CutAfter: 1000, Times: 4}},
		{name: "cut always", fault: registrytest.Fault{CutAfter: 10}, want: store.ErrNetwork},
		{name: "500", fault: registrytest.Fault{Status: 500, Times: 3}},
		{name: "404", fault: registrytest.Fault{Status: 404}, want: store.ErrNotFound},
		{name: "416", fault: registrytest.Fault{Status: 416}, want: io.ErrUnexpectedEOF},
		{name: "429", fault: registrytest.Fault{Status: 429, RetryAfter: "1", Times: 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			reg := newRegistry(t, c.opts)
			if c.redirect {
				reg.SetRedirectTo("http://" + reg.Listen(t))
			}
			ref := mustParse(t, reg.host+"/image:v1")
			p := content(1, 4<<20)
			desc := formats.DigestOf("", p)
			if err := openTarget(t, ref).Push(t.Context(), desc, bytes.NewReader(p)); err != nil {
				t.Fatal(err)
			}
			src := openSource(t, ref)
			b, err := src.Open(t.Context(), desc)
			if err != nil {
				t.Fatal(err)
			}
			reg.Inject(c.fault)
			var wg sync.WaitGroup
			for i := range 8 {
				wg.Go(func() {
					for j := range 3 {
						off := int64(i*500_000 + j*1000)
						got := make([]byte, 30_000)
						err := b.ReadRange(t.Context(), got, off, blob.Class(i%3))
						if c.want != nil {
							if err == nil || !errors.Is(err, c.want) {
								t.Errorf("%v, expected %v", err, c.want)
							}
							return
						}
						if err != nil {
							t.Error(err)
						} else if !bytes.Equal(got, p[off:off+30_000]) {
							t.Errorf("wrong bytes at %d", off)
						}
					}
				})
			}
			wg.Wait()
		})
	}
}

// TestSecrets makes sure that errors show neither credentials nor signatures.
func TestSecrets(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t, registrytest.Options{Token: true, Username: "somebody", Password: "hunter2"})
	gone := newRegistry(t, registrytest.Options{})
	reg.SetRedirectTo("http://" + gone.host)
	ref := mustParse(t, reg.host+"/image:v1")
	opts := store.Options{Username: "somebody", Password: "hunter2", Retry: fetch.Retry{Attempts: 2, Wait: time.Millisecond}}
	dst, err := store.OpenTarget(t.Context(), ref, opts)
	if err != nil {
		t.Fatal(err)
	}
	desc := formats.DigestOf("", []byte("content"))
	if err := dst.Put(t.Context(), desc, []byte("content")); err != nil {
		t.Fatal(err)
	}
	check := func(what string, err, want error) {
		t.Helper()
		if !errors.Is(err, want) {
			t.Errorf("%s: %v, expected %v", what, err, want)
		}
		for _, secret := range []string{"hunter2", "somebody", "signature", "token1", "Bearer"} {
			if err != nil && strings.Contains(err.Error(), secret) {
				t.Errorf("%s: the error shows %q: %v", what, secret, err)
			}
		}
	}
	_, err = dst.Fetch(t.Context(), desc)
	check("signature unknown", err, store.ErrDenied)
	reg.SetRedirectTo("http://127.0.0.1:1")
	_, err = dst.Fetch(t.Context(), desc)
	check("target away", err, store.ErrNetwork)
	opts.Password = "hunter2hunter2"
	wrong, err := store.OpenSource(t.Context(), ref, opts)
	if err != nil {
		t.Fatal(err)
	}
	_, err = wrong.Resolve(t.Context())
	check("wrong password", err, store.ErrDenied)
	anonymous := openSource(t, ref)
	_, err = anonymous.Resolve(t.Context())
	check("no password", err, store.ErrDenied)
	away := openSource(t, mustParse(t, "127.0.0.1:1/image:v1"))
	_, err = away.Resolve(t.Context())
	check("registry away", err, store.ErrNetwork)
}
