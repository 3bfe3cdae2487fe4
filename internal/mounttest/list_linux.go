package mounttest

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lazuli-project/lazuli/internal/imagetest"
	"github.com/lazuli-project/lazuli/tree"
)

// Unreadable begins what [List] shows in place of a digest where the kernel gave an error: this and the error's name.
const Unreadable = "error:"

// List walks a mounted tree by system calls and prints it in the form of [imagetest.List]. Content that cannot be read shows as
// [Unreadable]; everything else must work.
func List(tb testing.TB, dir string) []string {
	tb.Helper()
	paths := make(map[*tree.Node]string)
	root, err := readNode(dir, make(map[uint64]*tree.Node), paths)
	if err != nil {
		tb.Fatal(err)
	}
	t := &tree.Tree{Root: root}
	t.CountLinks()
	broken := make(map[string]error) // by the digest of what stands for it
	lines, err := imagetest.List(t, func(n *tree.Node) ([]byte, error) {
		p, err := ReadFile(paths[n])
		if err != nil {
			p = []byte(paths[n])
			broken[sum(p)] = err
			return p, nil //nolint:nilerr // shown in the listing
		}
		if int64(len(p)) != n.Size {
			return nil, fmt.Errorf("%d bytes read of a file of %d", len(p), n.Size)
		}
		return p, nil
	})
	if err != nil {
		tb.Fatal(err)
	}
	for i, line := range lines {
		at := strings.LastIndexByte(line, '\t') + 1
		if err, ok := broken[line[at:]]; ok {
			var errno syscall.Errno
			errors.As(err, &errno)
			lines[i] = line[:at] + Unreadable + unix.ErrnoName(errno)
		}
	}
	return lines
}

func sum(p []byte) string {
	h := sha256.Sum256(p)
	return hex.EncodeToString(h[:])
}

// ReadFile reads a file without Go's poller, which asks the file system whether it can be polled: a process that serves it
// would wait for itself.
func ReadFile(path string) ([]byte, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	defer unix.Close(fd) // only read from
	var all []byte
	buf := make([]byte, 128<<10)
	for {
		n, err := unix.Read(fd, buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", path, err)
		}
		if n == 0 {
			return all, nil
		}
		all = append(all, buf[:n]...)
	}
}

// readNode reads what is at the path, with all below it. Nodes with several names are found in seen; paths gets one path of each.
func readNode(path string, seen map[uint64]*tree.Node, paths map[*tree.Node]string) (*tree.Node, error) {
	var s unix.Stat_t
	if err := unix.Lstat(path, &s); err != nil {
		return nil, fmt.Errorf("stat %s: %w", path, err)
	}
	if n := seen[s.Ino]; n != nil {
		return n, nil
	}
	n := &tree.Node{Mode: s.Mode, UID: s.Uid, GID: s.Gid, Mtime: s.Mtim.Sec, MtimeNsec: uint32(s.Mtim.Nsec)}
	paths[n] = path
	if s.Nlink > 1 && !n.IsDir() {
		seen[s.Ino] = n
	}
	if err := readXattrs(path, n); err != nil {
		return nil, err
	}
	switch n.Type() {
	case tree.TypeDir:
		entries, err := os.ReadDir(path)
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			child, err := readNode(filepath.Join(path, e.Name()), seen, paths)
			if err != nil {
				return nil, err
			}
			if (e.Type()&os.ModeSymlink != 0) != child.IsSymlink() || e.IsDir() != child.IsDir() {
				return nil, fmt.Errorf("%s/%s: the directory says another type than the inode", path, e.Name())
			}
			n.Put(e.Name(), child)
		}
	case tree.TypeRegular:
		n.Size = s.Size
	case tree.TypeSymlink:
		target, err := os.Readlink(path)
		if err != nil {
			return nil, err
		}
		n.Target = target
	case tree.TypeChar, tree.TypeBlock:
		n.Rdev = tree.Device{Major: unix.Major(s.Rdev), Minor: unix.Minor(s.Rdev)}
	}
	return n, nil
}

// readXattrs reads all attributes but overlayfs's own.
func readXattrs(path string, n *tree.Node) error {
	names := make([]byte, 64<<10)
	k, err := unix.Llistxattr(path, names)
	if errors.Is(err, unix.ENOTSUP) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("attributes of %s: %w", path, err)
	}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(names[:k]), "\x00"), "\x00") {
		if name == "" || strings.HasPrefix(name, "trusted.overlay.") {
			continue
		}
		value := make([]byte, 64<<10)
		k, err := unix.Lgetxattr(path, name, value)
		if err != nil {
			return fmt.Errorf("attribute %s of %s: %w", name, path, err)
		}
		n.SetXattr(name, value[:k])
	}
	return nil
}
