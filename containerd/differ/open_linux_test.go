package differ

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/lazuli-project/lazuli/convert"
)

// Images are open for a while after they were asked for, and not too many.
func TestOpenImages(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var o openImages
		images := make([]*manifest, maxOpen+1)
		made := make([]*convert.Layers, len(images))
		for i := range images {
			images[i], made[i] = &manifest{}, &convert.Layers{}
		}
		expect := func(open ...bool) {
			t.Helper()
			synctest.Wait()
			o.mu.Lock()
			defer o.mu.Unlock()
			for i, want := range open {
				got := false
				for _, e := range o.list {
					got = got || e.of == images[i] && e.layers == made[i]
				}
				if got != want {
					t.Errorf("image %d is open: %v", i, got)
				}
			}
		}
		for i := range maxOpen {
			o.get(images[i], made[i])
		}
		if o.get(images[maxOpen], nil) != nil || o.get(images[0], &convert.Layers{}) != made[0] {
			t.Error("another image's layers")
		}
		expect(true, true, true, true, false)
		o.get(images[maxOpen], made[maxOpen])
		expect(true, false, true, true, true)
		time.Sleep(openFor - time.Second)
		o.get(images[2], nil)
		time.Sleep(time.Second)
		expect(false, false, true, false, false)
		time.Sleep(openFor)
		expect(false, false, false, false, false)
	})
}
