package flate

import (
	"bytes"
	"io"
	"testing"
)

// decode reads a whole layer.
func decode(p []byte) ([]byte, error) {
	r, err := NewReader(bytes.NewReader(p))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

func TestGzipLevels(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 1, 10, 1000, 100_000, 2_000_000} {
		plain := generated(n)
		for level := -2; level <= 9; level++ {
			got, err := decode(gzipped(t, plain, level))
			if err != nil || !bytes.Equal(got, plain) {
				t.Fatalf("%d bytes, level %d: got %d bytes, %v", n, level, len(got), err)
			}
		}
	}
}
