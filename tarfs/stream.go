package tarfs

import (
	"errors"
	"io"
)

const (
	blockSize  = 512
	bufferSize = 128 << 10
)

// Pieces is the optional ability of a reader to give its bytes without a copy, valid until the next call, and io.EOF
// without bytes at the end. [NewReader] uses it.
type Pieces interface{ Next() ([]byte, error) }

// stream cuts the input into blocks and pieces of content.
type stream struct {
	pieces Pieces
	cur    []byte // not used yet
	off    int64  // of cur in the tar
	err    error  // sticky; io.EOF at the end
	block  [blockSize]byte
}

// buffered makes pieces of an ordinary reader.
type buffered struct {
	r   io.Reader
	buf []byte
	err error
}

func (b *buffered) Next() ([]byte, error) {
	for range 100 {
		if b.err != nil {
			return nil, b.err
		}
		var n int
		n, b.err = b.r.Read(b.buf)
		if n > 0 {
			return b.buf[:n], nil
		}
	}
	return nil, io.ErrNoProgress
}

func newStream(r io.Reader) stream {
	p, ok := r.(Pieces)
	if !ok {
		p = &buffered{r: r, buf: make([]byte, bufferSize)}
	}
	return stream{pieces: p}
}

// more makes cur have bytes, unless the input ends or fails.
func (s *stream) more() bool {
	for len(s.cur) == 0 {
		if s.err != nil {
			return false
		}
		s.cur, s.err = s.pieces.Next()
	}
	return true
}

// take returns the next n bytes at most, and one at least unless the input ends or fails.
func (s *stream) take(n int64) []byte {
	if !s.more() {
		return nil
	}
	p := s.cur
	if int64(len(p)) > n {
		p = p[:n]
	}
	s.cur = s.cur[len(p):]
	s.off += int64(len(p))
	return p
}

// next returns the next block, valid until the next call of a method. It returns io.EOF if not one byte is left.
func (s *stream) next() (*[blockSize]byte, error) {
	if len(s.cur) >= blockSize {
		return (*[blockSize]byte)(s.take(blockSize)), nil
	}
	for n := 0; n < blockSize; {
		p := s.take(int64(blockSize - n))
		if p == nil {
			if n == 0 && errors.Is(s.err, io.EOF) {
				return nil, io.EOF
			}
			return nil, s.cut()
		}
		n += copy(s.block[n:], p)
	}
	return &s.block, nil
}

// skip passes over n bytes.
func (s *stream) skip(n int64) error {
	for n > 0 {
		p := s.take(n)
		if p == nil {
			return s.cut()
		}
		n -= int64(len(p))
	}
	return nil
}

// read appends n bytes to dst.
func (s *stream) read(dst []byte, n int64) ([]byte, error) {
	for n > 0 {
		p := s.take(n)
		if p == nil {
			return nil, s.cut()
		}
		dst = append(dst, p...)
		n -= int64(len(p))
	}
	return dst, nil
}

// drain reads to the end of the input.
func (s *stream) drain() error {
	for s.more() {
		s.off += int64(len(s.cur))
		s.cur = nil
	}
	if errors.Is(s.err, io.EOF) {
		return nil
	}
	return s.err
}

// cut is the error where the input ends too early or fails.
func (s *stream) cut() error {
	if s.err == nil || errors.Is(s.err, io.EOF) {
		return errCut
	}
	return s.err
}
