package exporter

import (
	"context"
	"errors"
	"fmt"

	"github.com/lazuli-project/lazuli/buildkit/output"
	"github.com/lazuli-project/lazuli/catalog"
	"github.com/lazuli-project/lazuli/containerd/contentstore"
	"github.com/lazuli-project/lazuli/formats/nydus"
	"github.com/lazuli-project/lazuli/image"
	"github.com/lazuli-project/lazuli/store"
)

// dictionary is an image whose chunks a conversion refers to.
type dictionary struct {
	*nydus.Dictionary
	source store.Source // where its blobs are
}

// openDictionary opens the chunk dictionary, with the client's credentials; nil where none is wanted.
func (x *export) openDictionary(ctx context.Context) (*dictionary, error) {
	if x.opt.Dictionary == "" {
		return nil, nil
	}
	d, err := x.readDictionary(ctx, x.opt.Dictionary)
	if err != nil {
		return nil, fmt.Errorf("%s=%s: %w", output.KeyDictionary, x.opt.Dictionary, err)
	}
	return d, nil
}

func (x *export) readDictionary(ctx context.Context, name string) (_ *dictionary, err error) {
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
	src := contentstore.NewSource(ctx, provider, ref, desc)
	im, err := image.OpenManifest(ctx, src, nil, desc, image.Options{Readers: catalog.LazyReaders()})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, im.Close()) }()
	d, err := nydus.OpenDictionary(im.Manifest, im.Image.Image)
	if err != nil {
		return nil, err
	}
	return &dictionary{d, src}, nil
}
