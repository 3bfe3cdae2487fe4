package cache

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// maxNote is how large a note may be, in bytes.
const maxNote = 16 << 20

// Notes are small records under names of any kind, such as what a reference meant when it was last looked up.
//
//	notes/HEX   HEX: SHA-256 of the name; off 0, 32 bytes: SHA-256 of the content; off 32: content
func (d *Dir) notePath(name string) string {
	sum := sha256.Sum256([]byte(name))
	return filepath.Join(d.path, "notes", hex.EncodeToString(sum[:]))
}

// Note returns the content of a note. One that is absent, damaged or too large is not there.
func (d *Dir) Note(name string) ([]byte, bool) {
	path := d.notePath(name)
	if fi, err := os.Stat(path); err != nil || fi.Size() > maxNote+sha256.Size {
		return nil, false
	}
	p, err := os.ReadFile(path)
	if err != nil || len(p) < sha256.Size {
		return nil, false
	}
	content := p[sha256.Size:]
	sum := sha256.Sum256(content)
	return content, string(sum[:]) == string(p[:sha256.Size])
}

// PutNote writes a note, in place of what had its name. It appears by atomic rename.
func (d *Dir) PutNote(name string, content []byte) (err error) {
	if len(content) > maxNote {
		return fmt.Errorf("cache: note of %d bytes, at most %d are possible", len(content), maxNote)
	}
	path := d.notePath(name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("cache: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return fmt.Errorf("cache: %w", err)
	}
	sum := sha256.Sum256(content)
	_, err = f.Write(append(sum[:], content...))
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("cache: %w", err), os.Remove(f.Name()))
	}
	return nil
}
