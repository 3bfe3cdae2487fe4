package mount

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/lazuli-project/lazuli/fetch"
	"github.com/lazuli-project/lazuli/tree"
)

// overlay mounts an overlayfs of lower on dir. Changes go to upper, or to temp where that is "".
func overlay(im *fetch.Image, lower, temp, upper, dir string) error {
	work := filepath.Join(temp, "work")
	if upper == "" {
		upper = filepath.Join(temp, "upper")
	} else {
		var err error
		if upper, err = filepath.Abs(upper); err != nil {
			return fmt.Errorf("overlay: %w", err)
		}
		work = upper + ".work"
	}
	for _, d := range []string{upper, work} {
		err := os.Mkdir(d, 0o700)
		if err == nil && d == upper {
			// The root of the overlay has the attributes of the upper directory.
			err = setAttributes(upper, im.Tree.Root)
		}
		if err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("overlay: %w", err)
		}
	}
	// Options are separated by commas, directories below by colons.
	escape := strings.NewReplacer(`\`, `\\`, `,`, `\,`, `:`, `\:`)
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", escape.Replace(lower), escape.Replace(upper), escape.Replace(work))
	if err := unix.Mount("lazuli", dir, "overlay", 0, options); err != nil {
		return fmt.Errorf("mount overlay on %s: %w", dir, err)
	}
	return nil
}

// setAttributes gives a directory the attributes of a node.
func setAttributes(dir string, n *tree.Node) error {
	if err := os.Chown(dir, int(n.UID), int(n.GID)); err != nil {
		return err
	}
	if err := unix.Chmod(dir, n.Mode&tree.PermMask); err != nil {
		return fmt.Errorf("chmod %s: %w", dir, err)
	}
	for _, x := range n.Xattrs {
		if err := unix.Lsetxattr(dir, x.Name, x.Value, 0); err != nil && !errors.Is(err, unix.ENOTSUP) {
			return fmt.Errorf("set %s of %s: %w", x.Name, dir, err)
		}
	}
	times := []unix.Timespec{{Sec: n.Mtime, Nsec: int64(n.MtimeNsec)}, {Sec: n.Mtime, Nsec: int64(n.MtimeNsec)}}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, dir, times, 0); err != nil {
		return fmt.Errorf("set times of %s: %w", dir, err)
	}
	return nil
}
