package registryproxy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/catalog"
	"github.com/lazuli-project/lazuli/check"
	"github.com/lazuli-project/lazuli/fetch"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/formats/oci"
	"github.com/lazuli-project/lazuli/image"
	"github.com/lazuli-project/lazuli/internal/imagetest"
	"github.com/lazuli-project/lazuli/internal/registrytest"
	"github.com/lazuli-project/lazuli/store"
)

func storeOptions() store.Options {
	return store.Options{PlainHTTP: true, Retry: fetch.Retry{Wait: time.Millisecond, MaxWait: 5 * time.Second}}
}

// fixture is a registry with a proxy before it.
type fixture struct {
	registry   *registrytest.Registry
	host, here string // of the registry and the proxy
	proxy      *Proxy
}

func newFixture(t *testing.T, registry registrytest.Options, rules ...string) *fixture {
	t.Helper()
	r, err := registrytest.New(registry)
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{registry: r, host: r.Listen(t)}
	opt := Options{Registry: f.host, Store: storeOptions()}
	for _, line := range rules {
		rule, err := ParseRule(line)
		if err != nil {
			t.Fatal(err)
		}
		opt.Rules = append(opt.Rules, rule)
	}
	if f.proxy, err = New(t.Context(), opt); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(f.proxy)
	f.here = strings.TrimPrefix(server.URL, "http://")
	t.Cleanup(func() {
		server.Close()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 10*time.Second)
		defer cancel()
		_ = f.proxy.Close(ctx)
	})
	return f
}

// push pushes an image or index through the proxy, its top manifest by hand, and waits for the conversion.
func (f *fixture) push(t *testing.T, img *imagetest.Image, to string) digest.Digest {
	t.Helper()
	desc, err := f.copyThrough(t, img, to, storeOptions())
	if err != nil {
		t.Fatal(err)
	}
	repository, tag, _ := strings.Cut(to, ":")
	f.put(t, repository, tag, desc.MediaType, img.Objects[desc.Digest])
	return desc.Digest
}

// copyThrough stores an image through the proxy, without a tag.
func (f *fixture) copyThrough(t *testing.T, img *imagetest.Image, to string, o store.Options) (ocispec.Descriptor, error) {
	t.Helper()
	dir := t.TempDir()
	img.WriteLayout(t, dir, "v1")
	src, err := store.OpenSource(t.Context(), store.Ref{Transport: store.Layout, Path: dir}, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	desc, err := src.Resolve(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := store.Parse(f.here + "/" + to)
	if err != nil {
		t.Fatal(err)
	}
	target, err := store.OpenTarget(t.Context(), parsed, o)
	if err != nil {
		return desc, err
	}
	defer target.Close()
	return desc, store.Copy(t.Context(), target, src, desc, store.CopyOptions{})
}

// put pushes a manifest under a tag, and waits for the conversion.
func (f *fixture) put(t *testing.T, repository, tag, mediaType string, raw []byte) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://"+f.here+"/v2/"+repository+"/manifests/"+tag, bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", mediaType)
	r.Header.Set(HeaderConvert, "wait")
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		p, _ := io.ReadAll(resp.Body)
		t.Fatalf("PUT %s: %s %s", r.URL, resp.Status, p)
	}
	if len(resp.Header.Values(HeaderConvert)) == 0 {
		t.Errorf("PUT %s: the answer does not say what became of it", r.URL)
	}
}

func (f *fixture) source(t *testing.T, ref string) store.Source {
	t.Helper()
	parsed, err := store.Parse(f.host + "/" + ref)
	if err != nil {
		t.Fatal(err)
	}
	s, err := store.OpenSource(t.Context(), parsed, storeOptions())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func (f *fixture) resolve(t *testing.T, ref string) ocispec.Descriptor {
	t.Helper()
	desc, err := f.source(t, ref).Resolve(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return desc
}

// equal compares an image with its source.
func (f *fixture) equal(t *testing.T, source, made, platform string) {
	t.Helper()
	open := func(ref string, readers []formats.Reader) *image.Image {
		parsed, err := store.Parse(f.host + "/" + ref)
		if err != nil {
			t.Fatal(err)
		}
		im, err := image.Open(t.Context(), parsed, image.Options{Store: storeOptions(), Platform: platform, Readers: readers})
		if err != nil {
			t.Fatalf("%s: %v", ref, err)
		}
		t.Cleanup(func() { _ = im.Close() })
		return im
	}
	want, got := open(source, []formats.Reader{oci.Reader{}}), open(made, catalog.LazyReaders())
	if err := check.Compare(t.Context(), want.Image, got.Image, func(d check.Difference) error { t.Error(d); return nil }); err != nil {
		t.Error(err)
	}
}

// conversions reads the status.
func (f *fixture) conversions(t *testing.T) []Conversion {
	t.Helper()
	resp, err := http.Get("http://" + f.here + StatusPath)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var status struct{ Conversions []Conversion }
	if err := json.NewDecoder(resp.Body).Decode(&status); err != nil {
		t.Fatal(err)
	}
	return status.Conversions
}

func TestReferrer(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name     string
		registry registrytest.Options
	}{
		{"referrers API", registrytest.Options{}},
		{"fallback tag", registrytest.Options{NoReferrers: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, c.registry, "format=nydus,attach=referrer")
			pushed := f.push(t, imagetest.Edge(t), "team/app:1")
			if got := f.resolve(t, "team/app:1").Digest; got != pushed {
				t.Errorf("the tag names %s instead of what was pushed, %s", got, pushed)
			}
			refs, err := f.source(t, "team/app:1").Referrers(t.Context(), f.resolve(t, "team/app:1"), "")
			if err != nil || len(refs) != 1 {
				t.Fatalf("%d referrers, %v; conversions: %+v", len(refs), err, f.conversions(t))
			}
			f.equal(t, "team/app:1", "team/app@"+refs[0].Digest.String(), "")
			all := f.conversions(t)
			if len(all) != 1 || all[0].State != Done || all[0].Source != pushed || len(all[0].Made) != 1 || all[0].Made[0] != refs[0].Digest {
				t.Errorf("conversions: %+v", all)
			}
		})
	}
}

func TestTags(t *testing.T) {
	t.Parallel()
	f := newFixture(t, registrytest.Options{}, `"format=nydus,overlaybd",attach=tag,compression=lz4`, "attach=tag,suffix=.ref,format=nydus-ref,repository=team/*,tag=v*")
	pushed := f.push(t, imagetest.Edge(t), "team/app:v1")
	if got := f.resolve(t, "team/app:v1").Digest; got != pushed {
		t.Errorf("the tag names %s instead of %s", got, pushed)
	}
	for _, tag := range []string{"v1-nydus", "v1-overlaybd", "v1.ref"} {
		f.equal(t, "team/app:v1", "team/app:"+tag, "")
	}
	f.push(t, imagetest.Edge(t), "other/app:v1")
	f.equal(t, "other/app:v1", "other/app:v1-nydus", "")
	if _, err := f.source(t, "other/app:v1.ref").Resolve(t.Context()); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("a rule for other repositories: %v", err)
	}
}

func TestIndexOfPlatforms(t *testing.T) {
	t.Parallel()
	f := newFixture(t, registrytest.Options{}, "attach=index")
	layer := imagetest.Gzip(t, imagetest.Tar(t, imagetest.File("a", strings.Repeat("content", 10000))))
	arm := imagetest.NewImageFor(t, ocispec.Platform{OS: "linux", Architecture: "arm64"}, layer)
	f.push(t, imagetest.NewIndex(t, imagetest.NewImage(t, layer), arm), "app:1")
	s := f.source(t, "app:1")
	x, err := store.LoadIndex(t.Context(), s, f.resolve(t, "app:1"))
	if err != nil {
		t.Fatal(err)
	}
	if n := len(x.Index.Manifests); n != 4 || x.Index.Manifests[1].Digest != arm.Desc.Digest {
		t.Errorf("%d entries: %+v", n, x.Index.Manifests)
	}
	f.equal(t, "app:1", "app:1", "linux/arm64")
	// What it is not for, or has made itself, is left alone.
	f.push(t, imagetest.Edge(t), "edge:1")
	all := f.conversions(t)
	for _, c := range all {
		if c.State != Done {
			t.Errorf("%+v", c)
		}
	}
	if len(all) != 2 {
		t.Errorf("conversions: %+v", all)
	}
}

func TestConvertedImagesAreLeftAlone(t *testing.T) {
	t.Parallel()
	f := newFixture(t, registrytest.Options{}, "attach=tag")
	f.push(t, imagetest.Edge(t), "app:1")
	m, err := store.LoadManifest(t.Context(), f.source(t, "app:1-nydus"), f.resolve(t, "app:1-nydus"))
	if err != nil {
		t.Fatal(err)
	}
	f.put(t, "app", "again", m.Desc.MediaType, m.Raw)
	if all := f.conversions(t); len(all) != 2 || all[0].State != Skipped {
		t.Errorf("conversions: %+v", all)
	}
}

// TestCredentials: the proxy has none, and the client's are good enough for both.
func TestCredentials(t *testing.T) {
	t.Parallel()
	f := newFixture(t, registrytest.Options{Username: "user", Password: "secret", Token: true}, "attach=referrer")
	o := storeOptions()
	push := func(o store.Options) error {
		desc, err := f.copyThrough(t, imagetest.Edge(t), "app:1", o)
		if err != nil {
			return err
		}
		to, err := store.Parse(f.here + "/app:1")
		if err != nil {
			return err
		}
		target, err := store.OpenTarget(t.Context(), to, o)
		if err != nil {
			return err
		}
		defer target.Close()
		return target.Tag(t.Context(), desc, "")
	}
	if err := push(o); !errors.Is(err, store.ErrDenied) {
		t.Errorf("without credentials: %v", err)
	}
	if n := len(f.conversions(t)); n != 0 {
		t.Errorf("%d conversions of what was refused", n)
	}
	o.Username, o.Password = "user", "secret"
	if err := push(o); err != nil {
		t.Fatal(err)
	}
	if err := f.proxy.Close(t.Context()); err != nil { // waits
		t.Error(err)
	}
	if all := f.conversions(t); len(all) != 1 || all[0].State != Done {
		t.Errorf("conversions: %+v", all)
	}
}

func TestRefuses(t *testing.T) {
	t.Parallel()
	f := newFixture(t, registrytest.Options{}, "attach=referrer")
	for _, c := range []struct {
		method, path string
		body         string
		want         int
	}{
		{"GET", "/", "", http.StatusNotFound},
		{"GET", "/v1/", "", http.StatusNotFound},
		{"GET", "/v2/../admin", "", http.StatusNotFound},
		{"PUT", "/v2/app/manifests/1", strings.Repeat(" ", maxManifest+1), http.StatusRequestEntityTooLarge},
		{"POST", StatusPath, "", http.StatusMethodNotAllowed},
		{"GET", "/v2/", "", http.StatusOK},
	} {
		w := httptest.NewRecorder()
		f.proxy.ServeHTTP(w, httptest.NewRequest(c.method, c.path, strings.NewReader(c.body)))
		if w.Code != c.want {
			t.Errorf("%s %s: %d, want %d: %s", c.method, c.path, w.Code, c.want, w.Body)
		}
	}
}

func TestRegistryIsAway(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.NotFoundHandler())
	host := strings.TrimPrefix(server.URL, "http://")
	p, err := New(t.Context(), Options{Registry: host, Store: storeOptions(), Rules: []Rule{{}}})
	if err != nil {
		t.Fatal(err)
	}
	server.Close()
	w := httptest.NewRecorder()
	p.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/v2/", nil))
	if w.Code != http.StatusBadGateway || !strings.Contains(w.Body.String(), `"code":"UNAVAILABLE"`) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if err := p.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestPlacesOfUploads: a registry that answers with its own name does not lead its clients around the proxy.
func TestPlacesOfUploads(t *testing.T) {
	t.Parallel()
	var server *httptest.Server
	server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Host != strings.TrimPrefix(server.URL, "http://") {
			t.Errorf("asked as host %s", r.Host)
		}
		at := server.URL + "/v2/app/blobs/uploads/1?state=x%2Fy"
		if r.URL.Path == "/v2/app/blobs/away" {
			at = "https://elsewhere.example/blob"
		}
		w.Header().Set("Location", at)
		w.WriteHeader(http.StatusAccepted)
		_, _ = io.WriteString(w, "")
	}))
	defer server.Close()
	p, err := New(t.Context(), Options{Registry: strings.TrimPrefix(server.URL, "http://"), Store: storeOptions(), Rules: []Rule{{}}})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close(t.Context())
	for path, want := range map[string]string{
		"/v2/app/blobs/uploads/": "/v2/app/blobs/uploads/1?state=x%2Fy",
		"/v2/app/blobs/away":     "https://elsewhere.example/blob",
	} {
		w := httptest.NewRecorder()
		p.ServeHTTP(w, httptest.NewRequest(http.MethodPost, path, nil))
		if got := w.Header().Get("Location"); got != want {
			t.Errorf("%s: Location %q, want %q", path, got, want)
		}
	}
}
