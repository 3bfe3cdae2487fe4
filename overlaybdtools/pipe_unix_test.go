//go:build unix

package overlaybdtools

import (
	"bytes"
	"context"
	"errors"
	"os"
	"syscall"
	"testing"

	"github.com/lazuli-project/lazuli/internal/imagetest"
)

func TestPipe(t *testing.T) {
	t.Parallel()
	w := newWorkshop(t)
	layer := imagetest.Edge(t).Layers[0]
	want := w.native("file", true, []string{w.write("tar", layer.Tar)})
	for name, content := range map[string][]byte{"plain": layer.Tar, "gzip": layer.Stored} {
		w.must(syscall.Mkfifo(w.path(name), 0o600))
		done := make(chan error, 1)
		go func() { done <- os.WriteFile(w.path(name), content, 0) }()
		got := w.native("of-"+name, true, []string{w.path(name)})
		w.must(<-done)
		first, err := os.ReadFile(want[0].File)
		w.must(err)
		second, err := os.ReadFile(got[0].File)
		w.must(err)
		if !bytes.Equal(first, second) {
			t.Errorf("%s pipe: the layer differs from that of a file", name)
		}
	}
}

// Waiting for somebody who writes into a pipe, and for what is written, ends with the context.
func TestPipeInterrupted(t *testing.T) {
	t.Parallel()
	for _, writer := range []bool{false, true} {
		w := newWorkshop(t)
		w.must(syscall.Mkfifo(w.path("pipe"), 0o600))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			done <- Compress(ctx, CompressOptions{Source: w.path("pipe"), Output: w.path("out")})
		}()
		if writer {
			f, err := os.OpenFile(w.path("pipe"), os.O_WRONLY, 0)
			w.must(err)
			defer f.Close()
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("writer %t: error %v", writer, err)
		}
		if _, err := os.Stat(w.path("out")); err == nil {
			t.Error("there is an output")
		}
	}
}
