package erofs

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/cache"
	"github.com/lazuli-project/lazuli/fetch"
	"github.com/lazuli-project/lazuli/mount/blobfs"
)

// ErrUnavailable: this kernel, or the place of the files, does not allow the mount. Another way of mounting may work.
var ErrUnavailable = errors.New("EROFS mount not possible here")

// Options of a mount.
type Options struct {
	// Cache holds the metadata image as a file. Without it, the metadata is served by FUSE, too.
	Cache *cache.Dir
	// ReadAhead of the mount in bytes; 0 leaves the kernel's 128 KiB.
	ReadAhead int
	// OnError is told of reads that failed, concurrently; may be nil.
	OnError func(blob int, off int64, err error)
}

// Mount is a mounted image.
type Mount struct {
	dir    string
	server *blobfs.Server // nil where every blob is a plain file
	ended  chan struct{}
	err    error // of the server, once ended is closed
	once   sync.Once
}

// plainFile serves one blob of an image.
type plainFile struct{ fetch.Plain }

func (f plainFile) ReadAt(ctx context.Context, p []byte, off int64) error {
	return f.Plain.ReadAt(ctx, p, off, blob.Demand)
}

// memFile serves the metadata.
type memFile struct {
	r    io.ReaderAt
	size int64
}

func (f memFile) Size() int64 { return f.size }
func (f memFile) ReadAt(_ context.Context, p []byte, off int64) error {
	_, err := f.r.ReadAt(p, off)
	return err
}

// New mounts the image on dir, read-only. It stays mounted until it is unmounted there, by [Mount.Unmount] or by anybody.
// An error that wraps [ErrUnavailable] means that a mount by FUSE may still work.
func New(im *fetch.Image, dir string, opt Options) (_ *Mount, err error) {
	if im.EROFS == nil {
		return nil, fmt.Errorf("%s image without EROFS metadata: %w", im.Format, ErrUnavailable)
	}
	m := &Mount{dir: dir, ended: make(chan struct{})}
	paths, err := m.serve(im, opt)
	if err != nil {
		return nil, err
	}
	err = attach(paths.meta, paths.devices, dir, opt.ReadAhead)
	if err != nil && paths.metaByFUSE != paths.meta {
		// A metadata file on tmpfs or overlayfs cannot be mounted, one on FUSE can.
		err = attach(paths.metaByFUSE, paths.devices, dir, opt.ReadAhead)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("mount %s: %w: %w", dir, ErrUnavailable, err), m.server.Close(), paths.remove())
	}
	// The kernel has all files open now. Once it closes them, at the unmount, the server ends by itself.
	if err := errors.Join(m.server.Detach(), paths.remove()); err != nil {
		return nil, errors.Join(err, m.Unmount())
	}
	return m, nil
}

type paths struct {
	dir, meta, metaByFUSE string
	devices               []string
}

func (p *paths) remove() error { return os.Remove(p.dir) }

// serve starts the server and returns the paths to mount.
func (m *Mount) serve(im *fetch.Image, opt Options) (*paths, error) {
	var files []blobfs.File
	for i := range im.Blobs {
		files = append(files, plainFile{im.Plain(i)})
	}
	files = append(files, memFile{im.EROFS, im.EROFS.Size})
	dir, err := os.MkdirTemp("", "lazuli-blobs-")
	if err != nil {
		return nil, fmt.Errorf("mount: %w", err)
	}
	m.server, err = blobfs.Mount(dir, files, opt.OnError)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%w: %w", ErrUnavailable, err), os.Remove(dir))
	}
	go func() {
		m.err = m.server.Serve()
		close(m.ended)
	}()
	p := &paths{dir: dir, metaByFUSE: m.server.Path(len(im.Blobs))}
	for i := range im.Blobs {
		path := m.server.Path(i)
		if r, ok := im.Plain(i).(*fetch.Reader); ok {
			if file, ok := r.CachedFile(); ok {
				path = file
			}
		}
		p.devices = append(p.devices, path)
	}
	p.meta = p.metaByFUSE
	if opt.Cache != nil {
		if p.meta, err = metadataFile(im, opt.Cache); err != nil {
			return nil, errors.Join(err, m.server.Close(), p.remove())
		}
	}
	return p, nil
}

// metadataFile returns the cache's file of the metadata image.
func metadataFile(im *fetch.Image, c *cache.Dir) (string, error) {
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(im.EROFS, 0, im.EROFS.Size)); err != nil {
		return "", fmt.Errorf("read metadata: %w", err)
	}
	return c.File(digest.NewDigest(digest.SHA256, h), func(w io.Writer) error {
		_, err := io.Copy(w, io.NewSectionReader(im.EROFS, 0, im.EROFS.Size))
		return err
	})
}

// attach mounts by the file system context calls: mount(2) has one page for its options, too little for many devices.
func attach(meta string, devices []string, dir string, readAhead int) error {
	fs, err := unix.Fsopen("erofs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return fmt.Errorf("fsopen erofs: %w", err)
	}
	defer unix.Close(fs) //nolint:errcheck // nothing was written
	set := func(key, value string) error {
		if err := unix.FsconfigSetString(fs, key, value); err != nil {
			return fmt.Errorf("fsconfig %s=%s: %w%s", key, value, err, kernelLog(fs))
		}
		return nil
	}
	if err := set("source", meta); err != nil {
		return err
	}
	for _, d := range devices {
		if err := set("device", d); err != nil {
			return err
		}
	}
	for _, flag := range []string{"ro", "directio"} {
		if err := unix.FsconfigSetFlag(fs, flag); err != nil {
			return fmt.Errorf("fsconfig %s: %w%s", flag, err, kernelLog(fs))
		}
	}
	before := readAheadFiles()
	if err := unix.FsconfigCreate(fs); err != nil {
		return fmt.Errorf("mount EROFS image %s: %w%s", meta, err, kernelLog(fs))
	}
	mnt, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_RDONLY)
	if err != nil {
		return fmt.Errorf("fsmount: %w", err)
	}
	defer unix.Close(mnt) //nolint:errcheck // the mount is attached or gives way
	if err := unix.MoveMount(mnt, "", unix.AT_FDCWD, dir, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("move_mount to %s: %w", dir, err)
	}
	if readAhead > 0 {
		setReadAhead(before, readAhead)
	}
	return nil
}

// kernelLog returns what the kernel says about a failed call on a file system context.
func kernelLog(fs int) string {
	var sb strings.Builder
	buf := make([]byte, 1024)
	for {
		n, err := unix.Read(fs, buf)
		if err != nil || n <= 0 {
			break
		}
		sb.WriteString("; kernel: " + strings.TrimSpace(string(buf[:n])))
	}
	return sb.String()
}

// Wait waits until the image is unmounted and returns what the server of its blobs ended with.
func (m *Mount) Wait() error {
	<-m.ended
	return m.err
}

// Unmount takes the mount down. Files that are open in it keep it alive until they are closed, and Wait waits for that.
func (m *Mount) Unmount() (err error) {
	m.once.Do(func() {
		if err = unix.Unmount(m.dir, 0); errors.Is(err, unix.EBUSY) {
			err = unix.Unmount(m.dir, unix.MNT_DETACH)
		}
		if err != nil {
			err = fmt.Errorf("unmount %s: %w", m.dir, err)
		}
	})
	return err
}

// Close unmounts and ends the server, whoever has files open.
func (m *Mount) Close() error { return errors.Join(m.Unmount(), m.server.Close()) }
