package overlaybdtools

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/formats/overlaybd/layerfile"
	"github.com/lazuli-project/lazuli/formats/overlaybd/lsmt"
	"github.com/lazuli-project/lazuli/formats/turbooci/gzindex"
)

// stack is the finished layers of a disk, and what of the writable one is open. Each layer has a reader that keeps 1 MiB.
type stack struct {
	config  *config
	layers  []*lsmt.Layer
	sources []lsmt.Sources
	files   []*os.File
}

// openStack opens the layers of a configuration. content says that files are read, and not metadata alone: then the layers that
// layers of turboOCI refer to are opened as well.
func openStack(ctx context.Context, c *config, content bool) (*stack, error) {
	s := &stack{config: c}
	if len(c.Lowers) > lsmt.MaxLayers {
		return nil, fmt.Errorf("%d layers, at most %d are possible: %w", len(c.Lowers), lsmt.MaxLayers, blob.ErrUnsupported)
	}
	for i := range c.Lowers {
		if err := s.openLower(ctx, &c.Lowers[i], content); err != nil {
			return nil, errors.Join(fmt.Errorf("layer %d: %w", i, err), s.close())
		}
	}
	return s, nil
}

func (s *stack) close() error {
	errs := make([]error, 0, len(s.files))
	for _, f := range s.files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

// open opens a file until the stack is closed.
func (s *stack) open(path string, flag int) (*os.File, blob.ReaderAtSource, error) {
	f, err := os.OpenFile(path, flag, 0)
	if err != nil {
		return nil, blob.ReaderAtSource{}, err
	}
	s.files = append(s.files, f)
	i, err := f.Stat()
	if err != nil {
		return nil, blob.ReaderAtSource{}, err
	}
	return f, blob.ReaderAtSource{R: f, N: i.Size()}, nil
}

func (s *stack) openLower(ctx context.Context, l *lower, content bool) error {
	path, err := l.path()
	if err != nil {
		return err
	}
	_, src, err := s.open(path, os.O_RDONLY)
	if err != nil {
		return err
	}
	f, err := layerfile.Open(ctx, src)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if l.TargetFile == "" && l.TargetDigest == "" {
		if f.Layer, err = f.Layer.Native(); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	sources := lsmt.Sources{Data: f.ReaderAt(ctx, src), Remote: noContent{l}}
	if f.Layer.Remote && content {
		if sources.Remote, err = s.openTarget(ctx, l); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	s.layers, s.sources = append(s.layers, f.Layer), append(s.sources, sources)
	return nil
}

// noContent is what a layer refers to where that is not open.
type noContent struct{ l *lower }

func (n noContent) ReadAt([]byte, int64) (int, error) {
	return 0, fmt.Errorf("metadata of %s in the layer that it refers to: %w", n.l.File, blob.ErrUnsupported)
}

// openTarget opens the layer that a layer of turboOCI refers to.
func (s *stack) openTarget(ctx context.Context, l *lower) (io.ReaderAt, error) {
	if l.TargetFile == "" {
		return nil, fmt.Errorf("layer %s, which it refers to, is not on this machine, and layers of registries are not fetched: %w", l.TargetDigest, blob.ErrUnsupported)
	}
	f, src, err := s.open(l.TargetFile, os.O_RDONLY)
	if err != nil || l.GzipIndex == "" {
		return f, err
	}
	_, index, err := s.open(l.GzipIndex, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	raw, err := blob.ReadAll(ctx, index, maxIndex, blob.Demand)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", l.GzipIndex, err)
	}
	layout, err := gzindex.Parse(raw)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", l.GzipIndex, err)
	}
	if layout.StoredSize() != src.N {
		return nil, fmt.Errorf("%s is of a layer of %d bytes, %s has %d: %w", l.GzipIndex, layout.StoredSize(), l.TargetFile, src.N, blob.ErrCorrupt)
	}
	return (&layerfile.File{Layout: layout}).ReaderAt(ctx, src), nil
}

// maxIndex bounds the size of a gzip index in bytes.
const maxIndex = 1 << 30

// device returns the disk without the writable layer, nil where there are no others.
func (s *stack) device() (*lsmt.Device, error) {
	if len(s.layers) == 0 {
		return nil, nil //nolint:nilnil // a disk of one layer is usual
	}
	index, err := lsmt.NewIndex(s.layers)
	if err != nil {
		return nil, err
	}
	return lsmt.NewDevice(index, s.sources), nil
}

// openUpper opens the writable layer over the others. turbo says that it must be one of turboOCI.
func (s *stack) openUpper(turbo bool) (*volume, error) {
	u := s.config.Upper
	switch {
	case u.Data == "" || u.Index == "":
		return nil, fmt.Errorf("the configuration names no writable layer")
	case turbo && u.Target == "":
		return nil, fmt.Errorf("the writable layer of the configuration has no target, as those of turboOCI have: %w", blob.ErrUnsupported)
	}
	data, _, err := s.open(u.Data, os.O_RDWR)
	if err != nil {
		return nil, fmt.Errorf("writable layer: %w", err)
	}
	index, _, err := s.open(u.Index, os.O_RDWR)
	if err != nil {
		return nil, fmt.Errorf("writable layer: %w", err)
	}
	v := &volume{}
	if u.Target != "" {
		v.layer, err = lsmt.OpenWarp(data, index)
	} else {
		v.layer, v.writeZeros, err = lsmt.OpenWritable(data, index)
	}
	if err != nil {
		return nil, fmt.Errorf("writable layer %s: %w", u.Data, err)
	}
	below, err := s.device()
	if err != nil {
		return nil, err
	}
	v.readWriterAt, v.size = v.layer, v.layer.Info().VirtualSize
	if below == nil {
		written, err := v.layer.Segments()
		if err != nil {
			return nil, fmt.Errorf("writable layer %s: %w", u.Data, err)
		}
		v.empty = len(written) == 0
		return v, nil
	}
	v.layer.Lower = below
	if v.size == 0 {
		v.size = below.Size()
		if err := v.layer.Resize(v.size); err != nil {
			return nil, fmt.Errorf("writable layer %s: %w", u.Data, err)
		}
	}
	return v, nil
}

// addUpper puts the writable layer, if there is one, on top of the others, to be read.
func (s *stack) addUpper() error {
	u := s.config.Upper
	switch {
	case u.Data == "" || u.Index == "":
		return nil
	case u.Target != "":
		return fmt.Errorf("a writable layer of turboOCI on top: %w", blob.ErrUnsupported)
	}
	data, src, err := s.open(u.Data, os.O_RDONLY)
	if err != nil {
		return fmt.Errorf("writable layer: %w", err)
	}
	index, _, err := s.open(u.Index, os.O_RDONLY)
	if err != nil {
		return fmt.Errorf("writable layer: %w", err)
	}
	w, _, err := lsmt.OpenWritable(data, index)
	if err != nil {
		return fmt.Errorf("writable layer %s: %w", u.Data, err)
	}
	layer, r, err := sealed(w, src)
	if err != nil {
		return fmt.Errorf("writable layer %s: %w", u.Data, err)
	}
	s.layers, s.sources = append(s.layers, layer), append(s.sources, lsmt.Sources{Data: r})
	return nil
}

// sealed returns a writable layer as it would be if it were sealed.
func sealed(w *lsmt.Writable, data blob.ReaderAtSource) (*lsmt.Layer, io.ReaderAt, error) {
	segs, err := w.Segments()
	if err != nil {
		return nil, nil, err
	}
	at := (data.N + lsmt.SectorSize - 1) / lsmt.SectorSize * lsmt.SectorSize
	v := &sealedView{data: data, at: at, tail: lsmt.AppendTail(nil, w.Info(), at, segs, true)}
	layer, err := lsmt.Parse(v, at+int64(len(v.tail)))
	return layer, v, err
}

// sealedView is a data file with the end that it would have.
type sealedView struct {
	data blob.ReaderAtSource
	at   int64 // of the end
	tail []byte
}

// ReadAt implements [io.ReaderAt].
func (v *sealedView) ReadAt(p []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, fmt.Errorf("read at %d: negative offset", off)
	}
	if off < v.at {
		part := p[:min(int64(len(p)), v.at-off)]
		if n, err = v.data.R.ReadAt(part, off); n < len(part) {
			if !errors.Is(err, io.EOF) {
				return n, err
			}
			clear(part[n:]) // the last sector
		}
		n, off = len(part), v.at
	}
	if n < len(p) {
		if rest := off - v.at; rest < int64(len(v.tail)) {
			n += copy(p[n:], v.tail[rest:])
		}
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}
