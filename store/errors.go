package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"syscall"

	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/fetch"
)

// fileError says what was tried with a file and classifies why it did not work.
func fileError(what, path string, err error) error {
	class := error(nil)
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		class = ErrNoSpace
	case errors.Is(err, fs.ErrNotExist):
		class = ErrNotFound
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		class = ErrDenied
	default:
		return fmt.Errorf("%s %s: %w", what, path, err)
	}
	var pe *fs.PathError
	if errors.As(err, &pe) {
		err = pe.Err // the path stands in front already
	}
	return fmt.Errorf("%s %s: %w: %w", what, path, class, err)
}

// remoteError says what was tried with a registry and classifies why it did not work. Errors have no queries of URLs.
func remoteError(ctx context.Context, what string, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %w", what, context.Cause(ctx))
	}
	var status *fetch.StatusError
	var resp *errcode.ErrorResponse
	var ue *url.Error
	switch {
	case errors.As(err, &status):
	case errors.As(err, &resp):
		err = &fetch.StatusError{
			Method: resp.Method, Host: resp.URL.Host, Path: resp.URL.Path, Status: resp.StatusCode,
			Detail: detail(resp.Errors),
		}
	case errors.As(err, &ue):
		err = fmt.Errorf("%w: %w", ErrNetwork, ue.Err)
	case errors.Is(err, errdef.ErrNotFound):
		err = fmt.Errorf("%w: %w", ErrNotFound, err)
	case errors.Is(err, auth.ErrBasicCredentialNotFound):
		err = fmt.Errorf("%w: %w", ErrDenied, err)
	case errors.Is(err, content.ErrMismatchedDigest):
		err = fmt.Errorf("%w: %w", blob.ErrDigest, err)
	case errors.Is(err, content.ErrTrailingData), errors.Is(err, content.ErrInvalidDescriptorSize):
		err = fmt.Errorf("%w: %w", blob.ErrCorrupt, err)
	case classified(err):
	default:
		err = fmt.Errorf("%w: %w", ErrNetwork, err)
	}
	return fmt.Errorf("%s: %w", what, fetch.Redact(err))
}

// classified reports whether an error has a class already.
func classified(err error) bool {
	for _, class := range []error{
		ErrNotFound, ErrDenied, ErrNetwork, ErrNoSpace, ErrReference, blob.ErrCorrupt, blob.ErrDigest, blob.ErrUnsupported,
	} {
		if errors.Is(err, class) {
			return true
		}
	}
	return false
}

// detail is what a registry said, in one short line.
func detail(errs errcode.Errors) string {
	if len(errs) == 0 {
		return ""
	}
	return fmt.Sprintf("%.300s", errs.Error())
}
