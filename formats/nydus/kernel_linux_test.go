package nydus

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/formats/nydus/rafs6"
	"github.com/lazuli-project/lazuli/internal/imagetest"
	"github.com/lazuli-project/lazuli/internal/mounttest"
	"github.com/lazuli-project/lazuli/tree"
)

// Linux mounts the bootstraps as EROFS with the plain spaces of their blobs as devices, and shows the same tree.
func TestKernel(t *testing.T) {
	if !mounttest.Isolated(t, time.Minute) {
		return
	}
	t.Run("converted", func(t *testing.T) {
		_, _, img := writeImage(t, newWriter(t, Options{}), imagetest.Edge(t))
		compare(t, listMounted(t, img), imagetest.EdgeTree(t))
	})
	t.Run("converted-4k", func(t *testing.T) {
		_, _, img := writeImage(t, newWriter(t, Options{ChunkSize: 4096, Compression: "lz4"}), imagetest.Edge(t))
		compare(t, listMounted(t, img), imagetest.EdgeTree(t))
	})
	t.Run("converted-v5", func(t *testing.T) {
		_, _, img := writeImage(t, newWriter(t, Options{FSVersion: 5}), imagetest.Edge(t))
		compare(t, listMounted(t, img), imagetest.EdgeTree(t))
	})
	t.Run("tarfs-made-anew", func(t *testing.T) {
		b, err := rafs6.Parse(readTestdata(t, "v6-tarfs/image.boot"))
		if err != nil {
			t.Fatal(err)
		}
		s := &rafs6.Spec{Tree: b.Tree, ChunkSize: b.ChunkSize, Compressor: b.Compressor(), Digester: b.Digester(), Tarfs: true}
		for _, info := range b.Blobs {
			s.Blobs = append(s.Blobs, rafs6.Blob{Info: info})
		}
		boot, err := rafs6.Build(s)
		if err != nil {
			t.Fatal(err)
		}
		img, err := OpenBare(t.Context(), bytesSource(boot), "image.boot", findBlob)
		if err != nil {
			t.Fatal(err)
		}
		compare(t, listMounted(t, img), imagetest.EdgeTree(t))
	})
	// Those of v5 are mounted by an image that is made of their trees.
	for name, want := range map[string][]string{
		"v6-batch": imagetest.EdgeTree(t), "v5-zstd": imagetest.EdgeTree(t), "v5-none-aligned-c4k": imagetest.EdgeTree(t),
		"v6-encrypt": imagetest.EdgeTree(t), "v6-tarfs": imagetest.EdgeTree(t), "v5-dir": expected(t, "v5-dir/expected.tsv"),
	} {
		t.Run(name, func(t *testing.T) {
			img, err := OpenBare(t.Context(), bytesSource(readTestdata(t, name+"/image.boot")), "image.boot", findBlob)
			if err != nil {
				t.Fatal(err)
			}
			compare(t, listMounted(t, img), want)
		})
	}
	t.Run("without-data", func(t *testing.T) {
		src := imagetest.NewImage(t, imagetest.Gzip(t, imagetest.Tar(t, imagetest.Dir("a"), imagetest.File("a/empty", ""))))
		_, _, img := writeImage(t, newWriter(t, Options{}), src)
		want, err := list(t.Context(), img)
		if err != nil {
			t.Fatal(err)
		}
		compare(t, listMounted(t, img), want)
	})
}

// listMounted mounts an image and prints the tree that the kernel shows.
func listMounted(t *testing.T, img *formats.Image) []string {
	t.Helper()
	dir := t.TempDir()
	write := func(name string, p []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, p, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	boot := make([]byte, img.EROFS.Size)
	if _, err := img.EROFS.ReadAt(boot, 0); err != nil {
		t.Fatal(err)
	}
	var options []string
	for i, b := range img.Blobs {
		r := blobReader{blob: b, unused: true}
		p, err := r.plain(t.Context(), 0, b.PlainSize)
		if err != nil {
			t.Fatal(err)
		}
		options = append(options, "device="+write("blob"+string(rune('a'+i)), p))
	}
	mountpoint := filepath.Join(dir, "mnt")
	if err := os.Mkdir(mountpoint, 0o700); err != nil {
		t.Fatal(err)
	}
	err := unix.Mount(write("image.boot", boot), mountpoint, "erofs", unix.MS_RDONLY, strings.Join(options, ","))
	if errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENOTBLK) {
		t.Skipf("this kernel does not mount EROFS from files: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(mountpoint, 0); err != nil {
			t.Error(err)
		}
	})
	mounted := &tree.Tree{}
	if mounted.Root, err = readNode(mountpoint, make(map[uint64]*tree.Node)); err != nil {
		t.Fatal(err)
	}
	mounted.CountLinks()
	paths := make(map[*tree.Node]string)
	_ = mounted.Walk(func(path string, n *tree.Node) error {
		paths[n] = filepath.Join(mountpoint, path)
		return nil
	})
	lines, err := imagetest.List(mounted, func(n *tree.Node) ([]byte, error) { return os.ReadFile(paths[n]) })
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

// readNode reads what is at the path from the kernel, with all below it. Nodes with several names are found in seen.
func readNode(path string, seen map[uint64]*tree.Node) (*tree.Node, error) {
	var s unix.Stat_t
	if err := unix.Lstat(path, &s); err != nil {
		return nil, err
	}
	if n := seen[s.Ino]; n != nil {
		return n, nil
	}
	n := &tree.Node{Mode: s.Mode, UID: s.Uid, GID: s.Gid, Mtime: s.Mtim.Sec, MtimeNsec: uint32(s.Mtim.Nsec)}
	if s.Nlink > 1 && !n.IsDir() {
		seen[s.Ino] = n
	}
	names := make([]byte, 64<<10)
	k, err := unix.Llistxattr(path, names)
	if err != nil {
		return nil, err
	}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(names[:k]), "\x00"), "\x00") {
		if name == "" {
			continue
		}
		value := make([]byte, 64<<10)
		k, err := unix.Lgetxattr(path, name, value)
		if err != nil {
			return nil, err
		}
		n.SetXattr(name, value[:k])
	}
	switch n.Type() {
	case tree.TypeDir:
		return n, readDir(path, n, seen)
	case tree.TypeRegular:
		n.Size = s.Size
	case tree.TypeSymlink:
		n.Target, err = os.Readlink(path)
	case tree.TypeChar, tree.TypeBlock:
		n.Rdev = tree.Device{Major: unix.Major(s.Rdev), Minor: unix.Minor(s.Rdev)}
	}
	return n, err
}

func readDir(path string, n *tree.Node, seen map[uint64]*tree.Node) error {
	entries, err := os.ReadDir(path)
	if err != nil {
		return err
	}
	for _, e := range entries {
		child, err := readNode(filepath.Join(path, e.Name()), seen)
		if err != nil {
			return err
		}
		if (e.Type()&fs.ModeSymlink != 0) != child.IsSymlink() {
			return errors.New(path + "/" + e.Name() + ": the directory says another type than the inode")
		}
		n.Put(e.Name(), child)
	}
	return nil
}
