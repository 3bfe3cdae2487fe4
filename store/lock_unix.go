//go:build unix

package store

import (
	"errors"
	"os"
	"syscall"
)

// Locks are of the open file, so that they end with the process.

// lockShared and lockExclusive wait for a lock. File systems without locks are used without.
func lockShared(f *os.File) error    { return supported(flock(f, syscall.LOCK_SH)) }
func lockExclusive(f *os.File) error { return supported(flock(f, syscall.LOCK_EX)) }

// tryLock takes an exclusive lock at once, or gives errBusy where somebody else has one.
func tryLock(f *os.File) error {
	err := flock(f, syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return errBusy
	}
	return err
}

func flock(f *os.File, how int) error {
	for {
		err := syscall.Flock(int(f.Fd()), how)
		if !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}

func supported(err error) error {
	if errors.Is(err, syscall.ENOTSUP) || errors.Is(err, syscall.ENOLCK) || errors.Is(err, syscall.ENOSYS) {
		return nil
	}
	return err
}

// renameOpen renames and closes a locked file. Its lock must last until it has its name.
func renameOpen(f *os.File, name string) error {
	return errors.Join(os.Rename(f.Name(), name), f.Close())
}

// syncDirs makes the names in directories durable.
func syncDirs(dirs ...string) error {
	for _, dir := range dirs {
		f, err := os.Open(dir)
		if err != nil {
			return err
		}
		err = f.Sync()
		if errors.Is(err, syscall.EINVAL) {
			err = nil // some file systems have no such thing
		}
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	return nil
}
