package contentstore

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"github.com/containerd/errdefs"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/store"
)

// ErrMissing means that a content store lacks an object of an image that it knows: containerd pulls those of one platform only, and may
// have discarded layers after unpacking them. It comes with store.ErrNotFound.
var ErrMissing = errors.New("the content is not in the store")

// Fail says what was tried with a service of containerd, and classifies why it did not work by the errors of package store.
func Fail(ctx context.Context, what string, err error) error {
	var class error
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("%s: %w", what, context.Cause(ctx))
	case classified(err):
		return fmt.Errorf("%s: %w", what, err)
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT), errdefs.IsResourceExhausted(err):
		class = store.ErrNoSpace
	case errdefs.IsNotFound(err):
		class = store.ErrNotFound
	case errdefs.IsPermissionDenied(err), errdefs.IsUnauthorized(err):
		class = store.ErrDenied
	case errdefs.IsUnavailable(err), errdefs.IsDeadlineExceeded(err):
		class = store.ErrNetwork
	case errdefs.IsNotImplemented(err):
		class = blob.ErrUnsupported
	default:
		return fmt.Errorf("%s: %w", what, err)
	}
	return fmt.Errorf("%s: %w: %w", what, class, err)
}

// classified reports whether an error has a class already.
func classified(err error) bool {
	for _, class := range []error{store.ErrNotFound, store.ErrNoSpace, blob.ErrCorrupt, blob.ErrDigest, blob.ErrUnsupported} {
		if errors.Is(err, class) {
			return true
		}
	}
	return false
}
