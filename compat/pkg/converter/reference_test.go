package converter_test

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/containerd/nydus-snapshotter/pkg/converter"
)

// reference is where images of nydus-image are.
const reference = "../../../formats/nydus/testdata"

func readReference(t *testing.T, path ...string) []byte {
	t.Helper()
	p, err := os.ReadFile(filepath.Join(append([]string{reference}, path...)...))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// sources are the layers that the reference's images are made of.
var sources = []string{
	"44313ef182486ee5b614996b651102b5c103857cde29e7079825d285b78109ad", "311bfa0b61f6e6f7cb83b291f3f2e83932fb19e8a49da7f1db0aed922e688953",
	"8cda5ec2c2dd053021d5f72812b8d1a6ba8fa94fd8745b111a8daaa4fdb5c628",
}

// Layers that nydus-image made are merged to the bootstrap that it made of them, byte for byte, and their tars come out again.
func TestReferenceLayers(t *testing.T) {
	t.Parallel()
	for _, image := range []string{"v6-zstd", "v6-lz4-sha256", "v6-zstd-c4k", "v6-batch", "v6-inline-no-toc", "v6-encrypt", "v6-zran", "v5-zstd"} {
		t.Run(image, func(t *testing.T) {
			t.Parallel()
			version := image[1:2]
			ref := image == "v6-zran"
			var list []converter.Layer
			for i, id := range strings.Fields(string(readReference(t, image, "layers.txt"))) {
				l := layerOf(readReference(t, "blobs", id))
				source := readReference(t, "source", sources[i])
				if ref {
					origin := digest.FromBytes(source)
					l.OriginalDigest = &origin
				} else {
					var out bytes.Buffer
					if err := converter.Unpack(t.Context(), l.ReaderAt, &out, converter.UnpackOption{}); err != nil {
						t.Fatal(err)
					}
					tar := decompress(t, source)
					if got, want := listing(t, out.Bytes()), listing(t, tar); len(got) < len(want) {
						t.Errorf("layer %d: %d files of %d", i, len(got), len(want))
					}
				}
				list = append(list, l)
			}
			boot, blobs := merge(t, list, converter.MergeOption{FsVersion: version, OCIRef: ref})
			// Of version 5, package rafs5 says what differs on purpose.
			if want := readReference(t, image, "image.boot"); len(blobs) != 3 || len(boot) != len(want) || version == "6" && !bytes.Equal(boot, want) {
				t.Errorf("%d bytes instead of %d, %d blobs", len(boot), len(want), len(blobs))
			}
			tar, _ := merge(t, list, converter.MergeOption{FsVersion: version, OCIRef: ref, WithTar: true})
			tables := 0
			for name := range listing(t, tar) {
				if strings.HasSuffix(name, ".blob.meta") {
					tables++
				}
			}
			want := 3
			if slices.Contains([]string{"v6-inline-no-toc", "v6-encrypt", "v5-zstd"}, image) {
				want = 0
			}
			if tables != want {
				t.Errorf("%d chunk tables instead of %d", tables, want)
			}
		})
	}
}
