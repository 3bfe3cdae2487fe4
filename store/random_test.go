package store_test

import (
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/store"
)

// Objects whose beginning is written once more have the digest of what they end as, wherever they are kept.
func TestCreateRandom(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"oci:" + t.TempDir() + "/layout:x", "oci-archive:" + t.TempDir() + "/archive.tar:x"} {
		ref, err := store.Parse(name)
		if err != nil {
			t.Fatal(err)
		}
		target, err := store.OpenTarget(t.Context(), ref, store.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer target.Close()
		create := func() formats.RandomObject {
			o, err := formats.CreateRandom(t.Context(), target, ocispec.MediaTypeImageLayer, func() (formats.Spool, error) { return formats.NewSpool(t.TempDir()) })
			if err != nil {
				t.Fatal(err)
			}
			if _, err := o.Write([]byte("0123456789")); err != nil {
				t.Fatal(err)
			}
			return o
		}
		o := create()
		if _, err := o.WriteAt([]byte("ab"), 1); err != nil {
			t.Fatal(err)
		}
		d, n, err := o.Commit(t.Context())
		if want := digest.FromString("0ab3456789"); err != nil || d != want || n != 10 {
			t.Errorf("%s: %s, %d bytes, %v; want %s", name, d, n, err, want)
		}
		o.Abort()
		src, err := target.Open(t.Context(), ocispec.Descriptor{Digest: d, Size: n})
		if err != nil {
			t.Fatal(err)
		}
		if p, err := blob.ReadAll(t.Context(), src, 100, blob.Demand); err != nil || string(p) != "0ab3456789" {
			t.Errorf("%s: %q, %v", name, p, err)
		}
		o = create()
		if _, err := o.WriteAt([]byte("ab"), 9); err == nil {
			t.Errorf("%s: written behind the end", name)
		}
		o.Abort()
	}
}
