package overlaybdtools

import (
	"context"
	"fmt"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/formats/overlaybd/layerfile"
	"github.com/lazuli-project/lazuli/formats/overlaybd/lsmt"
)

// MergeOptions are those of overlaybd-merge.
type MergeOptions struct {
	// Config is the path of the disk's configuration.
	Config string
	// Output is the path of the new layer. What is there is replaced.
	Output string
	// Compress makes a ZFile of the layer, Tar wraps it into a tar.
	Compress, Tar bool
	Compression   Compression
}

// Merge makes one layer of all the layers of a disk, the writable one included. It refers to nothing and has no UUID.
func Merge(ctx context.Context, o MergeOptions) error {
	opt := layerfile.Options{Compress: o.Compress, Tar: o.Tar}
	var err error
	if opt.ZFile, err = o.Compression.options(); err != nil {
		return err
	}
	return withDisk(ctx, o.Config, true, func(s *stack) error {
		if err := s.addUpper(); err != nil {
			return err
		}
		d, err := s.device()
		if err != nil {
			return err
		}
		if d == nil {
			return fmt.Errorf("the configuration %s names no layers: %w", o.Config, blob.ErrUnsupported)
		}
		info := lsmt.Info{VirtualSize: d.Size()}
		return storeLayer(ctx, o.Output, true, o.Compression.cpu(), info, opt, func(ctx context.Context, w lsmt.Payload) ([]lsmt.Segment, error) {
			return lsmt.Merge(ctx, w, d, false)
		})
	})
}
