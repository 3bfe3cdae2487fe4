package overlaybd_test

import (
	"testing"

	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/formats/formatstest"
	"github.com/lazuli-project/lazuli/formats/overlaybd"
)

func TestConformance(t *testing.T) {
	for _, c := range []struct {
		name    string
		options overlaybd.Options
		large   bool
		whole   int
		samples int
	}{
		{"default", overlaybd.Options{}, true, 0, 0},
		{"4 KiB, small disk", overlaybd.Options{BlockSize: 4 << 10, Size: 2 << 30}, false, 4 << 10, 256},
		{"zstd", overlaybd.Options{Compression: "zstd", BlockSize: 32 << 10}, false, 512, 64},
		{"base layer, paths", overlaybd.Options{BaseLayer: true, Prefetch: []string{"/etc", "/none"}}, false, 512, 64},
	} {
		t.Run(c.name, func(t *testing.T) {
			formatstest.Run(t, formatstest.Format{
				Writer: func(tb testing.TB, cpu *formats.CPU) formats.Writer {
					o := c.options
					o.CPU = cpu
					w, err := overlaybd.NewWriter(o)
					if err != nil {
						tb.Fatal(err)
					}
					return w
				},
				Reader: overlaybd.Reader{},
				Chunk:  16 << 10,

				OldestTime: -1 << 31, LatestTime: 1<<34 - 1<<31 - 1, SmallXattrs: true,
				Large: c.large,
				Whole: c.whole, Samples: c.samples,
			})
		})
	}
}
