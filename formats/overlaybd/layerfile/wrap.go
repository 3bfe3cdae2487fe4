package layerfile

import (
	"context"
	"fmt"

	"github.com/lazuli-project/lazuli/blob"
)

// TarBegin is where the file lies in a tar as overlaybd-commit makes it.
const TarBegin = paxBegin

// TarHead returns the [TarBegin] bytes before a file of size bytes in a tar as overlaybd-commit makes it.
func TarHead(size int64) []byte {
	p := make([]byte, TarBegin)
	putTar(p, size)
	return p
}

// TarEnd returns what stands in a tar behind a file of size bytes.
func TarEnd(size int64) []byte { return make([]byte, (tarBlock-size%tarBlock)%tarBlock+2*tarBlock) }

// Unwrap returns where the file lies in an object that is a tar, and whether it is one; else the range of the whole object.
func Unwrap(ctx context.Context, src blob.Source) (blob.Range, bool, error) {
	whole := blob.Range{Len: src.Size()}
	front := make([]byte, min(src.Size(), paxBegin))
	if err := src.ReadRange(ctx, front, 0, blob.Demand); err != nil {
		return whole, false, fmt.Errorf("beginning: %w", err)
	}
	if !isTar(front) {
		return whole, false, nil
	}
	at, err := parseTar(front, src.Size())
	return at, true, err
}
