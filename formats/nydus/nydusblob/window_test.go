package nydusblob

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

func TestWindow(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(1, 2))
	for n := range 300 {
		p := make([]byte, n*n%windowSize)
		for at := 0; at < len(p); at += 1 + rng.IntN(200) {
			for k := at; k < min(at+rng.IntN(20), len(p)); k++ {
				p[k] = byte(rng.IntN(3)) // zeros among them
			}
		}
		w := PackWindow(p)
		if got := w.AppendTo([]byte("before")); !bytes.Equal(got, append([]byte("before"), p...)) {
			t.Fatalf("%d bytes come back as others", len(p))
		}
	}
	if w := PackWindow(make([]byte, windowSize)); len(w.packed) > 8 {
		t.Errorf("zeros take %d bytes", len(w.packed))
	}
	full := bytes.Repeat([]byte{1}, windowSize)
	if w := PackWindow(full); len(w.packed) > windowSize+8 {
		t.Errorf("a full window takes %d bytes", len(w.packed))
	}
}
