package tarfs_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"testing"

	"github.com/lazuli-project/lazuli/internal/imagetest"
	"github.com/lazuli-project/lazuli/tarfs"
	"github.com/lazuli-project/lazuli/tree"
)

func oddTree() (*tree.Tree, map[*tree.Node][]byte) {
	t := tree.New()
	content := make(map[*tree.Node][]byte)
	put := func(name string, n *tree.Node) *tree.Node { t.Root.Put(name, n); return n }
	file := func(name, text string) *tree.Node {
		n := put(name, &tree.Node{Mode: tree.TypeRegular | 0o644, Size: int64(len(text))})
		content[n] = []byte(text)
		return n
	}
	t.Root.Mtime, t.Root.MtimeNsec, t.Root.Mode = 5, 7, tree.TypeDir|0o1777
	file("empty", "")
	file(strings.Repeat("n", 255), "long name")
	file("not\xffutf-8 \n=", "odd name")
	file("block", strings.Repeat("x", 512))
	put("before", &tree.Node{Mode: tree.TypeRegular | 0o4755, Mtime: -2, MtimeNsec: 750_000_000})
	put("half", &tree.Node{Mode: tree.TypeRegular, Mtime: -1, MtimeNsec: 500_000_000})
	put("early", &tree.Node{Mode: tree.TypeRegular, Mtime: math.MinInt64, MtimeNsec: 1})
	put("late", &tree.Node{Mode: tree.TypeRegular, Mtime: math.MaxInt64, MtimeNsec: 999_999_999})
	put("owner", &tree.Node{Mode: tree.TypeRegular, UID: math.MaxUint32, GID: 1 << 21})
	put("char", &tree.Node{Mode: tree.TypeChar, Rdev: tree.Device{Major: math.MaxUint32, Minor: 1 << 21}})
	put("blk", &tree.Node{Mode: tree.TypeBlock, Rdev: tree.Device{Major: 259, Minor: 70000}})
	put("fifo", &tree.Node{Mode: tree.TypeFIFO | 0o600})
	put("link", &tree.Node{Mode: tree.TypeSymlink | 0o777, Target: strings.Repeat("t/", 2047) + "x"})
	dir := put("dir", &tree.Node{Mode: tree.TypeDir | 0o700})
	dir.SetXattr("security.capability", []byte("\x00=\n"))
	dir.SetXattr("user.empty", nil)
	a := file("hard", "shared")
	a.SetXattr("user.x", bytes.Repeat([]byte{7}, 60000))
	dir.Put("hard", a)
	deep := dir
	for range 8 {
		next := &tree.Node{Mode: tree.TypeDir | 0o755}
		deep.Put(strings.Repeat("d", 200), next)
		deep = next
	}
	t.CountLinks()
	return t, content
}

func TestWriteTarRoundTrip(t *testing.T) {
	t.Parallel()
	tr, content := oddTree()
	var buf bytes.Buffer
	err := tarfs.WriteTar(&buf, tr, func(_ string, n *tree.Node, w io.Writer) error {
		_, err := w.Write(content[n])
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	want, err := imagetest.List(tr, func(n *tree.Node) ([]byte, error) { return content[n], nil })
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[*tree.Node][]byte)
	back, err := readTar(tarfs.NewReader(bytes.NewReader(buf.Bytes())), got)
	if err != nil {
		t.Fatal(err)
	}
	compare(t, want, back, got)

	// Others can read it, too.
	r := tar.NewReader(bytes.NewReader(buf.Bytes()))
	entries := 0
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if name := strings.Trim(strings.TrimPrefix(h.Name, "./"), "/"); back.Lookup(name) == nil {
			t.Errorf("archive/tar sees %.60q", h.Name)
		}
		if h.Typeflag != tar.TypeDir {
			entries++ // the others come twice
		}
	}
	if dirs := 1 + 1 + 8; entries != len(want)-dirs {
		t.Errorf("archive/tar sees %d entries of %d", entries, len(want))
	}
}

// TestWriteTarOrder writes files in the order of their stored content, links behind them, and directories at both ends.
func TestWriteTarOrder(t *testing.T) {
	t.Parallel()
	tr := tree.New()
	file := func(blob uint32, off int64) *tree.Node {
		return &tree.Node{Mode: tree.TypeRegular, Size: 1, Extents: []tree.Extent{{Blob: tree.Hole, Length: 0}, {Blob: blob, Offset: off, Length: 1}}}
	}
	tr.Root.Put("a", file(1, 5))
	tr.Root.Put("b", file(0, 9))
	tr.Root.Put("c", &tree.Node{Mode: tree.TypeRegular})
	tr.Root.Put("d", &tree.Node{Mode: tree.TypeSymlink, Target: "a"})
	tr.Root.Put("dir", &tree.Node{Mode: tree.TypeDir})
	tr.Root.Child("dir").Put("hard", tr.Root.Child("a"))
	tr.Root.Child("dir").Put("x", file(0, 2))
	tr.CountLinks()
	var buf bytes.Buffer
	if err := tarfs.WriteTar(&buf, tr, func(_ string, _ *tree.Node, w io.Writer) error {
		_, err := w.Write([]byte("1"))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	var got []string
	r := tar.NewReader(&buf)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, h.Name+h.Linkname)
	}
	if want := "./ da dir/ c dir/x b a dir/harda ./ dir/"; strings.Join(got, " ") != want {
		t.Errorf("%q instead of %q", strings.Join(got, " "), want)
	}
}

// TestWriteTarLarge writes a file that needs a PAX record for its size.
func TestWriteTarLarge(t *testing.T) {
	t.Parallel()
	const size = 8<<30 + 1
	tr := tree.New()
	tr.Root.Put("large", &tree.Node{Mode: tree.TypeRegular, Size: size, Nlink: 1})
	pr, pw := io.Pipe()
	go func() {
		pw.CloseWithError(tarfs.WriteTar(pw, tr, func(_ string, _ *tree.Node, w io.Writer) error {
			piece := make([]byte, 1<<20)
			for left := int64(size); left > 0; {
				n, err := w.Write(piece[:min(left, int64(len(piece)))])
				if err != nil {
					return err
				}
				left -= int64(n)
			}
			return nil
		}))
	}()
	r := tarfs.NewReader(pr)
	for _, want := range []int64{0, size, 0} {
		e, err := r.Next()
		if err != nil || e.Size != want {
			t.Fatalf("%+v, %v", e, err)
		}
	}
	if _, err := r.Next(); !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
}

func TestWriteTarRefuses(t *testing.T) {
	t.Parallel()
	errContent := errors.New("content")
	for name, c := range map[string]struct {
		node    tree.Node
		content func(w io.Writer) error
		want    error
	}{
		"too little": {tree.Node{Mode: tree.TypeRegular, Size: 3}, func(io.Writer) error { return nil }, io.ErrUnexpectedEOF},
		"too much": {tree.Node{Mode: tree.TypeRegular, Size: 3}, func(w io.Writer) error {
			_, err := fmt.Fprint(w, "four")
			return err
		}, io.ErrShortWrite},
		"content": {tree.Node{Mode: tree.TypeRegular, Size: 3}, func(io.Writer) error { return errContent }, errContent},
		"xattr":   {tree.Node{Mode: tree.TypeFIFO, Xattrs: []tree.Xattr{{Name: "user.a=b"}}}, nil, tarfs.ErrXattr},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tr := tree.New()
			tr.Root.Put("x", &c.node)
			tr.CountLinks()
			err := tarfs.WriteTar(io.Discard, tr, func(_ string, _ *tree.Node, w io.Writer) error { return c.content(w) })
			if !errors.Is(err, c.want) {
				t.Fatalf("got %v, want %v", err, c.want)
			}
		})
	}
}

// Whiteouts of a layer stand before what else is in their directory.
func TestWriteTarWhiteoutsFirst(t *testing.T) {
	t.Parallel()
	layer := imagetest.Tar(t, imagetest.Dir("!a"), imagetest.File("!a/!b", "1"), imagetest.Whiteout("z"), imagetest.Dir("z"), imagetest.File("z/new", "2"),
		imagetest.Opaque("!a"), imagetest.Whiteout("implied/gone"), imagetest.File("implied/here", "3"), imagetest.File(".wh.file", "with content"))
	tr, err := readTree(tarfs.NewReader(bytes.NewReader(layer)))
	if err != nil {
		t.Fatal(err)
	}
	tr.CountLinks()
	var buf bytes.Buffer
	err = tarfs.WriteTar(&buf, tr, func(_ string, n *tree.Node, w io.Writer) error {
		_, err := w.Write(make([]byte, n.Size))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for r := tar.NewReader(bytes.NewReader(buf.Bytes())); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, h.Name)
	}
	want := ".wh.z !a/ !a/.wh..wh..opq implied/.wh.gone z/ !a/!b .wh.file implied/here z/new !a/ z/"
	if got := strings.Join(names, " "); got != want {
		t.Errorf("%s instead of %s", got, want)
	}
	again, err := readTree(tarfs.NewReader(bytes.NewReader(buf.Bytes())))
	if err != nil || len(again.Root.Entries) != len(tr.Root.Entries) {
		t.Errorf("read again: %v", err)
	}
}
