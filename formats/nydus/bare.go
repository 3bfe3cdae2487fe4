package nydus

import (
	"context"

	"github.com/lazuli-project/lazuli/blob"
)

// ReadBootstrap reads a bootstrap that is the whole source, or lies in a layer's blob. It is not checked.
func ReadBootstrap(ctx context.Context, src blob.Source) ([]byte, error) {
	boot, _, err := bareBootstrap(ctx, src)
	return boot, err
}
