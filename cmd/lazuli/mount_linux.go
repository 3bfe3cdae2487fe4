package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/lazuli-project/lazuli/mount"
)

type mountFlags struct {
	lazyFlags
	writable bool
	upper    string
	detach   bool
	readyFD  int
}

func (a *app) mountCommand() *cobra.Command {
	var f mountFlags
	cmd := &cobra.Command{
		Use:   "mount IMAGE DIR",
		Short: "Mount an image lazily",
		Long: `Mount an image on a directory. Its files are there at once; their content is fetched when it is
read, verified, and kept in the cache. The command stays until Ctrl-C, or until somebody unmounts the
directory; with --detach it goes on in the background.`,
		Example: `  lazuli mount localhost:5000/node:19-nydus /mnt
  lazuli mount --detach --writable localhost:5000/node:19-nydus /mnt && lazuli umount /mnt
  lazuli mount rafs:image.boot,blobs /mnt`,
		Args: exactArgs(2),
	}
	f.add(cmd.Flags())
	cmd.Flags().BoolVar(&f.writable, "writable", false, "put an overlay on top, whose changes are lost at the end")
	cmd.Flags().StringVar(&f.upper, "upper", "", "with --writable: keep the changes in `DIR`")
	cmd.Flags().BoolVar(&f.detach, "detach", false, "go on in the background once it is mounted")
	cmd.Flags().IntVar(&f.readyFD, "ready-fd", 0, "descriptor to tell that it is mounted")
	_ = cmd.Flags().MarkHidden("ready-fd")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if f.detach && f.readyFD == 0 {
			return a.detach(args[1])
		}
		return a.mount(cmd.Context(), args[0], args[1], &f)
	}
	return cmd
}

func (a *app) mount(ctx context.Context, arg, dir string, f *mountFlags) (err error) {
	im, err := a.openLazy(ctx, arg, &f.lazyFlags)
	if err != nil {
		return err
	}
	defer closeQuietly(im)
	printer := &errorPrinter{app: a}
	m, err := mount.New(ctx, im.Image.Image, dir, mount.Options{
		Mode: mount.Mode(f.mode), Cache: im.cache, Writable: f.writable, UpperDir: f.upper, OnError: printer.print,
	})
	if errors.Is(err, mount.ErrMode) {
		return &usageError{err}
	}
	if err != nil {
		return fmt.Errorf("%s: %w", arg, err)
	}
	state, err := writeMountState(m, arg)
	if err != nil {
		return errors.Join(err, m.Close())
	}
	defer state.remove()
	if f.readyFD > 0 {
		if !m.Served() {
			return f.tellReady()
		}
		if err := errors.Join(f.tellReady(), os.Chdir("/")); err != nil {
			return errors.Join(err, m.Close())
		}
	} else if !a.quiet {
		fmt.Fprintf(a.stderr, "%s is mounted on %s (%s); Ctrl-C unmounts it\n", arg, m.Dir, m.Mode)
		if m.Reason != nil {
			fmt.Fprintf(a.stderr, "not by erofs: %v\n", m.Reason)
		}
	}
	if err := a.untilUnmounted(ctx, m); err != nil {
		return err
	}
	if !f.stats {
		return nil
	}
	if a.json {
		return a.printJSON(im.statsIn(m.Mode))
	}
	_, err = fmt.Fprintln(a.stdout, im.statsIn(m.Mode))
	return err
}

// untilUnmounted waits for the end of a mount, which a signal brings about. A second one does not wait for files to be closed.
func (a *app) untilUnmounted(ctx context.Context, m *mount.Mounted) error {
	select {
	case <-m.Done():
		return m.Wait()
	case <-ctx.Done():
	}
	again := make(chan os.Signal, 1)
	signal.Notify(again, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(again)
	if err := m.Unmount(); err != nil {
		return err
	}
	select {
	case <-m.Done():
		return m.Wait()
	default:
	}
	select {
	case <-m.Done():
		return m.Wait()
	case <-again:
		return m.Close()
	}
}

// tellReady tells who started this process in the background that the image is mounted.
func (f *mountFlags) tellReady() error {
	pipe := os.NewFile(uintptr(f.readyFD), "ready")
	_, err := pipe.WriteString("ready\n")
	return errors.Join(err, pipe.Close())
}

// realDir returns the directory as the mount table names it. A mount whose server is gone can be named, but not looked at.
func realDir(dir string) (string, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	if _, mounted, err := mount.At(abs); err != nil || mounted {
		return abs, err
	}
	return filepath.EvalSymlinks(abs)
}
