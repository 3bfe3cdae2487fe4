package errdefs_test

import (
	"errors"
	"fmt"
	"net"
	"syscall"
	"testing"

	"github.com/containerd/nydus-snapshotter/pkg/errdefs"
)

func TestErrors(t *testing.T) {
	t.Parallel()
	other := errors.New("other")
	for name, c := range map[string]struct {
		is  func(error) bool
		err error
	}{
		"already exists": {errdefs.IsAlreadyExists, errdefs.ErrAlreadyExists}, "not found": {errdefs.IsNotFound, errdefs.ErrNotFound},
		"closed": {errdefs.IsConnectionClosed, &net.OpError{Op: "accept", Err: net.ErrClosed}}, "mounted": {errdefs.IsErofsMounted, syscall.EBUSY},
	} {
		if !c.is(fmt.Errorf("wrapped: %w", c.err)) || c.is(other) || c.is(nil) {
			t.Error(name)
		}
	}
}
