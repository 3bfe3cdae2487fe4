package erofs_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lazuli-project/lazuli/internal/imagetest"
	"github.com/lazuli-project/lazuli/internal/mounttest"
)

const limit = 2 * time.Minute

// mountLoop mounts a file as a block device, as the runtimes of virtual disks do.
func mountLoop(t *testing.T, name, dir string) {
	t.Helper()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer control.Close()
	file, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for {
		number, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			t.Fatal(err)
		}
		device := fmt.Sprintf("/dev/loop%d", number)
		loop, err := os.Open(device)
		if err != nil {
			t.Fatal(err)
		}
		defer loop.Close()
		config := unix.LoopConfig{Fd: uint32(file.Fd()), Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_READ_ONLY | unix.LO_FLAGS_AUTOCLEAR}}
		if err := unix.IoctlLoopConfigure(int(loop.Fd()), &config); errors.Is(err, unix.EBUSY) {
			continue // somebody else was quicker
		} else if err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount(device, dir, "erofs", unix.MS_RDONLY, ""); err != nil {
			t.Fatalf("mount %s: %v", device, err)
		}
		return
	}
}

// checkMounted mounts a disk and compares what Linux shows with a listing.
func checkMounted(t *testing.T, d *device, want []string) {
	t.Helper()
	dir := t.TempDir()
	mountLoop(t, d.file(t, filepath.Join(t.TempDir(), "disk")), dir)
	defer func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	}()
	if diff := imagetest.Diff(want, mounttest.List(t, dir)); diff != "" {
		t.Errorf("mounted:\n%s", diff)
	}
}

// TestMountLayers mounts the disk after each layer.
func TestMountLayers(t *testing.T) {
	if !mounttest.Isolated(t, limit) {
		return
	}
	cases := []layers{edgeLayers(t)}
	for seed := range uint64(8) {
		cases = append(cases, randomLayers(t, 100+seed, 5))
	}
	for n, l := range cases {
		f, dev := create(t), newDevice()
		for i := range l {
			dev.apply(t, apply(t, f, readLayer(t, l[i], uint32(i))), l.blobs())
			t.Run(fmt.Sprintf("%d/%d", n, i), func(t *testing.T) { checkMounted(t, dev, l[:i+1].list(t)) })
		}
	}
}

// TestMountGenuine mounts disks of the reference converter, as they are and with a layer of ours.
func TestMountGenuine(t *testing.T) {
	if !mounttest.Isolated(t, limit) {
		return
	}
	l := edgeLayers(t)
	for i, d := range genuineDisks(t) {
		t.Run(fmt.Sprint(i), func(t *testing.T) { checkMounted(t, d, d.read(t)) })
		t.Run(fmt.Sprint(i, "/added"), func(t *testing.T) {
			got, want := added(t, d, l[2])
			checkMounted(t, got, want)
		})
	}
}
