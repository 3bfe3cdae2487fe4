package diskfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/fetch"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/mount/blobfs"
	"github.com/lazuli-project/lazuli/tree"
)

// Options of a mount.
type Options struct {
	// OnError is told of reads of the disk that failed, concurrently; may be nil.
	OnError func(off int64, err error)
}

// Mount is a mounted disk.
type Mount struct {
	dir    string
	server *blobfs.Server
	ended  chan struct{} // closed when the server has ended
	err    error         // of the server, once ended is closed
}

// New mounts the image, which must have a disk, on dir, read-only. It stays mounted until it is unmounted there, by [Mount.Unmount] or by
// anybody. It needs the right to make block devices.
func New(im *fetch.Image, dir string, opt Options) (*Mount, error) {
	served, err := os.MkdirTemp("", "lazuli-disk-")
	if err != nil {
		return nil, fmt.Errorf("mount: %w", err)
	}
	m := &Mount{dir: dir, ended: make(chan struct{})}
	var onError func(int, int64, error)
	if opt.OnError != nil {
		onError = func(_ int, off int64, err error) { opt.OnError(off, err) }
	}
	if m.server, err = blobfs.Mount(served, []blobfs.File{diskFile{im, im.Disk}}, onError); err != nil {
		return nil, errors.Join(err, os.Remove(served))
	}
	go func() {
		m.err = m.server.Serve()
		close(m.ended)
	}()
	if err := attach(m.server.Path(0), dir, im.Disk.FileSystem()); err != nil {
		return nil, errors.Join(err, m.server.Close(), os.Remove(served))
	}
	// The loop device has the file open now. It vanishes with the mount, which ends the server.
	if err := errors.Join(m.server.Detach(), os.Remove(served)); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return m, nil
}

// diskFile is the disk as a file.
type diskFile struct {
	im   *fetch.Image
	disk formats.Disk
}

// Size implements [blobfs.File].
func (f diskFile) Size() int64 { return f.disk.Size() }

// ReadAt implements [blobfs.File].
func (f diskFile) ReadAt(ctx context.Context, p []byte, off int64) (err error) {
	f.disk.Extents(off, int64(len(p)), func(x tree.Extent) bool {
		piece := p[:x.Length]
		p = p[x.Length:]
		if x.Blob == tree.Hole {
			clear(piece)
			return true
		}
		plain := f.im.Plain(int(x.Blob))
		// The last sector may reach over the end of what is in the blob.
		if n := plain.Size() - x.Offset; n < x.Length {
			clear(piece[max(n, 0):])
			piece = piece[:max(n, 0)]
		}
		err = plain.ReadAt(ctx, piece, x.Offset, blob.Demand)
		return err == nil
	})
	return err
}

// attempts is how often a loop device is asked for that somebody else took meanwhile.
const attempts = 16

// attach mounts a file through a loop device, which the kernel removes when nobody uses it any more.
func attach(file, dir, fsType string) error {
	backing, err := unix.Open(file, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", file, err)
	}
	defer unix.Close(backing) // only read from
	control, err := unix.Open("/dev/loop-control", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open /dev/loop-control: %w", err)
	}
	defer unix.Close(control) // nothing is written to it
	for range attempts {
		number, err := unix.IoctlRetInt(control, unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return fmt.Errorf("free loop device: %w", err)
		}
		err = attachTo(backing, "/dev/loop"+strconv.Itoa(number), dir, fsType)
		if !errors.Is(err, unix.EBUSY) {
			return err
		}
	}
	return fmt.Errorf("loop device: others took %d of them: %w", attempts, unix.EBUSY)
}

func attachTo(backing int, device, dir, fsType string) error {
	loop, err := unix.Open(device, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", device, err)
	}
	defer unix.Close(loop) // the mount keeps the device, or else it goes with this
	config := unix.LoopConfig{Fd: uint32(backing), Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_READ_ONLY | unix.LO_FLAGS_AUTOCLEAR}}
	if err := unix.IoctlLoopConfigure(loop, &config); err != nil {
		return fmt.Errorf("configure %s: %w", device, err)
	}
	options := ""
	if fsType == "ext4" {
		options = "noload"
	}
	if err := unix.Mount(device, dir, fsType, unix.MS_RDONLY, options); err != nil {
		return fmt.Errorf("mount %s as %s: %w", device, fsType, err)
	}
	return nil
}

// Wait waits until the kernel has let go of an unmounted disk and returns what its server ended with.
func (m *Mount) Wait() error {
	<-m.ended
	return m.err
}

// Detach takes the mount out of the file system. What is open in it, or lies under an overlay, goes on.
func (m *Mount) Detach() error { return m.unmount(unix.MNT_DETACH) }

// Unmount takes the mount down. Files that are open in it keep it alive until they are closed, and Wait waits for that.
func (m *Mount) Unmount() error {
	err := m.unmount(0)
	if errors.Is(err, unix.EBUSY) {
		err = m.unmount(unix.MNT_DETACH)
	}
	return err
}

func (m *Mount) unmount(flags int) error {
	if err := unix.Unmount(m.dir, flags); err != nil {
		return fmt.Errorf("unmount %s: %w", m.dir, err)
	}
	return nil
}

// Close unmounts, if that has not happened, and ends the server, whoever has files open: they get errors.
func (m *Mount) Close() error {
	err := m.Unmount()
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) { // not mounted any more
		err = nil
	}
	return errors.Join(err, m.server.Close())
}
