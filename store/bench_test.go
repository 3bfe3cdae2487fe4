package store_test

import (
	"path/filepath"
	"testing"

	"github.com/lazuli-project/lazuli/internal/registrytest"
	"github.com/lazuli-project/lazuli/store"
)

// BenchmarkCreate streams 64 MiB of unknown digest into each kind of target.
func BenchmarkCreate(b *testing.B) {
	p := content(1, 64<<20)
	reg, err := registrytest.New(registrytest.Options{Dir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	host := reg.Listen(b)
	for name, ref := range map[string]string{
		"layout": "oci:" + filepath.Join(b.TempDir(), "x"), "archive": "oci-archive:" + filepath.Join(b.TempDir(), "x.tar"), "registry": host + "/x:v1",
	} {
		b.Run(name, func(b *testing.B) {
			r, err := store.Parse(ref)
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(len(p)))
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				dst, err := store.OpenTarget(b.Context(), r, store.Options{})
				if err != nil {
					b.Fatal(err)
				}
				w, err := dst.Create(b.Context(), "")
				if err != nil {
					b.Fatal(err)
				}
				p[0], p[1] = byte(i), byte(i>>8) // another object each time
				for off := 0; off < len(p); off += 128 << 10 {
					if _, err := w.Write(p[off : off+128<<10]); err != nil {
						b.Fatal(err)
					}
				}
				if _, _, err := w.Commit(b.Context()); err != nil {
					b.Fatal(err)
				}
				if err := dst.Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
