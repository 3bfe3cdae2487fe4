package store_test

import (
	"bytes"
	"errors"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/store"
)

// tmpfs mounts a file system of the given size.
func tmpfs(t *testing.T, options string, flags uintptr) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", flags, options); err != nil {
		t.Skipf("only root can mount: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func TestFullDisk(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"oci", "oci-archive"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			dir := tmpfs(t, "size=1m", 0)
			dst := openTarget(t, mustParse(t, kind+":"+filepath.Join(dir, "image")))
			p := content(1, 4<<20)
			err := dst.Push(t.Context(), formats.DigestOf("", p), bytes.NewReader(p))
			if !errors.Is(err, store.ErrNoSpace) {
				t.Errorf("push: %v", err)
			}
			if err := dst.Close(); err != nil {
				t.Error(err)
			}
			if got := list(t, dir); len(got) > 0 {
				t.Errorf("left behind: %v", got)
			}
		})
	}
}

func TestReadOnly(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"oci", "oci-archive"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			dir := tmpfs(t, "", unix.MS_RDONLY)
			dst := openTarget(t, mustParse(t, kind+":"+filepath.Join(dir, "image")))
			p := content(1, 10)
			if err := dst.Put(t.Context(), formats.DigestOf("", p), p); !errors.Is(err, store.ErrDenied) {
				t.Errorf("put: %v", err)
			}
		})
	}
}
