package layerfile

import (
	"context"
	"fmt"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/formats/overlaybd/lsmt"
	"github.com/lazuli-project/lazuli/formats/overlaybd/zfile"
)

// frontSize is what is read at an object's beginning, once: the tar's blocks, the ZFile's header, and the beginning of the layer.
const frontSize = 8 << 10

// File is a stored layer.
type File struct {
	Layer *lsmt.Layer
	// Layout maps the layer's bytes, which Layer's segments count in.
	Layout blob.Layout
	// Tar says that the layer lies in a tar, Compressed that it is in a ZFile.
	Tar, Compressed bool
}

// Open reads the index of a stored layer. For a ZFile whose header tells, that is three reads of src, and more only for indexes over
// 64 KiB: the beginning, the jump table, and the layer's end. Damage gives an error that wraps blob.ErrCorrupt or
// blob.ErrDigest.
func Open(ctx context.Context, src blob.Source) (*File, error) {
	front := &frontSource{Source: src, front: make([]byte, min(src.Size(), frontSize))}
	if err := src.ReadRange(ctx, front.front, 0, blob.Demand); err != nil {
		return nil, fmt.Errorf("layer: beginning: %w", err)
	}
	f, at := &File{}, blob.Range{Len: src.Size()}
	if isTar(front.front) {
		f.Tar = true
		var err error
		if at, err = parseTar(front.front, src.Size()); err != nil {
			return nil, fmt.Errorf("layer: %w", err)
		}
	}
	if zfile.IsZFile(front.front[min(at.Off, int64(len(front.front))):]) {
		l, err := zfile.Open(ctx, front, at)
		if err != nil {
			return nil, fmt.Errorf("layer: %w", err)
		}
		f.Compressed, f.Layout = true, l
	} else {
		f.Layout = plainLayout{at}
	}
	var err error
	if f.Layer, err = lsmt.Parse(f.ReaderAt(ctx, front), f.Layout.Size()); err != nil {
		return nil, err
	}
	return f, nil
}

// frontSource keeps an object's first bytes.
type frontSource struct {
	blob.Source
	front []byte
}

func (s *frontSource) ReadRange(ctx context.Context, p []byte, off int64, class blob.Class) error {
	if off >= 0 && off <= int64(len(s.front)) && int64(len(p)) <= int64(len(s.front))-off {
		copy(p, s.front[off:])
		return nil
	}
	return s.Source.ReadRange(ctx, p, off, class)
}

// plainSpan is the size of spans where nothing is compressed.
const plainSpan = 64 << 10

// plainLayout maps a layer that is stored as it is, at a range of the object.
type plainLayout struct{ at blob.Range }

var _ blob.Layout = plainLayout{}

func (l plainLayout) Size() int64 { return l.at.Len }

func (l plainLayout) NumSpans() int { return int((l.at.Len + plainSpan - 1) / plainSpan) }

func (l plainLayout) Span(i int) blob.Span {
	off := int64(i) * plainSpan
	n := min(plainSpan, l.at.Len-off)
	return blob.Span{Index: i, Plain: blob.Range{Off: off, Len: n}, Stored: blob.Range{Off: l.at.Off + off, Len: n}}
}

func (l plainLayout) SpanAt(off int64) int { return int(off / plainSpan) }

func (l plainLayout) Decode(plain, stored []byte, s blob.Span) error {
	if len(plain) != len(stored) {
		return fmt.Errorf("span %d of %d bytes stored as %d: %w", s.Index, len(plain), len(stored), blob.ErrCorrupt)
	}
	copy(plain, stored)
	return nil
}

func (l plainLayout) Verify(_ []byte, s blob.Span) error {
	return fmt.Errorf("span %d of a layer that is not compressed: %w", s.Index, blob.ErrUnverified)
}
