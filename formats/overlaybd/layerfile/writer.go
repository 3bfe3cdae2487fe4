package layerfile

import (
	"context"
	"fmt"
	"io"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/formats/overlaybd/lsmt"
	"github.com/lazuli-project/lazuli/formats/overlaybd/zfile"
)

// Output takes a stored layer: a new file.
type Output interface {
	io.Writer
	io.WriterAt
}

// Options are the options of a [Writer]. The zero value is a bare layer with a padded index.
type Options struct {
	ZFile    zfile.Options
	Compress bool // into a ZFile
	Tar      bool // wrap into a tar, as overlaybd-commit does it
	ShortTar bool // wrap into a tar with one header only, as overlaybd's base layers have it; for at most 8 GiB
	Unpadded bool // the index has no padding, as in layers of turboOCI
}

// Writer writes a stored layer. It is for one goroutine. Its bytes depend on what it is given alone. Memory is that of a [zfile.Writer].
type Writer struct {
	dst     Output
	info    lsmt.Info
	opt     Options
	payload io.Writer     // the ZFile, or dst
	zfile   *zfile.Writer // nil where nothing is compressed
	begin   int64         // of the payload in dst
	offset  int64
}

var _ lsmt.Payload = (*Writer)(nil)

// NewWriter begins a layer on an empty output, with its header.
func NewWriter(ctx context.Context, dst Output, cpu *formats.CPU, info lsmt.Info, opt Options) (*Writer, error) {
	w := &Writer{dst: dst, info: info, opt: opt, payload: dst}
	switch {
	case opt.Tar:
		w.begin = paxBegin
	case opt.ShortTar:
		w.begin = tarBlock
	}
	if w.begin > 0 {
		if _, err := dst.Write(make([]byte, w.begin)); err != nil {
			return nil, fmt.Errorf("layer: %w", err)
		}
	}
	if opt.Compress {
		var err error
		if w.zfile, err = zfile.NewWriter(ctx, dst, cpu, opt.ZFile); err != nil {
			return nil, fmt.Errorf("layer: %w", err)
		}
		w.payload = w.zfile
	}
	if _, err := w.Write(lsmt.AppendHeader(nil, info)); err != nil {
		w.Abort()
		return nil, err
	}
	return w, nil
}

// Write appends whole sectors to the layer's data.
func (w *Writer) Write(p []byte) (int, error) {
	if len(p)%lsmt.SectorSize != 0 {
		return 0, fmt.Errorf("layer: data of %d bytes: not whole sectors", len(p))
	}
	n, err := w.payload.Write(p)
	w.offset += int64(n)
	if err != nil {
		return n, fmt.Errorf("layer: %w", err)
	}
	return n, nil
}

// Offset returns where in the layer the next byte goes. It is a multiple of 512, and 4096 at first.
func (w *Writer) Offset() int64 { return w.offset }

// Close ends the layer with its index, which is of segments as [lsmt.Normalize] returns them, and overwrites what could not be known
// before. It returns the size of the whole. It does not close the output.
func (w *Writer) Close(segs []lsmt.Segment) (int64, error) {
	if err := lsmt.Check(segs, w.offset); err != nil {
		return 0, fmt.Errorf("layer: %w", err)
	}
	index := w.offset
	tail := lsmt.AppendTail(nil, w.info, index, segs, !w.opt.Unpadded)
	if _, err := w.payload.Write(tail); err != nil {
		return 0, fmt.Errorf("layer: index: %w", err)
	}
	size := index + int64(len(tail))
	if w.zfile != nil {
		if err := w.zfile.Close(); err != nil {
			return 0, fmt.Errorf("layer: %w", err)
		}
		header := w.zfile.Header()
		if _, err := w.dst.WriteAt(header[:], w.begin); err != nil {
			return 0, fmt.Errorf("layer: header: %w", err)
		}
		size = w.zfile.Size()
	}
	if w.begin == 0 {
		return size, nil
	}
	return w.closeTar(size)
}

// closeTar writes what a tar has around a payload of some size.
func (w *Writer) closeTar(size int64) (int64, error) {
	if w.begin == tarBlock && size > tarMax {
		return 0, fmt.Errorf("layer: %d bytes in a tar without a pax header: %w", size, blob.ErrUnsupported)
	}
	end := TarEnd(size)
	if _, err := w.dst.Write(end); err != nil {
		return 0, fmt.Errorf("layer: end of tar: %w", err)
	}
	head := make([]byte, w.begin)
	putTar(head, size)
	if _, err := w.dst.WriteAt(head, 0); err != nil {
		return 0, fmt.Errorf("layer: header of tar: %w", err)
	}
	return w.begin + size + int64(len(end)), nil
}

// Abort gives the layer up and waits for the writer's goroutines. It may be called after Close, and then does nothing.
func (w *Writer) Abort() {
	if w.zfile != nil {
		w.zfile.Abort()
	}
}
