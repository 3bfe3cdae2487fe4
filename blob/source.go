package blob

import (
	"context"
	"errors"
	"fmt"
	"io"
)

// ReaderAtSource makes a [Source] of a reader and its size: a file, bytes in memory.
type ReaderAtSource struct {
	R io.ReaderAt
	N int64 // size in bytes
}

var _ Source = ReaderAtSource{}

// Size returns the size of the object.
func (s ReaderAtSource) Size() int64 { return s.N }

// ReadRange implements [Source].
func (s ReaderAtSource) ReadRange(ctx context.Context, p []byte, off int64, _ Class) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if off < 0 || off > s.N || int64(len(p)) > s.N-off {
		return fmt.Errorf("read %d bytes at %d of %d: %w", len(p), off, s.N, io.ErrUnexpectedEOF)
	}
	n, err := s.R.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read %d bytes at %d: %w", len(p), off, err)
}

// ReadAll reads a whole source, which must not be larger than limit.
func ReadAll(ctx context.Context, s Source, limit int64, class Class) ([]byte, error) {
	if s.Size() > limit {
		return nil, fmt.Errorf("object of %d bytes, the limit is %d: %w", s.Size(), limit, ErrCorrupt)
	}
	p := make([]byte, s.Size())
	if err := s.ReadRange(ctx, p, 0, class); err != nil {
		return nil, err
	}
	return p, nil
}
