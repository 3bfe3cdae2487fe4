package convert_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/convert"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/formats/overlaybd"
	"github.com/lazuli-project/lazuli/formats/turbooci"
	"github.com/lazuli-project/lazuli/internal/registrytest"
	"github.com/lazuli-project/lazuli/store"
)

// imageRecord is a record in memory that knows images as a whole.
type imageRecord struct {
	memoryRecord
	mu     sync.Mutex // guards images
	images map[convert.ManifestKey]convert.Known
}

// LookupManifest implements [convert.ManifestRecord].
func (r *imageRecord) LookupManifest(_ context.Context, k convert.ManifestKey, _ string) (convert.Known, bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	known, ok := r.images[k]
	return known, ok, nil
}

// StoreManifest implements [convert.ManifestRecord].
func (r *imageRecord) StoreManifest(_ context.Context, k convert.ManifestKey, manifest convert.Known) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.images == nil {
		r.images = map[convert.ManifestKey]convert.Known{}
	}
	manifest.Places = slices.Compact(slices.Sorted(slices.Values(append(manifest.Places, r.images[k].Places...))))
	r.images[k] = manifest
	return nil
}

// ForgetManifest implements [convert.ManifestRecord].
func (r *imageRecord) ForgetManifest(_ context.Context, k convert.ManifestKey, place string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	known := r.images[k]
	known.Places = slices.DeleteFunc(slices.Clone(known.Places), func(p string) bool { return p == place })
	r.images[k] = known
	if len(known.Places) == 0 {
		delete(r.images, k)
	}
	return nil
}

// runFormat converts by a writer.
func runFormat(t *testing.T, from, to string, w formats.Writer, opt convert.Options) (*convert.Result, error) {
	t.Helper()
	dest := openTarget(t, to)
	res, err := convert.Convert(t.Context(), openSource(t, from), []convert.Output{{Writer: w, Target: dest}}, opt)
	return res, errors.Join(err, dest.Close())
}

func overlaybdWriter(t *testing.T, o overlaybd.Options) formats.Writer {
	t.Helper()
	w, err := overlaybd.NewWriter(o)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func turboWriter(t *testing.T) formats.Writer {
	t.Helper()
	w, err := turbooci.NewWriter(turbooci.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// An image that was converted before is taken up as a whole: nothing of its layers is read, and other repositories mount them.
func TestKnownImage(t *testing.T) {
	t.Parallel()
	img := three(t)
	for name, w := range map[string]formats.Writer{"overlaybd": overlaybdWriter(t, overlaybd.Options{}), "turbo-oci": turboWriter(t)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reg := newRegistry(t, registrytest.Options{})
			source := reg.host + "/source:v1"
			put(t, img, source)
			opt := convert.Options{Record: &imageRecord{}, OpenPlace: openPlace}
			first, err := runFormat(t, source, reg.host+"/one:made", w, opt)
			if err != nil {
				t.Fatal(err)
			}
			// No layer of the source can be read any more.
			for _, l := range first.Images[0].Layers {
				reg.Inject(registrytest.Fault{Method: "GET", Path: "/v2/source/blobs/" + l.Source.Digest.String(), Status: 500})
			}
			for _, c := range []struct {
				to, from string
				mounted  bool
			}{{"/one:again", "/one", false}, {"/two:made", "/one", true}, {"/two:again", "/two", false}} {
				reg.ResetStats()
				checked := false
				opt.BeforeTag = func(context.Context, convert.Output, ocispec.Descriptor, ocispec.Descriptor) error {
					checked = true
					return nil
				}
				res, err := runFormat(t, source, reg.host+c.to, w, opt)
				if err != nil {
					t.Fatal(c.to, err)
				}
				if got, err := resolve(t, reg.host+c.to); err != nil || got.Digest != first.Tagged[0].Digest || res.Tagged[0].Digest != got.Digest || !checked {
					t.Errorf("%s: %v, %v", c.to, got.Digest, err)
				}
				if s := reg.Stats(); s.Uploads != 0 || (s.Mounts > 0) != c.mounted {
					t.Errorf("%s: %d blobs pushed, %d mounted", c.to, s.Uploads, s.Mounts)
				}
				if res.Images[0].Size != first.Images[0].Size || res.Images[0].SourceSize != first.Images[0].SourceSize {
					t.Errorf("%s: %d and %d bytes instead of %d and %d", c.to, res.Images[0].Size, res.Images[0].SourceSize, first.Images[0].Size, first.Images[0].SourceSize)
				}
				for i, l := range res.Images[0].Layers {
					if !l.Reused || l.From != reg.host+c.from || l.Desc.Digest != first.Images[0].Layers[i].Desc.Digest {
						t.Errorf("%s: layer %d: %+v", c.to, i, l)
					}
				}
			}
			// Another registry, from which nothing can be mounted, gets copies; the source's layers come from a source that has them.
			other := newRegistry(t, registrytest.Options{}).host + "/three:made"
			res, err := runFormat(t, layout(t, img), other, w, opt)
			if err != nil || res.Tagged[0].Digest != first.Tagged[0].Digest || !res.Images[0].Layers[0].Reused {
				t.Errorf("%+v, %v", res, err)
			}
			opt.BeforeTag = func(context.Context, convert.Output, ocispec.Descriptor, ocispec.Descriptor) error { return errDiffers }
			if _, err := runFormat(t, source, reg.host+"/two:refused", w, opt); !errors.Is(err, errDiffers) {
				t.Errorf("a check that fails: %v", err)
			}
			untagged(t, reg.host+"/two:refused")
		})
	}
}

// Other options, and other ways to attach, make other images.
func TestKnownImageOfOtherOptions(t *testing.T) {
	t.Parallel()
	reg := newRegistry(t, registrytest.Options{})
	source := reg.host + "/image:v1"
	put(t, three(t), source)
	opt := convert.Options{Record: &imageRecord{}, OpenPlace: openPlace}
	made := map[string]string{}
	for name, c := range map[string]struct {
		o       overlaybd.Options
		subject bool
	}{
		"plain": {}, "docker": {o: overlaybd.Options{MediaTypes: overlaybd.MediaTypesDocker}}, "subject": {subject: true},
		"prefetch": {o: overlaybd.Options{Prefetch: []string{"a"}}}, "zstd": {o: overlaybd.Options{Compression: "zstd"}},
	} {
		opt.Subject = c.subject
		alone, err := runFormat(t, source, "oci:"+t.TempDir()+":x", overlaybdWriter(t, c.o), convert.Options{Subject: c.subject})
		if err != nil {
			t.Fatal(err)
		}
		want := alone.Tagged[0].Digest.String()
		if before, ok := made[want]; ok {
			t.Fatalf("%s and %s are the same", name, before)
		}
		made[want] = name
		for range 2 {
			res, err := runFormat(t, source, reg.host+"/image:"+name, overlaybdWriter(t, c.o), opt)
			if err != nil || res.Tagged[0].Digest.String() != want {
				t.Errorf("%s: %+v, %v", name, res, err)
			}
		}
	}
}

// An image of which a part is gone is converted anew, and the record learns of it.
func TestKnownImageThatIsGone(t *testing.T) {
	t.Parallel()
	from := layout(t, three(t))
	w := overlaybdWriter(t, overlaybd.Options{})
	for name, part := range map[string]func(*convert.Result) (string, ocispec.Descriptor){
		"manifest": func(r *convert.Result) (string, ocispec.Descriptor) { return "/manifests/", r.Tagged[0] },
		"layer":    func(r *convert.Result) (string, ocispec.Descriptor) { return "/blobs/", r.Images[0].Layers[1].Desc },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			record := &imageRecord{}
			opt := convert.Options{Record: record, OpenPlace: openPlace}
			gone := newRegistry(t, registrytest.Options{})
			first, err := runFormat(t, from, gone.host+"/image:made", w, opt)
			if err != nil {
				t.Fatal(err)
			}
			kind, lost := part(first)
			gone.Inject(registrytest.Fault{Path: "/v2/image" + kind + lost.Digest.String(), Status: 404})
			to := newRegistry(t, registrytest.Options{}).host + "/image:made"
			res, err := runFormat(t, from, to, w, opt)
			if err != nil || res.Tagged[0].Digest != first.Tagged[0].Digest {
				t.Fatalf("%+v, %v", res, err)
			}
			for k, known := range record.images {
				if len(known.Places) != 1 || known.Places[0] != parse(t, to).Place() {
					t.Errorf("%+v: %v", k, known.Places)
				}
			}
			s := openSource(t, to)
			m, err := store.LoadManifest(t.Context(), s, res.Tagged[0])
			if err != nil {
				t.Fatal(err)
			}
			for _, l := range m.Manifest.Layers {
				if _, err := store.ReadAll(t.Context(), s, l, 1<<30); err != nil {
					t.Error(err)
				}
			}
		})
	}
}
