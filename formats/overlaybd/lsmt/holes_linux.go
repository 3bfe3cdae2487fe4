package lsmt

import (
	"errors"
	"fmt"
	"syscall"
)

// From lseek(2) and fallocate(2).
const (
	seekData      = 3
	seekHole      = 4
	fallocKeep    = 1
	fallocPunch   = 2
	fallocPunched = fallocKeep | fallocPunch
)

// dataRuns calls fn with the runs of a file, from one byte to another, that are no holes. It moves the file's own offset. Where
// the file knows nothing of holes, it looks for zeros.
func dataRuns(f File, from, to int64, fn func(begin, end int64)) error {
	conn, ok := f.(syscall.Conn)
	if !ok {
		return scanData(f, from, to, fn)
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return scanData(f, from, to, fn)
	}
	for at := from; at < to; {
		begin, err := seek(raw, at, seekData)
		if errors.Is(err, syscall.ENXIO) {
			return nil // nothing but holes up to the end
		}
		if errors.Is(err, syscall.EINVAL) && at == from {
			return scanData(f, from, to, fn)
		}
		if err != nil {
			return fmt.Errorf("look for data at %d: %w", at, err)
		}
		end, err := seek(raw, begin, seekHole)
		if err != nil {
			return fmt.Errorf("look for a hole at %d: %w", begin, err)
		}
		if begin >= to {
			return nil
		}
		fn(begin, min(end, to))
		at = end
	}
	return nil
}

func seek(raw syscall.RawConn, off int64, whence int) (at int64, err error) {
	if failed := raw.Control(func(fd uintptr) { at, err = syscall.Seek(int(fd), off, whence) }); failed != nil {
		return 0, failed
	}
	return at, err
}

// discard makes bytes of a file a hole, or zeros where it has no holes.
func discard(f File, off, n int64) error {
	if conn, ok := f.(syscall.Conn); ok {
		if raw, err := conn.SyscallConn(); err == nil {
			var punched error
			if err := raw.Control(func(fd uintptr) { punched = syscall.Fallocate(int(fd), fallocPunched, off, n) }); err == nil && punched == nil {
				return nil
			}
		}
	}
	return clearData(f, off, n)
}
