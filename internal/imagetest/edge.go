package imagetest

import (
	"bytes"
	"compress/gzip"
	"embed"
	"encoding/json"
	"io"
	"io/fs"
	"path"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

//go:embed testdata/edge
var edgeFiles embed.FS

// Edge returns the image of testdata/edge: three gzip layers with what converters get wrong.
func Edge(tb testing.TB) *Image {
	tb.Helper()
	img := &Image{Objects: make(map[digest.Digest][]byte)}
	const blobs = "testdata/edge/oci/blobs/sha256"
	list, err := fs.ReadDir(edgeFiles, blobs)
	if err != nil {
		tb.Fatal(err)
	}
	for _, f := range list {
		img.Add("", edgeFile(tb, path.Join(blobs, f.Name())))
	}
	var index ocispec.Index
	if err := json.Unmarshal(edgeFile(tb, "testdata/edge/oci/index.json"), &index); err != nil {
		tb.Fatal(err)
	}
	img.Desc = index.Manifests[0]
	var m ocispec.Manifest
	if err := json.Unmarshal(img.Objects[img.Desc.Digest], &m); err != nil {
		tb.Fatal(err)
	}
	for _, l := range m.Layers {
		stored := img.Objects[l.Digest]
		r, err := gzip.NewReader(bytes.NewReader(stored))
		if err != nil {
			tb.Fatal(err)
		}
		tar, err := io.ReadAll(r)
		if err != nil {
			tb.Fatal(err)
		}
		img.Layers = append(img.Layers, Layer{MediaType: l.MediaType, Stored: stored, Tar: tar})
	}
	return img
}

// EdgeTree returns the listing of Edge's merged tree, and EdgeLayer0 that of its lowest layer, as other tools unpack them.
func EdgeTree(tb testing.TB) []string {
	tb.Helper()
	return edgeLines(tb, "testdata/edge/expected.tsv")
}

// EdgeLayer0 returns the listing of Edge's lowest layer; see [EdgeTree].
func EdgeLayer0(tb testing.TB) []string {
	tb.Helper()
	return edgeLines(tb, "testdata/edge/expected-layer0.tsv")
}

func edgeLines(tb testing.TB, name string) []string {
	tb.Helper()
	return strings.Split(strings.TrimSuffix(string(edgeFile(tb, name)), "\n"), "\n")
}

func edgeFile(tb testing.TB, name string) []byte {
	tb.Helper()
	p, err := edgeFiles.ReadFile(name)
	if err != nil {
		tb.Fatal(err)
	}
	return p
}
