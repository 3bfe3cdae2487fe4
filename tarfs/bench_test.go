package tarfs_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/lazuli-project/lazuli/internal/imagetest"
	"github.com/lazuli-project/lazuli/tarfs"
)

// tinyFiles is a layer of n files of 100 bytes, 100 to a directory.
func tinyFiles(n int) []byte {
	var buf bytes.Buffer
	content := imagetest.Padded(make([]byte, 100))
	for i := range n {
		h := imagetest.Header{Name: fmt.Sprintf("usr/share/d%05d/file-%05d", i/100, i%100), Mode: 0o644, Size: 100,
			Mtime: imagetest.Time, Type: '0', Magic: imagetest.MagicPOSIX}
		if i%100 == 0 {
			d := imagetest.Header{Name: fmt.Sprintf("usr/share/d%05d/", i/100), Mode: 0o755, Mtime: imagetest.Time, Type: '5', Magic: imagetest.MagicPOSIX}
			buf.Write(d.Block())
		}
		buf.Write(h.Block())
		buf.Write(content)
	}
	buf.Write(make([]byte, 1024))
	return buf.Bytes()
}

// BenchmarkTinyFiles parses a layer of 100,000 tiny files and makes its tree.
func BenchmarkTinyFiles(b *testing.B) {
	const n = 100_000
	layer := tinyFiles(n)
	b.Run("read", func(b *testing.B) {
		b.SetBytes(int64(len(layer)))
		b.ReportAllocs()
		for b.Loop() {
			r := tarfs.NewReader(bytes.NewReader(layer))
			for {
				if _, err := r.Next(); errors.Is(err, io.EOF) {
					break
				} else if err != nil {
					b.Fatal(err)
				}
			}
		}
	})
	b.Run("build", func(b *testing.B) {
		b.SetBytes(int64(len(layer)))
		b.ReportAllocs()
		for b.Loop() {
			if _, err := readTree(tarfs.NewReader(bytes.NewReader(layer))); err != nil {
				b.Fatal(err)
			}
		}
	})
}
