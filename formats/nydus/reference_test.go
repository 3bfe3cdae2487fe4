package nydus

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/internal/imagetest"
	"github.com/lazuli-project/lazuli/tarfs"
	"github.com/lazuli-project/lazuli/tree"
)

// The reference tool accepts what the writer makes, and unpacks the same tree. It is run where it is installed (2.2.0
// or newer); its own output is what the other tests compare with.
func TestReferenceTool(t *testing.T) {
	t.Parallel()
	tool, err := exec.LookPath("nydus-image")
	if err != nil {
		t.Skip("the reference tool nydus-image is not installed")
	}
	for _, o := range []Options{{}, {Compression: "lz4", Digest: "sha256"}, {Compression: "none"}, {ChunkSize: 4096}} {
		w := newWriter(t, o)
		run := func(args ...string) {
			t.Helper()
			if text, err := exec.CommandContext(t.Context(), tool, args...).CombinedOutput(); err != nil {
				t.Fatalf("%s: nydus-image %s: %v\n%s", w.Version(), args, err, text)
			}
		}
		_, boot, _ := writeImage(t, w, imagetest.Edge(t))
		run("check", "--bootstrap", boot)

		// Up to 2.4.4 it cannot unpack symbolic links and special files of RAFS v6.
		text := strings.Repeat("text ", 700_000)
		dir, boot, img := writeImage(t, w, imagetest.NewImage(t,
			imagetest.Gzip(t, imagetest.Tar(t, imagetest.Dir("a"), imagetest.File("a/one", text), imagetest.File("gone", "x"))),
			imagetest.Gzip(t, imagetest.Tar(t, imagetest.Dir("a"), imagetest.File("a/two", "two", imagetest.Owner(7, 8)),
				imagetest.File("a/empty", ""), imagetest.File("a/same", text), imagetest.Whiteout("gone")))))
		unpacked := filepath.Join(dir, "out.tar")
		run("check", "--bootstrap", boot)
		run("unpack", "--bootstrap", boot, "--blob-dir", dir, "--output", unpacked)
		want, err := list(t.Context(), img)
		if err != nil {
			t.Fatal(err)
		}
		compare(t, listTar(t, unpacked), want)
	}
}

// writeImage converts an image and writes its blobs and its bootstrap to a directory.
func writeImage(t *testing.T, w *Writer, src *imagetest.Image) (dir, boot string, img *formats.Image) {
	t.Helper()
	dir = t.TempDir()
	m := newMemory()
	out, layers := convert(t, w, m, manifestOf(t, src), src)
	img, err := Reader{}.Open(t.Context(), out, m)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range layers {
		p, err := m.get(l.Desc.Digest)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, l.Desc.Digest.Encoded()), p, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	boot = filepath.Join(dir, "image.boot")
	p := make([]byte, img.EROFS.Size)
	if _, err := img.EROFS.ReadAt(p, 0); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(boot, p, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir, boot, img
}

// listTar prints the tree of a tar.
func listTar(t *testing.T, file string) []string {
	t.Helper()
	p, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	r, b := tarfs.NewReader(bytes.NewReader(p)), tarfs.NewBuilder()
	content := make(map[*tree.Node][]byte)
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
		p, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		content[n] = p
	}
	unpacked := b.Tree()
	unpacked.Root.RemoveXattr(tarfs.XattrImplied) // the tool leaves the root out
	lines, err := imagetest.List(unpacked, func(n *tree.Node) ([]byte, error) { return content[n], nil })
	if err != nil {
		t.Fatal(err)
	}
	return lines
}
