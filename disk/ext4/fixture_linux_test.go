package ext4

import (
	"bytes"
	"encoding/json"
	"os"
	"path"
	"path/filepath"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/formats/overlaybd/layerfile"
	"github.com/lazuli-project/lazuli/formats/overlaybd/lsmt"
	"github.com/lazuli-project/lazuli/internal/imagetest"
	"github.com/lazuli-project/lazuli/tarfs"
	"github.com/lazuli-project/lazuli/tree"
)

// genuineLayers opens the layers that the reference converter made of the image edge.
func genuineLayers(t *testing.T) ([]*lsmt.Layer, []lsmt.Sources) {
	t.Helper()
	const layout = "../../formats/overlaybd/testdata/native"
	object := func(d ocispec.Descriptor) []byte {
		p, err := os.ReadFile(filepath.Join(layout, "blobs", "sha256", d.Digest.Encoded()))
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	var index ocispec.Index
	var m ocispec.Manifest
	p, err := os.ReadFile(filepath.Join(layout, "index.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(p, &index); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(object(index.Manifests[0]), &m); err != nil {
		t.Fatal(err)
	}
	var layers []*lsmt.Layer
	var sources []lsmt.Sources
	for _, l := range m.Layers {
		p := object(l)
		src := blob.ReaderAtSource{R: bytes.NewReader(p), N: int64(len(p))}
		f, err := layerfile.Open(t.Context(), src)
		if err != nil {
			t.Fatal(err)
		}
		layers, sources = append(layers, f.Layer), append(sources, lsmt.Sources{Data: f.ReaderAt(t.Context(), src)})
	}
	return layers, sources
}

// asConverted changes a tree as the reference converter does: it cleans link targets, and loses fractions of seconds, times before
// 1970 and owners that do not fit into a tar's header.
func asConverted(t *tree.Tree) {
	_ = t.Nodes(func(n *tree.Node) error {
		n.MtimeNsec, n.Mtime = 0, max(n.Mtime, 0)
		if n.UID >= 1<<21 {
			n.UID = 0
		}
		if n.GID >= 1<<21 {
			n.GID = 0
		}
		if n.IsSymlink() {
			n.Target = path.Clean(n.Target)
		}
		return nil
	})
}

// Every prefix of the reference converter's layers is read, and extended.
func TestGenuine(t *testing.T) {
	t.Parallel()
	layers, sources := genuineLayers(t)
	var c content
	var trees []*tree.Tree
	for i, l := range imagetest.Edge(t).Layers {
		trees = append(trees, c.layer(t, l.Tar))
		x, err := lsmt.NewIndex(layers[:i+1])
		if err != nil {
			t.Fatal(err)
		}
		dev := lsmt.NewDevice(x, sources)
		d := newDevice(dev.Size())
		d.genuine = true
		for _, s := range x.Segments() {
			p := make([]byte, s.Length*lsmt.SectorSize)
			if _, err := dev.ReadAt(p, s.Offset*lsmt.SectorSize); err != nil {
				t.Fatal(err)
			}
			if len(bytes.Trim(p, "\x00")) > 0 {
				d.write(p, s.Offset*lsmt.SectorSize)
			}
		}
		merged, err := tarfs.Merge(trees)
		if err != nil {
			t.Fatal(err)
		}
		asConverted(merged)
		want := list(t, merged, func(e tree.Extent) []byte { return c.blobs[e.Blob][e.Offset : e.Offset+e.Length] })
		if diff := imagetest.Diff(want, d.listing(t)); diff != "" {
			t.Errorf("after layer %d:\n%s", i, diff)
		}
		if i == 2 {
			goOn(t, d)
		}
	}
}
