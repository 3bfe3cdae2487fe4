package check

import (
	"context"
	"fmt"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/fetch"
)

// Figures of a verification.
type Figures struct {
	Blobs  int   `json:"blobs"`
	Spans  int   `json:"spans"`
	Plain  int64 `json:"plain_bytes"`
	Stored int64 `json:"stored_bytes"` // fetched
	// Unverified counts spans for which the format has no digest.
	Unverified int64 `json:"unverified_spans"`
}

// Verify reads every byte of every blob through the lazy path, which compares digests, and checks the tree. It returns the
// first thing that is wrong.
func Verify(ctx context.Context, im *fetch.Image) (Figures, error) {
	var f Figures
	sizes := make([]int64, len(im.Blobs))
	for i := range im.Blobs {
		sizes[i] = im.Plain(i).Size()
	}
	if err := im.Tree.Validate(sizes); err != nil {
		return f, fmt.Errorf("%w: %w", blob.ErrCorrupt, err)
	}
	buf := make([]byte, window)
	for i, b := range im.Blobs {
		p := im.Plain(i)
		f.Blobs++
		for off := int64(0); off < p.Size(); off += window {
			part := buf[:min(window, p.Size()-off)]
			if err := p.ReadAt(ctx, part, off, blob.Background); err != nil {
				return f, fmt.Errorf("blob %d (%s): %w", i, b.Desc.Digest, err)
			}
			f.Plain += int64(len(part))
		}
		if b.Layout != nil {
			f.Spans += b.Layout.NumSpans()
		}
	}
	s := im.Stats()
	f.Stored, f.Unverified = s.Bytes, s.Unverified
	return f, im.Drain()
}
