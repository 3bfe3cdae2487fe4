package formatstest

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/internal/imagetest"
	"github.com/lazuli-project/lazuli/tree"
)

// maxContent bounds what is read of one file, which damaged metadata may say is huge.
const maxContent = 64 << 20

// errTooLong: a file is longer than all that these tests write.
var errTooLong = errors.New("file of an impossible size")

// list opens an image and lists it with the digests of all contents, every span of which is verified.
func list(ctx context.Context, r formats.Reader, m *formats.Manifest, s formats.Sources) ([]string, error) {
	img, err := r.Open(ctx, m, s)
	if err != nil {
		return nil, err
	}
	if err := validate(img); err != nil {
		return nil, err
	}
	readers := make([]blobReader, len(img.Blobs))
	for i, b := range img.Blobs {
		readers[i].blob = b
	}
	return imagetest.List(img.Tree, func(n *tree.Node) ([]byte, error) {
		if n.Size > maxContent {
			return nil, errTooLong
		}
		content := make([]byte, 0, n.Size)
		for _, x := range n.Extents {
			if x.Blob == tree.Hole {
				content = append(content, make([]byte, x.Length)...)
				continue
			}
			p, err := readers[x.Blob].read(ctx, x.Offset, x.Length)
			if err != nil {
				return nil, err
			}
			content = append(content, p...)
		}
		return content, nil
	})
}

// errInvalid: a reader let metadata pass that breaks the rules of package tree or blob.
var errInvalid = errors.New("invalid image")

// validate checks what readers promise of what they open.
func validate(img *formats.Image) error {
	sizes := make([]int64, len(img.Blobs))
	for i, b := range img.Blobs {
		sizes[i] = b.PlainSize
		if b.Layout == nil {
			continue
		}
		if b.Layout.Size() != b.PlainSize {
			return fmt.Errorf("%w: blob %d has %d plain bytes, its layout %d", errInvalid, i, b.PlainSize, b.Layout.Size())
		}
		at := int64(0)
		for k := range b.Layout.NumSpans() {
			s := b.Layout.Span(k)
			if s.Index != k || s.Plain.Off != at || s.Plain.Len <= 0 || s.Stored.Off < 0 || s.Stored.Len < 0 {
				return fmt.Errorf("%w: blob %d: span %d is %+v, expected at %d", errInvalid, i, k, s, at)
			}
			at = s.Plain.End()
			if b.Layout.SpanAt(s.Plain.Off) != k || b.Layout.SpanAt(at-1) != k {
				return fmt.Errorf("%w: blob %d: span %d is not where its bytes are", errInvalid, i, k)
			}
		}
		if at != b.PlainSize {
			return fmt.Errorf("%w: blob %d: spans end at %d of %d", errInvalid, i, at, b.PlainSize)
		}
	}
	if err := img.Tree.Validate(sizes); err != nil {
		return fmt.Errorf("%w: %w", errInvalid, err)
	}
	return nil
}

// blobReader reads the plain space of a blob. It keeps the last span.
type blobReader struct {
	blob formats.Blob
	src  blob.Source
	span int
	data []byte
}

func (r *blobReader) read(ctx context.Context, off, n int64) ([]byte, error) {
	if r.blob.Layout == nil {
		return r.stream(ctx, off, n)
	}
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
			if err := r.load(ctx, r.blob.Layout.Span(i)); err != nil {
				return nil, fmt.Errorf("span %d: %w", i, err)
			}
		}
		piece := r.data[off-r.blob.Layout.Span(r.span).Plain.Off:]
		piece = piece[:min(n, int64(len(piece)))]
		out = append(out, piece...)
		off, n = off+int64(len(piece)), n-int64(len(piece))
	}
	return out, nil
}

// load reads, decodes and verifies a span.
func (r *blobReader) load(ctx context.Context, s blob.Span) error {
	r.span = -1
	if err := blob.CheckRange(s.Stored.Off, s.Stored.Len, r.src.Size()); err != nil {
		return err
	}
	stored := make([]byte, s.Stored.Len)
	if err := r.src.ReadRange(ctx, stored, s.Stored.Off, blob.Demand); err != nil {
		return err
	}
	if s.Plain.Len > maxContent {
		return errTooLong
	}
	// What was there before must not show.
	r.data = bytes.Repeat([]byte{0xa5}, int(s.Plain.Len))
	if err := r.blob.Layout.Decode(r.data, stored, s); err != nil {
		return err
	}
	if err := r.blob.Layout.Verify(r.data, s); err != nil && !errors.Is(err, blob.ErrUnverified) {
		return err
	}
	r.span = s.Index
	return nil
}

// stream reads from a blob that can only be streamed; its digests are compared at the end.
func (r *blobReader) stream(ctx context.Context, off, n int64) ([]byte, error) {
	if r.data == nil {
		rc, err := r.blob.Stream(ctx)
		if err != nil {
			return nil, err
		}
		var buf bytes.Buffer
		_, err = buf.ReadFrom(rc)
		if err = errors.Join(err, rc.Close()); err != nil {
			return nil, err
		}
		r.data = buf.Bytes()
	}
	if err := blob.CheckRange(off, n, int64(len(r.data))); err != nil {
		return nil, err
	}
	return r.data[off : off+n], nil
}
