package nydus

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/internal/imagetest"
	"github.com/lazuli-project/lazuli/tree"
)

// blobReader reads the plain space of a blob, and verifies every span of it.
type blobReader struct {
	blob formats.Blob
	src  blob.Source
	span int
	data []byte
	// unused allows chunks without a digest: a merged bootstrap has those of chunks that files use.
	unused bool
}

// plain returns the whole content of the extent.
func (r *blobReader) plain(ctx context.Context, off, n int64) ([]byte, error) {
	if r.src == nil {
		var err error
		if r.src, err = r.blob.Open(ctx); err != nil {
			return nil, err
		}
		r.span = -1
	}
	out := make([]byte, 0, n)
	for n > 0 {
		if i := r.blob.Layout.SpanAt(off); i != r.span {
			s := r.blob.Layout.Span(i)
			stored := make([]byte, s.Stored.Len)
			if err := r.src.ReadRange(ctx, stored, s.Stored.Off, blob.Demand); err != nil {
				return nil, err
			}
			// What was there before must not show.
			r.data = []byte(strings.Repeat("\xa5", int(s.Plain.Len)))
			if err := r.blob.Layout.Decode(r.data, stored, s); err != nil {
				return nil, err
			}
			err := r.blob.Layout.Verify(r.data, s)
			if allowed := r.unused && errors.Is(err, blob.ErrUnverified); err != nil && !allowed {
				return nil, err
			}
			r.span = i
		}
		s := r.blob.Layout.Span(r.span)
		piece := r.data[off-s.Plain.Off:]
		piece = piece[:min(n, int64(len(piece)))]
		out = append(out, piece...)
		off, n = off+int64(len(piece)), n-int64(len(piece))
	}
	return out, nil
}

// list prints an image as the reference listings are.
func list(ctx context.Context, img *formats.Image) ([]string, error) {
	return listBlobs(ctx, img, func(b formats.Blob) *blobReader { return &blobReader{blob: b} })
}

// listUnverified is list for images that have no digests.
func listUnverified(ctx context.Context, img *formats.Image) ([]string, error) {
	return listBlobs(ctx, img, func(b formats.Blob) *blobReader { return &blobReader{blob: b, unused: true} })
}

func listBlobs(ctx context.Context, img *formats.Image, reader func(formats.Blob) *blobReader) ([]string, error) {
	readers := make([]*blobReader, len(img.Blobs))
	for i, b := range img.Blobs {
		readers[i] = reader(b)
	}
	return imagetest.List(img.Tree, func(n *tree.Node) ([]byte, error) {
		var content []byte
		for _, x := range n.Extents {
			p, err := readers[x.Blob].plain(ctx, x.Offset, x.Length)
			if err != nil {
				return nil, err
			}
			content = append(content, p...)
		}
		return content, nil
	})
}

// compare compares listings. Times that the expected one shows as "-" are not compared.
func compare(t *testing.T, got, want []string) {
	t.Helper()
	if diff := imagetest.Diff(want, got); diff != "" {
		t.Errorf("differs from what is expected:\n%s", diff)
	}
}

func expected(t testing.TB, path string) []string {
	t.Helper()
	return strings.Split(strings.TrimSuffix(string(readTestdata(t, path)), "\n"), "\n")
}
