package lsmt

import (
	"errors"
	"fmt"
	"io"
)

// scanData calls fn with the runs of sectors of a file, from one byte to another, that are not zeros: what holes would be after a
// copy that looks for zeros. Blocks are of 4 KiB, from the first byte on.
func scanData(r io.ReaderAt, from, to int64, fn func(begin, end int64)) error {
	buf := make([]byte, copySize)
	begin, open := int64(0), false
	for at := from; at < to; {
		p := buf[:min(int64(len(buf)), to-at)]
		if n, err := r.ReadAt(p, at); n < len(p) && err != nil && !errors.Is(err, io.EOF) {
			return fmt.Errorf("look for data at %d: %w", at, err)
		} else if n < len(p) {
			return fmt.Errorf("look for data at %d: %w", at, io.ErrUnexpectedEOF)
		}
		for i := 0; i < len(p); i += blockSize {
			zero := isZero(p[i:min(i+blockSize, len(p))])
			switch {
			case zero && open:
				fn(begin, at+int64(i))
				open = false
			case !zero && !open:
				begin, open = at+int64(i), true
			}
		}
		at += int64(len(p))
	}
	if open {
		fn(begin, to)
	}
	return nil
}

// clearData writes zeros.
func clearData(w io.WriterAt, off, n int64) error {
	zeros := make([]byte, min(n, copySize))
	for n > 0 {
		p := zeros[:min(n, int64(len(zeros)))]
		if _, err := w.WriteAt(p, off); err != nil {
			return err
		}
		off, n = off+int64(len(p)), n-int64(len(p))
	}
	return nil
}
