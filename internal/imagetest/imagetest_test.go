package imagetest

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/tree"
)

func TestList(t *testing.T) {
	t.Parallel()
	tr := tree.New()
	f := &tree.Node{Mode: tree.TypeRegular | 0o4755, UID: 1, GID: 2, Size: 3, Mtime: -1, MtimeNsec: 5e8}
	f.SetXattr("user.b", []byte{0xff})
	f.SetXattr("user.a", nil)
	tr.Root.Put("d", &tree.Node{Mode: tree.TypeDir | 0o1777})
	tr.Root.Child("d").Put("x", f)
	tr.Root.Put("d-é \\", f)
	tr.Root.Put("dev", &tree.Node{Mode: tree.TypeBlock, Rdev: tree.Device{Major: 1, Minor: 2}})
	tr.Root.Put("l", &tree.Node{Mode: tree.TypeSymlink | 0o777, Target: "a b"})
	got, err := List(tr, func(*tree.Node) ([]byte, error) { return []byte("abc"), nil })
	if err != nil {
		t.Fatal(err)
	}
	const sum = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
	want := []string{
		".|d|755|0|0||0|||||",
		"d|d|1777|0|0||0|||||",
		`d-\xc3\xa9\x20\x5c|f|4755|1|2|3|-500000000||0||user.a=,user.b=ff|` + sum,
		"d/x|f|4755|1|2|3|-500000000||0||user.a=,user.b=ff|" + sum,
		"dev|b|0|0|0||0|1:2||||",
		`l|l|777|0|0||0|||a\x20b||`,
	}
	for i := range want {
		want[i] = strings.ReplaceAll(want[i], "|", "\t")
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestDiff(t *testing.T) {
	t.Parallel()
	line := func(path, mtime, rest string) string { return path + "\tf\t644\t0\t0\t1\t" + mtime + "\t" + rest }
	want := []string{line("a", "1", "x"), line("b", "-", "x"), line("c", "1", "x")}
	if d := Diff(want, []string{line("a", "1", "x"), line("b", "77", "x"), line("c", "1", "x")}); d != "" {
		t.Errorf("equal listings differ: %s", d)
	}
	for name, got := range map[string][]string{
		"missing":   {want[0], want[1]},
		"too much":  append(slices.Clone(want), line("d", "1", "x")),
		"time":      {line("a", "2", "x"), want[1], want[2]},
		"column":    {want[0], line("b", "77", "y"), want[2]},
		"twice":     {want[0], want[0], want[1], want[2]},
		"no column": {"a", want[1], want[2]},
	} {
		if Diff(want, got) == "" {
			t.Errorf("%s: no difference", name)
		}
	}
}

func TestWriteLayout(t *testing.T) {
	t.Parallel()
	a := NewImage(t, Gzip(t, Tar(t, File("a", "1"))), Zstd(t, Tar(t, File("b", "2"))), Plain(Tar(t, Whiteout("a"))))
	index := NewIndex(t, a, Attestation(t, a))
	dir := t.TempDir()
	index.WriteLayout(t, dir, "tag")

	var top ocispec.Index
	read := func(name string, v any) {
		p, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(p, v); err != nil {
			t.Fatal(err)
		}
	}
	object := func(d digest.Digest) string { return filepath.Join("blobs", "sha256", d.Encoded()) }
	read("index.json", &top)
	if len(top.Manifests) != 1 || top.Manifests[0].Annotations[ocispec.AnnotationRefName] != "tag" {
		t.Fatalf("%+v", top)
	}
	var inner ocispec.Index
	read(object(top.Manifests[0].Digest), &inner)
	if len(inner.Manifests) != 2 || inner.Manifests[0].Platform.Architecture != "amd64" || inner.Manifests[1].Platform.OS != "unknown" {
		t.Fatalf("%+v", inner)
	}
	var m ocispec.Manifest
	read(object(inner.Manifests[0].Digest), &m)
	var config ocispec.Image
	read(object(m.Config.Digest), &config)
	for i, l := range m.Layers {
		p, err := os.ReadFile(filepath.Join(dir, object(l.Digest)))
		if err != nil || int64(len(p)) != l.Size || digest.FromBytes(p) != l.Digest {
			t.Errorf("layer %d: %d bytes, %v", i, len(p), err)
		}
		if config.RootFS.DiffIDs[i] != digest.FromBytes(a.Layers[i].Tar) {
			t.Errorf("layer %d: diff ID", i)
		}
	}
	if again := NewIndex(t, a, Attestation(t, a)); again.Desc.Digest != index.Desc.Digest || !slices.Equal(again.Digests(), index.Digests()) {
		t.Error("not deterministic")
	}
}

func TestSources(t *testing.T) {
	t.Parallel()
	img := Edge(t)
	if len(img.Layers) != 3 || len(EdgeTree(t)) < 1500 || len(EdgeLayer0(t)) < 1500 {
		t.Fatalf("%d layers", len(img.Layers))
	}
	r, err := img.Fetch(t.Context(), img.Desc)
	if err != nil {
		t.Fatal(err)
	}
	p, err := io.ReadAll(r)
	if err != nil || !bytes.Equal(p, img.Objects[img.Desc.Digest]) {
		t.Fatal(err)
	}
	s, err := img.Open(t.Context(), img.Desc)
	if err != nil || s.Size() != int64(len(p)) {
		t.Fatal(err)
	}
	if _, err := img.Open(t.Context(), ocispec.Descriptor{Digest: digest.FromString("none")}); err == nil {
		t.Error("object that is not there")
	}
}
