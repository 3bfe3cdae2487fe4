package erofs_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/disk/erofs"
	"github.com/lazuli-project/lazuli/formats/overlaybd/lsmt"
	"github.com/lazuli-project/lazuli/formats/overlaybd/zfile"
	"github.com/lazuli-project/lazuli/internal/imagetest"
	"github.com/lazuli-project/lazuli/tarfs"
	"github.com/lazuli-project/lazuli/tree"
)

const genuine = "../../formats/overlaybd/testdata/turbo-erofs"

func genuineBlob(tb testing.TB, d digest.Digest) []byte {
	tb.Helper()
	p, err := os.ReadFile(filepath.Join(genuine, "blobs", d.Algorithm().String(), d.Encoded()))
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

func decodeJSON(tb testing.TB, p []byte, v any) {
	tb.Helper()
	if err := json.Unmarshal(p, v); err != nil {
		tb.Fatal(err)
	}
}

// genuineDisks returns the disk after each layer of the edge image, as the reference converter made it.
func genuineDisks(tb testing.TB) []*device {
	tb.Helper()
	var index ocispec.Index
	p, err := os.ReadFile(filepath.Join(genuine, "index.json"))
	if err != nil {
		tb.Fatal(err)
	}
	decodeJSON(tb, p, &index)
	var m ocispec.Manifest
	decodeJSON(tb, genuineBlob(tb, index.Manifests[0].Digest), &m)
	var disks []*device
	d := newDevice()
	for i, layer := range imagetest.Edge(tb).Layers {
		meta := metadata(tb, genuineBlob(tb, m.Layers[i].Digest))
		l, err := lsmt.Parse(bytes.NewReader(meta), int64(len(meta)))
		if err != nil {
			tb.Fatal(err)
		}
		d.size = l.VirtualSize
		sources := []io.ReaderAt{bytes.NewReader(meta), bytes.NewReader(layer.Tar)} // by tag
		for s := range l.Segments() {
			p := make([]byte, s.Length*lsmt.SectorSize)
			if _, err := sources[s.Tag].ReadAt(p, s.Source*lsmt.SectorSize); err != nil {
				tb.Fatal(err)
			}
			d.put(s.Offset*lsmt.SectorSize, p)
		}
		disks = append(disks, d.clone())
	}
	return disks
}

// metadata returns the plain erofs.fs.meta of a layer.
func metadata(tb testing.TB, stored []byte) []byte {
	tb.Helper()
	z, err := gzip.NewReader(bytes.NewReader(stored))
	if err != nil {
		tb.Fatal(err)
	}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if err != nil {
			tb.Fatal(err)
		}
		if h.Name != "erofs.fs.meta" {
			continue
		}
		p, err := io.ReadAll(r)
		if err != nil {
			tb.Fatal(err)
		}
		src := blob.ReaderAtSource{R: bytes.NewReader(p), N: int64(len(p))}
		l, err := zfile.Open(tb.Context(), src, blob.Range{Len: int64(len(p))})
		if err != nil {
			tb.Fatal(err)
		}
		plain := make([]byte, l.Size())
		for i := range l.NumSpans() {
			s := l.Span(i)
			if err := l.Decode(plain[s.Plain.Off:s.Plain.End()], p[s.Stored.Off:s.Stored.End()], s); err != nil {
				tb.Fatal(err)
			}
		}
		return plain
	}
}

// lost has what the reference converter gets wrong, by layer.
var lost = []map[string]string{
	{".": "mode of a root without entry", "names/fraction": "leading zeros of fractions"},
	{"bin": "time of an implied directory", "links": "the same", "sizes": "the same"},
	{"swap": "the same", "names": "opaque directory"},
}

// TestReadGenuine reads disks of the reference converter.
func TestReadGenuine(t *testing.T) {
	t.Parallel()
	l := edgeLayers(t)
	known := make(map[string]string)
	right := func(lines []string) (kept []string) {
		for _, line := range lines {
			path, _, _ := strings.Cut(line, "\t")
			if known[path] == "" && known[filepath.Dir(path)] != "opaque directory" {
				kept = append(kept, line)
			}
		}
		return kept
	}
	for i, d := range genuineDisks(t) {
		maps.Copy(known, lost[i])
		want, got := right(l[:i+1].list(t)), right(d.read(t))
		if diff := imagetest.Diff(want, got); diff != "" || len(got) < 1500 {
			t.Errorf("after layer %d, %d entries:\n%s", i, len(got), diff)
		}
	}
}

// added returns a genuine disk with a layer over it, which is blob 1, and what must be on it.
func added(tb testing.TB, d *device, tar []byte) (got *device, want []string) {
	tb.Helper()
	below, err := erofs.Read(d, d.size)
	if err != nil {
		tb.Fatal(err)
	}
	merged, err := tarfs.Merge([]*tree.Tree{below, readLayer(tb, tar, 1)})
	if err != nil {
		tb.Fatal(err)
	}
	f, err := erofs.Open(d, d.size)
	if err != nil {
		tb.Fatal(err)
	}
	blobs := []io.ReaderAt{d, bytes.NewReader(tar)}
	got = d.clone()
	got.apply(tb, apply(tb, f, readLayer(tb, tar, 1)), blobs)
	return got, list(tb, merged, blobs)
}

// TestAddToGenuine applies layers to disks of the reference converter.
func TestAddToGenuine(t *testing.T) {
	t.Parallel()
	layers := append(edgeLayers(t)[1:], randomLayers(t, 300, 2)...)
	for i, d := range genuineDisks(t) {
		for k, tar := range layers {
			t.Run(fmt.Sprintf("%d/%d", i, k), func(t *testing.T) {
				t.Parallel()
				got, want := added(t, d, tar)
				if diff := imagetest.Diff(want, got.read(t)); diff != "" {
					t.Error(diff)
				}
			})
		}
	}
}

// TestRootOfGenuine gives attributes to the root of a genuine disk, which cannot move and has room for some.
func TestRootOfGenuine(t *testing.T) {
	t.Parallel()
	d := genuineDisks(t)[0]
	for size, want := range map[int]error{10000: nil, 60000: blob.ErrUnsupported} {
		layer := tree.New()
		layer.Root.SetXattr("user.x", make([]byte, size))
		f, err := erofs.Open(d, d.size)
		if err != nil {
			t.Fatal(err)
		}
		c, err := f.Apply(layer)
		if !errors.Is(err, want) {
			t.Errorf("%d bytes: %v", size, err)
		}
		if err != nil {
			continue
		}
		got := d.clone()
		got.apply(t, c, nil)
		tr, err := erofs.Read(got, got.size)
		if err != nil || len(tr.Root.Xattrs) != 1 || tr.Lookup("bin") == nil {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
}
