package formats

import (
	"errors"
	"fmt"
	"os"
)

// tempFile is a [Spool] in the file system.
type tempFile struct {
	*os.File
	named bool // its name could not be removed at once
}

// NewSpool makes a temporary file in dir, "" for the system's directory. Where the system allows it, the file has no name any more: it
// vanishes with the process, however that ends.
func NewSpool(dir string) (Spool, error) {
	f, err := os.CreateTemp(dir, "lazuli-spool-")
	if err != nil {
		return nil, fmt.Errorf("temporary file: %w", err)
	}
	return &tempFile{f, os.Remove(f.Name()) != nil}, nil
}

// Close removes the file.
func (t *tempFile) Close() error {
	err := t.File.Close()
	if t.named {
		err = errors.Join(err, os.Remove(t.Name()))
	}
	return err
}
