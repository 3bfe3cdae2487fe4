package nydusimage_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/fetch"
	"github.com/lazuli-project/lazuli/formats/nydus"
	"github.com/lazuli-project/lazuli/internal/imagetest"
	"github.com/lazuli-project/lazuli/nydusimage"
	"github.com/lazuli-project/lazuli/tree"
)

// reference is where the reference tool's images are.
const reference = "../formats/nydus/testdata"

// list lists the files of a bootstrap with contents that are verified against their digests; blobs are in dir.
func list(t *testing.T, bootstrap, dir string) []string {
	t.Helper()
	im := open(t, bootstrap, dir)
	lines, err := imagetest.List(im.Tree, func(n *tree.Node) ([]byte, error) {
		var b bytes.Buffer
		err := im.WriteContent(t.Context(), n, &b, make([]byte, 64<<10), blob.Demand)
		return b.Bytes(), err
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

func open(t *testing.T, bootstrap, dir string) *fetch.Image {
	t.Helper()
	source := func(path string) (blob.Source, error) {
		p, err := os.ReadFile(path)
		return blob.ReaderAtSource{R: bytes.NewReader(p), N: int64(len(p))}, err
	}
	src, err := source(bootstrap)
	if err != nil {
		t.Fatal(err)
	}
	img, err := nydus.OpenBare(t.Context(), src, filepath.Base(bootstrap), func(id string) (blob.Source, error) { return source(filepath.Join(dir, id)) })
	if err != nil {
		t.Fatal(err)
	}
	im, err := fetch.NewImage(img, fetch.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = im.Close() })
	return im
}

// create builds and must succeed.
func create(t *testing.T, o nydusimage.CreateOptions) *nydusimage.Result {
	t.Helper()
	res, err := nydusimage.Create(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

func merge(t *testing.T, o nydusimage.MergeOptions) *nydusimage.Result {
	t.Helper()
	res, err := nydusimage.Merge(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// check checks with every chunk.
func check(t *testing.T, bootstrap, dir string) string {
	t.Helper()
	var out strings.Builder
	if _, err := nydusimage.Check(t.Context(), nydusimage.CheckOptions{Bootstrap: bootstrap, BlobDir: dir, Out: &out}); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// writeFile writes a file and returns its path.
func writeFile(t *testing.T, dir, name string, content []byte) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	p, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// leftovers fails where a directory has other files than those.
func leftovers(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("%s has %q instead of %q", dir, got, want)
	}
}

// sourceLayers returns the paths of the source image's layers as the reference tool got them, bottom first.
func sourceLayers() []string {
	var paths []string
	for _, l := range []string{
		"44313ef182486ee5b614996b651102b5c103857cde29e7079825d285b78109ad",
		"311bfa0b61f6e6f7cb83b291f3f2e83932fb19e8a49da7f1db0aed922e688953",
		"8cda5ec2c2dd053021d5f72812b8d1a6ba8fa94fd8745b111a8daaa4fdb5c628",
	} {
		paths = append(paths, filepath.Join(reference, "source", l))
	}
	return paths
}
