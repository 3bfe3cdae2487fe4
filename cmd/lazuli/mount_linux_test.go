package main

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lazuli-project/lazuli/internal/imagetest"
	"github.com/lazuli-project/lazuli/internal/mounttest"
)

// The commands as a user calls them: in the background, twice, killed, unmounted.
func TestMountCommands(t *testing.T) {
	if !mounttest.Isolated(t, 3*time.Minute) {
		return
	}
	work := t.TempDir()
	exe := filepath.Join(work, "lazuli")
	build := exec.Command("go", "build", "-o", exe, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	imagetest.Edge(t).WriteLayout(t, filepath.Join(work, "layout"), "edge")
	dir := filepath.Join(work, "mnt")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	lazuli := func(code int, args ...string) string {
		t.Helper()
		cmd := exec.Command(exe, args...)
		cmd.Dir = work
		cmd.Env = append(os.Environ(), "XDG_STATE_HOME="+filepath.Join(work, "state"), "XDG_CACHE_HOME="+filepath.Join(work, "cache"))
		out, err := cmd.CombinedOutput()
		if got := cmd.ProcessState.ExitCode(); got != code {
			t.Fatalf("lazuli %q: exit code %d, %v\n%s", args, got, err, out)
		}
		return string(out)
	}
	states := func() []string {
		t.Helper()
		files, err := filepath.Glob(filepath.Join(work, "state/lazuli/mounts/*.json"))
		if err != nil {
			t.Fatal(err)
		}
		return files
	}
	lazuli(exitDone, "convert", "-q", "oci:layout:edge", "oci:layout:nydus")
	want := imagetest.EdgeTree(t)
	for _, flags := range [][]string{{"--mode", "erofs"}, {"--mode", "fuse"}, {"--mode", "erofs", "--cache", ""}, {}} {
		lazuli(exitDone, append([]string{"mount", "--detach", "oci:layout:nydus", "mnt"}, flags...)...)
		if d := imagetest.Diff(want, mounttest.List(t, dir)); d != "" {
			t.Errorf("%q:\n%s", flags, d)
		}
		lazuli(exitDone, "umount", "mnt")
		if left := states(); len(left) > 0 {
			t.Errorf("%q: left behind: %v", flags, left)
		}
	}

	// Disks: a mount of whatever file system they have.
	lazuli(exitDone, "convert", "-q", "-f", "overlaybd,turbo-oci", "oci:layout:edge", "oci:layout:disk")
	for _, tag := range []string{"disk-overlaybd", "disk-turbo-oci"} {
		for _, mode := range []string{"disk", "auto"} {
			lazuli(exitDone, "mount", "--detach", "--mode", mode, "oci:layout:"+tag, "mnt")
			got := slices.DeleteFunc(mounttest.List(t, dir), func(line string) bool { return strings.HasPrefix(line, "lost+found\t") })
			if d := imagetest.Diff(want, got); d != "" {
				t.Errorf("%s, %s:\n%s", tag, mode, d)
			}
			lazuli(exitDone, "umount", "mnt")
			if left := states(); len(left) > 0 {
				t.Errorf("%s, %s: left behind: %v", tag, mode, left)
			}
		}
	}

	// All is in the cache now: the mount needs no process, an overlay does.
	lazuli(exitDone, "mount", "--detach", "oci:layout:nydus", "mnt")
	if s := states(); len(s) > 0 {
		t.Errorf("a mount of files in the cache has a process: %v", s)
	}
	lazuli(exitDone, "umount", "mnt")
	lazuli(exitDone, "mount", "--detach", "--writable", "oci:layout:nydus", "mnt")
	if err := os.WriteFile(filepath.Join(dir, "new"), nil, 0o600); err != nil {
		t.Error(err)
	}
	f, err := os.Open(filepath.Join(dir, "new"))
	if err != nil {
		t.Fatal(err)
	}
	if out := lazuli(exitFailed, "umount", "mnt"); !strings.Contains(out, "--lazy") {
		t.Errorf("unmount while in use: %s", out)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}

	// Killed, and unmounted: what it left behind is removed.
	var s mountState
	if p, err := os.ReadFile(states()[0]); err != nil || json.Unmarshal(p, &s) != nil {
		t.Fatal(err)
	}
	p, err := os.FindProcess(s.PID)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	lazuli(exitDone, "umount", "mnt")
	if _, err := os.Stat(s.TempDir); !os.IsNotExist(err) || len(states()) > 0 {
		t.Errorf("%s is left behind: %v; %v", s.TempDir, err, states())
	}

	// The background process's error is the user's.
	if out := lazuli(exitNotFound, "mount", "--detach", "oci:layout:none", "mnt"); !strings.Contains(out, "hint:") {
		t.Errorf("%s", out)
	}
	lazuli(exitUsage, "umount", "mnt")
	lazuli(exitUsage, "mount", "--mode", "disk", "oci:layout:nydus", "mnt")
	lazuli(exitDamaged, "mount", "oci:layout:edge", "mnt")
}
