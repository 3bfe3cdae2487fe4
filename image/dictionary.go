package image

import (
	"context"
	"errors"
	"fmt"

	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/formats/nydus"
	"github.com/lazuli-project/lazuli/store"
)

// Dictionary is an image whose chunks conversions refer to instead of storing them again.
type Dictionary struct {
	*nydus.Dictionary
	// Source is where its blobs are, for [github.com/lazuli-project/lazuli/convert.Options].Others; nil for a bare bootstrap.
	Source store.Source
}

// Close closes the source.
func (d *Dictionary) Close() error {
	if d == nil || d.Source == nil {
		return nil
	}
	return d.Source.Close()
}

// OpenDictionary opens the chunk dictionary that a reference names.
func OpenDictionary(ctx context.Context, ref store.Ref, opts store.Options) (*Dictionary, error) {
	if ref.Transport == store.Bare {
		im, err := Open(ctx, ref, Options{Store: opts})
		if err != nil {
			return nil, fmt.Errorf("chunk dictionary: %w", err)
		}
		d, err := nydus.OpenDictionary(im.Manifest, im.Image.Image)
		if err = errors.Join(err, im.Close()); err != nil {
			return nil, fmt.Errorf("chunk dictionary %s: %w", ref, err)
		}
		return &Dictionary{Dictionary: d}, nil
	}
	src, err := store.OpenSource(ctx, ref, opts)
	if err != nil {
		return nil, fmt.Errorf("chunk dictionary: %w", err)
	}
	d, err := ReadDictionary(ctx, src)
	if err != nil {
		return nil, errors.Join(err, src.Close())
	}
	return d, nil
}

// ReadDictionary reads the chunk dictionary that a source is. It is closed with what is returned.
func ReadDictionary(ctx context.Context, src store.Source) (_ *Dictionary, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("chunk dictionary %s: %w", src.Ref(), err)
		}
	}()
	desc, err := src.Resolve(ctx)
	if err != nil {
		return nil, err
	}
	im, err := OpenManifest(ctx, src, nil, desc, Options{Readers: []formats.Reader{nydus.Reader{}}})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, im.Close()) }()
	d, err := nydus.OpenDictionary(im.Manifest, im.Image.Image)
	if err != nil {
		return nil, err
	}
	return &Dictionary{d, src}, nil
}
