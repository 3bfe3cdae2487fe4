package blob

import (
	"bytes"
	"errors"
	"io"
	"math"
	"testing"
)

func TestReaderAtSource(t *testing.T) {
	t.Parallel()
	s := ReaderAtSource{R: bytes.NewReader([]byte("0123456789")), N: 10}
	p := make([]byte, 4)
	if err := s.ReadRange(t.Context(), p, 6, Demand); err != nil || string(p) != "6789" {
		t.Fatalf("%q, %v", p, err)
	}
	for _, off := range []int64{7, -1, 11, math.MaxInt64} {
		if err := s.ReadRange(t.Context(), p, off, Demand); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("offset %d: %v", off, err)
		}
	}
	short := ReaderAtSource{R: bytes.NewReader([]byte("0123")), N: 10}
	if err := short.ReadRange(t.Context(), p, 2, Demand); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("shorter than said: %v", err)
	}
	if _, err := ReadAll(t.Context(), s, 9, Demand); !errors.Is(err, ErrCorrupt) {
		t.Errorf("over the limit: %v", err)
	}
	if p, err := ReadAll(t.Context(), s, 10, Demand); err != nil || len(p) != 10 {
		t.Errorf("%q, %v", p, err)
	}
}

func TestCheckRange(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		off, n, size int64
		ok           bool
	}{
		{0, 0, 0, true}, {0, 10, 10, true}, {10, 0, 10, true}, {9, 2, 10, false},
		{-1, 1, 10, false}, {1, -1, 10, false}, {math.MaxInt64, math.MaxInt64, 10, false}, {11, 0, 10, false},
	} {
		if err := CheckRange(c.off, c.n, c.size); (err == nil) != c.ok {
			t.Errorf("CheckRange(%d, %d, %d) = %v", c.off, c.n, c.size, err)
		}
	}
}
