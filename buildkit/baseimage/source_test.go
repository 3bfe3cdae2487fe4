package baseimage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/util/resolver"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/catalog"
	"github.com/lazuli-project/lazuli/check"
	"github.com/lazuli-project/lazuli/containerd/contentstore"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/image"
	"github.com/lazuli-project/lazuli/internal/imagetest"
)

// read reads an object as a whole. What is not in a repository may be seen only then.
func read(ctx context.Context, p content.Provider, desc ocispec.Descriptor) ([]byte, error) {
	ra, err := p.ReaderAt(ctx, desc)
	if err != nil {
		return nil, err
	}
	got, err := io.ReadAll(content.NewReader(ra))
	return got, errors.Join(err, ra.Close())
}

func TestProvider(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	stored := small(t, "amd64", "stored")
	r.push(t, stored, "app:1")
	id := r.id(t, "app:1")
	p := &provider{r.containerd.Content(), resolver.DefaultPool.GetResolver(nil, id.Reference.String(), resolver.ScopeType{}, nil, nil), id.Reference}
	here := r.keep(t, []byte("only in the content store"), nil)
	unsized := func(d ocispec.Descriptor) ocispec.Descriptor {
		d.Size = 0
		return d
	}
	layer := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: digest.FromBytes(stored.Layers[0].Stored), Size: int64(len(stored.Layers[0].Stored))}
	for _, c := range []struct {
		name  string
		desc  ocispec.Descriptor
		found bool
	}{
		{"in the content store", here, true},
		{"in the repository", layer, true},
		{"in the repository, without size", unsized(layer), true},
		{"in the content store, without size", unsized(here), false},
		{"nowhere", ocispec.Descriptor{Digest: digest.FromString("none"), Size: 4}, false},
		{"nowhere, without size", ocispec.Descriptor{Digest: digest.FromString("none")}, false},
	} {
		got, err := read(r.ctx, p, c.desc)
		if !c.found {
			if !errdefs.IsNotFound(err) {
				t.Errorf("%s: %v", c.name, err)
			}
			continue
		}
		if err != nil || digest.FromBytes(got) != c.desc.Digest {
			t.Errorf("%s: %d bytes, %v", c.name, len(got), err)
		}
	}
	r.registry.ResetStats()
	if _, err := read(r.ctx, p, here); err != nil {
		t.Fatal(err)
	}
	if n := r.registry.Stats().Requests; n != 0 {
		t.Errorf("the registry is asked %d times for what is in the content store", n)
	}
}

// TestResolve: nobody is asked what a digest is that the content store has.
func TestResolve(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	img := small(t, "amd64", "x")
	r.push(t, img, "app:1")
	id := r.id(t, "app:1@"+img.Desc.Digest.String())
	find := func() (ocispec.Descriptor, int) {
		t.Helper()
		r.registry.ResetStats()
		desc, err := r.source.resolve(r.ctx, resolver.DefaultPool.GetResolver(nil, id.Reference.String(), resolver.ScopeType{}, nil, nil), id)
		if err != nil {
			t.Fatal(err)
		}
		return desc, r.registry.Stats().Requests
	}
	for _, kept := range []bool{false, true} {
		if kept {
			r.keep(t, img.Objects[img.Desc.Digest], nil)
		}
		desc, requests := find()
		if desc.Digest != img.Desc.Digest || desc.Size != img.Desc.Size || desc.MediaType != img.Desc.MediaType || (requests == 0) != kept {
			t.Errorf("in the content store %t: %+v, %d requests", kept, desc, requests)
		}
	}
}

func TestFindChooses(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	plain, arm := small(t, "amd64", "amd"), small(t, "arm64", "arm")
	r.push(t, plain, "app:plain")
	r.push(t, arm, "app:arm")
	lazy := r.convert(t, plain, "nydus", "app:lazy")
	amd64 := &ocispec.Platform{OS: "linux", Architecture: "amd64"}
	as := func(d ocispec.Descriptor, p *ocispec.Platform) ocispec.Descriptor {
		d.Platform = p
		return d
	}
	marked := as(lazy, &ocispec.Platform{OS: "linux", Architecture: "amd64", OSFeatures: []string{"nydus.remoteimage.v1"}})
	for i, c := range []struct {
		name     string
		entries  []ocispec.Descriptor
		platform string
		lazy     bool
		absent   bool
	}{
		{"ours for one platform", []ocispec.Descriptor{as(lazy, amd64), arm.Desc}, "amd64", true, false},
		{"a plain one for the other", []ocispec.Descriptor{as(lazy, amd64), arm.Desc}, "arm64", false, false},
		{"the first of two", []ocispec.Descriptor{as(lazy, amd64), plain.Desc}, "amd64", true, false},
		{"a plain one before ours", []ocispec.Descriptor{plain.Desc, as(lazy, amd64)}, "amd64", false, false},
		{"a plain one before a marked one", []ocispec.Descriptor{plain.Desc, marked}, "amd64", false, false},
		{"nothing for the platform", []ocispec.Descriptor{as(lazy, amd64), arm.Desc}, "s390x", false, true},
	} {
		index := &imagetest.Image{Objects: make(map[digest.Digest][]byte)}
		index.Desc = index.AddJSON(t, ocispec.MediaTypeImageIndex, ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: c.entries})
		name := fmt.Sprintf("app:%d", i)
		target := r.target(t, name)
		raw := index.Objects[index.Desc.Digest]
		if err := target.Push(t.Context(), index.Desc, strings.NewReader(string(raw))); err != nil {
			t.Fatal(err)
		}
		if err := target.Tag(t.Context(), index.Desc, ""); err != nil {
			t.Fatal(err)
		}
		id := r.id(t, name)
		id.Platform.Architecture = c.platform
		got, err := r.source.find(r.ctx, id, nil, nil)
		if c.absent {
			if !errdefs.IsNotFound(err) {
				t.Errorf("%s: %v", c.name, err)
			}
			continue
		}
		if err != nil || (got != nil) != c.lazy {
			t.Errorf("%s: %v, %v", c.name, got, err)
			continue
		}
		if got != nil && (got.root.Digest != index.Desc.Digest || got.manifest.Desc.Digest != lazy.Digest) {
			t.Errorf("%s: %s in %s", c.name, got.manifest.Desc.Digest, got.root.Digest)
		}
	}
	if got, err := r.source.find(r.ctx, r.id(t, "app:plain"), nil, nil); got != nil || err != nil {
		t.Errorf("a plain image: %v, %v", got, err)
	}
	if _, err := r.source.find(r.ctx, r.id(t, "app:none"), nil, nil); !errdefs.IsNotFound(err) {
		t.Errorf("no image: %v", err)
	}
}

func TestOriginal(t *testing.T) {
	t.Parallel()
	img := small(t, "amd64", "x")
	index := imagetest.NewIndex(t, img)
	for _, c := range []struct {
		name   string
		change func(t *testing.T, r *rig, l *lazyImage)
		want   digest.Digest
	}{
		{"absent", func(*testing.T, *rig, *lazyImage) {}, ""},
		{"in the repository", func(t *testing.T, r *rig, _ *lazyImage) { r.push(t, img, "app:plain") }, img.Desc.Digest},
		{"in another one", func(t *testing.T, r *rig, _ *lazyImage) { r.push(t, img, "other:plain") }, ""},
		{"an index", func(t *testing.T, r *rig, l *lazyImage) {
			r.push(t, index, "app:index")
			l.manifest.Manifest.Subject = &index.Desc
		}, ""},
		{"without its configuration", func(t *testing.T, r *rig, _ *lazyImage) {
			r.push(t, img, "app:plain")
			var m ocispec.Manifest
			unmarshal(t, img.Objects[img.Desc.Digest], &m)
			r.registry.DropBlob("app", m.Config.Digest)
		}, ""},
		{"not named", func(t *testing.T, r *rig, l *lazyImage) {
			r.push(t, img, "app:plain")
			l.manifest.Manifest.Subject, l.manifest.Manifest.Annotations = nil, nil
		}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.convert(t, img, "nydus", "app:lazy")
			l := r.find(t, "app:lazy")
			c.change(t, r, l)
			m, err := l.original(r.ctx)
			if err != nil {
				t.Fatal(err)
			}
			var got digest.Digest
			if m != nil {
				got = m.Desc.Digest
			}
			if got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

// compare fails unless two images have the same files.
func compare(ctx context.Context, t *testing.T, want formats.Sources, wantDesc ocispec.Descriptor, got formats.Sources, gotDesc ocispec.Descriptor) {
	t.Helper()
	opt := image.Options{Readers: catalog.Readers(), Platform: "linux/amd64"}
	a, err := image.OpenManifest(ctx, want, nil, wantDesc, opt)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	b, err := image.OpenManifest(ctx, got, nil, gotDesc, opt)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	err = check.Compare(ctx, a.Image, b.Image, func(d check.Difference) error {
		t.Error(d)
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// TestReverse: images of every format become plain in the content store, once.
func TestReverse(t *testing.T) {
	t.Parallel()
	img := small(t, "amd64", "x")
	for _, format := range catalog.Formats() {
		t.Run(format, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			made := r.convert(t, img, format, "app:lazy")
			l := r.find(t, "app:lazy")
			m, err := l.reverse(r.ctx)
			if err != nil {
				t.Fatal(err)
			}
			list, err := layers(m)
			if err != nil || len(list) == 0 { // some formats cannot tell layers apart
				t.Fatalf("%d layers, %v", len(list), err)
			}
			cs := r.containerd.Content()
			held := contentstore.NewSource(r.ctx, cs, l.objects.Ref(), m.Desc)
			compare(r.ctx, t, layout(t, img), img.Desc, held, m.Desc)
			info, err := cs.Info(r.ctx, m.Desc.Digest)
			if err != nil || info.Labels[labelPlainOf] != made.Digest.String() {
				t.Errorf("labels %v, %v", info.Labels, err)
			}
			r.containerd.Collect(t)
			r.registry.ResetStats()
			again, err := l.reverse(r.ctx)
			if err != nil || again.Desc.Digest != m.Desc.Digest {
				t.Fatalf("once more: %+v, %v", again, err)
			}
			if n := r.registry.Stats().Requests; n != 0 {
				t.Errorf("the registry is asked %d times for what is known", n)
			}
		})
	}
}

func TestKnown(t *testing.T) {
	t.Parallel()
	img := small(t, "amd64", "x")
	remove := func(choose func(m *formats.Manifest) digest.Digest) func(*testing.T, *rig, *lazyImage, *formats.Manifest) {
		return func(t *testing.T, r *rig, _ *lazyImage, m *formats.Manifest) {
			if err := r.containerd.Content().Delete(r.ctx, choose(m)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, c := range []struct {
		name   string
		change func(*testing.T, *rig, *lazyImage, *formats.Manifest)
		known  bool
	}{
		{"complete", func(*testing.T, *rig, *lazyImage, *formats.Manifest) {}, true},
		{"without manifest", remove(func(m *formats.Manifest) digest.Digest { return m.Desc.Digest }), false},
		{"without configuration", remove(func(m *formats.Manifest) digest.Digest { return m.Manifest.Config.Digest }), false},
		{"without the last layer", remove(func(m *formats.Manifest) digest.Digest { return m.Manifest.Layers[len(m.Manifest.Layers)-1].Digest }), false},
		{"another image's", func(_ *testing.T, _ *rig, l *lazyImage, _ *formats.Manifest) {
			l.manifest.Desc.Digest = digest.FromString("other")
		}, false},
		{"damaged manifest", func(t *testing.T, r *rig, l *lazyImage, m *formats.Manifest) {
			if err := r.containerd.Content().Delete(r.ctx, m.Desc.Digest); err != nil {
				t.Fatal(err)
			}
			r.keep(t, []byte(`{"schemaVersion":2,"layers":7}`), map[string]string{labelPlainOf: l.manifest.Desc.Digest.String()})
		}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.convert(t, img, "nydus", "app:lazy")
			l := r.find(t, "app:lazy")
			m, err := l.reverse(r.ctx)
			if err != nil {
				t.Fatal(err)
			}
			c.change(t, r, l, m)
			target := contentstore.NewTarget(r.ctx, r.containerd.Content(), l.objects.Ref(), contentstore.Options{})
			defer target.Close()
			got := l.known(r.ctx, target)
			if (got != nil) != c.known || got != nil && got.Desc.Digest != m.Desc.Digest {
				t.Errorf("%+v", got)
			}
			if c.known || c.name == "another image's" {
				return
			}
			// It is made again, the same.
			if again, err := l.reverse(r.ctx); err != nil || again.Desc.Digest != m.Desc.Digest {
				t.Errorf("made again: %+v, %v", again, err)
			}
		})
	}
}

func TestLayers(t *testing.T) {
	t.Parallel()
	a, b := digest.FromString("a"), digest.FromString("b")
	for _, c := range []struct {
		layers, diffs int
		ok            bool
	}{{0, 0, true}, {2, 2, true}, {1, 2, false}, {2, 1, false}, {0, 1, false}} {
		var m formats.Manifest
		for i := range c.layers {
			m.Manifest.Layers = append(m.Manifest.Layers, ocispec.Descriptor{
				MediaType: "m", Digest: []digest.Digest{a, b}[i], Size: int64(i + 1), URLs: []string{"http://elsewhere"}, Annotations: map[string]string{"k": "v"},
			})
		}
		m.Config.RootFS.DiffIDs = []digest.Digest{b, a}[:c.diffs]
		list, err := layers(&m)
		if (err == nil) != c.ok {
			t.Errorf("%d layers, %d diff IDs: %v", c.layers, c.diffs, err)
		}
		if err != nil {
			continue
		}
		var got []string
		for _, l := range list {
			if len(l.URLs) > 0 || len(l.Annotations) != 1 {
				t.Errorf("%+v", l)
			}
			got = append(got, fmt.Sprint(l.MediaType, l.Digest, l.Size, l.Annotations[labels.LabelUncompressed]))
		}
		want := []string{fmt.Sprint("m", a, 1, b), fmt.Sprint("m", b, 2, a)}[:c.layers]
		if !slices.Equal(got, want) {
			t.Errorf("%q instead of %q", got, want)
		}
	}
}
