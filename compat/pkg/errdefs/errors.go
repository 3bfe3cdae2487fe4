// Package errdefs has the errors that callers of Nydus' packages tell apart.
package errdefs

import (
	"errors"
	"net"
	"syscall"

	"github.com/containerd/errdefs"
)

// Errors. The first two are containerd's.
var (
	ErrAlreadyExists   = errdefs.ErrAlreadyExists
	ErrNotFound        = errdefs.ErrNotFound
	ErrInvalidArgument = errors.New("invalid argument")
	ErrUnavailable     = errors.New("unavailable")
	ErrNotImplemented  = errors.New("not implemented")
	ErrDeviceBusy      = errors.New("device busy")
)

// IsAlreadyExists reports whether something exists already.
func IsAlreadyExists(err error) bool { return errors.Is(err, ErrAlreadyExists) }

// IsNotFound reports whether something is missing.
func IsNotFound(err error) bool { return errors.Is(err, ErrNotFound) }

// IsConnectionClosed reports whether the own side closed a connection.
func IsConnectionClosed(err error) bool { return errors.Is(err, net.ErrClosed) }

// IsErofsMounted reports whether a mount failed as the file system is mounted already.
func IsErofsMounted(err error) bool { return errors.Is(err, syscall.EBUSY) }
