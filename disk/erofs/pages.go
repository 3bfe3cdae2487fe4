package erofs

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/disk"
)

// pages holds those pages of a disk that have been read or written, and knows which of them have changed.
type pages struct {
	dev   io.ReaderAt // nil for a disk of zeros
	size  int64
	have  map[int64]*[pageSize]byte
	dirty map[int64]struct{}
}

func newPages(dev io.ReaderAt, size int64) *pages {
	return &pages{dev: dev, size: size, have: make(map[int64]*[pageSize]byte), dirty: make(map[int64]struct{})}
}

// page returns the page with that number, of which some byte is on the disk.
func (d *pages) page(number int64) (*[pageSize]byte, error) {
	if p := d.have[number]; p != nil {
		return p, nil
	}
	p := new([pageSize]byte)
	if d.dev != nil {
		at := number * pageSize
		want := int(min(pageSize, d.size-at))
		n, err := d.dev.ReadAt(p[:want], at)
		if n < want {
			if err == nil || errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return nil, fmt.Errorf("read %d bytes at %d: %w", want, at, err)
		}
	}
	d.have[number] = p
	return p, nil
}

// bytes returns n bytes, which stay the disk's: they are valid until something is written.
func (d *pages) bytes(at, n int64) ([]byte, error) {
	if err := blob.CheckRange(at, n, d.size); err != nil {
		return nil, err
	}
	if n == 0 {
		return nil, nil
	}
	number, from := at/pageSize, at%pageSize
	p, err := d.page(number)
	if err != nil {
		return nil, err
	}
	if from+n <= pageSize {
		return p[from:][:n:n], nil
	}
	all := append(make([]byte, 0, n), p[from:]...)
	for int64(len(all)) < n {
		number++
		if p, err = d.page(number); err != nil {
			return nil, err
		}
		all = append(all, p[:min(pageSize, n-int64(len(all)))]...)
	}
	return all, nil
}

// write writes p. Pages that hold these bytes already do not change.
func (d *pages) write(at int64, p []byte) error {
	for len(p) > 0 {
		number, from := at/pageSize, at%pageSize
		page, err := d.page(number)
		if err != nil {
			return err
		}
		n := min(len(p), int(pageSize-from))
		if dst := page[from:][:n]; string(dst) != string(p[:n]) {
			copy(dst, p)
			d.dirty[number] = struct{}{}
		}
		p, at = p[n:], at+int64(n)
	}
	return nil
}

// changed returns copies of the pages that have changed since the last call, in order.
func (d *pages) changed() []disk.Block {
	blocks := make([]disk.Block, 0, len(d.dirty))
	for _, number := range slices.Sorted(maps.Keys(d.dirty)) {
		blocks = append(blocks, disk.Block{Number: number, Data: slices.Clone(d.have[number][:])})
	}
	clear(d.dirty)
	return blocks
}
