package blobfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// File is the content of one file.
type File interface {
	// Size in bytes. It does not change.
	Size() int64
	// ReadAt fills p with the bytes at off, which lie inside of the file. It is called concurrently. An error is
	// answered as EIO. ctx ends when the server is closed.
	ReadAt(ctx context.Context, p []byte, off int64) error
}

// Server serves files. Their names are their numbers: "0", "1" and so on.
type Server struct {
	files []File
	dir   string
	// dev is /dev/fuse, non-blocking, and wake an eventfd. They are polled by a thread and not by Go's poller: that one polls
	// every file that a Go program opens, so a program that opens a file of its own mount would wait for itself.
	dev, wake int
	// onError is told of reads that failed; may be nil.
	onError func(file int, off int64, err error)

	ctx    context.Context //nolint:containedctx // of all reads, which the kernel begins; ended by Close
	cancel context.CancelFunc
	reads  sync.WaitGroup
	ended  chan struct{} // closed when Serve has ended
}

// Mount mounts a server of the files on the directory. The caller runs [Server.Serve] at once: until it does, whoever touches
// the mount waits. onError, if not nil, is called concurrently for each read that failed.
func Mount(dir string, files []File, onError func(file int, off int64, err error)) (*Server, error) {
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/fuse: %w", err)
	}
	options := fmt.Sprintf("fd=%d,rootmode=40500,user_id=%d,group_id=%d,default_permissions,max_read=%d", fd, os.Getuid(), os.Getgid(), maxRead)
	if err := unix.Mount("lazuli", dir, "fuse.lazuli-blobs", unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, options); err != nil {
		return nil, errors.Join(fmt.Errorf("mount FUSE on %s: %w", dir, err), unix.Close(fd))
	}
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("eventfd: %w", err), unix.Close(fd), unix.Unmount(dir, unix.MNT_DETACH))
	}
	ctx, cancel := context.WithCancel(context.Background())
	return &Server{
		files: files, dir: dir, dev: fd, wake: wake, onError: onError, ctx: ctx, cancel: cancel, ended: make(chan struct{}),
	}, nil
}

// Path returns the path of file i while the mount is attached.
func (s *Server) Path(i int) string { return filepath.Join(s.dir, strconv.Itoa(i)) }

// Detach takes the mount out of the file system. Files that are open stay so.
func (s *Server) Detach() error {
	if err := unix.Unmount(s.dir, unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount %s: %w", s.dir, err)
	}
	return nil
}

// Serve answers requests until the kernel has let go of all files of a detached mount, or Close is called.
func (s *Server) Serve() error {
	defer close(s.ended)
	err := s.loop()
	s.cancel()
	s.reads.Wait()
	// The kernel ends the connection with its last descriptor: what still waits gets an error.
	return errors.Join(err, unix.Close(s.dev), unix.Close(s.wake))
}

// Close ends the connection: reads that wait and all later ones get an error from the kernel. It returns when Serve has
// ended, which therefore must have been called.
func (s *Server) Close() error {
	s.cancel()
	select {
	case <-s.ended:
		return nil
	default:
	}
	if _, err := unix.Write(s.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0}); err != nil && !errors.Is(err, unix.EBADF) {
		return fmt.Errorf("wake the FUSE server: %w", err)
	}
	<-s.ended
	// A mount that was detached before is not there any more.
	if err := s.Detach(); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return err
	}
	return nil
}

// wait returns true when a request can be read, false when the server shall end.
func (s *Server) wait() (bool, error) {
	fds := []unix.PollFd{{Fd: int32(s.dev), Events: unix.POLLIN}, {Fd: int32(s.wake), Events: unix.POLLIN}}
	for {
		_, err := unix.Poll(fds, -1)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return false, fmt.Errorf("poll /dev/fuse: %w", err)
		default:
			return fds[1].Revents == 0, nil
		}
	}
}

func (s *Server) loop() error {
	buf := make([]byte, requestBuffer)
	for {
		if goOn, err := s.wait(); !goOn {
			return err
		}
		n, err := unix.Read(s.dev, buf)
		switch {
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN), errors.Is(err, unix.ENOENT): // ENOENT: taken back meanwhile
			continue
		case errors.Is(err, unix.ENODEV), errors.Is(err, unix.ECONNABORTED): // the last file is closed
			return nil
		case err != nil:
			return fmt.Errorf("read /dev/fuse: %w", err)
		}
		h, body, ok := decodeHeader(buf[:n])
		if !ok {
			return fmt.Errorf("FUSE request of %d bytes with a wrong header", n)
		}
		if h.opcode == opRead {
			s.read(h, body)
			continue
		}
		answer := s.answer(h, body)
		if answer == nil {
			continue
		}
		if err := s.write(answer); err != nil {
			return err
		}
	}
}

func (s *Server) write(answer []byte) error {
	_, err := unix.Write(s.dev, answer)
	if err == nil || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ECONNABORTED) { // unmounted meanwhile
		return nil
	}
	return fmt.Errorf("write /dev/fuse: %w", err)
}

func failed(unique uint64, errno syscall.Errno) []byte {
	p := make([]byte, outHeaderSize)
	putOutHeader(p, unique, int32(errno))
	return p
}

// file returns the number of the file with that node id.
func (s *Server) file(id uint64) (int, bool) {
	i := id - rootID - 1
	return int(i), id > rootID && i < uint64(len(s.files))
}

func (s *Server) attr(id uint64) (attr, bool) {
	if id == rootID {
		return attr{ino: rootID, mode: unix.S_IFDIR | 0o500}, true
	}
	i, ok := s.file(id)
	if !ok {
		return attr{}, false
	}
	return attr{ino: id, size: uint64(s.files[i].Size()), mode: unix.S_IFREG | 0o400}, true
}

// answer returns the answer to any request but a read; nil where none is due.
func (s *Server) answer(h inHeader, body []byte) []byte {
	switch h.opcode {
	case opInit:
		if p, ok := initReply(h.unique, body); ok {
			return p
		}
		return failed(h.unique, unix.EPROTO)
	case opLookup:
		if len(body) == 0 || h.nodeID != rootID {
			return failed(h.unique, unix.ENOENT)
		}
		i, err := strconv.ParseUint(string(body[:len(body)-1]), 10, 32)
		if err != nil || i >= uint64(len(s.files)) {
			return failed(h.unique, unix.ENOENT)
		}
		a, _ := s.attr(rootID + 1 + i)
		p := reply(h.unique, entrySize)
		putEntry(p[outHeaderSize:], a)
		return p
	case opGetattr:
		a, ok := s.attr(h.nodeID)
		if !ok {
			return failed(h.unique, unix.ENOENT)
		}
		p := reply(h.unique, 16+attrSize)
		putAttr(p[outHeaderSize:], a)
		return p
	case opOpen:
		p := reply(h.unique, 16)
		le.PutUint32(p[outHeaderSize+8:], openKeepCache|openNoFlush)
		return p
	case opOpendir:
		return reply(h.unique, 16)
	case opReaddir, opRelease, opReleasedir, opFlush, opDestroy: // the directory looks empty: names are known to whoever needs them
		return reply(h.unique, 0)
	case opStatfs:
		return reply(h.unique, 80)
	case opForget, opBatchForget:
		return nil
	}
	// Also to INTERRUPT, which says that a reader has got a signal, of whatever kind: a read that gave up would be an I/O error
	// to a program that expects none. After this answer the kernel sends no more of them.
	return failed(h.unique, unix.ENOSYS)
}

// read answers READ in a goroutine of its own. body is fuse_read_in: u64 handle, u64 offset, u32 size.
func (s *Server) read(h inHeader, body []byte) {
	i, ok := s.file(h.nodeID)
	if !ok || len(body) < 20 || le.Uint32(body[16:]) > maxRead {
		_ = s.write(failed(h.unique, unix.EINVAL))
		return
	}
	off, size := int64(le.Uint64(body[8:])), int64(le.Uint32(body[16:]))
	s.reads.Go(func() {
		f := s.files[i]
		n := max(0, min(size, f.Size()-off))
		if off < 0 {
			n = 0
		}
		p := reply(h.unique, int(n))
		if n > 0 {
			if err := f.ReadAt(s.ctx, p[outHeaderSize:], off); err != nil {
				p = failed(h.unique, unix.EIO)
				if s.onError != nil {
					s.onError(i, off, err)
				}
			}
		}
		_ = s.write(p) // the loop sees what is wrong with the descriptor
	})
}

var _ io.Closer = (*Server)(nil)
