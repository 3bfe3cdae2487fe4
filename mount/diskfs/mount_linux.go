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
type Mount struct{ *blobfs.Under }

// New mounts the image, which must have a disk, on dir, read-only. It stays mounted until it is unmounted there, by its
// Unmount or by anybody. It needs the right to make block devices.
func New(im *fetch.Image, dir string, opt Options) (*Mount, error) {
	served, err := os.MkdirTemp("", "lazuli-disk-")
	if err != nil {
		return nil, fmt.Errorf("mount: %w", err)
	}
	var onError func(int, int64, error)
	if opt.OnError != nil {
		onError = func(_ int, off int64, err error) { opt.OnError(off, err) }
	}
	server, err := blobfs.Mount(served, []blobfs.File{diskFile{im, im.Disk}}, onError)
	if err != nil {
		return nil, errors.Join(err, os.Remove(served))
	}
	m := &Mount{blobfs.NewUnder(dir, server)}
	if err := attach(server.Path(0), dir, im.Disk.FileSystem()); err != nil {
		return nil, errors.Join(err, server.Close(), os.Remove(served))
	}
	// The loop device has the file open now. It vanishes with the mount, which ends the server.
	if err := errors.Join(server.Detach(), os.Remove(served)); err != nil {
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
