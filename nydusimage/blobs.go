package nydusimage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/formats/nydus"
	"github.com/lazuli-project/lazuli/formats/nydus/nydusblob"
	"github.com/lazuli-project/lazuli/formats/nydus/rafs5"
)

// errNoBlob: no file has the blob.
var errNoBlob = errors.New("no such blob")

// BlobSource finds a blob by its id, for backends that are no directory. It may be called concurrently.
type BlobSource func(ctx context.Context, id string) (blob.Source, error)

// blobFinder gives the blobs of a bootstrap.
type blobFinder struct {
	file  string     // every blob is this file
	dir   string     // or lies here under its id
	other BlobSource // or is there
	layer blob.Source
	files []*os.File
}

// layerName is the name of the blob that is there as a source.
const layerName = "layer"

// find opens a blob.
func (f *blobFinder) find(id string) (blob.Source, error) {
	path := f.file
	if path == "" {
		if f.dir == "" {
			return nil, fmt.Errorf("blob %.64q: %w: neither --blob nor --blob-dir nor --backend-type says where it is", id, errNoBlob)
		}
		if !filepath.IsLocal(id) || filepath.Base(id) != id {
			return nil, fmt.Errorf("blob id %q: %w", id, blob.ErrCorrupt)
		}
		path = filepath.Join(f.dir, id)
	}
	file, size, err := openFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", errNoBlob, err)
	}
	if err != nil {
		return nil, fmt.Errorf("blob: %w", err)
	}
	f.files = append(f.files, file)
	return blob.ReaderAtSource{R: file, N: size}, nil
}

// openData opens the image of a bootstrap whose blobs may be data sections alone, as containerd's converter hands them over: the
// bootstrap's own table says where the chunks lie. It does so for all but those in batches and in other objects.
func (f *blobFinder) openData(ctx context.Context, bootstrap string) (*formats.Image, error) {
	src, err := f.bootstrap(bootstrap)
	if err != nil {
		return nil, err
	}
	raw, err := nydus.ReadBootstrap(ctx, src)
	if err != nil {
		return nil, fmt.Errorf("load bootstrap %q: %w", bootstrap, err)
	}
	if rafs5.IsBootstrap(raw) {
		return f.open(ctx, bootstrap)
	}
	l, err := parse(raw, bootstrap)
	if err != nil {
		return nil, err
	}
	decoder, err := nydusblob.NewDecoder()
	if err != nil {
		return nil, err
	}
	img := &formats.Image{Format: nydus.Name, Tree: l.Tree}
	for i := range l.blobs {
		b := &l.blobs[i]
		if b.Info.Features&(nydusblob.FeatureBatch|nydusblob.FeatureSeparate) != 0 {
			return f.open(ctx, bootstrap)
		}
		src, err := f.get(ctx, b.Info.ID)
		if err != nil {
			return nil, err
		}
		layout := nydusblob.NewLayout(&b.Info, b.Table, b.Digests, decoder)
		img.Blobs = append(img.Blobs, formats.Blob{Desc: formats.DigestOf(nydus.MediaTypeBlob, []byte(b.Info.ID)), Layout: layout,
			Open: func(context.Context) (blob.Source, error) { return src, nil }, PlainSize: layout.Size()})
	}
	return img, nil
}

// get finds a blob where it is.
func (f *blobFinder) get(ctx context.Context, id string) (blob.Source, error) {
	if f.layer != nil && id == layerName {
		return f.layer, nil
	}
	if f.other != nil {
		return f.other(ctx, id)
	}
	return f.find(id)
}

// open opens the image of a bootstrap.
func (f *blobFinder) open(ctx context.Context, bootstrap string) (*formats.Image, error) {
	src, err := f.bootstrap(bootstrap)
	if err != nil {
		return nil, err
	}
	return nydus.OpenBare(ctx, src, filepath.Base(bootstrap), func(id string) (blob.Source, error) { return f.get(ctx, id) })
}

// bootstrap opens the file of a bootstrap, or gives the layer that has it.
func (f *blobFinder) bootstrap(path string) (blob.Source, error) {
	if f.layer != nil {
		return f.layer, nil
	}
	file, size, err := openFile(path)
	if err != nil {
		return nil, fmt.Errorf("bootstrap: %w", err)
	}
	f.files = append(f.files, file)
	return blob.ReaderAtSource{R: file, N: size}, nil
}

func (f *blobFinder) close() {
	for _, file := range f.files {
		_ = file.Close() // were read only
	}
}
