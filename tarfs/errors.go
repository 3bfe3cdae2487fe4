package tarfs

import (
	"errors"
	"fmt"
	"io"

	"github.com/lazuli-project/lazuli/blob"
)

// Errors that say why an entry is refused. They come inside an [*Error], and all but ErrTooLarge and ErrUnsupported mean
// that no file system could hold the entry.
var (
	// ErrPath: the path leaves the root, is no path, or leads through something that is no directory.
	ErrPath = errors.New("impossible path")
	// ErrName: a name or a link target is too long, or has a NUL byte in it.
	ErrName = errors.New("impossible name")
	// ErrLink: a hard link to a directory, or to nothing.
	ErrLink = errors.New("impossible hard link")
	// ErrXattr: an extended attribute with an impossible or a reserved name, or that is too long.
	ErrXattr = errors.New("impossible extended attribute")
	// ErrTooLarge: more or larger than the limits of this package.
	ErrTooLarge = errors.New("over the limits")
)

// Limits of a layer.
const (
	// MaxEntries is how many entries a layer may have.
	MaxEntries = 16 << 20
	// MaxFile is the largest size of a file in bytes, holes included: what Linux's larger file systems allow.
	MaxFile = 16 << 40
	// MaxPath is the length of the longest path and link target in bytes.
	MaxPath = 4095
	// MaxHeader is the size of the largest extension header in bytes (PAX records, GNU long names, sparse maps).
	MaxHeader = 1 << 20
)

// Error is an entry that cannot be read or is refused. Err wraps one of this package's errors, or
// [blob.ErrCorrupt] for a damaged stream, or [blob.ErrUnsupported], or the error of the underlying reader.
type Error struct {
	Entry  int    // number of the entry in its layer, from 0
	Offset int64  // in the tar, of the entry's first header block, or where the stream is damaged
	Name   string // as far as it is known
	Err    error
}

// Error names the entry, its place and the reason.
func (e *Error) Error() string {
	if e.Name == "" {
		return fmt.Sprintf("tar entry %d at offset %d: %v", e.Entry, e.Offset, e.Err)
	}
	name := e.Name
	if len(name) > 300 {
		name = name[:300] + "..."
	}
	return fmt.Sprintf("tar entry %d at offset %d, %q: %v", e.Entry, e.Offset, name, e.Err)
}

// Unwrap returns the reason.
func (e *Error) Unwrap() error { return e.Err }

var errCut = fmt.Errorf("%w: %w", blob.ErrCorrupt, io.ErrUnexpectedEOF)

func corrupt(format string, args ...any) error {
	return fmt.Errorf("%w: %s", blob.ErrCorrupt, fmt.Sprintf(format, args...))
}
