package record

import (
	"path/filepath"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/convert"
)

func TestRemembersAcrossProcesses(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "state of mine?", "record.db")
	k := convert.Key{Source: digest.FromString("layer"), Format: "nydus", Writer: "1"}
	want := ocispec.Descriptor{MediaType: "m", Digest: digest.FromString("blob"), Size: 5, Annotations: map[string]string{"a": "b"}}
	var wg sync.WaitGroup
	for range 4 { // several converters on one file
		wg.Go(func() {
			d, err := Open(t.Context(), file)
			if err != nil {
				t.Error(err)
				return
			}
			defer d.Close()
			for range 10 {
				if err := d.Store(t.Context(), k, want); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	d, err := Open(t.Context(), file)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	got, ok, err := d.Lookup(t.Context(), k)
	if err != nil || !ok || got.Digest != want.Digest || got.Annotations["a"] != "b" {
		t.Fatalf("%+v, %v, %v", got, ok, err)
	}
	for _, other := range []convert.Key{{Source: k.Source, Format: "nydus", Writer: "2"}, {Source: k.Source, Format: "oci", Writer: "1"}, {Source: digest.FromString("x"), Format: "nydus", Writer: "1"}} {
		if _, ok, err := d.Lookup(t.Context(), other); ok || err != nil {
			t.Errorf("%+v is known: %v", other, err)
		}
	}
}

func TestNilKnowsNothing(t *testing.T) {
	t.Parallel()
	var d *DB
	if _, ok, err := d.Lookup(t.Context(), convert.Key{}); ok || err != nil {
		t.Error("a nil record answers")
	}
	if d.Store(t.Context(), convert.Key{}, ocispec.Descriptor{}) != nil || d.Close() != nil {
		t.Error("a nil record fails")
	}
}
