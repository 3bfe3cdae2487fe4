//go:build unix

package nydusimage

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/lazuli-project/lazuli/tree"
)

// node makes the node of a file, or returns the one that another of its names has made.
func (w *dirWalker) node(path string, i fs.FileInfo) (*tree.Node, error) {
	full := filepath.Join(w.root, path)
	st, ok := i.Sys().(*syscall.Stat_t)
	if !ok {
		return nil, fmt.Errorf("%s: no attributes", full)
	}
	id := fileID{uint64(st.Dev), st.Ino} //nolint:unconvert // its type is another on other systems
	if n := w.links[id]; n != nil {
		return n, nil
	}
	t := i.ModTime()
	n := &tree.Node{Mode: uint32(st.Mode), UID: st.Uid, GID: st.Gid, Mtime: t.Unix(), MtimeNsec: uint32(t.Nanosecond())} //nolint:unconvert // as above
	switch n.Type() {
	case tree.TypeRegular:
		n.Size = i.Size()
	case tree.TypeChar, tree.TypeBlock:
		dev := uint64(st.Rdev) //nolint:unconvert // as above
		n.Rdev = tree.Device{Major: unix.Major(dev), Minor: unix.Minor(dev)}
	case tree.TypeSymlink:
		target, err := os.Readlink(full)
		if err != nil {
			return nil, err
		}
		n.Target = target
	}
	if err := readXattrs(full, n); err != nil {
		return nil, err
	}
	if st.Nlink > 1 && !n.IsDir() {
		w.links[id] = n
	}
	return n, nil
}

func readXattrs(path string, n *tree.Node) error {
	list, err := xattrBytes(func(p []byte) (int, error) { return unix.Llistxattr(path, p) })
	if errors.Is(err, unix.ENOTSUP) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s: list extended attributes: %w", path, err)
	}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(list), "\x00"), "\x00") {
		if name == "" {
			continue
		}
		v, err := xattrBytes(func(p []byte) (int, error) { return unix.Lgetxattr(path, name, p) })
		if err != nil {
			return fmt.Errorf("%s: attribute %s: %w", path, name, err)
		}
		n.SetXattr(name, v)
	}
	return nil
}

// xattrBytes calls a function that tells the size it needs when it gets no room.
func xattrBytes(get func(p []byte) (int, error)) ([]byte, error) {
	for {
		n, err := get(nil)
		if err != nil || n == 0 {
			return nil, err
		}
		p := make([]byte, n)
		n, err = get(p)
		if errors.Is(err, unix.ERANGE) {
			continue // it has grown
		}
		if err != nil {
			return nil, err
		}
		return p[:n], nil
	}
}
