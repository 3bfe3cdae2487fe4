package mount

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lazuli-project/lazuli/internal/imagetest"
	"github.com/lazuli-project/lazuli/internal/mounttest"
	"github.com/lazuli-project/lazuli/internal/registrytest"
)

// childMount tells a test's child process what to mount: reference, cache, directory, mode.
const childMount = "LAZULI_TEST_CHILD_MOUNT"

// childMounts mounts what it is told to, if this process is a test's child, and goes on until it is killed.
func childMounts(t *testing.T) bool {
	child := os.Getenv(childMount)
	if child == "" {
		return false
	}
	f := strings.Split(child, "\n")
	im, c := openImage(t, f[0], f[1])
	if _, err := New(t.Context(), im.Image, f[2], Options{Cache: c, Mode: Mode(f[3])}); err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(os.Stdout, "ready\n")
	_, _ = io.Copy(io.Discard, os.Stdin) // until killed
	return true
}

// mountInChild runs a test again in a child process, which mounts an image, and returns what kills it.
func mountInChild(t *testing.T, test, ref, cacheDir, dir string, mode Mode) (kill func()) {
	t.Helper()
	child := exec.Command(os.Args[0], "-test.run", "^"+test+"$", "-test.count=1")
	child.Env = append(os.Environ(), childMount+"="+strings.Join([]string{ref, cacheDir, dir, string(mode)}, "\n"))
	child.Stderr = os.Stderr
	child.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err1 := child.StdinPipe()
	out, err2 := child.StdoutPipe()
	if err := errors.Join(err1, err2, child.Start()); err != nil {
		t.Fatal(err)
	}
	for s := bufio.NewScanner(out); s.Scan() && s.Text() != "ready"; {
	}
	return func() {
		if err := child.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = child.Wait()
		_ = in.Close()
	}
}

// TestKilled kills the mounting process in the middle. Nothing that was fetched is fetched again, and no wrong byte is seen.
func TestKilled(t *testing.T) {
	if !mounttest.Isolated(t, limit) {
		return
	}
	if childMounts(t) {
		return
	}
	want := imagetest.EdgeTree(t)
	for _, mode := range modes {
		t.Run(string(mode), func(t *testing.T) {
			r, cacheDir, dir := newRegistry(t), t.TempDir(), t.TempDir()
			kill := mountInChild(t, "TestKilled", r.ref, cacheDir, dir, mode)
			for _, name := range []string{"bin/tool2", "sizes/noise-300000", "big/entry-00003"} {
				if _, err := mounttest.ReadFile(filepath.Join(dir, name)); err != nil {
					t.Error(err)
				}
			}
			kill()
			r.killed()
			before := r.asked(t)
			if before == 0 {
				t.Error("nothing was fetched")
			}
			// What the kernel has not read yet gives an error, and nothing else.
			if p, err := mounttest.ReadFile(filepath.Join(dir, "sizes/same-a")); err == nil {
				t.Errorf("%d bytes without a server", len(p))
			}
			if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
				t.Fatal(err)
			}
			m := mounted(t, r.ref, cacheDir, Options{Mode: mode})
			compare(t, want, mounttest.List(t, m.Dir))
			if r.asked(t) == before {
				t.Error("the rest was not fetched")
			}
		})
	}
}

// Whatever a registry does wrong, files have the right bytes or cannot be read.
func TestFaults(t *testing.T) {
	if !mounttest.Isolated(t, limit) {
		return
	}
	items := []imagetest.Item{imagetest.Dir("d")}
	rng := rand.NewChaCha8([32]byte{})
	for i := range 12 {
		p := make([]byte, 50_000)
		_, _ = rng.Read(p)
		items = append(items, imagetest.File(fmt.Sprintf("d/%d", i), string(p)))
	}
	r := newRegistryOf(t, imagetest.NewImage(t, imagetest.Gzip(t, imagetest.Tar(t, items...))))
	want := mounttest.List(t, mounted(t, r.ref, "", Options{}).Dir)
	const blobs = "/blobs/sha256"
	for _, c := range []struct {
		name  string
		fault registrytest.Fault
		fails bool
	}{
		{"500 twice", registrytest.Fault{Status: 500, Times: 2}, false},
		{"429", registrytest.Fault{Status: 429, RetryAfter: "0", Times: 1}, false},
		{"cut", registrytest.Fault{CutAfter: 1000, Times: 3}, false},
		{"wrong byte once", registrytest.Fault{Flip: true, Times: 1}, false},
		{"wrong range once", registrytest.Fault{WrongRange: true, Times: 1}, false},
		{"whole object", registrytest.Fault{NoRange: true}, false},
		{"wrong byte always", registrytest.Fault{Flip: true}, true},
		{"wrong range always", registrytest.Fault{WrongRange: true}, true},
		{"gone", registrytest.Fault{Status: 404}, true},
		{"denied", registrytest.Fault{Status: 403}, true},
		{"away", registrytest.Fault{Status: 503, RetryAfter: "0"}, true},
	} {
		for _, mode := range modes {
			t.Run(string(mode)+" "+c.name, func(t *testing.T) {
				told := make(chan error, 1)
				m := mounted(t, r.ref, t.TempDir(), Options{Mode: mode, OnError: func(err error) {
					select {
					case told <- err:
					default:
					}
				}})
				c.fault.Method, c.fault.Path = "GET", blobs
				r.Inject(c.fault)
				defer r.ClearFaults()
				got := mounttest.List(t, m.Dir)
				failed := 0
				for i, line := range got {
					if at := strings.Index(line, mounttest.Unreadable); at >= 0 {
						failed++
						if line[at:] != mounttest.Unreadable+"EIO" {
							t.Errorf("%s", line)
						}
						w := want[i]
						got[i] = line[:at] + w[strings.LastIndexByte(w, '\t')+1:]
					}
				}
				compare(t, want, got)
				if c.fails != (failed > 0) {
					t.Errorf("%d files could not be read", failed)
				}
				select {
				case err := <-told:
					if !c.fails {
						t.Error(err)
					}
				default:
					if c.fails {
						t.Error("nobody was told")
					}
				}
			})
		}
	}
}
