package convert_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/check"
	"github.com/lazuli-project/lazuli/convert"
	"github.com/lazuli-project/lazuli/fetch"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/formats/nydus"
	"github.com/lazuli-project/lazuli/formats/oci"
	"github.com/lazuli-project/lazuli/image"
	"github.com/lazuli-project/lazuli/internal/imagetest"
	"github.com/lazuli-project/lazuli/internal/registrytest"
	"github.com/lazuli-project/lazuli/store"
)

// options make failures cheap: tests of retries must not wait.
func options() store.Options {
	return store.Options{PlainHTTP: true, Retry: fetch.Retry{Wait: time.Millisecond, MaxWait: 5 * time.Second}}
}

func parse(tb testing.TB, s string) store.Ref {
	tb.Helper()
	r, err := store.Parse(s)
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

type registry struct {
	*registrytest.Registry
	host string
}

func newRegistry(t *testing.T, o registrytest.Options) registry {
	t.Helper()
	r, err := registrytest.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return registry{r, r.Listen(t)}
}

func openSource(tb testing.TB, ref string) store.Source {
	tb.Helper()
	s, err := store.OpenSource(tb.Context(), parse(tb, ref), options())
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = s.Close() })
	return s
}

func openTarget(tb testing.TB, ref string) store.Target {
	tb.Helper()
	d, err := store.OpenTarget(tb.Context(), parse(tb, ref), options())
	if err != nil {
		tb.Fatal(err)
	}
	return d
}

// layout writes the image as an OCI layout and returns its reference.
func layout(tb testing.TB, img *imagetest.Image) string {
	tb.Helper()
	dir := tb.TempDir()
	img.WriteLayout(tb, dir, "v1")
	return "oci:" + dir + ":v1"
}

// put copies an image to a reference.
func put(tb testing.TB, img *imagetest.Image, ref string) {
	tb.Helper()
	src, dest := openSource(tb, layout(tb, img)), openTarget(tb, ref)
	desc, err := src.Resolve(tb.Context())
	if err == nil {
		err = store.Copy(tb.Context(), dest, src, desc, store.CopyOptions{})
	}
	if err == nil {
		err = dest.Tag(tb.Context(), desc, "")
	}
	if err == nil {
		err = dest.Commit(tb.Context())
	}
	if err = errors.Join(err, dest.Close()); err != nil {
		tb.Fatal(err)
	}
}

// How Nydus images are marked in an index.
const (
	artifactNydus = "application/vnd.nydus.image.manifest.v1+json"
	featureNydus  = "nydus.remoteimage.v1"
)

// writer returns a writer that cuts small chunks, so that small images have many.
func writer(tb testing.TB) *nydus.Writer {
	tb.Helper()
	w, err := nydus.NewWriter(nydus.Options{ChunkSize: 16 << 10})
	if err != nil {
		tb.Fatal(err)
	}
	return w
}

// run converts from one reference to another. wrap, if not nil, changes the target.
func run(ctx context.Context, tb testing.TB, from, to string, opt convert.Options, wrap func(store.Target) store.Target) (_ *convert.Result, err error) {
	tb.Helper()
	src, err := store.OpenSource(ctx, parse(tb, from), options())
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	dest, err := store.OpenTarget(ctx, parse(tb, to), options())
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, dest.Close()) }()
	if wrap != nil {
		dest = wrap(dest)
	}
	if opt.Readers == nil {
		opt.Readers = []formats.Reader{nydus.Reader{}}
	}
	return convert.Convert(ctx, src, []convert.Output{{Writer: writer(tb), Target: dest}}, opt)
}

func mustRun(tb testing.TB, from, to string, opt convert.Options) *convert.Result {
	tb.Helper()
	res, err := run(tb.Context(), tb, from, to, opt, nil)
	if err != nil {
		tb.Fatal(err)
	}
	return res
}

// resolve returns what a reference names, or the error.
func resolve(tb testing.TB, ref string) (ocispec.Descriptor, error) {
	tb.Helper()
	s, err := store.OpenSource(tb.Context(), parse(tb, ref), options())
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	defer s.Close()
	return s.Resolve(tb.Context())
}

// untagged fails unless nothing has the name.
func untagged(tb testing.TB, ref string) {
	tb.Helper()
	if d, err := resolve(tb, ref); !errors.Is(err, store.ErrNotFound) {
		tb.Errorf("%s names %v, %v", ref, d.Digest, err)
	}
}

// open opens an image through the reader of the format.
func open(tb testing.TB, ref, platform string, r formats.Reader) *image.Image {
	tb.Helper()
	im, err := image.Open(tb.Context(), parse(tb, ref), image.Options{Store: options(), Platform: platform, Readers: []formats.Reader{r}})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = im.Close() })
	return im
}

// equal compares a converted image with its source.
func equal(tb testing.TB, source, converted, platform string) {
	tb.Helper()
	want, got := open(tb, source, platform, oci.Reader{}), open(tb, converted, platform, nydus.Reader{})
	err := check.Compare(tb.Context(), want.Image, got.Image, func(d check.Difference) error {
		tb.Error(d)
		return nil
	})
	if err != nil {
		tb.Error(err)
	}
	if _, err := check.Verify(tb.Context(), got.Image); err != nil {
		tb.Error(err)
	}
}

// fetchJSON reads an object of a reference's store.
func fetchJSON(tb testing.TB, ref string, desc ocispec.Descriptor, v any) {
	tb.Helper()
	rc, err := openSource(tb, ref).Fetch(tb.Context(), desc)
	if err != nil {
		tb.Fatal(err)
	}
	defer rc.Close()
	p, err := io.ReadAll(rc)
	if err == nil {
		err = json.Unmarshal(p, v)
	}
	if err != nil {
		tb.Fatalf("%s: %v", desc.Digest, err)
	}
}

// index reads the index that a reference names.
func index(tb testing.TB, ref string) (x ocispec.Index) {
	tb.Helper()
	d, err := resolve(tb, ref)
	if err != nil {
		tb.Fatal(err)
	}
	if !store.IsIndex(d.MediaType) {
		tb.Fatalf("%s is %s", ref, d.MediaType)
	}
	fetchJSON(tb, ref, d, &x)
	return x
}

// small is an image of two layers that differ by seed.
func small(tb testing.TB, platform ocispec.Platform, seed string) *imagetest.Image {
	tb.Helper()
	return imagetest.NewImageFor(tb, platform,
		imagetest.Gzip(tb, imagetest.Tar(tb, imagetest.File("etc/os", seed+"\n"), imagetest.Dir("bin"), imagetest.Link("etc/again", "etc/os"))),
		imagetest.Zstd(tb, imagetest.Tar(tb, imagetest.File("bin/sh", string(bytes.Repeat([]byte(seed), 20_000))), imagetest.Whiteout("etc/again"))))
}

var (
	amd64 = ocispec.Platform{OS: "linux", Architecture: "amd64"}
	arm64 = ocispec.Platform{OS: "linux", Architecture: "arm64", Variant: "v8"}
)

// large is an image with layers that are larger than the pieces of an upload and do not compress.
func large(tb testing.TB) *imagetest.Image {
	tb.Helper()
	var layers []imagetest.Layer
	for i := range 3 {
		layers = append(layers, imagetest.Plain(imagetest.Tar(tb, imagetest.File("file"+string(rune('0'+i)), noise(5<<20+i*1000, uint64(i+1))))))
	}
	return imagetest.NewImage(tb, layers...)
}

// noise returns bytes that do not compress.
func noise(n int, seed uint64) string {
	p := make([]byte, n)
	x := seed * 0x9e3779b97f4a7c15
	for i := range p {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		p[i] = byte(x >> 32)
	}
	return string(p)
}

// memoryRecord is a record in memory.
type memoryRecord struct {
	mu sync.Mutex // guards m
	m  map[convert.Key]convert.Known
}

// Lookup implements [convert.Record].
func (r *memoryRecord) Lookup(_ context.Context, k convert.Key) (convert.Known, bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	d, ok := r.m[k]
	return d, ok, nil
}

// Store implements [convert.Record].
func (r *memoryRecord) Store(_ context.Context, k convert.Key, d convert.Known) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.m == nil {
		r.m = make(map[convert.Key]convert.Known)
	}
	if old := r.m[k]; old.Desc.Digest == d.Desc.Digest {
		d.Places = append(slices.Clone(old.Places), d.Places...)
	}
	r.m[k] = d
	return nil
}

// Forget implements [convert.Record].
func (r *memoryRecord) Forget(_ context.Context, k convert.Key, place string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	d := r.m[k]
	d.Places = slices.DeleteFunc(slices.Clone(d.Places), func(p string) bool { return p == place })
	r.m[k] = d
	if len(d.Places) == 0 {
		delete(r.m, k)
	}
	return nil
}

// archiveOf writes the image as an OCI archive and returns its reference.
func archiveOf(tb testing.TB, img *imagetest.Image) string {
	tb.Helper()
	ref := "oci-archive:" + filepath.Join(tb.TempDir(), "image.tar") + ":v1"
	put(tb, img, ref)
	return ref
}

var errDiffers = errors.New("the image differs")

// checkBeforeTag compares what is made with what from names.
func checkBeforeTag(tb testing.TB, from string) func(context.Context, convert.Output, ocispec.Descriptor, ocispec.Descriptor) error {
	tb.Helper()
	return func(ctx context.Context, out convert.Output, made, _ ocispec.Descriptor) error {
		want, err := image.Open(ctx, parse(tb, from), image.Options{Store: options(), Platform: "linux/amd64", Readers: []formats.Reader{oci.Reader{}}})
		if err != nil {
			return err
		}
		defer want.Close()
		got, err := image.OpenManifest(ctx, out.Target, nil, made, image.Options{Readers: []formats.Reader{nydus.Reader{}}})
		if err != nil {
			return err
		}
		defer got.Close()
		return check.Compare(ctx, want.Image, got.Image, func(check.Difference) error { return errDiffers })
	}
}

// flipping is a target that stores blobs with one byte changed.
type flipping struct{ store.Target }

// Create implements [formats.Sink].
func (f *flipping) Create(ctx context.Context, mediaType string) (formats.ObjectWriter, error) {
	w, err := f.Target.Create(ctx, mediaType)
	return &flippingObject{ObjectWriter: w}, err
}

type flippingObject struct {
	formats.ObjectWriter
	done bool
}

// Write implements io.Writer.
func (f *flippingObject) Write(p []byte) (int, error) {
	if len(p) > 100 && !f.done {
		f.done = true
		p = bytes.Clone(p)
		p[50] ^= 1
	}
	return f.ObjectWriter.Write(p)
}

// failingRecord always fails.
type failingRecord struct{}

var errRecord = errors.New("the record fails")

// Lookup implements [convert.Record].
func (failingRecord) Lookup(context.Context, convert.Key) (convert.Known, bool, error) {
	return convert.Known{}, false, errRecord
}

// Store implements [convert.Record].
func (failingRecord) Store(context.Context, convert.Key, convert.Known) error { return errRecord }

// Forget implements [convert.Record].
func (failingRecord) Forget(context.Context, convert.Key, string) error { return errRecord }
