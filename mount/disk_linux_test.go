package mount

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/fetch"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/formats/overlaybd"
	"github.com/lazuli-project/lazuli/formats/turbooci"
	"github.com/lazuli-project/lazuli/internal/imagetest"
	"github.com/lazuli-project/lazuli/internal/mounttest"
	"github.com/lazuli-project/lazuli/internal/registrytest"
	"github.com/lazuli-project/lazuli/tree"
)

// diskModes are the ways of mounting images of disks.
var diskModes = []Mode{EROFS, FUSE, Disk}

// diskFormats are the writers of such images.
func diskFormats(t *testing.T) map[string]formats.Writer {
	t.Helper()
	native, err1 := overlaybd.NewWriter(overlaybd.Options{})
	ext4, err2 := turbooci.NewWriter(turbooci.Options{FileSystems: []overlaybd.FS{overlaybd.Ext4}})
	both, err3 := turbooci.NewWriter(turbooci.Options{FileSystems: []overlaybd.FS{overlaybd.Ext4, overlaybd.EROFS}})
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	return map[string]formats.Writer{"overlaybd": native, "turbo-oci ext4": ext4, "turbo-oci erofs": both}
}

// listDisk lists a mounted image without what ext4 has for itself.
func listDisk(t *testing.T, dir string) []string {
	t.Helper()
	return slices.DeleteFunc(mounttest.List(t, dir), func(line string) bool { return strings.HasPrefix(line, "lost+found\t") })
}

// loopOf returns a function that tells whether the loop device of a mounted disk is still its.
func loopOf(t *testing.T, dir string) (attached func() bool) {
	t.Helper()
	var s unix.Stat_t
	if err := unix.Stat(dir, &s); err != nil {
		t.Fatal(err)
	}
	device := fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(s.Dev), unix.Minor(s.Dev))
	sequence := func() string { // of the device's uses
		p, err := os.ReadFile(filepath.Join(device, "diskseq"))
		if err != nil {
			t.Fatal(err)
		}
		return string(p)
	}
	mine := sequence()
	return func() bool {
		_, err := os.Stat(filepath.Join(device, "loop"))
		return err == nil && sequence() == mine
	}
}

// Every form of disk from a registry, in every mode; nothing stays behind.
func TestDisks(t *testing.T) {
	if !mounttest.Isolated(t, limit) {
		return
	}
	want := imagetest.EdgeTree(t)
	for name, w := range diskFormats(t) {
		r := newRegistryBy(t, imagetest.Edge(t), w)
		for _, mode := range diskModes {
			t.Run(name+" "+string(mode), func(t *testing.T) {
				t.Setenv("TMPDIR", t.TempDir())
				for _, writable := range []bool{false, true} {
					m := mounted(t, r.ref, "", Options{Mode: mode, Writable: writable})
					if m.Mode != mode || !m.Served() {
						t.Errorf("mode %s, served: %v", m.Mode, m.Served())
					}
					attached := func() bool { return false }
					if mode == Disk && !writable {
						if attached = loopOf(t, m.Dir); !attached() {
							t.Error("no loop device")
						}
					}
					got := listDisk(t, m.Dir)
					if writable { // the kernel numbers what has several names in another way
						got = got[:1]
					}
					compare(t, want[:len(got)], got)
					if writable {
						if err := os.WriteFile(filepath.Join(m.Dir, "bin", "new"), nil, 0o600); err != nil {
							t.Error(err)
						}
					}
					if err := errors.Join(m.Unmount(), m.Wait()); err != nil {
						t.Error(err)
					}
					if attached() {
						t.Error("the loop device is left behind")
					}
					if left, _ := os.ReadDir(os.Getenv("TMPDIR")); len(left) > 0 {
						t.Errorf("left behind: %v", left)
					}
				}
			})
		}
	}
}

// noiseImage is an image of files of random bytes, and the digests of these.
func noiseImage(t *testing.T, files, size int) (*imagetest.Image, map[string]digest.Digest) {
	t.Helper()
	items := []imagetest.Item{imagetest.Dir("d")}
	sums := make(map[string]digest.Digest)
	rng := rand.NewChaCha8([32]byte{})
	for i := range files {
		p := make([]byte, size)
		_, _ = rng.Read(p)
		name := fmt.Sprintf("d/%d", i)
		items, sums[name] = append(items, imagetest.File(name, string(p))), digest.FromBytes(p)
	}
	return imagetest.NewImage(t, imagetest.Gzip(t, imagetest.Tar(t, items...))), sums
}

// Reading one file of many fetches a part of the image: requests grow under a reader who goes forward, and reach over the file's end.
func TestDisksAreLazy(t *testing.T) {
	if !mounttest.Isolated(t, limit) {
		return
	}
	const size = 1 << 20
	img, sums := noiseImage(t, 24, size)
	for name, w := range diskFormats(t) {
		r := newRegistryBy(t, img, w)
		for _, mode := range diskModes {
			t.Run(name+" "+string(mode), func(t *testing.T) {
				m := mounted(t, r.ref, "", Options{Mode: mode})
				if _, err := os.ReadDir(filepath.Join(m.Dir, "d")); err != nil {
					t.Fatal(err)
				}
				if n := m.Stats().Bytes; n > size/2 {
					t.Errorf("%d bytes were fetched for the metadata", n)
				}
				const file = "d/7"
				p, err := mounttest.ReadFile(filepath.Join(m.Dir, file))
				if err != nil || digest.FromBytes(p) != sums[file] {
					t.Errorf("%d bytes: %v", len(p), err)
				}
				if n := m.Stats().Bytes; n < size || n > 6*size {
					t.Errorf("%d bytes were fetched for a file of %d", n, size)
				}
			})
		}
	}
}

// What a registry hands out wrong gives errors, and never wrong bytes.
func TestDamagedDisks(t *testing.T) {
	if !mounttest.Isolated(t, limit) {
		return
	}
	img, sums := noiseImage(t, 12, 50_000)
	for name, w := range diskFormats(t) {
		r := newRegistryBy(t, img, w)
		for _, mode := range diskModes {
			for what, fault := range map[string]registrytest.Fault{"wrong byte": {Flip: true}, "wrong range": {WrongRange: true}, "gone": {Status: 404}} {
				t.Run(name+" "+string(mode)+" "+what, func(t *testing.T) {
					told := make(chan error, 100)
					m := mounted(t, r.ref, "", Options{Mode: mode, OnError: func(err error) {
						select {
						case told <- err:
						default:
						}
					}})
					for file := range sums { // so that only content is missing
						if err := unix.Stat(filepath.Join(m.Dir, file), new(unix.Stat_t)); err != nil {
							t.Fatal(err)
						}
					}
					fault.Method, fault.Path = "GET", "/blobs/sha256"
					r.Inject(fault)
					defer r.ClearFaults()
					failed := 0
					for file, sum := range sums {
						p, err := mounttest.ReadFile(filepath.Join(m.Dir, file))
						switch {
						case errors.Is(err, unix.EIO):
							failed++
						case err != nil:
							t.Error(err)
						case digest.FromBytes(p) != sum:
							t.Errorf("%s: wrong bytes", file)
						}
					}
					if failed < len(sums)/2 || len(told) == 0 {
						t.Errorf("%d files could not be read, %d errors were told", failed, len(told))
					}
				})
			}
		}
	}
}

// The process that serves a disk is killed: what was not read gives errors, and the mount can be taken away.
func TestKilledDisk(t *testing.T) {
	if !mounttest.Isolated(t, limit) {
		return
	}
	if childMounts(t) {
		return
	}
	img, sums := noiseImage(t, 4, 1<<20)
	for name, w := range diskFormats(t) {
		t.Run(name, func(t *testing.T) {
			r, cacheDir, dir := newRegistryBy(t, img, w), t.TempDir(), t.TempDir()
			kill := mountInChild(t, "TestKilledDisk", r.ref, cacheDir, dir, Disk)
			attached := loopOf(t, dir)
			if p, err := mounttest.ReadFile(filepath.Join(dir, "d/0")); err != nil || digest.FromBytes(p) != sums["d/0"] {
				t.Errorf("%d bytes: %v", len(p), err)
			}
			kill()
			if p, err := mounttest.ReadFile(filepath.Join(dir, "d/3")); err == nil {
				t.Errorf("%d bytes without a server", len(p))
			}
			if err := unix.Unmount(dir, 0); err != nil {
				t.Fatal(err)
			}
			if attached() {
				t.Error("the loop device is left behind")
			}
			m := mounted(t, r.ref, cacheDir, Options{Mode: Disk})
			for file, sum := range sums {
				if p, err := mounttest.ReadFile(filepath.Join(m.Dir, file)); err != nil || digest.FromBytes(p) != sum {
					t.Errorf("%s: %d bytes: %v", file, len(p), err)
				}
			}
		})
	}
}

// Images of the reference, in every mode, are what is read from their disks without mounting.
func TestGenuineDisks(t *testing.T) {
	if !mounttest.Isolated(t, limit) {
		return
	}
	for _, name := range []string{"native", "turbo-ext4", "turbo-erofs"} {
		dir := t.TempDir()
		if err := os.CopyFS(dir, os.DirFS(filepath.Join("../formats/overlaybd/testdata", name))); err != nil {
			t.Fatal(err)
		}
		for d, p := range imagetest.Edge(t).Objects { // the layers that they refer to
			if err := os.WriteFile(filepath.Join(dir, "blobs", "sha256", d.Encoded()), p, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		im, _ := openImage(t, "oci:"+dir, "")
		want := listImage(t, im.Image)
		if err := im.Close(); err != nil {
			t.Error(err)
		}
		if len(want) < 1500 {
			t.Errorf("%d entries", len(want))
		}
		for _, mode := range diskModes {
			t.Run(name+" "+string(mode), func(t *testing.T) {
				compare(t, want, listDisk(t, mounted(t, "oci:"+dir, "", Options{Mode: mode}).Dir))
			})
		}
	}
}

// listImage lists an image that is not mounted.
func listImage(t *testing.T, im *fetch.Image) []string {
	t.Helper()
	buf := make([]byte, 64<<10)
	lines, err := imagetest.List(im.Tree, func(n *tree.Node) ([]byte, error) {
		var content bytes.Buffer
		err := im.WriteContent(t.Context(), n, &content, buf, blob.Demand)
		return content.Bytes(), err
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}
