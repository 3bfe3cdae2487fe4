//go:build unix

package unpack

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/fetch"
	"github.com/lazuli-project/lazuli/tree"
)

// Skipped counts what an ordinary user's files cannot have.
type Skipped struct {
	Owners, Devices, Xattrs int
}

// Any reports whether something was left out.
func (s Skipped) Any() bool { return s != Skipped{} }

// ErrNotEmpty means that the directory has entries already.
var ErrNotEmpty = errors.New("directory is not empty")

// Dir unpacks into a directory, which is created, or is there and empty. Root gets every detail; for other users, owners,
// device nodes and attributes that the system refuses are left out and counted. After an error what was unpacked is removed.
func Dir(ctx context.Context, im *fetch.Image, dir string) (_ Skipped, err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return Skipped{}, fmt.Errorf("unpack: %w", err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		return Skipped{}, errors.Join(err, fmt.Errorf("unpack to %s: %w", dir, ErrNotEmpty))
	}
	// Every directory on the way to an entry was made here, and no link is ever followed: names cannot lead outside.
	u := &unpacker{im: im, dir: dir, root: os.Geteuid() == 0, made: make(map[*tree.Node]string), buf: make([]byte, 1<<20)}
	defer func() {
		if err != nil {
			for _, e := range im.Tree.Root.Entries {
				err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name)))
			}
		}
	}()
	if err := im.Tree.Walk(u.directory); err != nil {
		return u.skipped, err
	}
	for _, f := range fetch.InStoredOrder(im.Tree) {
		if err := u.file(ctx, f); err != nil {
			return u.skipped, fmt.Errorf("%q: %w", "/"+f.Path, err)
		}
	}
	if err := im.Drain(); err != nil {
		return u.skipped, err
	}
	if err := im.Tree.Walk(u.rest); err != nil {
		return u.skipped, err
	}
	return u.skipped, u.directoryAttributes("", im.Tree.Root)
}

type unpacker struct {
	im      *fetch.Image
	dir     string
	root    bool
	made    map[*tree.Node]string // path of files with several names
	buf     []byte
	skipped Skipped
}

func (u *unpacker) path(p string) string { return filepath.Join(u.dir, p) }

// directory makes a directory that only we can write to until its attributes come.
func (u *unpacker) directory(p string, n *tree.Node) error {
	if !n.IsDir() || p == "" {
		return nil
	}
	return os.Mkdir(u.path(p), 0o700)
}

func (u *unpacker) file(ctx context.Context, f fetch.File) (err error) {
	out, err := os.OpenFile(u.path(f.Path), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	if err := u.im.WriteContent(ctx, f.Node, out, u.buf, blob.Background); err != nil {
		return err
	}
	if f.Node.Nlink != 1 {
		u.made[f.Node] = f.Path
	}
	return u.attributes(f.Path, f.Node)
}

// rest makes what has no content, and further names of files.
func (u *unpacker) rest(p string, n *tree.Node) error {
	if n.IsDir() {
		return nil
	}
	path := u.path(p)
	if first, ok := u.made[n]; ok {
		if first == p {
			return nil
		}
		return os.Link(u.path(first), path)
	}
	var err error
	switch n.Type() {
	case tree.TypeRegular:
		return nil
	case tree.TypeSymlink:
		err = os.Symlink(n.Target, path)
	case tree.TypeFIFO, tree.TypeSocket, tree.TypeChar, tree.TypeBlock:
		err = unix.Mknod(path, n.Mode&tree.TypeMask|0o600, int(unix.Mkdev(n.Rdev.Major, n.Rdev.Minor)))
		if errors.Is(err, fs.ErrPermission) && !u.root {
			u.skipped.Devices++
			return nil
		}
	}
	if err != nil {
		return fmt.Errorf("%q: %w", "/"+p, err)
	}
	if n.Nlink != 1 {
		u.made[n] = p
	}
	return u.attributes(p, n)
}

// attributes sets owner, extended attributes, mode and time, in this order: changing the owner clears capabilities and
// setuid bits, and everything changes the time.
func (u *unpacker) attributes(p string, n *tree.Node) error {
	path := u.path(p)
	if err := os.Lchown(path, int(n.UID), int(n.GID)); err != nil {
		if u.root {
			return err
		}
		u.skipped.Owners++
	}
	for _, x := range n.Xattrs {
		if err := unix.Lsetxattr(path, x.Name, x.Value, 0); err != nil {
			if u.root && !errors.Is(err, unix.ENOTSUP) {
				return fmt.Errorf("%q: set %s: %w", "/"+p, x.Name, err)
			}
			u.skipped.Xattrs++
		}
	}
	if !n.IsSymlink() {
		if err := unix.Chmod(path, n.Mode&tree.PermMask); err != nil {
			return fmt.Errorf("%q: set mode: %w", "/"+p, err)
		}
	}
	t := unix.Timespec{Sec: n.Mtime, Nsec: int64(n.MtimeNsec)}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{t, t}, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("%q: set time: %w", "/"+p, err)
	}
	return nil
}

// directoryAttributes sets those of directories, the deepest first.
func (u *unpacker) directoryAttributes(p string, n *tree.Node) error {
	for _, e := range n.Entries {
		if e.Node.IsDir() {
			if err := u.directoryAttributes(filepath.Join(p, e.Name), e.Node); err != nil {
				return err
			}
		}
	}
	return u.attributes(p, n)
}
