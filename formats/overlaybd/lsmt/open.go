package lsmt

import "fmt"

// OpenWritable opens what [CreateAppendOnly] or [CreateSparse] made, and reports which of the two. The index of a sparse layer is
// not read.
func OpenWritable(data, index File) (w *Writable, sparse bool, err error) {
	p := make([]byte, HeaderSize)
	if err := readFull(data, p, 0); err != nil {
		return nil, false, fmt.Errorf("open layer: %w", err)
	}
	s, err := parseSlot(p, flagHeader|flagData, flagHeader|flagData)
	if err != nil {
		return nil, false, fmt.Errorf("open layer: %w", err)
	}
	if s.flags&flagSparse != 0 {
		w, err = OpenSparse(data)
		return w, true, err
	}
	w, err = OpenAppendOnly(data, index)
	return w, false, err
}
