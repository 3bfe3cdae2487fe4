package mount

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/cache"
	"github.com/lazuli-project/lazuli/fetch"
	"github.com/lazuli-project/lazuli/mount/diskfs"
	"github.com/lazuli-project/lazuli/mount/erofs"
	"github.com/lazuli-project/lazuli/mount/fusefs"
)

// Mode is a way of mounting.
type Mode string

// Modes. Auto is EROFS where it works, else FUSE.
const (
	Auto  Mode = "auto"
	EROFS Mode = "erofs"
	FUSE  Mode = "fuse"
	Disk  Mode = "disk" // of images that are disks
)

// TempPrefix is how the names of temporary directories of overlays begin.
const TempPrefix = "lazuli-overlay-"

// ErrMode means: there is no such mode, or not for this image.
var ErrMode = errors.New("mount mode not possible")

// Options of a mount. The zero value is a good default.
type Options struct {
	Mode Mode // "" means Auto
	// Cache holds the metadata as a file. Without it, and where its blobs are not complete, they are served by this process.
	Cache *cache.Dir
	// Writable puts an overlay on top, whose changes go to UpperDir.
	Writable bool
	// UpperDir keeps the changes after the mount; it lies on a file system that overlayfs takes for that. "" means a temporary
	// directory, which is removed when the mount has ended. Beside it stands the overlay's work directory, with ".work" at its end.
	UpperDir string
	// TempDir holds temporary directories; "" means the system's.
	TempDir string
	// ReadAhead of the kernel in bytes; 0 means what suits the mode, less than 0 turns it off.
	ReadAhead int
	// OnError is told of reads that failed, which the reading program sees as EIO. It is called concurrently; may be nil.
	OnError func(error)
}

// backend is one way of mounting.
type backend interface {
	Wait() error
	Unmount() error
	Detach() error
	Close() error
}

// Mounted is a mounted image.
type Mounted struct {
	// Dir is where the image is mounted, as an absolute path.
	Dir string
	// Mode that was taken: EROFS, FUSE or Disk.
	Mode Mode
	// Reason says why the mode is not EROFS though Auto was asked for; else nil.
	Reason error
	// TempDir is what is removed at the end; "" for none. Who kills the process may remove it after the unmount.
	TempDir string

	image   *fetch.Image
	backend backend
	served  bool
	ended   chan struct{} // closed when all is over
	err     error         // once ended is closed
	once    sync.Once     // of unmounting
	gone    error         // what it gave
}

// New mounts the image on an existing directory. The image must stay open until [Mounted.Wait] returns. ctx bounds the mounting alone.
func New(ctx context.Context, im *fetch.Image, dir string, opt Options) (_ *Mounted, err error) {
	if opt.UpperDir != "" {
		opt.Writable = true
	}
	if err := check(im, &opt); err != nil {
		return nil, err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, fmt.Errorf("mount: %w", err)
	}
	if dir, err = filepath.EvalSymlinks(dir); err != nil { // as the mount table will name it
		return nil, fmt.Errorf("mount: %w", err)
	}
	if fi, err := os.Stat(dir); err != nil || !fi.IsDir() {
		return nil, fmt.Errorf("mount: %s: %w", dir, errors.Join(err, unix.ENOTDIR))
	}
	m := &Mounted{Dir: dir, image: im, ended: make(chan struct{})}
	lower := dir
	if opt.Writable {
		if m.TempDir, err = os.MkdirTemp(opt.TempDir, TempPrefix); err != nil {
			return nil, fmt.Errorf("mount: %w", err)
		}
		defer func() {
			if err != nil {
				err = errors.Join(err, os.RemoveAll(m.TempDir))
			}
		}()
		lower = filepath.Join(m.TempDir, "lower")
		if err := os.Mkdir(lower, 0o700); err != nil {
			return nil, fmt.Errorf("mount: %w", err)
		}
	}
	if err := m.mountImage(ctx, lower, opt); err != nil {
		return nil, err
	}
	if opt.Writable {
		// The overlay keeps the image alive, so that unmounting the overlay is all that it takes to end everything.
		err := errors.Join(overlay(im, lower, m.TempDir, opt.UpperDir, dir), m.backend.Detach(), os.Remove(lower))
		if err != nil {
			return nil, errors.Join(err, m.Unmount(), m.backend.Close())
		}
	}
	id, err := mountID(dir)
	if err != nil {
		return nil, errors.Join(err, m.Unmount(), m.backend.Close())
	}
	go m.finish(id)
	return m, nil
}

// check refuses what cannot be mounted and puts in the default mode.
func check(im *fetch.Image, opt *Options) error {
	switch opt.Mode {
	case "":
		opt.Mode = Auto
	case Auto, EROFS, FUSE:
	case Disk:
		if im.Disk == nil {
			return fmt.Errorf("mode disk: a %s image is no disk; erofs and fuse are possible: %w", im.Format, ErrMode)
		}
	default:
		return fmt.Errorf("mode %q: auto, erofs, fuse and disk are known: %w", opt.Mode, ErrMode)
	}
	for _, b := range im.Blobs {
		if b.Layout == nil {
			return fmt.Errorf("%s image: its layers cannot be read and verified in pieces: %w", im.Format, blob.ErrUnsupported)
		}
	}
	return nil
}

// mountImage mounts the image itself in the first way that works.
func (m *Mounted) mountImage(ctx context.Context, dir string, opt Options) error {
	if opt.Mode == Disk {
		d, err := diskfs.New(m.image, dir, diskfs.Options{OnError: opt.diskError()})
		if err != nil {
			return err
		}
		m.Mode, m.backend, m.served = Disk, d, true
		return nil
	}
	if opt.Mode != FUSE {
		e, err := erofs.New(ctx, m.image, dir, erofs.Options{Cache: opt.Cache, ReadAhead: opt.ReadAhead, OnError: opt.blobError(m.image)})
		if err == nil {
			m.Mode, m.backend, m.served = EROFS, e, e.Served()
			return nil
		}
		if opt.Mode == EROFS || !errors.Is(err, erofs.ErrUnavailable) {
			return err
		}
		m.Reason = err
	}
	f, err := fusefs.New(m.image, dir, fusefs.Options{ReadAhead: opt.ReadAhead, OnError: opt.fileError()}) //nolint:contextcheck // a mount lives longer than the call that made it
	if err != nil {
		return errors.Join(err, m.Reason)
	}
	m.Mode, m.backend, m.served = FUSE, f, true
	return nil
}

func (o *Options) blobError(im *fetch.Image) func(int, int64, error) {
	if o.OnError == nil {
		return nil
	}
	return func(i int, off int64, err error) {
		if i < len(im.Blobs) {
			err = fmt.Errorf("read blob %d at %d: %w", i, off, err)
		}
		o.OnError(err)
	}
}

func (o *Options) diskError() func(int64, error) {
	if o.OnError == nil {
		return nil
	}
	return func(off int64, err error) { o.OnError(fmt.Errorf("read the disk at %d: %w", off, err)) }
}

func (o *Options) fileError() func(string, int64, error) {
	if o.OnError == nil {
		return nil
	}
	return func(path string, off int64, err error) { o.OnError(fmt.Errorf("read %s at %d: %w", path, off, err)) }
}

// finish waits for the end and cleans up.
func (m *Mounted) finish(id uint64) {
	defer close(m.ended)
	err := waitGone(id)
	// What is open keeps the mount alive; and it may have been detached.
	err = errors.Join(err, m.backend.Wait())
	if m.TempDir != "" {
		err = errors.Join(err, os.RemoveAll(m.TempDir))
	}
	m.err = err
}

// Served reports whether this process must live as long as the mount. It need not where the kernel has all that it needs in files of
// the cache, and nothing has to be removed at the end.
func (m *Mounted) Served() bool { return m.served || m.TempDir != "" }

// Done is closed when the mount has ended, as for [Mounted.Wait].
func (m *Mounted) Done() <-chan struct{} { return m.ended }

// Wait waits until the image is unmounted, by whoever, nothing is open in it any more, and what was temporary is removed.
func (m *Mounted) Wait() error {
	<-m.ended
	return m.err
}

// Unmount takes the mount out of the file system. Where files are open in it, it lives on for them, and Wait waits. Only the first call
// does anything.
func (m *Mounted) Unmount() error {
	m.once.Do(func() {
		if m.TempDir == "" {
			m.gone = m.backend.Unmount()
		} else {
			m.gone = Unmount(m.Dir, true)
		}
		if errors.Is(m.gone, unix.EINVAL) { // somebody did it already
			m.gone = nil
		}
	})
	return m.gone
}

// Close unmounts, ends the server, whoever has files open, and waits. Files of a FUSE mount that is under an overlay, or was
// unmounted while they were open, cannot be taken away; then it does not wait and returns an error that wraps [fusefs.ErrInUse].
func (m *Mounted) Close() error {
	var err error
	if m.TempDir == "" {
		m.once.Do(func() {}) // the backend does it, by force
	} else {
		err = m.Unmount()
		select {
		case <-m.ended: // nobody uses it
			return errors.Join(err, m.err)
		case <-time.After(inUse):
		}
	}
	if err := errors.Join(err, m.backend.Close()); err != nil {
		return err
	}
	return m.Wait()
}

// inUse is how long an unmounted overlay may take to end before it counts as being in use.
const inUse = time.Second

// Stats returns what was read so far.
func (m *Mounted) Stats() fetch.Stats { return m.image.Stats() }
