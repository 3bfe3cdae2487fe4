package erofs

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/cache"
	"github.com/lazuli-project/lazuli/fetch"
	"github.com/lazuli-project/lazuli/mount/blobfs"
)

// ErrUnavailable means that this kernel, or the place of the files, does not allow the mount. Another way of mounting may work.
var ErrUnavailable = errors.New("EROFS mount not possible here")

// Options of a mount.
type Options struct {
	// Cache holds the metadata image as a file. Without it, the metadata is served by FUSE, too.
	Cache *cache.Dir
	// ReadAhead of the mount in bytes; less than 0 turns it off. 0 means 64 KiB where blobs are fetched, which is what
	// starting programs make use of, and the kernel's 128 KiB where all are local.
	ReadAhead int
	// OnError is told of reads that failed, concurrently; may be nil.
	OnError func(blob int, off int64, err error)
}

const fetchingReadAhead = 64 << 10

// Mount is a mounted image.
type Mount struct {
	*blobfs.Under
	dir string
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
// Where the metadata and every blob are complete in the cache, the kernel gets those files, and needs no server; see [Mount.Served].
// An error that wraps [ErrUnavailable] means that a mount by FUSE may still work.
func New(ctx context.Context, im *fetch.Image, dir string, opt Options) (*Mount, error) {
	if im.EROFS == nil {
		return nil, fmt.Errorf("%s image without EROFS metadata: %w", im.Format, ErrUnavailable)
	}
	m := &Mount{dir: dir}
	meta := ""
	if opt.Cache != nil {
		var err error
		if meta, err = metadataFile(im, opt.Cache); err != nil {
			return nil, err
		}
		files, err := sealedFiles(ctx, im)
		if err != nil {
			return nil, err
		}
		// Some file systems are no place for metadata; the server is.
		if files != nil && attach(meta, files, dir, opt.ReadAhead) == nil {
			m.Under = blobfs.NewUnder(dir, nil)
			return m, nil
		}
	}
	if err := m.serve(im, meta, opt); err != nil {
		return nil, err
	}
	return m, nil
}

// sealedFiles returns the cache's files of all blobs, or nil if one is not complete.
func sealedFiles(ctx context.Context, im *fetch.Image) ([]string, error) {
	files := make([]string, 0, len(im.Blobs))
	for i := range im.Blobs {
		r, ok := im.Plain(i).(*fetch.Reader)
		if !ok || !r.Cached() {
			return nil, nil
		}
	}
	for i := range im.Blobs {
		file, ok, err := im.Plain(i).(*fetch.Reader).SealedFile(ctx)
		if err != nil || !ok {
			return nil, err
		}
		files = append(files, file)
	}
	return files, nil
}

// serve mounts with a server for the blobs, and for the metadata if that is in no file that the kernel takes.
func (m *Mount) serve(im *fetch.Image, meta string, opt Options) (err error) {
	files := make([]blobfs.File, 0, len(im.Blobs)+1)
	for i := range im.Blobs {
		files = append(files, plainFile{im.Plain(i)})
	}
	files = append(files, memFile{im.EROFS, im.EROFS.Size})
	dir, err := os.MkdirTemp("", "lazuli-blobs-")
	if err != nil {
		return fmt.Errorf("mount: %w", err)
	}
	server, err := blobfs.Mount(dir, files, opt.OnError)
	if err != nil {
		return errors.Join(fmt.Errorf("%w: %w", ErrUnavailable, err), os.Remove(dir))
	}
	m.Under = blobfs.NewUnder(m.dir, server)
	var devices []string
	for i := range im.Blobs {
		devices = append(devices, server.Path(i))
	}
	served := server.Path(len(im.Blobs))
	if meta == "" {
		meta = served
	}
	readAhead := opt.ReadAhead
	if readAhead == 0 {
		readAhead = fetchingReadAhead
	}
	err = attach(meta, devices, m.dir, readAhead)
	if err != nil && meta != served {
		// A metadata file on tmpfs or overlayfs cannot be mounted, one on FUSE can.
		err = attach(served, devices, m.dir, readAhead)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("mount %s: %w: %w", m.dir, ErrUnavailable, err), server.Close(), os.Remove(dir))
	}
	// The kernel has all files open now. Once it closes them, at the unmount, the server ends by itself.
	if err := errors.Join(server.Detach(), os.Remove(dir)); err != nil {
		return errors.Join(err, m.Close())
	}
	return nil
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
	defer unix.Close(fs) // nothing was written
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
	defer unix.Close(mnt) // the mount is attached or gives way
	if err := unix.MoveMount(mnt, "", unix.AT_FDCWD, dir, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("move_mount to %s: %w", dir, err)
	}
	if readAhead != 0 {
		setReadAhead(before, max(0, readAhead))
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
