package blobfs

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Under is a mount of the kernel's that reads the files of a [Server], which ends with it.
type Under struct {
	dir    string
	server *Server       // nil where the kernel has all it needs in plain files
	ended  chan struct{} // closed when the server has ended
	err    error         // of the server, once ended is closed
}

// NewUnder runs the server, which may be nil, for a mount that will be on dir.
func NewUnder(dir string, server *Server) *Under {
	u := &Under{dir: dir, server: server, ended: make(chan struct{})}
	if server == nil {
		close(u.ended)
		return u
	}
	go func() {
		u.err = server.Serve()
		close(u.ended)
	}()
	return u
}

// Served reports whether the mount needs this process: it serves the files until the mount is gone.
func (u *Under) Served() bool { return u.server != nil }

// Wait waits until the kernel has let go of the files after the unmount, and returns what their server ended with. Without a
// server it returns at once.
func (u *Under) Wait() error {
	<-u.ended
	return u.err
}

// Detach takes the mount out of the file system. What is open in it, or lies under an overlay, goes on.
func (u *Under) Detach() error { return u.unmount(unix.MNT_DETACH) }

// Unmount takes the mount down. Files that are open in it keep it alive until they are closed, and Wait waits for that.
func (u *Under) Unmount() error {
	err := u.unmount(0)
	if errors.Is(err, unix.EBUSY) {
		err = u.unmount(unix.MNT_DETACH)
	}
	return err
}

func (u *Under) unmount(flags int) error {
	if err := unix.Unmount(u.dir, flags); err != nil {
		return fmt.Errorf("unmount %s: %w", u.dir, err)
	}
	return nil
}

// Close unmounts, if that has not happened, and ends the server, whoever has files open: they get errors.
func (u *Under) Close() error {
	err := u.Unmount()
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) { // not mounted any more
		err = nil
	}
	if u.server != nil {
		err = errors.Join(err, u.server.Close())
	}
	return err
}
