package exporter

import (
	"context"
	"fmt"

	"github.com/lazuli-project/lazuli/buildkit/output"
	"github.com/lazuli-project/lazuli/containerd/contentstore"
	"github.com/lazuli-project/lazuli/image"
	"github.com/lazuli-project/lazuli/store"
)

// openDictionary opens the chunk dictionary, with the client's credentials; nil where none is wanted.
func (x *export) openDictionary(ctx context.Context) (*image.Dictionary, error) {
	name := x.opt.Dictionary
	if name == "" {
		return nil, nil
	}
	d, err := x.readDictionary(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("%s=%s: %w", output.KeyDictionary, name, err)
	}
	return d, nil
}

func (x *export) readDictionary(ctx context.Context, name string) (*image.Dictionary, error) {
	r, err := x.repository(name, false)
	if err != nil {
		return nil, err
	}
	ref, err := store.Parse(name)
	if err != nil {
		return nil, err
	}
	desc, err := r.resolve(ctx)
	if err != nil {
		return nil, err
	}
	provider, err := r.provider(ctx)
	if err != nil {
		return nil, err
	}
	return image.ReadDictionary(ctx, contentstore.NewSource(ctx, provider, ref, desc))
}
