package nydus

import (
	"context"
	"fmt"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/formats/nydus/nydusblob"
	"github.com/lazuli-project/lazuli/formats/nydus/rafs6"
)

// findCache looks for a ready-made cache of a blob that is not there itself: its plain space, and its chunk table.
func findCache(ctx context.Context, id string, find func(id string) (blob.Source, error)) (data blob.Source, table []byte) {
	data, err := find(id + cacheDataSuffix)
	if err != nil {
		return nil, nil
	}
	meta, err := find(id + metaSuffix)
	if err == nil {
		table, err = blob.ReadAll(ctx, meta, maxBootstrap, blob.Demand)
	}
	if err != nil {
		return nil, nil
	}
	return data, table
}

// openCache makes the blob of a ready-made cache.
func openCache(b *rafs6.Bootstrap, number int, l located, decoder *nydusblob.Decoder) (formats.Blob, error) {
	info := &b.Blobs[number]
	table, err := nydusblob.DecodeTableFile(info, l.cache)
	if err == nil {
		err = b.Check(number, table)
	}
	if err != nil {
		return formats.Blob{}, fmt.Errorf("cache: %w", err)
	}
	layout := nydusblob.NewCacheLayout(nydusblob.NewLayout(info, table, b.Digests(number, table.Len()), decoder), l.desc.Size)
	return formats.Blob{Desc: l.desc, Layout: layout, Open: l.open, PlainSize: layout.Size()}, nil
}
