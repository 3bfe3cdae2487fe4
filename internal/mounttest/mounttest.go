//go:build linux

// Package mounttest runs tests that mount in a mount namespace of their own, with a time limit, so that they leave nothing behind.
package mounttest

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
	"time"
)

const inside = "LAZULI_TEST_MOUNT_NAMESPACE"

// Isolated reports whether the test runs in a namespace of its own and goes on. Outside, it runs the test again in a
// new process and namespace, reports its outcome and returns false: the test returns. Without root the test is skipped with
// the reason. limit bounds the run; the process is killed then, and with it every server of its mounts.
//
//	if !mounttest.Isolated(t, time.Minute) {
//		return
//	}
func Isolated(t *testing.T, limit time.Duration) bool {
	t.Helper()
	if os.Getenv(inside) == t.Name() {
		return true
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root: mounts in a namespace of its own")
	}
	runtime.LockOSThread() // Pdeathsig acts when the thread that started the process ends
	defer runtime.UnlockOSThread()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run", "^"+t.Name()+"$", "-test.v", "-test.count=1")
	cmd.Env = append(os.Environ(), inside+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Unshareflags: syscall.CLONE_NEWNS, // Go makes the new namespace's mounts private
		Pdeathsig:    syscall.SIGKILL,
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("in its mount namespace: %v\n%s", err, out)
	}
	if bytes.Contains(out, []byte("--- SKIP")) {
		t.Skipf("in its mount namespace:\n%s", out)
	}
	return false
}
