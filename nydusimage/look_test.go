package nydusimage_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/internal/imagetest"
	"github.com/lazuli-project/lazuli/nydusimage"
	"github.com/lazuli-project/lazuli/tarfs"
	"github.com/lazuli-project/lazuli/tree"
)

func golden(t *testing.T, name, got string) {
	t.Helper()
	if want := string(readFile(t, filepath.Join("testdata", name))); got != want {
		t.Errorf("%s: got\n%s", name, got)
	}
}

func TestCheckLikeReference(t *testing.T) {
	t.Parallel()
	for _, image := range []string{"v6-zstd", "v6-batch", "v6-plain", "v6-inline-no-toc", "v6-zran"} {
		dir := filepath.Join(reference, "blobs")
		if image == "v6-zran" {
			dir = "" // its data lie elsewhere
		}
		golden(t, image+".check.txt", check(t, filepath.Join(reference, image, "image.boot"), dir))
	}
	var out strings.Builder
	var flags []string
	res, err := nydusimage.Check(t.Context(), nydusimage.CheckOptions{Bootstrap: filepath.Join(reference, "v6-dir", "image.boot"), Verbose: true, Out: &out,
		OnFlags: func(names []string) { flags = names }})
	if err != nil || len(res.Blobs) != 1 {
		t.Fatalf("%+v, %v", res, err)
	}
	golden(t, "v6-dir.check-v.txt", out.String())
	if want := []string{"HASH_BLAKE3", "EXPLICIT_UID_GID", "HAS_XATTR", "COMPRESSION_ZSTD", "ENCRYPTION_NONE"}; !slices.Equal(flags, want) {
		t.Errorf("%q", flags)
	}
}

// A damaged chunk, which the reference tool's check does not see.
func TestCheckData(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, path := range layersOf(t, "v6-zstd") {
		p := readFile(t, path)
		p[100] ^= 1
		writeFile(t, dir, filepath.Base(path), p)
	}
	o := nydusimage.CheckOptions{Bootstrap: filepath.Join(reference, "v6-zstd", "image.boot"), BlobDir: dir, Out: io.Discard}
	if _, err := nydusimage.Check(t.Context(), o); !errors.Is(err, blob.ErrCorrupt) && !errors.Is(err, blob.ErrDigest) {
		t.Errorf("%v", err)
	}
	// Where a blob is missing, the metadata alone are checked.
	if err := os.Remove(filepath.Join(dir, filepath.Base(layersOf(t, "v6-zstd")[1]))); err != nil {
		t.Fatal(err)
	}
	if _, err := nydusimage.Check(t.Context(), o); err != nil {
		t.Error(err)
	}
	for name, want := range map[string]error{"nowhere": os.ErrNotExist, "look_test.go": blob.ErrCorrupt, ".": nil} {
		o.Bootstrap = name
		if _, err := nydusimage.Check(t.Context(), o); err == nil || want != nil && !errors.Is(err, want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestInspectLikeReference(t *testing.T) {
	t.Parallel()
	for _, request := range []string{"stats", "blobs", "prefetch"} {
		var out strings.Builder
		if err := nydusimage.Inspect(t.Context(), nydusimage.InspectOptions{Bootstrap: filepath.Join(reference, "v6-zstd", "image.boot"), Request: request, Out: &out}); err != nil {
			t.Fatal(err)
		}
		golden(t, "v6-zstd."+request+".json", out.String())
	}
	var out strings.Builder
	in := bytes.NewReader(readFile(t, filepath.Join("testdata", "prompt.in")))
	if err := nydusimage.Inspect(t.Context(), nydusimage.InspectOptions{Bootstrap: filepath.Join(reference, "v6-dir", "image.boot"), In: in, Out: &out}); err != nil {
		t.Fatal(err)
	}
	golden(t, "v6-dir.prompt.txt", out.String())
}

func TestInspectRequests(t *testing.T) {
	t.Parallel()
	for request, want := range map[string]string{
		"ls": "null", "cd etc": "null", "cd nowhere": "nowhere is not found\nnull", "cd more/x": "is not found", "stat nowhere": "null",
		"icheck 5": "null", "chunk 7": "null", " ": "null",
		"foo": "Unsupported command: foo", "ls x": "Unsupported command: ls", "icheck x": "Wrong INODE", "chunk x": "", "help": "icheck INODE", "q": "",
	} {
		var out strings.Builder
		err := nydusimage.Inspect(t.Context(), nydusimage.InspectOptions{Bootstrap: filepath.Join(reference, "v6-dir", "image.boot"), Request: request, Out: &out})
		if ok := strings.HasSuffix(out.String(), "null"); (err == nil) != ok && request != "cd more/x" || !strings.Contains(out.String(), want) {
			t.Errorf("%s: %q, %v", request, out.String(), err)
		}
	}
}

func TestStatLikeReference(t *testing.T) {
	t.Parallel()
	boot := func(image string) string { return filepath.Join(reference, image, "image.boot") }
	var out strings.Builder
	if _, err := nydusimage.Stat(t.Context(), nydusimage.StatOptions{Bootstrap: boot("v6-zstd"), Out: &out}); err != nil {
		t.Fatal(err)
	}
	golden(t, "v6-zstd.stat.txt", out.String())

	dir := t.TempDir()
	writeFile(t, dir, "a", readFile(t, boot("v6-zstd")))
	writeFile(t, dir, "b", readFile(t, boot("v6-plain")))
	writeFile(t, dir, "no-bootstrap", []byte("x"))
	writeFile(t, dir, "c.boot", readFile(t, boot("v6-dir")))
	out.Reset()
	o := nydusimage.StatOptions{BlobDir: dir, Target: boot("v6-plain-toc"), Out: &out}
	s, err := nydusimage.Stat(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "stat-dir.txt", out.String())
	if s.Target.OwnChunks != 0 || s.Target.RefChunks == 0 || !s.DedupEnabled {
		t.Errorf("%+v", s.Target)
	}
	o.JSON = filepath.Join(dir, "out.json")
	if _, err := nydusimage.Stat(t.Context(), o); err != nil || !bytes.Contains(readFile(t, o.JSON), []byte(`"base_image":{"dirs":`)) {
		t.Errorf("%v", err)
	}
	for name, o := range map[string]nydusimage.StatOptions{"nothing": {}, "no file": {Bootstrap: "nowhere"}, "no directory": {BlobDir: "nowhere"}, "no target": {Bootstrap: boot("v6-dir"), Target: "nowhere"}} {
		o.Out = io.Discard
		if _, err := nydusimage.Stat(t.Context(), o); err == nil {
			t.Error(name)
		}
	}
}

// listTar lists a tar as a layer alone, with contents.
func listTar(t *testing.T, p []byte) []string {
	t.Helper()
	r, b := tarfs.NewReader(bytes.NewReader(p)), tarfs.NewBuilder()
	contents := make(map[*tree.Node][]byte)
	for {
		e, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		n, err := b.Add(e)
		if err != nil {
			t.Fatal(err)
		}
		for e.Size > 0 {
			d, err := r.Data()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			contents[n] = append(contents[n], d...)
		}
	}
	merged, err := tarfs.Merge([]*tree.Tree{b.Tree()})
	if err != nil {
		t.Fatal(err)
	}
	paths := make(map[string][]byte)
	_ = b.Tree().Walk(func(path string, n *tree.Node) error { paths[path] = contents[n]; return nil })
	nodes := make(map[*tree.Node][]byte)
	_ = merged.Walk(func(path string, n *tree.Node) error { nodes[n] = paths[path]; return nil })
	lines, err := imagetest.List(merged, func(n *tree.Node) ([]byte, error) { return nodes[n], nil })
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

// Images of every form that is read come out as the tar of their files.
func TestUnpack(t *testing.T) {
	t.Parallel()
	for _, image := range []string{"v6-zstd", "v6-batch", "v6-chunk-dict", "v6-dir"} {
		out := filepath.Join(t.TempDir(), "out.tar")
		sockets, err := nydusimage.Unpack(t.Context(), nydusimage.UnpackOptions{Bootstrap: filepath.Join(reference, image, "image.boot"), BlobDir: filepath.Join(reference, "blobs"), Output: out})
		if err != nil || sockets != map[bool]int{true: 1, false: 0}[image == "v6-dir"] {
			t.Fatalf("%s: %d sockets, %v", image, sockets, err)
		}
		if image == "v6-dir" {
			continue
		}
		if diff := imagetest.Diff(imagetest.EdgeTree(t), listTar(t, readFile(t, out))); diff != "" {
			t.Errorf("%s: %s", image, diff)
		}
	}
}

// A layer's blob becomes the layer again: whiteouts, links to lower layers, and no entries that it did not have.
func TestUnpackLayer(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	src := writeFile(t, dir, "src", imagetest.Tar(t, imagetest.File("a/b/c", "content"), imagetest.Whiteout("a/gone"), imagetest.Link("a/link", "etc/lower"),
		imagetest.Link("a/same", "a/b/c"), imagetest.Opaque("a/d")))
	blobPath, out := filepath.Join(dir, "blob"), filepath.Join(dir, "out.tar")
	create(t, nydusimage.CreateOptions{Type: nydusimage.TypeTar, Source: src, Blob: blobPath, InlineMeta: true, TOC: true})
	if _, err := nydusimage.Unpack(t.Context(), nydusimage.UnpackOptions{Bootstrap: blobPath, Blob: blobPath, Output: out}); err != nil {
		t.Fatal(err)
	}
	r := tarfs.NewReader(bytes.NewReader(readFile(t, out)))
	var got []string
	for {
		e, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, e.Name+">"+e.Hardlink)
	}
	slices.Sort(got)
	if want := []string{"a/.wh.gone>", "a/b/c>", "a/d/.wh..wh..opq>", "a/link>etc/lower", "a/same>a/b/c"}; !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

func TestUnpackRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	boot := filepath.Join(reference, "v6-zstd", "image.boot")
	for name, o := range map[string]nydusimage.UnpackOptions{
		"no output":    {Bootstrap: boot, BlobDir: filepath.Join(reference, "blobs")},
		"no blobs":     {Bootstrap: boot, Output: filepath.Join(dir, "out")},
		"missing blob": {Bootstrap: boot, BlobDir: dir, Output: filepath.Join(dir, "out")},
		"no bootstrap": {Bootstrap: "nowhere", BlobDir: dir, Output: filepath.Join(dir, "out")},
		"wrong blob":   {Bootstrap: boot, Blob: layersOf(t, "v6-plain")[2], Output: filepath.Join(dir, "out")},
	} {
		if _, err := nydusimage.Unpack(t.Context(), o); err == nil {
			t.Error(name)
		}
		leftovers(t, dir)
	}
}
