package erofs_test

import (
	"fmt"
	"reflect"
	"testing"

	"github.com/lazuli-project/lazuli/disk/erofs"
	"github.com/lazuli-project/lazuli/internal/imagetest"
)

// TestApply applies layers one by one. After each, the disk reads as the merged layers, and a model that was read from the disk makes
// the same change as the one that was kept.
func TestApply(t *testing.T) {
	t.Parallel()
	cases := map[string]layers{"edge": edgeLayers(t)}
	for seed := range uint64(40) {
		cases[fmt.Sprint("random ", seed)] = randomLayers(t, seed, 6)
	}
	for name, l := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			kept, dev := create(t), newDevice()
			for i := range l {
				reread := create(t)
				if i > 0 {
					var err error
					if reread, err = erofs.Open(dev.clone(), dev.size); err != nil {
						t.Fatal(err)
					}
				}
				change := apply(t, kept, readLayer(t, l[i], uint32(i)))
				if again := apply(t, reread, readLayer(t, l[i], uint32(i))); !reflect.DeepEqual(change, again) {
					t.Errorf("layer %d: a model from the disk changes %d blocks and %d extents, one that was kept %d and %d",
						i, len(again.Blocks), len(again.Data), len(change.Blocks), len(change.Data))
				}
				dev.apply(t, change, l.blobs())
				if diff := imagetest.Diff(l[:i+1].list(t), dev.read(t)); diff != "" {
					t.Fatalf("after layer %d:\n%s", i, diff)
				}
			}
		})
	}
}
