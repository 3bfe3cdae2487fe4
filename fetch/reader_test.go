package fetch

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/goleak"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/cache"
	"github.com/lazuli-project/lazuli/formats"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const spanSize = 8 << 10

// mirrored is a layout whose stored bytes are the plain bytes turned round by XOR, so that decoding is seen to happen.
type mirrored struct {
	size    int64
	digests [][32]byte
}

func (l *mirrored) Size() int64          { return l.size }
func (l *mirrored) NumSpans() int        { return len(l.digests) }
func (l *mirrored) SpanAt(off int64) int { return int(off / spanSize) }
func (l *mirrored) Span(i int) blob.Span {
	r := blob.Range{Off: int64(i) * spanSize, Len: min(spanSize, l.size-int64(i)*spanSize)}
	return blob.Span{Index: i, Plain: r, Stored: r}
}
func (l *mirrored) Decode(plain, stored []byte, _ blob.Span) error {
	for i, b := range stored {
		plain[i] = b ^ 0xff
	}
	return nil
}
func (l *mirrored) Verify(plain []byte, s blob.Span) error {
	if sha256.Sum256(plain) != l.digests[s.Index] {
		return blob.ErrDigest
	}
	return nil
}

// counted is a source that counts, and spoils as asked.
type counted struct {
	blob.Source
	mu    sync.Mutex
	reads []blob.Range
	bad   map[int64]int // offset of a byte: how many reads of it are wrong
	gate  chan struct{} // if set, reads wait for it
	fail  func(off int64) error
}

func (c *counted) ReadRange(ctx context.Context, p []byte, off int64, class blob.Class) error {
	if c.gate != nil {
		select {
		case <-c.gate:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reads = append(c.reads, blob.Range{Off: off, Len: int64(len(p))})
	if c.fail != nil {
		if err := c.fail(off); err != nil {
			return err
		}
	}
	if err := c.Source.ReadRange(ctx, p, off, class); err != nil {
		return err
	}
	for at := range c.bad {
		if at >= off && at < off+int64(len(p)) && c.bad[at] > 0 {
			p[at-off] ^= 1
			c.bad[at]--
		}
	}
	return nil
}

type fixture struct {
	plain  []byte
	source *counted
	blob   formats.Blob
}

func newFixture(size int) *fixture {
	rng := rand.New(rand.NewPCG(1, uint64(size)))
	f := &fixture{plain: make([]byte, size)}
	stored := make([]byte, size)
	for i := range f.plain {
		f.plain[i] = byte(rng.Uint32())
		stored[i] = f.plain[i] ^ 0xff
	}
	l := &mirrored{size: int64(size)}
	for off := 0; off < size; off += spanSize {
		l.digests = append(l.digests, sha256.Sum256(f.plain[off:min(off+spanSize, size)]))
	}
	f.source = &counted{Source: blob.ReaderAtSource{R: bytes.NewReader(stored), N: int64(size)}, bad: map[int64]int{}}
	f.blob = formats.Blob{
		Desc: ocispec.Descriptor{Digest: digest.FromBytes(stored), Size: int64(size)}, Layout: l,
		Open: func(context.Context) (blob.Source, error) { return f.source, nil },
	}
	return f
}

func (f *fixture) reader(t *testing.T, opt Options) *Reader {
	t.Helper()
	r, err := NewReader(f.blob, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return r
}

func (f *fixture) check(t *testing.T, r *Reader, off, n int) {
	t.Helper()
	p := make([]byte, n)
	if err := r.ReadAt(t.Context(), p, int64(off), blob.Demand); err != nil {
		t.Fatalf("read %d at %d: %v", n, off, err)
	}
	if !bytes.Equal(p, f.plain[off:off+n]) {
		t.Fatalf("read %d at %d: wrong bytes", n, off)
	}
}

func diskCache(t *testing.T, dir string) *cache.Dir {
	t.Helper()
	d, err := cache.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestReadAtAnyRange(t *testing.T) {
	t.Parallel()
	const size = 20*spanSize + 123
	for name, opt := range map[string]Options{
		"memory": {}, "little memory": {Memory: 1, MinRequest: 1, MaxRequest: spanSize}, "disk": {Cache: diskCache(t, t.TempDir())},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(size)
			r := f.reader(t, opt)
			var wg sync.WaitGroup
			for g := range 4 {
				wg.Go(func() {
					rng := rand.New(rand.NewPCG(2, uint64(g)))
					for range 200 {
						off := rng.IntN(size)
						n := rng.IntN(min(size-off, 5*spanSize) + 1)
						p := make([]byte, n)
						if err := r.ReadAt(t.Context(), p, int64(off), blob.Class(rng.IntN(3))); err != nil || !bytes.Equal(p, f.plain[off:off+n]) {
							t.Errorf("read %d at %d: %v", n, off, err)
							return
						}
					}
				})
			}
			wg.Wait()
		})
	}
}

func TestReadOutsideIsRefused(t *testing.T) {
	t.Parallel()
	f := newFixture(1000)
	r := f.reader(t, Options{})
	for _, off := range []int64{-1, 1000, 991, 1 << 62} {
		if err := r.ReadAt(t.Context(), make([]byte, 10), off, blob.Demand); err == nil {
			t.Errorf("offset %d is answered", off)
		}
	}
}

// However many wait for a span, it is fetched once.
func TestOneFlightForManyReaders(t *testing.T) {
	t.Parallel()
	f := newFixture(spanSize)
	f.source.gate = make(chan struct{})
	r := f.reader(t, Options{})
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() { f.check(t, r, 10, 100) })
	}
	close(f.source.gate)
	wg.Wait()
	if n := len(f.source.reads); n != 1 {
		t.Errorf("%d requests for one span", n)
	}
}

func TestNeighboursShareARequest(t *testing.T) {
	t.Parallel()
	f := newFixture(10 * spanSize)
	r := f.reader(t, Options{MinRequest: 1, MaxRequest: 4 * spanSize})
	f.check(t, r, 100, 10*spanSize-200)
	if n := len(f.source.reads); n != 3 {
		t.Errorf("10 neighbours in requests of at most 4: %d requests, want 3: %v", n, f.source.reads)
	}
}

func TestSmallRequestsTakeNeighboursAlong(t *testing.T) {
	t.Parallel()
	f := newFixture(10 * spanSize)
	r := f.reader(t, Options{MinRequest: 3 * spanSize})
	f.check(t, r, 5*spanSize, 1)
	f.check(t, r, 7*spanSize, 1)
	if got := f.source.reads; len(got) != 1 || got[0] != (blob.Range{Off: 5 * spanSize, Len: 3 * spanSize}) {
		t.Errorf("requests: %v", got)
	}
}

// A span whose bytes are wrong is fetched again; bytes that stay wrong are never answered.
func TestWrongBytesAreNeverAnswered(t *testing.T) {
	t.Parallel()
	f := newFixture(3 * spanSize)
	f.source.bad[spanSize+5] = 2
	r := f.reader(t, Options{MinRequest: 1})
	f.check(t, r, spanSize, spanSize)
	if s := r.Stats(); s.Damaged != 2 || s.Requests != 3 {
		t.Errorf("stats %+v", s)
	}
	f.source.bad[5] = 1000
	if err := r.ReadAt(t.Context(), make([]byte, 10), 0, blob.Demand); !errors.Is(err, blob.ErrDigest) {
		t.Errorf("bytes that stay wrong: %v", err)
	}
	f.source.bad[5] = 0
	f.check(t, r, 0, 10) // an error is not kept
}

func TestSourceErrorReachesTheReader(t *testing.T) {
	t.Parallel()
	f := newFixture(3 * spanSize)
	gone := errors.New("registry is away")
	f.source.fail = func(int64) error { return gone }
	r := f.reader(t, Options{})
	if err := r.ReadAt(t.Context(), make([]byte, 10), 0, blob.Demand); !errors.Is(err, gone) {
		t.Fatalf("err = %v", err)
	}
	f.source.fail = nil
	f.check(t, r, 0, 10)
}

func TestWaitEndsWithTheContext(t *testing.T) {
	t.Parallel()
	f := newFixture(spanSize)
	f.source.gate = make(chan struct{})
	r := f.reader(t, Options{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.ReadAt(ctx, make([]byte, 10), 0, blob.Demand); !errors.Is(err, context.Canceled) {
		t.Errorf("err = %v", err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if err := r.ReadAt(t.Context(), make([]byte, 10), 0, blob.Demand); err == nil {
		t.Error("a closed reader answers")
	}
}

// What is on the disk is not fetched again by the next process, but for what was damaged there.
func TestDiskCacheAcrossReaders(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	f := newFixture(10 * spanSize)
	opt := Options{Cache: diskCache(t, dir)}
	first := f.reader(t, opt)
	f.check(t, first, 0, len(f.plain))
	path, ok, err := first.SealedFile(t.Context())
	if err != nil || !ok {
		t.Fatalf("the blob is not complete: %v", err)
	}
	if got, _ := os.ReadFile(path); !bytes.Equal(got, f.plain) {
		t.Error("the cache's file is not the plain space")
	}
	f.source.reads = nil
	f.check(t, f.reader(t, opt), 0, len(f.plain))
	if len(f.source.reads) != 0 {
		t.Errorf("fetched again: %v", f.source.reads)
	}
	data, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := data.WriteAt([]byte{f.plain[3*spanSize] ^ 1}, 3*spanSize); err != nil || data.Close() != nil {
		t.Fatal(err)
	}
	third := f.reader(t, opt)
	if _, ok, err := third.SealedFile(t.Context()); ok || err != nil {
		t.Errorf("a damaged file counts as verified: %v", err)
	}
	f.check(t, third, 0, len(f.plain))
	if got := f.source.reads; len(got) != 1 || got[0] != (blob.Range{Off: 3 * spanSize, Len: spanSize}) {
		t.Errorf("requests for one damaged span: %v", got)
	}
	f.check(t, f.reader(t, opt), 3*spanSize, spanSize) // and mended on the disk
}

// A cache that cannot be written does not stop reading.
func TestFullDiskDoesNotStopReading(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	f := newFixture(4 * spanSize)
	r := f.reader(t, Options{Cache: diskCache(t, dir)})
	if err := r.cached.Close(); err != nil { // every access to the cache fails now
		t.Fatal(err)
	}
	f.check(t, r, 0, 2*spanSize)
	f.check(t, r, 0, 2*spanSize)
	if r.Stats().CacheErrors == 0 {
		t.Error("the failure is not counted")
	}
	r.wg.Wait()
	r.cached = nil // closed above
	if left, _ := filepath.Glob(filepath.Join(dir, "blobs", "*", "data")); len(left) != 1 {
		t.Errorf("folders: %v", left)
	}
}

func TestPrefetchDoesNotWait(t *testing.T) {
	t.Parallel()
	f := newFixture(6 * spanSize)
	f.source.gate = make(chan struct{})
	r := f.reader(t, Options{MinRequest: 1})
	r.Prefetch(blob.Range{Off: 0, Len: 6 * spanSize}, blob.Prefetch)
	r.Prefetch(blob.Range{Off: 0, Len: 7 * spanSize}, blob.Prefetch) // outside: nothing happens
	close(f.source.gate)
	f.check(t, r, 0, 6*spanSize)
	if n := len(f.source.reads); n != 1 {
		t.Errorf("%d requests", n)
	}
}

func TestStreamGoesForwardAndBack(t *testing.T) {
	t.Parallel()
	content := []byte("0123456789")
	opened := 0
	s := NewStream(formats.Blob{Stream: func(context.Context) (io.ReadCloser, error) {
		opened++
		return io.NopCloser(bytes.NewReader(content)), nil
	}, PlainSize: -1})
	for _, off := range []int64{0, 4, 8, 2} {
		p := make([]byte, 2)
		if err := s.ReadAt(t.Context(), p, off, blob.Demand); err != nil || !bytes.Equal(p, content[off:off+2]) {
			t.Fatalf("at %d: %q, %v", off, p, err)
		}
	}
	if opened != 2 {
		t.Errorf("opened %d times, want 2", opened)
	}
	if err := s.ReadAt(t.Context(), make([]byte, 2), 9, blob.Demand); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("beyond the end: %v", err)
	}
	if err := errors.Join(s.Drain(), s.Close()); err != nil {
		t.Error(err)
	}
}
