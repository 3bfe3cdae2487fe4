package ext4

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lazuli-project/lazuli/internal/imagetest"
	"github.com/lazuli-project/lazuli/internal/mounttest"
)

// mounted has the kernel mount a disk and returns the folder.
func mounted(t *testing.T, image, options string) string {
	t.Helper()
	dir := t.TempDir()
	if out, err := exec.CommandContext(t.Context(), "mount", "-t", "ext4", "-o", "loop,"+options, image, dir).CombinedOutput(); err != nil {
		t.Fatalf("mount: %v\n%s", err, out)
	}
	t.Cleanup(func() { unmount(t, dir) })
	return dir
}

func unmount(t *testing.T, dir string) {
	t.Helper()
	if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
		t.Errorf("umount: %v\n%s", err, out)
	}
}

// kernelListing lists what the kernel sees, without a lost+found as mkfs makes it.
func kernelListing(t *testing.T, dir string) []string {
	t.Helper()
	return slices.DeleteFunc(mounttest.List(t, dir), func(line string) bool { return strings.HasPrefix(line, lostFoundName+"\td\t700\t0\t0\t\t0\t") })
}

// What the kernel sees after every layer is what package tarfs merges.
func TestKernel(t *testing.T) {
	if !mounttest.Isolated(t, 3*time.Minute) {
		return
	}
	stacks := map[string][][]byte{"edge": nil, "random": nil, "directories": largeDirectories(t)}
	for _, l := range imagetest.Edge(t).Layers {
		stacks["edge"] = append(stacks["edge"], l.Tar)
	}
	g := &generator{r: rand.New(rand.NewPCG(7, 7))}
	for range 5 {
		stacks["random"] = append(stacks["random"], g.layer(t, 1000))
	}
	for name, layers := range stacks {
		t.Run(name, func(t *testing.T) {
			s := newStack(t, Options{})
			for i, tar := range layers {
				s.apply(t, tar)
				s.dev.fsck(t)
				dir := mounted(t, s.dev.save(t), "ro")
				if d := imagetest.Diff(s.merged(t, s.layers), kernelListing(t, dir)); d != "" {
					t.Fatalf("after layer %d:\n%s", i, d)
				}
			}
		})
	}
}

// largeDirectories are layers that make large directories and change them.
func largeDirectories(tb testing.TB) [][]byte {
	var first, second, third []imagetest.Item
	for i := range 12_000 {
		first = append(first, imagetest.File(fmt.Sprintf("big/a name of usual length %d", i*7919%12_000), ""))
	}
	for i := range 3000 {
		second = append(second, imagetest.File(fmt.Sprintf("big/another name %d", i), fmt.Sprint(i)), imagetest.File(fmt.Sprintf("grows/%d", i), ""))
		if i%2 == 0 {
			third = append(third, imagetest.Whiteout(fmt.Sprintf("big/a name of usual length %d", i)), imagetest.Whiteout(fmt.Sprintf("grows/%d", i)))
		}
	}
	first = append(first, imagetest.Dir("grows"), imagetest.Dir("many"))
	for i := range 300 {
		second = append(second, imagetest.Dir(fmt.Sprintf("many/%s%d", strings.Repeat("d", 200), i)))
	}
	return [][]byte{imagetest.Tar(tb, first...), imagetest.Tar(tb, second...), imagetest.Tar(tb, third...)}
}

// The kernel writes into what was made here, and what it made is extended.
func TestKernelWrites(t *testing.T) {
	if !mounttest.Isolated(t, time.Minute) {
		return
	}
	s := newStack(t, Options{Size: 1 << 30, UUID: [16]byte{1, 2, 3}})
	s.apply(t, largeDirectories(t)[0])
	image := s.dev.save(t)
	dir := mounted(t, image, "rw")
	for i := range 300 {
		name := filepath.Join(dir, "big", fmt.Sprint("new ", i))
		if i%3 == 0 {
			name = filepath.Join(dir, fmt.Sprint(strings.Repeat("n", 200), i))
		}
		if err := os.WriteFile(name, make([]byte, i*100), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(filepath.Join(dir, "big", "new 100")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"big/new 1", "big/new 2", "big/new 4", "big"} { // the kernel makes one block of equal ones
		if err := unix.Setxattr(filepath.Join(dir, name), "user.shared", bytes.Repeat([]byte("v"), 500), 0); err != nil {
			t.Fatal(err)
		}
	}
	want := kernelListing(t, dir)
	unmount(t, dir)
	if out, err := exec.CommandContext(t.Context(), "mount", "-o", "loop,ro", image, dir).CombinedOutput(); err != nil {
		t.Fatalf("mount: %v\n%s", err, out)
	}
	d := loadDevice(t, image)
	d.fsck(t)
	if diff := imagetest.Diff(want, d.listing(t)); diff != "" {
		t.Fatalf("\n%s", diff)
	}
	f, err := Open(d, d.size)
	if err != nil {
		t.Fatal(err)
	}
	var c content
	change, err := f.Apply(c.layer(t, imagetest.Tar(t, imagetest.Dir("big", imagetest.Xattr("user.other", strings.Repeat("w", 400))),
		imagetest.Whiteout("big/new 1"), imagetest.File("more", "content"))))
	if err != nil {
		t.Fatal(err)
	}
	d.apply(t, change, c.blobs)
	d.fsck(t)
}
