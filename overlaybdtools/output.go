package overlaybdtools

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// output is a file that has its name once it is complete.
type output struct {
	*os.File

	path string
	done bool
}

// createOutput begins a file. Unless it may replace another one, there must be none.
func createOutput(path string, replace bool) (*output, error) {
	switch i, err := os.Lstat(path); {
	case path == "":
		return nil, fmt.Errorf("output: %w", fs.ErrNotExist)
	case err == nil && !replace:
		return nil, fmt.Errorf("output: %w", &fs.PathError{Op: "create", Path: path, Err: fs.ErrExist})
	case err == nil && !i.Mode().IsRegular() && i.Mode()&fs.ModeSymlink == 0:
		return nil, fmt.Errorf("output %s is no file", path)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".overlaybd-*")
	if err != nil {
		return nil, fmt.Errorf("output: %w", err)
	}
	return &output{File: f, path: path}, nil
}

// commit gives the file its name.
func (o *output) commit() error {
	o.done = true
	err := errors.Join(o.Chmod(0o644), o.Close())
	if err == nil {
		err = os.Rename(o.Name(), o.path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("output %s: %w", o.path, err), os.Remove(o.Name()))
	}
	return nil
}

// abort removes the file unless it is committed.
func (o *output) abort() {
	if !o.done {
		o.done = true
		_ = o.Close()           // nothing of it is kept
		_ = os.Remove(o.Name()) // at worst a temporary file stays
	}
}

// writeFile writes a whole file.
func writeFile(path string, content []byte) error {
	o, err := createOutput(path, true)
	if err != nil {
		return err
	}
	defer o.abort()
	if _, err := o.Write(content); err != nil {
		return fmt.Errorf("output %s: %w", path, err)
	}
	return o.commit()
}
