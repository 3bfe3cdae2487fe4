package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"syscall"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/catalog"
	"github.com/lazuli-project/lazuli/containerd"
	"github.com/lazuli-project/lazuli/containerd/contentstore"
	"github.com/lazuli-project/lazuli/convert"
	"github.com/lazuli-project/lazuli/encrypt"
	"github.com/lazuli-project/lazuli/formats/nydus"
	"github.com/lazuli-project/lazuli/image"
	"github.com/lazuli-project/lazuli/store"
	"github.com/lazuli-project/lazuli/tarfs"
)

// Exit codes, as users are told.
const (
	exitDone        = 0
	exitFailed      = 1 // or differences found
	exitUsage       = 2
	exitNotFound    = 3
	exitDenied      = 4
	exitNetwork     = 5
	exitDamaged     = 6 // or unsupported
	exitNoSpace     = 7
	exitInterrupted = 130
)

// usageError is a wrong use of the command line.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }

// exitError ends the program with the exit code of another one, without a message.
type exitError struct{ code int }

func (e *exitError) Error() string { return fmt.Sprintf("exit status %d", e.code) }

// errDifferent: an image differs from its source; the differences are printed.
var errDifferent = errors.New("the images differ")

// classify returns the exit code of an error and what to do next.
func classify(ctx context.Context, err error) (code int, hint string) {
	var usage *usageError
	switch {
	case err == nil:
		return exitDone, ""
	case ctx.Err() != nil && errors.Is(err, context.Canceled):
		return exitInterrupted, "what was stored so far is used by the next run"
	case errors.As(err, &usage), errors.Is(err, catalog.ErrOption), errors.Is(err, store.ErrReference):
		return exitUsage, `see "lazuli --help" and "lazuli COMMAND --help"`
	case errors.Is(err, errDifferent):
		return exitFailed, "convert the image again, and report this if it stays"
	case errors.Is(err, errNoCompanion):
		return exitFailed, `it is a program of its own, for BuildKit: "make buildkit" in the sources of lazuli builds it; put it beside lazuli`
	case errors.Is(err, exec.ErrNotFound):
		return exitFailed, `install the program (on Debian: "apt install runc"), or name another one`
	case errors.Is(err, image.ErrOffline):
		return exitNetwork, "run it once without --offline and with the same --cache, and read there what is needed"
	case errors.Is(err, containerd.ErrUnreachable) && errors.Is(err, store.ErrNetwork):
		return exitNetwork, "is containerd running? Its socket is named by --containerd-address or CONTAINERD_ADDRESS"
	case errors.Is(err, contentstore.ErrMissing):
		return exitNotFound, `containerd keeps what it pulled for its platform only, and may discard layers that it unpacked: "ctr content fetch IMAGE" gets all of an image again, --platform names one that is there`
	case errors.Is(err, store.ErrDenied) && (errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS)):
		return exitDenied, "check the owner and permissions of the path, and whether its file system may be written"
	case errors.Is(err, store.ErrDenied):
		return exitDenied, `log in with "docker login" or "podman login", or give --creds USER:PASSWORD; writing needs the right to push`
	case errors.Is(err, store.ErrNoSpace), errors.Is(err, syscall.ENOSPC):
		return exitNoSpace, "free some space on the target and run the command again: what is there already is used"
	case errors.Is(err, convert.ErrMoved):
		return exitFailed, "run the command again when nobody else writes to the tag: it begins with what that names then"
	case errors.Is(err, convert.ErrNothingToConvert):
		return exitNotFound, `"lazuli inspect" shows which platforms and formats the source has; see --platform`
	case refused(err):
		return exitDamaged, "no container runtime unpacks such a layer: build the image again"
	case errors.Is(err, nydus.ErrSignature):
		return exitDenied, "take the key of who signed the image, or have the image signed"
	case errors.Is(err, nydus.ErrSealed), errors.Is(err, encrypt.ErrNoKey):
		return exitDenied, "give a private key that the image was encrypted for by --decrypt-key"
	case errors.Is(err, blob.ErrUnsupported):
		return exitDamaged, `"lazuli inspect" shows what the image is`
	case errors.Is(err, blob.ErrDigest), errors.Is(err, blob.ErrCorrupt):
		return exitDamaged, "the bytes are not what their digests promise: fetch or push the image again, or look at the host named above"
	case errors.Is(err, store.ErrNotFound), errors.Is(err, fs.ErrNotExist):
		return exitNotFound, "check the spelling of the reference and its tag"
	case errors.Is(err, store.ErrNetwork):
		return exitNetwork, "check the host's name and port, the network, and --plain-http, --insecure or --ca for the registry; then run the command again"
	}
	return exitFailed, ""
}

// refused reports whether a layer has an entry that no file system can hold.
func refused(err error) bool {
	for _, reason := range []error{tarfs.ErrPath, tarfs.ErrName, tarfs.ErrLink, tarfs.ErrXattr, tarfs.ErrTooLarge} {
		if errors.Is(err, reason) {
			return true
		}
	}
	return false
}

// report prints an error in its four parts and returns the exit code.
func (a *app) report(ctx context.Context, err error) int {
	var exit *exitError
	if errors.As(err, &exit) {
		return exit.code
	}
	code, hint := classify(ctx, err)
	if err == nil {
		return code
	}
	if code == exitInterrupted {
		err = errors.New("interrupted")
	}
	if a.json {
		_ = json.NewEncoder(a.stderr).Encode(map[string]any{"error": err.Error(), "hint": hint, "exit_code": code})
		return code
	}
	fmt.Fprintf(a.stderr, "lazuli: %v\n", err)
	if hint != "" {
		fmt.Fprintf(a.stderr, "hint: %s\n", hint)
	}
	return code
}
