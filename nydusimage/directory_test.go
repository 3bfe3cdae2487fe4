//go:build unix

package nydusimage_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lazuli-project/lazuli/internal/imagetest"
	"github.com/lazuli-project/lazuli/nydusimage"
	"github.com/lazuli-project/lazuli/tree"
)

// sourceDir makes a directory with one file of each kind that an ordinary user can make.
func sourceDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	err := errors.Join(
		os.MkdirAll(at("d/e"), 0o755), os.Mkdir(at("z"), 0o700),
		os.WriteFile(at("d/e/f"), []byte("deep"), 0o640), os.WriteFile(at("a"), bytes.Repeat([]byte("large"), 500_000), 0o644),
		os.WriteFile(at("empty"), nil, 0o600), os.Symlink("../nowhere", at("d/link")), os.Link(at("a"), at("z/hard")),
		unix.Mkfifo(at("fifo"), 0o600), os.Chmod(at("d/e/f"), 0o4755),
		os.Chtimes(at("d/e/f"), time.Unix(1, 500), time.Unix(1, 500)),
	)
	if err == nil {
		err = errors.Join(unix.Lsetxattr(at("d/e/f"), "user.b", []byte("2"), 0), unix.Lsetxattr(at("d/e/f"), "user.a", []byte("1"), 0))
	}
	if errors.Is(err, unix.ENOTSUP) {
		err = nil // of the file system
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestCreateDirectory(t *testing.T) {
	t.Parallel()
	src, dir := sourceDir(t), t.TempDir()
	boot := filepath.Join(dir, "boot")
	create(t, nydusimage.CreateOptions{Source: src, Bootstrap: boot, BlobDir: dir})
	im := open(t, boot, dir)
	var paths []string
	err := im.Tree.Walk(func(path string, n *tree.Node) error {
		paths = append(paths, path)
		var st syscall.Stat_t
		if err := syscall.Lstat(filepath.Join(src, path), &st); err != nil {
			return err
		}
		if path == "" {
			st.Mtim = syscall.Timespec{} // it is when the directory was filled
		}
		if n.Mode != st.Mode || n.UID != st.Uid || n.GID != st.Gid || n.Mtime != st.Mtim.Sec || int64(n.MtimeNsec) != st.Mtim.Nsec || uint64(n.Nlink) != st.Nlink {
			t.Errorf("%q: %+v, %+v", path, n, st)
		}
		if n.IsRegular() && n.Size != st.Size {
			t.Errorf("%q: %d bytes", path, n.Size)
		}
		for _, name := range []string{"user.a", "user.b"} {
			p := make([]byte, 10)
			k, err := unix.Lgetxattr(filepath.Join(src, path), name, p)
			if v, ok := n.Xattr(name); ok != (err == nil) || ok && !bytes.Equal(v, p[:k]) {
				t.Errorf("%q: %s is %q", path, name, v)
			}
		}
		return nil
	})
	if want := []string{"", "a", "d", "d/e", "d/e/f", "d/link", "empty", "fifo", "z", "z/hard"}; err != nil || !slices.Equal(paths, want) {
		t.Errorf("%q, %v", paths, err)
	}
	if im.Tree.Lookup("a") != im.Tree.Lookup("z/hard") || im.Tree.Lookup("d/link").Target != "../nowhere" {
		t.Error("links")
	}
}

// Files that are prefetched stand first in the blob, and in the bootstrap's list.
func TestCreatePrefetch(t *testing.T) {
	t.Parallel()
	src := t.TempDir()
	for _, name := range []string{"a", "b", "c", "d"} {
		writeFile(t, src, name, []byte(strings.Repeat(name, 10)))
	}
	for policy, listed := range map[string]int{"fs": 2, "blob": 0, "none": 0} {
		dir := t.TempDir()
		boot := filepath.Join(dir, "boot")
		create(t, nydusimage.CreateOptions{Source: src, Bootstrap: boot, BlobDir: dir, PrefetchPolicy: policy, Prefetch: []string{"/d", " /b ", "relative", "/d/below", "/nowhere"}})
		im := open(t, boot, dir)
		var order strings.Builder
		for off := int64(0); off < 4; off++ {
			for _, name := range []string{"a", "b", "c", "d"} {
				if im.Tree.Lookup(name).Extents[0].Offset == off*4096 {
					order.WriteString(name)
				}
			}
		}
		if want := map[bool]string{true: "abcd", false: "dbac"}[policy == "none"]; order.String() != want {
			t.Errorf("%s: order %s instead of %s", policy, order.String(), want)
		}
		var out bytes.Buffer
		if err := nydusimage.Inspect(t.Context(), nydusimage.InspectOptions{Bootstrap: boot, Request: "prefetch", Out: &out}); err != nil || strings.Count(out.String(), "inode") != listed {
			t.Errorf("%s: %s, %v", policy, out.String(), err)
		}
	}
}

// A directory is laid over a parent with the whiteouts of its specification.
func TestCreateParent(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	parent := filepath.Join(dir, "parent")
	writeFile(t, dir, "src", imagetest.Tar(t, imagetest.Dir("."), imagetest.File("keep", "1"), imagetest.File("gone", "2"), imagetest.Dir("d"), imagetest.File("d/below", "3")))
	create(t, nydusimage.CreateOptions{Type: nydusimage.TypeTar, Source: filepath.Join(dir, "src"), Bootstrap: parent, BlobDir: dir})
	for _, c := range []struct{ spec, want string }{
		{nydusimage.WhiteoutOCI, " d d/new keep new"},
		{nydusimage.WhiteoutNone, " .wh.gone d d/.wh..wh..opq d/below d/new gone keep new"},
	} {
		src := t.TempDir()
		if err := os.Mkdir(filepath.Join(src, "d"), 0o755); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{".wh.gone", "d/.wh..wh..opq"} {
			writeFile(t, src, name, nil)
		}
		writeFile(t, src, "new", []byte("1")) // the parent has this chunk
		writeFile(t, src, "d/new", []byte("4"))
		boot := filepath.Join(dir, c.spec+".boot")
		res := create(t, nydusimage.CreateOptions{Source: src, Bootstrap: boot, BlobDir: dir, Parent: parent, Whiteout: c.spec})
		var paths []string
		_ = open(t, boot, dir).Tree.Walk(func(path string, _ *tree.Node) error { paths = append(paths, path); return nil })
		if got := strings.Join(paths, " "); got != c.want || len(res.Blobs) != 2 || res.Trace.RegisteredEvents["dedup_chunks"] != int64(1) {
			t.Errorf("%s: %q, %+v", c.spec, got, res)
		}
		check(t, boot, dir)
	}
	// The same of a tar, where nydus-image 2.4 writes what cannot be read.
	writeFile(t, dir, "src", imagetest.Tar(t, imagetest.Dir("."), imagetest.Whiteout("gone"), imagetest.File("new", "1"), imagetest.File("d/new", "4")))
	boot := filepath.Join(dir, "tar.boot")
	create(t, nydusimage.CreateOptions{Type: nydusimage.TypeTar, Source: filepath.Join(dir, "src"), Bootstrap: boot, BlobDir: dir, Parent: parent})
	if lines := list(t, boot, dir); len(lines) != 6 {
		t.Errorf("%q", lines)
	}
}

func TestCreateOverlayFS(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("needs root: overlayfs marks with devices and trusted attributes")
	}
	dir, src := t.TempDir(), t.TempDir()
	parent := filepath.Join(dir, "parent")
	writeFile(t, dir, "src", imagetest.Tar(t, imagetest.Dir("."), imagetest.File("gone", "2"), imagetest.Dir("d"), imagetest.File("d/below", "3")))
	create(t, nydusimage.CreateOptions{Type: nydusimage.TypeTar, Source: filepath.Join(dir, "src"), Bootstrap: parent, BlobDir: dir})
	err := errors.Join(unix.Mknod(filepath.Join(src, "gone"), unix.S_IFCHR, 0), os.Mkdir(filepath.Join(src, "d"), 0o755), os.WriteFile(filepath.Join(src, ".wh.x"), []byte("x"), 0o600))
	if err == nil {
		err = unix.Lsetxattr(filepath.Join(src, "d"), "trusted.overlay.opaque", []byte("y"), 0)
	}
	if err != nil {
		t.Skipf("the file system for temporary files has no trusted attributes: %v", err)
	}
	for _, c := range []struct{ parent, want string }{{parent, " .wh.x d"}, {"", " .wh.x d"}} {
		boot := filepath.Join(dir, "boot")
		create(t, nydusimage.CreateOptions{Source: src, Bootstrap: boot, BlobDir: dir, Parent: c.parent, Whiteout: nydusimage.WhiteoutOverlayFS})
		im := open(t, boot, dir)
		var paths []string
		_ = im.Tree.Walk(func(path string, _ *tree.Node) error { paths = append(paths, path); return nil })
		if got := strings.Join(paths, " "); got != c.want {
			t.Errorf("%q: %q", c.parent, got)
		}
		if _, opaque := im.Tree.Lookup("d").Xattr("trusted.overlay.opaque"); opaque != (c.parent == "") {
			t.Errorf("%q: opaque: %v", c.parent, opaque)
		}
	}
}

// Source and blob may be pipes, whichever end is opened first, and the blob is the same.
func TestCreatePipes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	layer := imagetest.Edge(t).Layers[0].Tar
	plain := filepath.Join(dir, "plain")
	o := nydusimage.CreateOptions{Type: nydusimage.TypeTar, InlineMeta: true, TOC: true}
	o.Source, o.Blob = writeFile(t, dir, "src", layer), plain
	create(t, o)
	want := readFile(t, plain)

	in, out := filepath.Join(dir, "in"), filepath.Join(dir, "out")
	if err := errors.Join(unix.Mkfifo(in, 0o600), unix.Mkfifo(out, 0o600)); err != nil {
		t.Fatal(err)
	}
	send := func() error {
		f, err := os.OpenFile(in, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		_, err = f.Write(layer)
		return errors.Join(err, f.Close())
	}
	o.Source, o.Blob = in, out
	for _, outFirst := range []bool{true, false} {
		done := make(chan error, 1)
		go func() {
			_, err := nydusimage.Create(t.Context(), o)
			done <- err
		}()
		sent := make(chan error, 1)
		if !outFirst {
			go func() { sent <- send() }()
		}
		f, err := os.Open(out) // waits until it is opened for writing
		if err != nil {
			t.Fatal(err)
		}
		if outFirst {
			go func() { sent <- send() }()
		}
		got, err := io.ReadAll(f)
		if err := errors.Join(err, f.Close(), <-sent, <-done); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%d bytes instead of %d", len(got), len(want))
		}
	}

	// What fails before anybody reads does not wait for a reader; and a reader sees the end.
	o.Source = filepath.Join(dir, "nowhere")
	if _, err := nydusimage.Create(t.Context(), o); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	o.Source = filepath.Join(dir, "src")
	if _, err := nydusimage.Create(ctx, o); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

// Whoever waits for the other end of a pipe can be interrupted.
func TestCreateInterrupted(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	in, out := filepath.Join(dir, "in"), filepath.Join(dir, "out")
	if err := errors.Join(unix.Mkfifo(in, 0o600), unix.Mkfifo(out, 0o600)); err != nil {
		t.Fatal(err)
	}
	src := writeFile(t, dir, "src", imagetest.Edge(t).Layers[0].Tar)
	for name, c := range map[string]struct {
		source, blob string
		typ          string
	}{
		"no writer":          {in, filepath.Join(dir, "blob"), nydusimage.TypeTar},
		"no writer of a ref": {in, filepath.Join(dir, "blob"), nydusimage.TypeTargzRef},
		"no reader":          {src, out, nydusimage.TypeTar},
		"neither":            {in, out, nydusimage.TypeTar},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			_, err := nydusimage.Create(ctx, nydusimage.CreateOptions{Type: c.typ, Source: c.source, Blob: c.blob, InlineMeta: true, TOC: true})
			done <- err
		}()
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) && !errors.Is(err, syscall.EPIPE) && !errors.Is(err, os.ErrClosed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	leftovers(t, dir, "in", "out", "src")
}

func TestUnpackIntoPipe(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	out := filepath.Join(dir, "out")
	if err := unix.Mkfifo(out, 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := nydusimage.Unpack(t.Context(), nydusimage.UnpackOptions{Bootstrap: filepath.Join(reference, "v6-zstd", "image.boot"), BlobDir: filepath.Join(reference, "blobs"), Output: out})
		done <- err
	}()
	got, err := os.ReadFile(out)
	if err := errors.Join(err, <-done); err != nil {
		t.Fatal(err)
	}
	if diff := imagetest.Diff(imagetest.EdgeTree(t), listTar(t, got)); diff != "" {
		t.Error(diff)
	}
}
