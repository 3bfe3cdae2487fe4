package convert

import (
	"context"
	"errors"
	"fmt"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/store"
)

// bringNeeds makes the target have objects of other images: they are there, or are mounted or copied from one of Options.Others.
func (c *conversion) bringNeeds(ctx context.Context, target store.Target, needs []ocispec.Descriptor) error {
	for _, d := range needs {
		if err := c.bringNeed(ctx, target, d); err != nil {
			return fmt.Errorf("%s of another image: %w", d.Digest, err)
		}
	}
	return nil
}

func (c *conversion) bringNeed(ctx context.Context, target store.Target, d ocispec.Descriptor) error {
	if has, err := target.Exists(ctx, d); has || err != nil {
		return err
	}
	for _, src := range c.opt.Others {
		if has, err := target.Mount(ctx, d, src); has || err != nil {
			return err
		}
		r, err := src.Fetch(ctx, d)
		if errors.Is(err, store.ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		return errors.Join(target.Push(ctx, d, r), r.Close())
	}
	return store.ErrNotFound
}
