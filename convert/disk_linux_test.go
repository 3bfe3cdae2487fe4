package convert_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lazuli-project/lazuli/convert"
	"github.com/lazuli-project/lazuli/internal/mounttest"
	"github.com/lazuli-project/lazuli/store"
)

func mountTmpfs(t *testing.T, options string, flags uintptr) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", flags, options); err != nil {
		t.Fatalf("mount a tmpfs: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

// A disk that becomes full: the error says so, what was written is taken back, and with room the next run succeeds.
func TestDiskFull(t *testing.T) {
	if !mounttest.Isolated(t, time.Minute) {
		return
	}
	from := layout(t, large(t))
	for _, to := range []string{"oci:%s:made", "oci-archive:%s.tar:made"} {
		disk := mountTmpfs(t, "size=9m", 0)
		ref := fmt.Sprintf(to, filepath.Join(disk, "image"))
		_, err := run(t.Context(), t, from, ref, convert.Options{}, nil)
		if !errors.Is(err, store.ErrNoSpace) {
			t.Fatalf("%s: %v", to, err)
		}
		if left, err := os.ReadDir(disk); err != nil || len(left) > 0 {
			t.Errorf("%s: left behind: %v, %v", to, left, err)
		}
		if err := unix.Mount("", disk, "", unix.MS_REMOUNT, "size=64m"); err != nil {
			t.Fatal(err)
		}
		mustRun(t, from, ref, convert.Options{})
		equal(t, from, ref, "linux/amd64")
	}

	// A layout that is there already keeps what it names.
	disk := mountTmpfs(t, "size=9m", 0)
	old := small(t, amd64, "old")
	ref := "oci:" + filepath.Join(disk, "image")
	put(t, old, ref+":old")
	before, err := os.ReadFile(filepath.Join(disk, "image", "index.json"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := run(t.Context(), t, from, ref+":made", convert.Options{}, nil); !errors.Is(err, store.ErrNoSpace) {
		t.Fatalf("%v", err)
	}
	if after, err := os.ReadFile(filepath.Join(disk, "image", "index.json")); err != nil || string(after) != string(before) {
		t.Errorf("index.json is %s, %v; before it was %s", after, err, before)
	}
}

func TestReadOnlyTarget(t *testing.T) {
	if !mounttest.Isolated(t, time.Minute) {
		return
	}
	from := layout(t, small(t, amd64, "x"))
	disk := mountTmpfs(t, "size=9m", unix.MS_RDONLY)
	for _, ref := range []string{"oci:" + filepath.Join(disk, "image") + ":made", "oci-archive:" + filepath.Join(disk, "image.tar") + ":made"} {
		if _, err := run(t.Context(), t, from, ref, convert.Options{}, nil); !errors.Is(err, store.ErrDenied) {
			t.Errorf("%s: %v", ref, err)
		}
		dest := openTarget(t, ref)
		if _, err := convert.DryRun(t.Context(), openSource(t, from), convert.Output{Writer: writer(t), Target: dest}, convert.Options{}); !errors.Is(err, store.ErrDenied) {
			t.Errorf("%s: dry run: %v", ref, err)
		}
		if err := dest.Close(); err != nil {
			t.Error(err)
		}
	}
}
