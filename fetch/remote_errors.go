package fetch

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
)

// Errors of remote objects that callers tell apart. They are wrapped with what was tried and where.
var (
	// ErrNotFound: there is no such object.
	ErrNotFound = errors.New("not found")
	// ErrDenied: the credentials, or the lack of them, do not allow it.
	ErrDenied = errors.New("access denied")
	// ErrNetwork: no answer, or none that makes sense, after all retries.
	ErrNetwork = errors.New("registry or network failure")
)

// A StatusError is an HTTP answer that is not what was asked for. It is one of [ErrNotFound], [ErrDenied] and
// [ErrNetwork] for errors.Is. Queries of URLs may be signatures, so it holds none.
type StatusError struct {
	Method, Host, Path string
	Status             int
	Detail             string // what the server said, if it did
}

// Error implements error.
func (e *StatusError) Error() string {
	s := fmt.Sprintf("%s %s%s: %d %s", e.Method, e.Host, e.Path, e.Status, http.StatusText(e.Status))
	if e.Detail != "" {
		s += ": " + e.Detail
	}
	return s
}

// Is makes the error one of the classes.
func (e *StatusError) Is(target error) bool {
	switch e.Status {
	case http.StatusNotFound, http.StatusGone:
		return target == ErrNotFound
	case http.StatusUnauthorized, http.StatusForbidden:
		return target == ErrDenied
	}
	return target == ErrNetwork
}

// temporary reports whether the same request may succeed later.
func temporary(status int) bool {
	return status == http.StatusTooManyRequests || status == http.StatusRequestTimeout || status >= 500
}

// statusError makes the error of an answer, naming the place that was asked first rather than where it redirected to.
func statusError(resp *http.Response, asked *url.URL) *StatusError {
	return &StatusError{Method: resp.Request.Method, Host: asked.Host, Path: asked.Path, Status: resp.StatusCode}
}

// transportError makes the error of a request without an answer. A cancelled context stays what it is.
func transportError(ctx context.Context, method string, asked *url.URL, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var status *StatusError
	if errors.As(err, &status) {
		return err
	}
	var ue *url.Error
	if errors.As(err, &ue) {
		err = ue.Err // without the URL, which may be a signed one
	}
	return fmt.Errorf("%s %s%s: %w: %w", method, asked.Host, asked.Path, ErrNetwork, Redact(err))
}

// Redact returns an error whose text has no credentials and no queries in its URLs. It wraps err.
func Redact(err error) error {
	if err == nil {
		return nil
	}
	return redacted{err}
}

type redacted struct{ error }

var secretsOfURL = regexp.MustCompile(`(https?://)(?:[^\s"'/?#@]*@)?([^\s"'?#]*)(?:[?#][^\s"']*)?`)

func (e redacted) Error() string { return secretsOfURL.ReplaceAllString(e.error.Error(), "$1$2") }
func (e redacted) Unwrap() error { return e.error }
