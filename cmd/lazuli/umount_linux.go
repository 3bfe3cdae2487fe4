package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/lazuli-project/lazuli/mount"
)

func (a *app) umountCommand() *cobra.Command {
	var lazy bool
	cmd := &cobra.Command{
		Use:   "umount DIR",
		Short: "Unmount an image and wait for the process that served it",
		Args:  exactArgs(1),
	}
	cmd.Flags().BoolVar(&lazy, "lazy", false, "unmount also what is in use: it disappears now and ends with its last user")
	cmd.RunE = func(cmd *cobra.Command, args []string) error { return umount(cmd.Context(), args[0], lazy) }
	return cmd
}

func umount(ctx context.Context, arg string, lazy bool) error {
	dir, err := realDir(arg)
	if err != nil {
		return err
	}
	e, mounted, err := mount.At(dir)
	if err != nil {
		return err
	}
	if !mounted {
		return usagef("nothing is mounted on %s", arg)
	}
	state, err := openMountState(dir)
	if err != nil {
		return err
	}
	// A disk has whatever file system it has, and a process.
	if disk := state != nil && state.Mode == string(mount.Disk); !disk && e.Type != "erofs" && e.Type != "overlay" && e.Type != "fuse.lazuli" {
		return usagef("%s is a mount of type %s, which this program does not make", arg, e.Type)
	}
	err = mount.Unmount(dir, lazy)
	switch {
	case errors.Is(err, unix.EPERM):
		err = fusermount(ctx, dir)
	case errors.Is(err, unix.EBUSY):
		err = fmt.Errorf("%w: close what is open there, or use --lazy", err)
	}
	if err != nil || state == nil {
		return err
	}
	defer state.remove()
	if lazy {
		return nil
	}
	return state.wait(ctx)
}

// wait waits until the process of the mount has ended. What it left behind, because it was killed, is removed.
func (s *mountState) wait(ctx context.Context) error {
	for {
		err := unix.Flock(int(s.file.Fd()), unix.LOCK_SH|unix.LOCK_NB)
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for process %d: %w", s.PID, err)
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	if s.TempDir == "" || !strings.HasPrefix(filepath.Base(s.TempDir), mount.TempPrefix) {
		return nil
	}
	return os.RemoveAll(s.TempDir)
}

// fusermount unmounts as an ordinary user.
func fusermount(ctx context.Context, dir string) error {
	for _, name := range []string{"fusermount3", "fusermount"} {
		path, err := exec.LookPath(name)
		if err != nil {
			continue
		}
		if out, err := exec.CommandContext(ctx, path, "-u", dir).CombinedOutput(); err != nil {
			return fmt.Errorf("%s -u %s: %w: %s", name, dir, err, strings.TrimSpace(string(out)))
		}
		return nil
	}
	return fmt.Errorf("unmount %s: neither the right to, nor fusermount (package fuse3)", dir)
}
