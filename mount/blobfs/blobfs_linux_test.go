package blobfs

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/lazuli-project/lazuli/internal/mounttest"
)

type content struct {
	p    []byte
	fail error
	wait chan struct{} // reads tell here that they wait for the end
}

func (c content) Size() int64 { return int64(len(c.p)) }
func (c content) ReadAt(ctx context.Context, p []byte, off int64) error {
	if c.wait != nil {
		c.wait <- struct{}{}
		<-ctx.Done()
		return ctx.Err()
	}
	copy(p, c.p[off:])
	return c.fail
}

func serve(t *testing.T, files []File) (*Server, <-chan error) {
	t.Helper()
	s, err := Mount(t.TempDir(), files, nil)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Serve() }()
	return s, ended
}

func TestServesFiles(t *testing.T) {
	if !mounttest.Isolated(t, time.Minute) {
		return
	}
	rng := rand.New(rand.NewPCG(1, 2))
	big := make([]byte, 5<<20+123)
	for i := range big {
		big[i] = byte(rng.Uint32())
	}
	s, ended := serve(t, []File{content{p: []byte("hello")}, content{p: big}, content{p: big, fail: errors.New("away")}})
	if got, err := os.ReadFile(s.Path(0)); err != nil || string(got) != "hello" {
		t.Fatalf("%q, %v", got, err)
	}
	if _, err := os.ReadFile(s.Path(2)); err == nil {
		t.Error("a failed read is not an error")
	}
	if _, err := os.Stat(s.Path(3)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
	f, err := os.Open(s.Path(1))
	if err != nil {
		t.Fatal(err)
	}
	// The mount disappears, the open file goes on.
	if err := s.Detach(); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(3, uint64(g)))
			for range 100 {
				off := rng.IntN(len(big))
				p := make([]byte, rng.IntN(1<<20))
				n, err := f.ReadAt(p, int64(off))
				if err != nil && !errors.Is(err, io.EOF) || !bytes.Equal(p[:n], big[off:min(off+len(p), len(big))]) {
					t.Errorf("%d bytes at %d: %d, %v", len(p), off, n, err)
					return
				}
			}
		})
	}
	wg.Wait()
	select {
	case err := <-ended:
		t.Fatalf("ended while a file is open: %v", err)
	default:
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil { // the last file is closed
		t.Fatal(err)
	}
}

// Close ends reads that wait, although nobody answers them.
func TestCloseEndsWaitingReads(t *testing.T) {
	if !mounttest.Isolated(t, time.Minute) {
		return
	}
	waiting := make(chan struct{}, 64)
	s, ended := serve(t, []File{content{p: make([]byte, 1<<20), wait: waiting}})
	failed := make(chan error, 1)
	f, err := os.Open(s.Path(0))
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		_, err := f.Read(make([]byte, 10))
		failed <- errors.Join(err, f.Close())
	}()
	<-waiting
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-failed; err == nil {
		t.Error("the read that waited got no error")
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func FuzzRequest(f *testing.F) {
	header := func(op uint32, id uint64, body []byte) []byte {
		p := make([]byte, inHeaderSize, inHeaderSize+len(body))
		le.PutUint32(p, uint32(cap(p)))
		le.PutUint32(p[4:], op)
		le.PutUint64(p[16:], id)
		return append(p, body...)
	}
	f.Add(header(opInit, 0, []byte{7, 0, 0, 0, 45, 0, 0, 0, 0, 0, 2, 0, 0xff, 0xff, 0xff, 0xff}))
	f.Add(header(opLookup, 1, []byte("0\x00")))
	f.Add(header(opGetattr, 2, nil))
	f.Add(header(36, 0, make([]byte, 8))) // INTERRUPT
	f.Fuzz(func(t *testing.T, p []byte) {
		s := &Server{files: []File{content{p: []byte("x")}}}
		h, body, ok := decodeHeader(p)
		if !ok || h.opcode == opRead {
			return
		}
		if a := s.answer(h, body); a != nil && int(le.Uint32(a)) != len(a) {
			t.Fatalf("an answer of %d bytes says %d", len(a), le.Uint32(a))
		}
	})
}
