package flate

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"testing"
)

func TestPiece(t *testing.T) {
	t.Parallel()
	one := gzipped(t, generated(400_000), 6)
	for name, c := range map[string]struct {
		data    []byte
		members int
	}{
		"one": {one, 1}, "padded": {append(bytes.Clone(one), 0, 0, 0), 1}, "three": {slices.Concat(one, gzipped(t, nil, 6), one), 3},
	} {
		r, err := NewTracingReader(bytes.NewReader(c.data), TraceIndex)
		if err != nil {
			t.Fatal(err)
		}
		for at := int64(0); ; {
			p, err := r.Next()
			if n, ok := r.Ended(); ok != errors.Is(err, io.EOF) || ok && n != c.members {
				t.Fatalf("%s: at %d: %d members, %v", name, at, n, ok)
			}
			if from, to := r.Piece(); from != at || to != at+int64(len(p)) {
				t.Fatalf("%s: piece %d to %d, want %d and %d bytes", name, from, to, at, len(p))
			}
			if at += int64(len(p)); err != nil {
				break
			}
		}
	}
	r, err := NewReader(bytes.NewReader(one))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, r); err != nil {
		t.Fatal(err)
	}
	if _, ok := r.Ended(); ok {
		t.Error("ended without a trace")
	}
	if from, to := r.Piece(); from != 0 || to != 0 {
		t.Error("piece without a trace")
	}
}
