//go:build !unix

package store

import "os"

// Without locks of open files, several processes must not write to one layout at the same time. Files that are open
// cannot be removed there, which keeps temporary files of others safe.

func lockShared(*os.File) error    { return nil }
func lockExclusive(*os.File) error { return nil }
func tryLock(*os.File) error       { return nil }
func syncDirs(...string) error     { return nil }

// renameOpen renames and closes a file, which Windows does not rename while it is open.
func renameOpen(f *os.File, name string) error {
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}
