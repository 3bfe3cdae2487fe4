package image_test

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/catalog"
	"github.com/lazuli-project/lazuli/image"
	"github.com/lazuli-project/lazuli/store"
	"github.com/lazuli-project/lazuli/tree"
)

// Lists an image without downloading its data, and reads one file: that alone is fetched, and verified.
func Example() {
	ctx := context.Background()
	ref, err := store.Parse("oci:../internal/imagetest/testdata/edge/oci:edge")
	if err != nil {
		log.Fatal(err)
	}
	im, err := image.Open(ctx, ref, image.Options{Readers: catalog.Readers(), Platform: "linux/amd64"})
	if err != nil {
		log.Fatal(err)
	}
	defer im.Close()
	files := 0
	var small *tree.Node
	err = im.Tree.Walk(func(_ string, n *tree.Node) error {
		if n.Type() == tree.TypeRegular {
			files++
			if small == nil && n.Size > 0 && n.Size < 16 {
				small = n
			}
		}
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(im.Format, "image with", files, "names of files")
	if err := im.WriteContent(ctx, small, os.Stdout, make([]byte, 64<<10), blob.Demand); err != nil {
		log.Fatal(err)
	}
	// Output:
	// oci image with 1528 names of files
	// export A=1
}
