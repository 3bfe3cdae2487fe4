//go:build !unix

package unpack

import (
	"context"
	"errors"
	"fmt"
	"runtime"

	"github.com/lazuli-project/lazuli/fetch"
)

// Skipped counts what was left out.
type Skipped struct{ Owners, Devices, Xattrs int }

// Any reports whether something was left out.
func (s Skipped) Any() bool { return s != Skipped{} }

// ErrNotEmpty means that the directory has entries already.
var ErrNotEmpty = errors.New("directory is not empty")

// Dir needs the file attributes of Unix.
func Dir(context.Context, *fetch.Image, string) (Skipped, error) {
	return Skipped{}, fmt.Errorf("unpack to a directory on %s: %w; unpack to a tar with -", runtime.GOOS, errors.ErrUnsupported)
}
