package fusefs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/lazuli-project/lazuli/fetch"
)

// maxRead is the largest read that the kernel asks for at once, in bytes.
const maxRead = 1 << 20

// Options of a mount.
type Options struct {
	// ReadAhead of the kernel in bytes, for root; 0 leaves its default of 128 KiB, less than 0 turns it off.
	ReadAhead int
	// OnError is told of reads that failed, concurrently; may be nil.
	OnError func(path string, off int64, err error)
}

// Mount is a mounted image.
type Mount struct {
	dir    string
	server *fuse.Server
	cancel context.CancelFunc // of reads
	root   bool               // mounted by mount(2) and not by fusermount
	ended  chan struct{}
	once   sync.Once
}

// New mounts the image on dir, read-only. Root mounts for everybody, with devices and setuid files; other users for themselves
// and with the help of fusermount. It stays mounted until it is unmounted there, by [Mount.Unmount] or by anybody.
func New(im *fetch.Image, dir string, opt Options) (*Mount, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("mount: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	fs := newFileSystem(ctx, im, opt.OnError)
	m := &Mount{dir: dir, root: os.Geteuid() == 0, cancel: cancel, ended: make(chan struct{})}
	o := &fuse.MountOptions{
		FsName: "lazuli", Name: "lazuli", Options: []string{"ro", "default_permissions"}, MaxWrite: maxRead, MaxBackground: 64,
		EnableSymlinkCaching: true, ExplicitDataCacheControl: true, DisableXAttrs: !fs.xattrs, EnableAcl: fs.acls,
		DisabledCapabilities: fuse.CAP_PASSTHROUGH, // its stacking would forbid an overlay on an overlay
		Logger:               log.New(io.Discard, "", 0),
	}
	at := dir
	if m.root {
		fd, err := mountDirect(dir)
		if err != nil {
			cancel()
			return nil, err
		}
		at = "/dev/fd/" + strconv.Itoa(fd) // which the library takes as it is, and closes
	}
	m.server, err = fuse.NewServer(fs, at, o)
	if err != nil {
		cancel()
		err = fmt.Errorf("mount FUSE on %s: %w", dir, err)
		if m.root {
			err = errors.Join(err, unix.Unmount(dir, unix.MNT_DETACH))
		}
		return nil, err
	}
	go func() {
		m.server.Serve()
		cancel()
		close(m.ended)
	}()
	if opt.ReadAhead != 0 {
		setReadAhead(dir, max(0, opt.ReadAhead))
	}
	return m, nil
}

// mountDirect mounts as root: the library would leave the descriptor open in programs that are started later.
func mountDirect(dir string) (int, error) {
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open /dev/fuse: %w", err)
	}
	options := fmt.Sprintf("fd=%d,rootmode=40755,user_id=0,group_id=0,allow_other,default_permissions,max_read=%d", fd, maxRead)
	if err := unix.Mount("lazuli", dir, "fuse.lazuli", unix.MS_RDONLY, options); err != nil {
		return -1, errors.Join(fmt.Errorf("mount FUSE on %s: %w", dir, err), unix.Close(fd))
	}
	return fd, nil
}

// setReadAhead sets the read-ahead of the mount, whose device number the mount table tells: the mount itself need not be asked.
// Without the right to, the kernel's default stays.
func setReadAhead(dir string, bytes int) {
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return
	}
	device := ""
	for line := range strings.Lines(string(table)) {
		if f := strings.Fields(line); len(f) > 4 && f[4] == dir {
			device = f[2] // the last one lies on top
		}
	}
	_ = os.WriteFile(filepath.Join("/sys/class/bdi", device, "read_ahead_kb"), []byte(strconv.Itoa(bytes>>10)), 0)
}

// Wait waits until the kernel has let go of the mount: it is unmounted, and what was open in it is closed.
func (m *Mount) Wait() error {
	<-m.ended
	return nil
}

// Detach takes the mount out of the file system. What is open in it, or lies under an overlay, goes on.
func (m *Mount) Detach() error { return m.unmount(unix.MNT_DETACH) }

// ErrInUse means that a mount that was detached before has files open, and lives as long as they or this process.
var ErrInUse = errors.New("unmounted, but still in use")

// Close unmounts and ends the connection, whoever has files open: they get errors. It does not wait. The connection of a mount
// that was detached before cannot be ended; if it is in use, that gives [ErrInUse].
func (m *Mount) Close() error {
	m.cancel()
	err := m.unmount(unix.MNT_FORCE | unix.MNT_DETACH)
	if !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) { // not mounted any more
		return err
	}
	select {
	case <-m.ended:
		return nil
	default:
		return ErrInUse
	}
}

// Unmount takes the mount down. Files that are open in it keep it alive until they are closed, and Wait waits for that.
func (m *Mount) Unmount() error {
	err := m.unmount(0)
	if errors.Is(err, unix.EBUSY) {
		err = m.unmount(unix.MNT_DETACH)
	}
	return err
}

func (m *Mount) unmount(flags int) error {
	if !m.root {
		var err error
		m.once.Do(func() { err = m.server.Unmount() })
		return err
	}
	if err := unix.Unmount(m.dir, flags); err != nil {
		return fmt.Errorf("unmount %s: %w", m.dir, err)
	}
	return nil
}
