package main

import (
	"context"
	"fmt"

	"github.com/lazuli-project/lazuli/catalog"
	"github.com/lazuli-project/lazuli/formats/nydus"
	"github.com/lazuli-project/lazuli/image"
	"github.com/lazuli-project/lazuli/store"
)

// chunkDictionary is an image whose chunks a conversion refers to.
type chunkDictionary struct {
	*nydus.Dictionary
	source store.Source // where its blobs are; nil for a bare bootstrap
}

// openDictionary opens the chunk dictionary that a reference names.
func (a *app) openDictionary(ctx context.Context, arg string, flags *storeFlags) (_ *chunkDictionary, err error) {
	refs, err := parseRefs(arg)
	if err != nil {
		return nil, err
	}
	so, err := a.storeOptions(flags)
	if err != nil {
		return nil, err
	}
	im, err := image.Open(ctx, refs[0], image.Options{Store: so, Readers: catalog.Readers()[:1]})
	if err != nil {
		return nil, fmt.Errorf("chunk dictionary: %w", err)
	}
	defer closeQuietly(im)
	d := &chunkDictionary{}
	if d.Dictionary, err = nydus.OpenDictionary(im.Manifest, im.Image.Image); err != nil {
		return nil, fmt.Errorf("chunk dictionary %s: %w", refs[0], err)
	}
	if refs[0].Transport != store.Bare {
		d.source, err = store.OpenSource(ctx, refs[0], so)
	}
	return d, err
}

// Close closes the dictionary's store.
func (d *chunkDictionary) Close() error {
	if d == nil || d.source == nil {
		return nil
	}
	return d.source.Close()
}
