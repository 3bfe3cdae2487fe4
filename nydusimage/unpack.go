package nydusimage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/fetch"
	"github.com/lazuli-project/lazuli/tarfs"
	"github.com/lazuli-project/lazuli/tree"
)

// UnpackOptions are the flags of "nydus-image unpack".
type UnpackOptions struct {
	Bootstrap string      // or a blob that holds its own
	Layer     blob.Source // such a blob in place of Bootstrap and Blob
	Output    string      // file or pipe
	Writer    io.Writer   // gets the tar in place of Output

	Blob    string     // the only blob's file, or its data section alone
	BlobDir string     // blobs by id
	Source  BlobSource // or what finds them
}

// Unpack writes the files of a file system as a tar. Sockets, for which a tar has no entries, are left out and counted.
func Unpack(ctx context.Context, o UnpackOptions) (sockets int, err error) {
	if o.Writer == nil && o.Output == "" {
		return 0, errors.New("invalid empty --output option")
	}
	finder := &blobFinder{file: o.Blob, dir: o.BlobDir, other: o.Source, layer: o.Layer}
	defer finder.close()
	if o.Layer != nil {
		o.Bootstrap = layerName
	}
	img, err := finder.openData(ctx, o.Bootstrap)
	if err != nil {
		return 0, err
	}
	im, err := fetch.NewImage(img, fetch.Options{})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, im.Close()) }()
	sockets = dropSockets(im.Tree.Root)
	_, err = writeFile(ctx, target{writer: o.Writer, path: o.Output}, &tarOf{ctx, im})
	if err != nil {
		return 0, fmt.Errorf("unpack %s: %w", o.Bootstrap, err)
	}
	return sockets, nil
}

// tarOf writes an image as a tar.
type tarOf struct {
	ctx context.Context //nolint:containedctx // of Unpack: WriteTo takes none
	im  *fetch.Image
}

// WriteTo implements [io.WriterTo], but for the number of bytes, which nobody asks for.
func (t *tarOf) WriteTo(w io.Writer) (int64, error) {
	buf := make([]byte, 1<<20)
	return 0, tarfs.WriteTar(w, t.im.Tree, func(_ string, n *tree.Node, w io.Writer) error {
		return t.im.WriteContent(t.ctx, n, w, buf, blob.Background)
	})
}

func dropSockets(n *tree.Node) int {
	before := len(n.Entries)
	n.Entries = slices.DeleteFunc(n.Entries, func(e tree.Entry) bool { return e.Node.Type() == tree.TypeSocket })
	dropped := before - len(n.Entries)
	for _, e := range n.Entries {
		if e.Node.IsDir() {
			dropped += dropSockets(e.Node)
		}
	}
	return dropped
}
