package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/formats"
)

// Stream reads the plain space of a blob that has no layout, by going through it from its beginning. Reading forward is
// cheap, reading backward begins anew. Reads take turns. What is read is verified only by [Stream.Drain].
type Stream struct {
	open func(context.Context) (io.ReadCloser, error)
	size int64
	name string

	mu  sync.Mutex // guards rc, pos; held during reads, which take turns
	rc  io.ReadCloser
	pos int64
}

// NewStream returns a reader of a blob that can only be streamed.
func NewStream(b formats.Blob) *Stream {
	return &Stream{open: b.Stream, size: b.PlainSize, name: b.Desc.Digest.String()}
}

// Size returns the size of the plain space, -1 where it is not known.
func (s *Stream) Size() int64 { return s.size }

// ReadAt fills p with the bytes at off.
func (s *Stream) ReadAt(ctx context.Context, p []byte, off int64, _ blob.Class) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	if s.rc != nil && off < s.pos {
		err := s.rc.Close()
		s.rc = nil
		if err != nil {
			return fmt.Errorf("layer %s: %w", s.name, err)
		}
	}
	if s.rc == nil {
		// The stream outlives this read.
		rc, err := s.open(context.WithoutCancel(ctx))
		if err != nil {
			return fmt.Errorf("layer %s: %w", s.name, err)
		}
		s.rc, s.pos = rc, 0
	}
	n, err := io.CopyN(io.Discard, s.rc, off-s.pos)
	s.pos += n
	if err == nil {
		n, err = readFull(s.rc, p)
		s.pos += n
	}
	if err == nil {
		return nil
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return errors.Join(fmt.Errorf("layer %s: read at %d: %w", s.name, off, err), s.reset())
}

func readFull(r io.Reader, p []byte) (int64, error) {
	n, err := io.ReadFull(r, p)
	return int64(n), err
}

// Drain reads on to the end, where the digests are compared, if anything has been read.
func (s *Stream) Drain() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.rc == nil {
		return nil
	}
	_, err := io.Copy(io.Discard, s.rc)
	if err != nil {
		err = fmt.Errorf("layer %s: %w", s.name, err)
	}
	return errors.Join(err, s.reset())
}

func (s *Stream) reset() error {
	err := s.rc.Close()
	s.rc = nil
	return err
}

// Close gives the stream up.
func (s *Stream) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.rc == nil {
		return nil
	}
	return s.reset()
}
