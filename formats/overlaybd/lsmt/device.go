package lsmt

import (
	"errors"
	"fmt"
	"io"
)

// Sources are where the segments of a layer lie.
type Sources struct {
	Data   io.ReaderAt // the layer
	Remote io.ReaderAt // what it refers to; nil unless the layer has segments with TagRemote
}

// Device reads the disk that a stack of layers is. It is for concurrent use if the sources are.
type Device struct {
	index   *Index
	sources []Sources
}

var _ io.ReaderAt = (*Device)(nil)

// NewDevice returns a device of an index and the sources of its layers, the lowest first.
func NewDevice(x *Index, sources []Sources) *Device { return &Device{x, sources} }

// Size returns the size of the disk in bytes.
func (d *Device) Size() int64 { return d.index.Size() }

// ReadAt implements [io.ReaderAt], with any alignment. Each run of bytes that lie together is one read of a source. It
// allocates nothing but for errors.
func (d *Device) ReadAt(p []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, fmt.Errorf("read at %d: negative offset", off)
	}
	if off >= d.Size() {
		return 0, io.EOF
	}
	short := int64(len(p)) > d.Size()-off
	if short {
		p = p[:d.Size()-off]
	}
	d.index.Lookup(off, int64(len(p)), func(piece Piece) bool {
		to := p[piece.Offset-off:][:piece.Length]
		if err = d.read(to, piece); err != nil {
			return false
		}
		n += len(to)
		return true
	})
	if err == nil && short {
		err = io.EOF
	}
	return n, err
}

func (d *Device) read(p []byte, piece Piece) error {
	if piece.Layer < 0 {
		clear(p)
		return nil
	}
	if piece.Layer >= len(d.sources) {
		return fmt.Errorf("read disk at %d: no source of layer %d", piece.Offset, piece.Layer)
	}
	r := d.sources[piece.Layer].Data
	if piece.Tag == TagRemote {
		r = d.sources[piece.Layer].Remote
	}
	if r == nil {
		return fmt.Errorf("read disk at %d: layer %d has no source for tag %d", piece.Offset, piece.Layer, piece.Tag)
	}
	if err := readSectors(r, p, piece.Source, piece.Tag); err != nil {
		return fmt.Errorf("read disk at %d: layer %d: %w", piece.Offset, piece.Layer, err)
	}
	return nil
}

// readSectors fills p. What a layer refers to may end within a sector, whose rest is zeros.
func readSectors(r io.ReaderAt, p []byte, off int64, tag uint8) error {
	n, err := r.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("%d bytes at %d: %w", len(p), off, err)
	}
	if tag == TagRemote {
		var one [1]byte
		last := off + int64(len(p)) - 1
		if m, _ := r.ReadAt(one[:], last/SectorSize*SectorSize); m == 1 {
			clear(p[n:])
			return nil
		}
	}
	return fmt.Errorf("%d bytes at %d, of which there are %d: %w", len(p), off, n, io.ErrUnexpectedEOF)
}
