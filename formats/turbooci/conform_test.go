package turbooci_test

import (
	"testing"

	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/formats/formatstest"
	"github.com/lazuli-project/lazuli/formats/overlaybd"
	"github.com/lazuli-project/lazuli/formats/turbooci"
	"github.com/lazuli-project/lazuli/internal/imagetest"
)

func TestConformance(t *testing.T) {
	for _, c := range []struct {
		name    string
		options turbooci.Options
		pack    func(tb testing.TB, tar []byte) imagetest.Layer
		whole   int
		samples int
	}{
		{"erofs", turbooci.Options{}, imagetest.Gzip, 0, 0},
		{"ext4", turbooci.Options{FileSystems: []overlaybd.FS{overlaybd.Ext4}}, imagetest.Gzip, 512, 64},
		{"both", turbooci.Options{FileSystems: []overlaybd.FS{overlaybd.Ext4, overlaybd.EROFS}, Prefetch: []string{"/etc"}}, imagetest.Gzip, 512, 64},
		{"plain", turbooci.Options{}, nil, 512, 64},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := formatstest.Format{
				Writer: func(tb testing.TB, cpu *formats.CPU) formats.Writer {
					o := c.options
					o.CPU = cpu
					w, err := turbooci.NewWriter(o)
					if err != nil {
						tb.Fatal(err)
					}
					return w
				},
				Reader: turbooci.Reader{},
				Pack:   c.pack,
				Chunk:  8 << 10,
				Whole:  c.whole, Samples: c.samples,
			}
			f.SmallXattrs = len(c.options.FileSystems) > 0 // with ext4
			if len(c.options.FileSystems) == 1 {           // read from it, too
				f.OldestTime, f.LatestTime = -1<<31, 1<<34-1<<31-1
			}
			formatstest.Run(t, f)
		})
	}
}
