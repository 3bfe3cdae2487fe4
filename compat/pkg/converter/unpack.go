package converter

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/containerd/v2/core/content"

	"github.com/lazuli-project/lazuli/nydusimage"
)

// Unpack writes the files of a layer's Nydus blob as a tar to dest, without compression. Every chunk is verified before it is
// written. Blobs that need others (those made with a chunk dictionary or OCIRef) are an error; [LayerReconvertFunc] finds such in
// the content store. Without an error the tar is complete.
func Unpack(ctx context.Context, ra content.ReaderAt, dest io.Writer, opt UnpackOption) error {
	return unpack(ctx, ra, dest, opt, nil)
}

// unpack takes other blobs from find, if there is one.
func unpack(ctx context.Context, ra content.ReaderAt, dest io.Writer, opt UnpackOption, find nydusimage.BlobSource) error {
	ctx, cancel := withTimeout(ctx, opt.Timeout)
	defer cancel()
	w := bufio.NewWriterSize(dest, bufferSize) // entries are small
	_, err := nydusimage.Unpack(ctx, nydusimage.UnpackOptions{Layer: source(ra), Writer: w, Source: find})
	if err == nil {
		err = w.Flush()
	}
	if err != nil {
		return fmt.Errorf("unpack layer: %w", ended(ctx, err))
	}
	return nil
}

// ended adds the cause of the context's end, where an error may come from it.
func ended(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
		return fmt.Errorf("%w: %w", cause, err)
	}
	return err
}
