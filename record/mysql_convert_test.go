package record

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/lazuli-project/lazuli/convert"
	"github.com/lazuli-project/lazuli/fetch"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/formats/nydus"
	"github.com/lazuli-project/lazuli/formats/overlaybd"
	"github.com/lazuli-project/lazuli/internal/imagetest"
	"github.com/lazuli-project/lazuli/internal/mysqltest"
	"github.com/lazuli-project/lazuli/internal/registrytest"
	"github.com/lazuli-project/lazuli/store"
)

// place is where conversions of a test go to and come from.
type place struct {
	t        *testing.T
	registry *registrytest.Registry
	host     string
}

func newPlace(t *testing.T) *place {
	t.Helper()
	r, err := registrytest.New(registrytest.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return &place{t, r, r.Listen(t)}
}

func openSource(ctx context.Context, name string) (store.Source, error) {
	ref, err := store.Parse(name)
	if err != nil {
		return nil, err
	}
	return store.OpenSource(ctx, ref, store.Options{PlainHTTP: true, Retry: fetch.Retry{Wait: time.Millisecond, MaxWait: 5 * time.Second}})
}

// convert converts an image, in a layout, to a reference in the registry. known may be nil.
func (p *place) convert(img, repo string, w formats.Writer, known convert.Record, progress func(convert.Progress)) (*convert.Result, error) {
	ctx := p.t.Context()
	src, err := openSource(ctx, img)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	ref, err := store.Parse(p.host + "/" + repo + ":made")
	if err != nil {
		return nil, err
	}
	dest, err := store.OpenTarget(ctx, ref, store.Options{PlainHTTP: true})
	if err != nil {
		return nil, err
	}
	opt := convert.Options{Record: known, OpenPlace: openSource, OnProgress: progress}
	res, err := convert.Convert(ctx, src, []convert.Output{{Writer: w, Target: dest}}, opt)
	return res, errors.Join(err, dest.Close())
}

// complete fails unless the registry has the image with all its objects, and it has that digest.
func (p *place) complete(repo string, want digest.Digest) {
	p.t.Helper()
	s, err := openSource(p.t.Context(), p.host+"/"+repo+":made")
	if err != nil {
		p.t.Fatal(err)
	}
	defer s.Close()
	desc, err := s.Resolve(p.t.Context())
	if err != nil || desc.Digest != want {
		p.t.Fatalf("%s: %s instead of %s, %v", repo, desc.Digest, want, err)
	}
	m, err := store.LoadManifest(p.t.Context(), s, desc)
	if err != nil {
		p.t.Fatal(err)
	}
	for _, l := range m.Manifest.Layers {
		if _, err := store.ReadAll(p.t.Context(), s, l, 1<<30); err != nil {
			p.t.Errorf("%s: %v", repo, err)
		}
	}
}

// noFalseRow fails if the record says of a repository that it has what it has not, and returns how many rows there are.
func (p *place) noFalseRow(m *MySQL) int {
	p.t.Helper()
	list, err := m.Entries(p.t.Context())
	if err != nil {
		p.t.Fatal(err)
	}
	n := 0
	for _, e := range list {
		for _, at := range e.Places {
			repo, ok := strings.CutPrefix(at, p.host+"/")
			if !ok || !p.registry.HasBlob(repo, e.Blob.Digest) {
				p.t.Errorf("%s is not at %s", e.Blob.Digest, at)
			}
			n++
		}
	}
	return n
}

func layout(t *testing.T, layers ...imagetest.Layer) string {
	t.Helper()
	dir := t.TempDir()
	imagetest.NewImage(t, layers...).WriteLayout(t, dir, "v1")
	return "oci:" + dir + ":v1"
}

// testLayers are layers that differ by name.
func testLayers(t *testing.T, names ...string) []imagetest.Layer {
	t.Helper()
	layers := make([]imagetest.Layer, len(names))
	for i, name := range names {
		layers[i] = imagetest.Gzip(t, imagetest.Tar(t, imagetest.Dir("d"), imagetest.File("d/"+name, strings.Repeat(name, 20_000)), imagetest.File("all", name)))
	}
	return layers
}

func writers(t *testing.T) map[string]formats.Writer {
	t.Helper()
	o, err := overlaybd.NewWriter(overlaybd.Options{})
	if err != nil {
		t.Fatal(err)
	}
	n, err := nydus.NewWriter(nydus.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return map[string]formats.Writer{"overlaybd": o, "nydus": n}
}

// Converters that share a database convert layers once, and mount what others made.
func TestConvertersShareMySQL(t *testing.T) {
	t.Parallel()
	s := mysqltest.Start(t)
	for name, w := range writers(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPlace(t)
			dsn := s.DSN(s.Database(t))
			m := openMySQL(t, dsn)
			images := map[string]string{
				"a": layout(t, testLayers(t, "one", "two", "a")...), "b": layout(t, testLayers(t, "one", "two", "b")...),
				"c": layout(t, testLayers(t, "one", "two", "a", "c")...),
				"d": layout(t, testLayers(t, "two", "one", "a")...), // the layers of a on others
			}
			alone := map[string]digest.Digest{}
			for image, from := range images {
				res, err := p.convert(from, "alone/"+image, w, nil, nil)
				if err != nil {
					t.Fatal(err)
				}
				alone[image] = res.Tagged[0].Digest
			}
			var wg sync.WaitGroup
			for _, image := range []string{"a", "b"} {
				for _, repo := range []string{"first", "second"} {
					known := openMySQL(t, dsn) // as other processes
					wg.Go(func() {
						if _, err := p.convert(images[image], repo+"/"+image, w, known, nil); err != nil {
							t.Errorf("%s: %v", repo, err)
						}
					})
				}
			}
			wg.Wait()
			for _, image := range []string{"a", "b"} {
				p.complete("first/"+image, alone[image])
				p.complete("second/"+image, alone[image])
			}
			if n := p.noFalseRow(m); n != 12 {
				t.Errorf("%d places instead of 12", n)
			}
			for _, c := range []struct {
				image, repo             string
				reused, mounts, uploads int // uploads with the configuration, and what else belongs to an image
			}{{"a", "third", 3, 3, -1}, {"c", "third", 3, 0, -1}, {"c", "fourth", 4, 4, -1}, {"b", "first/b", 3, 0, 0}} {
				p.registry.ResetStats()
				res, err := p.convert(images[c.image], c.repo, w, m, nil)
				if err != nil {
					t.Fatal(err)
				}
				p.complete(c.repo, alone[c.image])
				reused := 0
				for _, l := range res.Images[0].Layers {
					if l.Reused {
						reused++
					}
				}
				stats := p.registry.Stats()
				fresh := len(res.Images[0].Layers) - reused
				if reused != c.reused || stats.Mounts < c.mounts || c.uploads >= 0 && stats.Uploads != c.uploads || stats.Uploads > fresh+2 {
					t.Errorf("%s to %s: %d layers reused, %+v", c.image, c.repo, reused, stats)
				}
			}
			// The same layers on others are others, where that matters.
			res, err := p.convert(images["d"], "fifth", w, m, nil)
			if err != nil {
				t.Fatal(err)
			}
			p.complete("fifth", alone["d"])
			for i, l := range res.Images[0].Layers {
				if l.Reused != (name == "nydus") {
					t.Errorf("layer %d: reused is %v", i, l.Reused)
				}
			}
			p.noFalseRow(m)
		})
	}
}

// A blob that was deleted is noticed: the rows that tell of it go, and the layer is converted anew.
func TestDeletedBlobMySQL(t *testing.T) {
	t.Parallel()
	s := mysqltest.Start(t)
	for name, w := range writers(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPlace(t)
			dsn := s.DSN(s.Database(t))
			m := openMySQL(t, dsn)
			image := layout(t, testLayers(t, "one", "two", "three")...)
			var first *convert.Result
			for _, repo := range []string{"first", "second"} {
				res, err := p.convert(image, repo, w, m, nil)
				if err != nil {
					t.Fatal(err)
				}
				if first == nil {
					first = res
				}
			}
			lost := first.Images[0].Layers[1].Desc.Digest
			p.registry.DropBlob("second", lost)
			if _, err := p.convert(image, "second", w, m, nil); err != nil { // mounted from the first
				t.Fatal(err)
			}
			p.complete("second", first.Tagged[0].Digest)
			// Of an image that is taken up as a whole no layers are noted.
			want := map[string]int{"overlaybd": 3, "nydus": 6}[name]
			if n := p.noFalseRow(m); n != want {
				t.Errorf("%d places instead of %d", n, want)
			}
			p.registry.DropBlob("first", lost)
			p.registry.DropBlob("second", lost)
			res, err := p.convert(image, "second", w, m, nil)
			if err != nil {
				t.Fatal(err)
			}
			p.complete("second", first.Tagged[0].Digest)
			if res.Images[0].Layers[1].Reused || !res.Images[0].Layers[0].Reused {
				t.Errorf("%+v", res.Images[0].Layers)
			}
			if n := p.noFalseRow(m); n != 5 {
				t.Errorf("%d places instead of 5", n)
			}
		})
	}
}

// A server that dies in the middle leaves images that are right, and no row of what is not there.
func TestMySQLDiesInConversion(t *testing.T) {
	t.Parallel()
	s := mysqltest.StartOwn(t)
	p := newPlace(t)
	database := s.Database(t)
	dsn := s.DSN(database)
	w := writers(t)["overlaybd"]
	var names []string
	for i := range 8 {
		names = append(names, fmt.Sprint("layer", i))
	}
	image := layout(t, testLayers(t, names...)...)
	alone, err := p.convert(image, "alone", w, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	var once sync.Once
	progress := func(p convert.Progress) {
		if p.State == convert.Converted && p.Layer == 3 {
			once.Do(s.Kill)
		}
	}
	var records [3]*MySQL // all are open before the server dies
	for i := range records {
		records[i] = openMySQL(t, dsn)
	}
	var wg sync.WaitGroup
	for i, known := range records {
		wg.Go(func() {
			if _, err := p.convert(image, fmt.Sprint("repo", i), w, known, progress); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for i := range records {
		p.complete(fmt.Sprint("repo", i), alone.Tagged[0].Digest)
	}
	s.Restart(t)
	m := openMySQL(t, s.DSN(database))
	if n := p.noFalseRow(m); n == 0 || n >= 24 {
		t.Errorf("%d places: the server did not die in the middle", n)
	}
	if n := count(t, s, database, "SELECT COUNT(*) FROM overlaybd_manifests"); n != 0 {
		t.Errorf("%d images as a whole are known by a server that was dead", n)
	}
	if _, err := p.convert(image, "repo0", w, m, nil); err != nil {
		t.Fatal(err)
	}
	p.complete("repo0", alone.Tagged[0].Digest)
	p.noFalseRow(m)
}
