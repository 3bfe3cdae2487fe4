package baseimage

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/pkg/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func unmarshal(t *testing.T, raw []byte, v any) {
	t.Helper()
	if err := json.Unmarshal(raw, v); err != nil {
		t.Fatal(err)
	}
}

func TestAt(t *testing.T) {
	t.Parallel()
	d := digest.FromString("x")
	for in, want := range map[string]string{
		"host:5000/a/b:1":                                     "host:5000/a/b@" + d.String(),
		"host.example/a@" + string(d):                         "host.example/a@" + d.String(),
		"docker.io/library/debian:12":                         "docker.io/library/debian@" + d.String(),
		"host.example/a:1@" + digest.FromString("y").String(): "host.example/a@" + d.String(),
	} {
		ref, err := reference.Parse(in)
		if err != nil {
			t.Fatal(err)
		}
		got, err := at(ref, d)
		if err != nil || got.String() != want || got.Digest() != d {
			t.Errorf("%s: %s, %v", in, got, err)
		}
	}
	if got, err := at(reference.Spec{Locator: "host/UPPER CASE"}, d); err == nil {
		t.Errorf("no name: %s", got)
	}
}

// TestCacheKey: an image without its source is known by its manifest and the layers that are asked for, and pinned as it was asked for.
func TestCacheKey(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	a, b := r.convert(t, small(t, "amd64", "a"), "nydus", "app:a"), r.convert(t, small(t, "amd64", "b"), "nydus", "app:b")
	r.convert(t, small(t, "amd64", "a"), "nydus", "elsewhere:a")
	one := 1
	keys := make(map[string]string)
	for _, c := range []struct {
		name, image string
		limit       *int
		pin         digest.Digest
		same        string // whose key it has
	}{
		{"one", "app:a", nil, a.Digest, ""},
		{"the same once more", "app:a", nil, a.Digest, "one"},
		{"the same elsewhere", "elsewhere:a", nil, a.Digest, "one"},
		{"another", "app:b", nil, b.Digest, ""},
		{"one layer", "app:a", &one, a.Digest, ""},
	} {
		id := r.id(t, c.image)
		id.LayerLimit = c.limit
		i := &instance{source: r.source, id: id}
		key, pin, _, done, err := i.CacheKey(r.ctx, nil, 0)
		if err != nil || !done || pin != c.pin.String() || !i.whole {
			t.Errorf("%s: pin %s, done %t, whole %t, %v", c.name, pin, done, i.whole, err)
		}
		for other, k := range keys {
			if (k == key) != (other == c.same || c.same != "" && keys[c.same] == k) {
				t.Errorf("%s and %s: %s, %s", c.name, other, key, k)
			}
		}
		keys[c.name] = key
	}
}

func TestLook(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	img := small(t, "amd64", "x")
	lazy := r.convert(t, img, "nydus", "app:lazy")
	r.convert(t, img, "nydus", "alone:lazy")
	r.push(t, img, "app:plain")
	for _, c := range []struct {
		name, image   string
		checksum      digest.Digest
		lazy, whole   bool
		want          string
		replacesInner bool
	}{
		{name: "with its source", image: "app:lazy", lazy: true, replacesInner: true},
		{name: "without", image: "alone:lazy", lazy: true, whole: true},
		{name: "plain", image: "app:plain"},
		{name: "with its checksum", image: "app:lazy", checksum: lazy.Digest, lazy: true, replacesInner: true},
		{name: "with another checksum", image: "app:lazy", checksum: img.Desc.Digest, want: "does not match expected checksum"},
		{name: "not there", image: "app:none", want: "not found"},
	} {
		id := r.id(t, c.image)
		id.Checksum = c.checksum
		i := &instance{source: r.source, id: id}
		for range 2 {
			err := i.look(r.ctx, nil)
			if c.want != "" {
				if err == nil || !strings.Contains(err.Error(), c.want) || i.known {
					t.Errorf("%s: %v", c.name, err)
				}
				continue
			}
			if err != nil || !i.known || (i.lazy != nil) != c.lazy || i.whole != c.whole || (i.SourceInstance != nil) != c.replacesInner {
				t.Errorf("%s: %+v, %v", c.name, i, err)
			}
			if id.Checksum != c.checksum || id.Reference.Object == "" {
				t.Errorf("%s: the identifier is changed: %+v", c.name, id)
			}
		}
	}
}

func TestPlatformOf(t *testing.T) {
	t.Parallel()
	if platformOf(nil) != nil {
		t.Error("a platform of none")
	}
	p := &ocispec.Platform{OS: "linux", Architecture: "arm", Variant: "v7"}
	if c := platformOf(p); c == p || c.OS != p.OS || c.Architecture != p.Architecture || c.Variant != p.Variant {
		t.Errorf("%+v", c)
	}
}
