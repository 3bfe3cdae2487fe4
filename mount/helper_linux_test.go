package mount

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lazuli-project/lazuli/cache"
	"github.com/lazuli-project/lazuli/convert"
	"github.com/lazuli-project/lazuli/fetch"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/formats/nydus"
	"github.com/lazuli-project/lazuli/formats/overlaybd"
	"github.com/lazuli-project/lazuli/formats/turbooci"
	"github.com/lazuli-project/lazuli/image"
	"github.com/lazuli-project/lazuli/internal/imagetest"
	"github.com/lazuli-project/lazuli/internal/registrytest"
	"github.com/lazuli-project/lazuli/store"
)

// limit bounds each test: a mount that hangs must not hang the others.
const limit = 2 * time.Minute

var modes = []Mode{EROFS, FUSE}

// registry is one with a converted image, that notes which ranges of blobs it was asked for.
type registry struct {
	*registrytest.Registry
	ref string

	mu     sync.Mutex // guards what follows
	ranges map[string][][2]int64
	lost   map[[2]int64]bool
}

var rangeHeader = regexp.MustCompile(`^bytes=(\d+)-(\d+)$`)

// newRegistry converts the edge image into a new registry.
func newRegistry(t *testing.T) *registry {
	t.Helper()
	return newRegistryOf(t, imagetest.Edge(t))
}

func newRegistryOf(t *testing.T, img *imagetest.Image) *registry {
	t.Helper()
	w, err := nydus.NewWriter(nydus.Options{ChunkSize: 16 << 10})
	if err != nil {
		t.Fatal(err)
	}
	return newRegistryBy(t, img, w)
}

func newRegistryBy(t *testing.T, img *imagetest.Image, w formats.Writer) *registry {
	t.Helper()
	inner, err := registrytest.New(registrytest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	r := &registry{Registry: inner, ranges: make(map[string][][2]int64)}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if m := rangeHeader.FindStringSubmatch(req.Header.Get("Range")); m != nil {
			from, _ := strconv.ParseInt(m[1], 10, 64)
			to, _ := strconv.ParseInt(m[2], 10, 64)
			r.mu.Lock()
			r.ranges[req.URL.Path] = append(r.ranges[req.URL.Path], [2]int64{from, to})
			r.mu.Unlock()
		}
		inner.ServeHTTP(w, req)
	}))
	t.Cleanup(server.Close)
	r.ref = strings.TrimPrefix(server.URL, "http://") + "/edge:lazy"

	layout := filepath.Join(t.TempDir(), "layout")
	img.WriteLayout(t, layout, "edge")
	src, err := store.OpenSource(t.Context(), parse(t, "oci:"+layout), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	dest, err := store.OpenTarget(t.Context(), parse(t, r.ref), store.Options{PlainHTTP: true})
	if err != nil {
		t.Fatal(err)
	}
	defer dest.Close()
	if _, err := convert.Convert(t.Context(), src, []convert.Output{{Writer: w, Target: dest}}, convert.Options{}); err != nil {
		t.Fatal(err)
	}
	inner.ResetStats()
	return r
}

// killed notes that what was asked for last may not have been stored.
func (r *registry) killed() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lost = make(map[[2]int64]bool)
	for _, list := range r.ranges {
		for _, a := range list[max(0, len(list)-underWay):] {
			r.lost[a] = true
		}
	}
}

// underWay is how many requests of a blob are under way at once.
const underWay = 2

// asked returns how many ranges were asked for so far, and fails the test if bytes were asked for twice.
func (r *registry) asked(t *testing.T) int {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for path, list := range r.ranges {
		n += len(list)
		for i, a := range list {
			for _, b := range list[:i] {
				if a[0] <= b[1] && b[0] <= a[1] && !r.lost[b] {
					t.Errorf("%s: bytes %d-%d and %d-%d", path, b[0], b[1], a[0], a[1])
				}
			}
		}
	}
	return n
}

func parse(t *testing.T, s string) store.Ref {
	t.Helper()
	ref, err := store.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

// openImage opens an image with a cache in the directory, or without one.
func openImage(t *testing.T, ref, cacheDir string) (*image.Image, *cache.Dir) {
	t.Helper()
	opt := image.Options{
		Readers: []formats.Reader{nydus.Reader{}, overlaybd.Reader{}, turbooci.Reader{}},
		Store:   store.Options{PlainHTTP: true, Retry: fetch.Retry{Attempts: 4, Wait: time.Millisecond, MaxWait: time.Millisecond}},
	}
	if cacheDir != "" {
		var err error
		if opt.Fetch.Cache, err = cache.Open(cacheDir); err != nil {
			t.Fatal(err)
		}
	}
	im, err := image.Open(t.Context(), parse(t, ref), opt)
	if err != nil {
		t.Fatal(err)
	}
	return im, opt.Fetch.Cache
}

// mounted mounts an image until the end of the test.
func mounted(t *testing.T, ref, cacheDir string, opt Options) *Mounted {
	t.Helper()
	im, c := openImage(t, ref, cacheDir)
	opt.Cache = c
	m, err := New(t.Context(), im.Image, t.TempDir(), opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
		if err := im.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

func lines(t *testing.T, path string) []string {
	t.Helper()
	p, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(string(bytes.TrimSuffix(p, []byte("\n"))), "\n")
}

func compare(t *testing.T, want, got []string) {
	t.Helper()
	if d := imagetest.Diff(want, got); d != "" {
		t.Errorf("differs from what is expected:\n%s", d)
	}
}
