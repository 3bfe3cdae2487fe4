package convert_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/convert"
	"github.com/lazuli-project/lazuli/internal/imagetest"
	"github.com/lazuli-project/lazuli/internal/registrytest"
	"github.com/lazuli-project/lazuli/store"
)

// fault is something that goes wrong at a registry. err is nil where the conversion must succeed nevertheless.
type fault struct {
	name    string
	options registrytest.Options
	faults  []registrytest.Fault
	err     error
}

const blobs = "/blobs/sha256"

// readFaults are those of a registry that is read from.
var readFaults = []fault{
	{"tokens that run out", registrytest.Options{Token: true, TokenUses: 12}, nil, nil},
	{"401 for good", registrytest.Options{}, []registrytest.Fault{{Path: blobs, Status: 401}}, store.ErrDenied},
	{"401 after a while", registrytest.Options{}, []registrytest.Fault{{Path: blobs, Skip: 2, Status: 401}}, store.ErrDenied},
	{"403 for good", registrytest.Options{}, []registrytest.Fault{{Path: blobs, Status: 403}}, store.ErrDenied},
	{"404", registrytest.Options{}, []registrytest.Fault{{Path: blobs, Skip: 1, Status: 404}}, store.ErrNotFound},
	{"429 with a time", registrytest.Options{}, []registrytest.Fault{{Path: blobs, Times: 2, Status: 429, RetryAfter: "0"}}, nil},
	{"429 for good", registrytest.Options{}, []registrytest.Fault{{Path: blobs, Status: 429}}, store.ErrNetwork},
	{"500 at times", registrytest.Options{}, []registrytest.Fault{{Path: blobs, Times: 3, Status: 500}}, nil},
	{"500 for good", registrytest.Options{}, []registrytest.Fault{{Path: blobs, Skip: 2, Status: 500}}, store.ErrNetwork},
	{"503 for manifests", registrytest.Options{}, []registrytest.Fault{{Path: "/manifests/", Times: 2, Status: 503}}, nil},
	{"bodies cut", registrytest.Options{}, []registrytest.Fault{{Path: blobs, Times: 4, CutAfter: 300_000}}, nil},
	{"every body cut", registrytest.Options{}, []registrytest.Fault{{Path: blobs, CutAfter: 2_000_000}}, nil}, // there is progress
	{"bodies cut at once", registrytest.Options{}, []registrytest.Fault{{Path: blobs, CutAfter: 1}}, nil},
	{"cut and no range", registrytest.Options{NoRange: true}, []registrytest.Fault{{Path: blobs, Times: 2, CutAfter: 300_000}}, nil},
	{"wrong range", registrytest.Options{}, []registrytest.Fault{{Path: blobs, Times: 3, CutAfter: 300_000}, {Path: blobs, WrongRange: true, Times: 2}}, nil},
	{"wrong bytes", registrytest.Options{}, []registrytest.Fault{{Method: "GET", Path: blobs, Skip: 1, Flip: true}}, blob.ErrCorrupt}, // of a tar's first byte
	{"wrong manifest", registrytest.Options{}, []registrytest.Fault{{Method: "GET", Path: "/manifests/", Flip: true}}, blob.ErrDigest},
	{"no HEAD", registrytest.Options{NoHead: true}, nil, nil},
	{"slow", registrytest.Options{BytesPerSecond: 40 << 20}, nil, nil},
}

// From a registry that does wrong: the right bytes, or an error of the right class and no name.
func TestReadFaults(t *testing.T) {
	t.Parallel()
	img := large(t)
	want := mustRun(t, layout(t, img), "oci:"+filepath.Join(t.TempDir(), "made")+":made", convert.Options{}).Tagged[0].Digest
	for _, f := range readFaults {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			r := newRegistry(t, f.options)
			from, dir := r.host+"/image:v1", filepath.Join(t.TempDir(), "made")
			put(t, img, from)
			for _, one := range f.faults {
				r.Inject(one)
			}
			res, err := run(t.Context(), t, from, "oci:"+dir+":made", convert.Options{}, nil)
			if f.name == "bodies cut at once" && err != nil && errors.Is(err, store.ErrNetwork) {
				return // a byte each time is too little progress
			}
			if !errors.Is(err, f.err) {
				t.Fatalf("%v", err)
			}
			if err == nil && res.Tagged[0].Digest != want {
				t.Errorf("%s instead of %s", res.Tagged[0].Digest, want)
			}
			if _, statErr := os.Stat(dir); err != nil && !errors.Is(statErr, os.ErrNotExist) {
				t.Errorf("the target stays: %v", statErr)
			}
		})
	}
}

// Blobs behind links that run out.
func TestExpiredRedirect(t *testing.T) {
	t.Parallel()
	img := large(t)
	r := newRegistry(t, registrytest.Options{RedirectUses: 1})
	from := r.host + "/image:v1"
	put(t, img, from)
	r.SetRedirectTo("http://" + r.host)
	// Each link is cut in the middle, and answers 403 when it is used again.
	r.Inject(registrytest.Fault{Path: "/signed/", Times: 3, CutAfter: 1_000_000})
	to := "oci:" + filepath.Join(t.TempDir(), "made") + ":made"
	mustRun(t, from, to, convert.Options{})
	equal(t, layout(t, img), to, "linux/amd64")
	if s := r.Stats(); s.Redirects < 6 {
		t.Errorf("%d redirects: the test tests nothing", s.Redirects)
	}
}

// writeFaults are those of a registry that is written to.
var writeFaults = []fault{
	{"tokens that run out", registrytest.Options{Token: true, TokenUses: 12}, nil, nil},
	{"401 for uploads", registrytest.Options{}, []registrytest.Fault{{Method: "POST", Status: 401}}, store.ErrDenied},
	{"403 for pieces", registrytest.Options{}, []registrytest.Fault{{Method: "PATCH", Skip: 2, Status: 403}}, store.ErrDenied},
	{"403 for manifests", registrytest.Options{}, []registrytest.Fault{{Method: "PUT", Path: "/manifests/", Status: 403}}, store.ErrDenied},
	{"404 for an upload", registrytest.Options{}, []registrytest.Fault{{Method: "PATCH", Skip: 1, Status: 404}}, store.ErrNetwork},
	{"429", registrytest.Options{}, []registrytest.Fault{{Method: "PATCH", Times: 2, Status: 429, RetryAfter: "0"}, {Method: "POST", Times: 1, Status: 429}}, nil},
	{"500 at times", registrytest.Options{}, []registrytest.Fault{{Method: "PATCH", Times: 2, Status: 500}, {Method: "PUT", Times: 2, Status: 502}}, nil},
	{"500 for good", registrytest.Options{}, []registrytest.Fault{{Method: "PATCH", Status: 500}}, store.ErrNetwork},
	{"500 for manifests", registrytest.Options{}, []registrytest.Fault{{Method: "PUT", Path: "/manifests/", Status: 500}}, store.ErrNetwork},
	{"bodies cut", registrytest.Options{}, []registrytest.Fault{{Method: "PATCH", Times: 3, CutUpload: 1_000_000}}, nil},
	{"no HEAD", registrytest.Options{NoHead: true}, nil, nil},
	{"no referrers", registrytest.Options{NoReferrers: true}, nil, nil},
}

// To a registry that does wrong: everything is there and right, or nothing has the name, and a second run succeeds.
func TestWriteFaults(t *testing.T) {
	t.Parallel()
	img := large(t)
	from := layout(t, img)
	want := mustRun(t, from, "oci:"+filepath.Join(t.TempDir(), "made")+":made", convert.Options{}).Tagged[0].Digest
	for _, f := range writeFaults {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			r := newRegistry(t, f.options)
			to := r.host + "/image:made"
			for _, one := range f.faults {
				r.Inject(one)
			}
			res, err := run(t.Context(), t, from, to, convert.Options{}, nil)
			if !errors.Is(err, f.err) {
				t.Fatalf("%v", err)
			}
			r.ClearFaults()
			if err != nil {
				untagged(t, to)
				if n := r.Stats().OpenPushes; n != 0 {
					t.Errorf("%d uploads were not cancelled", n)
				}
				res = mustRun(t, from, to, convert.Options{})
			}
			if d, err := resolve(t, to); err != nil || d.Digest != want || res.Tagged[0].Digest != want {
				t.Errorf("%s, %v instead of %s", d.Digest, err, want)
			}
			equal(t, from, to, "linux/amd64")
		})
	}
}

// A registry that does not answer: the user's Ctrl-C ends the conversion at once.
func TestCancel(t *testing.T) {
	t.Parallel()
	img := large(t)
	for name, f := range map[string]registrytest.Fault{
		"reading": {Method: "GET", Path: blobs, Skip: 2, Stall: true}, "writing": {Method: "PATCH", Skip: 1, Stall: true},
		"naming": {Method: "PUT", Path: "/manifests/made", Stall: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRegistry(t, registrytest.Options{})
			from, to := r.host+"/image:v1", r.host+"/image:made"
			put(t, img, from)
			r.Inject(f)
			ctx, cancel := context.WithCancel(t.Context())
			stalled := time.AfterFunc(300*time.Millisecond, cancel)
			defer stalled.Stop()
			begin := time.Now()
			if _, err := run(ctx, t, from, to, convert.Options{}, nil); !errors.Is(err, context.Canceled) {
				t.Errorf("%v", err)
			}
			if d := time.Since(begin); d > 10*time.Second {
				t.Errorf("ended after %v", d)
			}
			r.ClearFaults()
			untagged(t, to)
			mustRun(t, from, to, convert.Options{})
			equal(t, from, to, "linux/amd64")
		})
	}
}

// What an interrupted run stored is not sent again, and what the record knows is not even read again.
func TestSecondRun(t *testing.T) {
	t.Parallel()
	img := large(t)
	target, source := newRegistry(t, registrytest.Options{}), newRegistry(t, registrytest.Options{})
	from, to := source.host+"/image:v1", target.host+"/image:made"
	put(t, img, from)
	want := mustRun(t, from, target.host+"/other:made", convert.Options{}).Tagged[0].Digest

	// The third layer is never stored.
	known := &memoryRecord{}
	target.ResetStats()
	target.Inject(registrytest.Fault{Method: "PUT", Path: "/image/blobs/uploads", Skip: 2, Status: 403})
	if _, err := run(t.Context(), t, from, to, convert.Options{Jobs: 1, Record: known}, nil); !errors.Is(err, store.ErrDenied) {
		t.Fatal(err)
	}
	untagged(t, to)
	if len(known.m) != 2 {
		t.Fatalf("%d layers are known", len(known.m))
	}
	target.ClearFaults()
	target.ResetStats()
	source.ResetStats()
	res := mustRun(t, from, to, convert.Options{Record: known})
	if res.Tagged[0].Digest != want {
		t.Errorf("%s instead of %s", res.Tagged[0].Digest, want)
	}
	if n := target.Stats().Uploaded; n > 6<<20 {
		t.Errorf("%d bytes were sent again", n)
	}
	if n := source.Stats().Bytes; n > 6<<20 {
		t.Errorf("%d bytes were read again", n)
	}
	reused := 0
	for _, l := range res.Images[0].Layers {
		if l.Reused {
			reused++
		}
	}
	if reused != 2 {
		t.Errorf("%d layers are reused", reused)
	}
	// Without a record, layers are made again, and uploads end when the target turns out to have the blob.
	uploads := target.Stats().Uploads
	mustRun(t, from, to, convert.Options{})
	if n := target.Stats().Uploads; n != uploads {
		t.Errorf("%d blobs were pushed again", n-uploads)
	}
	// A blob that has gone is made again, whatever the record says.
	res = mustRun(t, from, newRegistry(t, registrytest.Options{}).host+"/new:made", convert.Options{Record: known})
	if res.Tagged[0].Digest != want || res.Images[0].Layers[0].Reused {
		t.Errorf("a new registry: %s, %+v", res.Tagged[0].Digest, res.Images[0].Layers[0].Reused)
	}
}

// A record that says nonsense, or fails, does no harm.
func TestWrongRecord(t *testing.T) {
	t.Parallel()
	img := three(t)
	from := layout(t, img)
	want := mustRun(t, from, "oci:"+filepath.Join(t.TempDir(), "a")+":made", convert.Options{}).Tagged[0].Digest
	dir := filepath.Join(t.TempDir(), "b")
	put(t, img, "oci:"+dir+":v1")
	known := &memoryRecord{}
	mustRun(t, from, "oci:"+dir+":made", convert.Options{Record: known})
	// Every layer became the source's first layer, or what is not there.
	for k := range known.m {
		d := known.m[k]
		d.Desc.Digest, d.Desc.Size = digest.FromBytes(img.Layers[0].Stored), int64(len(img.Layers[0].Stored))
		known.m[k] = d
	}
	if got := mustRun(t, from, "oci:"+dir+":made", convert.Options{Record: known}); got.Tagged[0].Digest != want {
		t.Errorf("%s instead of %s", got.Tagged[0].Digest, want)
	}
	if got := mustRun(t, from, "oci:"+dir+":made", convert.Options{Record: failingRecord{}}); got.Tagged[0].Digest != want {
		t.Errorf("%s instead of %s", got.Tagged[0].Digest, want)
	}
}

func TestDryRun(t *testing.T) {
	t.Parallel()
	img := imagetest.Edge(t)
	for name, c := range map[string]struct {
		fault registrytest.Fault
		err   error
	}{
		"all is well":        {registrytest.Fault{Times: 1, Path: "/nothing", Status: 500}, nil},
		"no right to push":   {registrytest.Fault{Method: "POST", Status: 403}, store.ErrDenied},
		"not logged in":      {registrytest.Fault{Method: "POST", Status: 401}, store.ErrDenied},
		"no right to pull":   {registrytest.Fault{Method: "GET", Path: blobs, Status: 403}, store.ErrDenied},
		"no such layer":      {registrytest.Fault{Method: "GET", Path: digest.FromBytes(img.Layers[0].Stored).String(), Status: 404}, store.ErrNotFound},
		"registry is ill":    {registrytest.Fault{Method: "POST", Status: 500}, store.ErrNetwork},
		"manifest not there": {registrytest.Fault{Path: "/manifests/", Status: 404}, store.ErrNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRegistry(t, registrytest.Options{})
			from, to := r.host+"/edge:v1", r.host+"/edge:made"
			put(t, img, from)
			r.Inject(c.fault)
			r.ResetStats()
			dest := openTarget(t, to)
			plan, err := convert.DryRun(t.Context(), openSource(t, from), convert.Output{Writer: writer(t), Target: dest}, convert.Options{})
			if err := dest.Close(); err != nil {
				t.Error(err)
			}
			if !errors.Is(err, c.err) {
				t.Fatalf("%v", err)
			}
			if s := r.Stats(); s.Uploads != 0 || s.OpenPushes != 0 || s.ByMethod["PUT"] != 0 {
				t.Errorf("a dry run leaves traces: %+v", s)
			}
			if err == nil && (len(plan.Images) != 1 || len(plan.Images[0].Layers) != 3) {
				t.Errorf("%+v", plan)
			}
		})
	}
	dir := filepath.Join(t.TempDir(), "made")
	dest := openTarget(t, "oci:"+dir+":made")
	if _, err := convert.DryRun(t.Context(), openSource(t, layout(t, img)), convert.Output{Writer: writer(t), Target: dest}, convert.Options{}); err != nil {
		t.Fatal(err)
	}
	if err := dest.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a dry run makes a directory: %v", err)
	}
}
