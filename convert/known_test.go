package convert_test

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/lazuli-project/lazuli/convert"
	"github.com/lazuli-project/lazuli/internal/imagetest"
	"github.com/lazuli-project/lazuli/internal/registrytest"
	"github.com/lazuli-project/lazuli/store"
)

// openPlace opens what a record names.
func openPlace(ctx context.Context, place string) (store.Source, error) {
	ref, err := store.Parse(place)
	if err != nil {
		return nil, err
	}
	o := options()
	o.Retry.MaxWait = 20 * time.Millisecond
	return store.OpenSource(ctx, ref, o)
}

// grown is an image with a layer on top of another.
func grown(t *testing.T, base *imagetest.Image) *imagetest.Image {
	t.Helper()
	return imagetest.NewImage(t, append(append([]imagetest.Layer(nil), base.Layers...), imagetest.Gzip(t, imagetest.Tar(t, imagetest.File("new", noise(40_000, 9)))))...)
}

// What was converted for one image is taken up for others: over repositories by mounting, over registries by copying.
func TestReuse(t *testing.T) {
	t.Parallel()
	base := three(t)
	top := grown(t, base)
	one, two := newRegistry(t, registrytest.Options{}), newRegistry(t, registrytest.Options{})
	dir := t.TempDir()
	baseLayout, topLayout := layout(t, base), layout(t, top)
	alone := mustRun(t, topLayout, "oci:"+t.TempDir()+":alone", convert.Options{}).Tagged[0].Digest
	opt := convert.Options{Record: &memoryRecord{}, OpenPlace: openPlace}
	mustRun(t, baseLayout, one.host+"/base:made", opt)
	for _, c := range []struct {
		name, to, from string
		mounts, fresh  int
	}{
		{"another repository", one.host + "/app:made", one.host + "/base", 3, 1},
		{"the same once more", one.host + "/app:made", one.host + "/app", 0, 0},
		{"another registry", two.host + "/app:made", one.host + "/app", 0, 0},
		{"a layout", "oci:" + filepath.Join(dir, "a") + ":made", "", 0, 0},
		{"another layout", "oci:" + filepath.Join(dir, "b") + ":made", "", 0, 0},
	} {
		one.ResetStats()
		res := mustRun(t, topLayout, c.to, opt)
		if res.Tagged[0].Digest != alone {
			t.Errorf("%s: %s instead of %s", c.name, res.Tagged[0].Digest, alone)
		}
		fresh := 0
		for i, l := range res.Images[0].Layers {
			switch {
			case !l.Reused:
				fresh++
			case l.From == "" || c.from != "" && l.From != c.from && l.From != one.host+"/base":
				t.Errorf("%s: layer %d is from %q", c.name, i, l.From)
			}
		}
		if mounts := one.Stats().Mounts; mounts != c.mounts || fresh != c.fresh {
			t.Errorf("%s: %d layers mounted and %d converted, want %d and %d", c.name, mounts, fresh, c.mounts, c.fresh)
		}
		equal(t, topLayout, c.to, "linux/amd64")
	}
}

// A blob that was deleted is noticed and made again, and places that cannot be reached do no harm.
func TestReuseOfWhatIsGone(t *testing.T) {
	t.Parallel()
	img := three(t)
	from := layout(t, img)
	known := &memoryRecord{}
	opt := convert.Options{Record: known, OpenPlace: openPlace}
	gone := newRegistry(t, registrytest.Options{})
	want := mustRun(t, from, gone.host+"/image:made", opt).Tagged[0].Digest

	gone.Inject(registrytest.Fault{Path: "/v2/image/blobs/sha256:", Status: 404})
	to := newRegistry(t, registrytest.Options{}).host + "/image:made"
	res := mustRun(t, from, to, opt)
	if res.Tagged[0].Digest != want {
		t.Errorf("%s instead of %s", res.Tagged[0].Digest, want)
	}
	for i, l := range res.Images[0].Layers {
		if l.Reused {
			t.Errorf("layer %d is taken from %q, which has it no more", i, l.From)
		}
	}
	here := parse(t, to).Place()
	for k, v := range known.m {
		if len(v.Places) != 1 || v.Places[0] != here {
			t.Errorf("%s: %v", k.Source, v.Places)
		}
		v.Places = []string{"127.0.0.1:1/nobody", "oci:" + filepath.Join(t.TempDir(), "nothing"), "what is this"}
		known.m[k] = v
	}
	if res := mustRun(t, from, "oci:"+t.TempDir()+":made", opt); res.Tagged[0].Digest != want {
		t.Errorf("%s instead of %s", res.Tagged[0].Digest, want)
	}
}

// What another place gives under a blob's digest is verified.
func TestReuseOfDamage(t *testing.T) {
	t.Parallel()
	img := three(t)
	from := layout(t, img)
	opt := convert.Options{Record: &memoryRecord{}, OpenPlace: openPlace}
	r := newRegistry(t, registrytest.Options{})
	want := mustRun(t, from, r.host+"/image:made", opt).Tagged[0].Digest
	r.Inject(registrytest.Fault{Method: "GET", Path: "/blobs/", Flip: true})
	res := mustRun(t, from, newRegistry(t, registrytest.Options{}).host+"/image:made", opt)
	if res.Tagged[0].Digest != want {
		t.Errorf("%s instead of %s", res.Tagged[0].Digest, want)
	}
	for _, l := range res.Images[0].Layers {
		if l.Reused {
			t.Errorf("damaged layer taken from %q", l.From)
		}
	}
}

// A plan says where layers would come from, and moves nothing.
func TestPlanOfReuse(t *testing.T) {
	t.Parallel()
	img := three(t)
	from := layout(t, img)
	opt := convert.Options{Record: &memoryRecord{}, OpenPlace: openPlace}
	r := newRegistry(t, registrytest.Options{})
	mustRun(t, from, r.host+"/image:made", opt)
	r.ResetStats()
	plan, err := convert.DryRun(t.Context(), openSource(t, from), convert.Output{Writer: writer(t), Target: openTarget(t, r.host+"/other:made")}, opt)
	if err != nil {
		t.Fatal(err)
	}
	for i, l := range plan.Images[0].Layers {
		if !l.Reused || l.From != r.host+"/image" {
			t.Errorf("layer %d: %+v", i, l)
		}
	}
	if s := r.Stats(); s.Mounts != 0 || s.Uploads != 0 || r.HasBlob("other", digest.FromString("")) {
		t.Errorf("%+v", s)
	}
}
