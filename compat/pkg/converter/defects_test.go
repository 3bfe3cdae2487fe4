package converter_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/containerd/nydus-snapshotter/pkg/converter"
)

// The tests of this file are about what the original gets wrong.

// failing takes n bytes and fails then.
type failing struct {
	n   int
	err error
}

func (f *failing) Write(p []byte) (int, error) {
	if len(p) > f.n {
		return 0, f.err
	}
	f.n -= len(p)
	return len(p), nil
}

var errFull = errors.New("disk full")

// A failure is told by Write as what it is, and by every Close.
func TestPackErrorsStay(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		dest  io.Writer
		input []byte
		want  string
	}{
		"destination":     {&failing{0, errFull}, layers(t)[0], "disk full"},
		"end of the data": {&failing{2_000_000, errFull}, layers(t)[0], "disk full"},
		"no tar":          {io.Discard, []byte(strings.Repeat("x", 200_000)), "tar"},
		"cut tar":         {io.Discard, layers(t)[0][:100_000], "EOF"},
	} {
		w, err := converter.Pack(t.Context(), c.dest, converter.PackOption{})
		if err != nil {
			t.Fatal(err)
		}
		written := 0
		for rest := c.input; len(rest) > 0 && err == nil; {
			n := min(len(rest), 50_000)
			_, err = w.Write(rest[:n])
			rest = rest[n:]
			written += n
		}
		if err != nil && (errors.Is(err, io.ErrClosedPipe) || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: write after %d bytes: %v", name, written, err)
		}
		first := w.Close()
		if first == nil || !strings.Contains(first.Error(), c.want) {
			t.Errorf("%s: close: %v", name, first)
		}
		if again := w.Close(); !errors.Is(again, first) {
			t.Errorf("%s: close again: %v", name, again)
		}
		if _, err := w.Write([]byte{0}); !errors.Is(err, first) {
			t.Errorf("%s: write after close: %v", name, err)
		}
	}
}

func TestPackClosedTwice(t *testing.T) {
	t.Parallel()
	w, err := converter.Pack(t.Context(), io.Discard, converter.PackOption{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.Write(layers(t)[2])
	if err = errors.Join(err, w.Close(), w.Close()); err != nil {
		t.Error(err)
	}
	if _, err := w.Write([]byte{0}); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("write after close: %v", err)
	}
}

// The end of the context, or of the time, ends a conversion that waits for its input, whether somebody closes it or not. No goroutine is
// left, or the bubble would not end, and no file.
func TestPackEnds(t *testing.T) {
	t.Parallel()
	cause := errors.New("not wanted any more")
	hour := time.Hour
	for name, o := range map[string]converter.PackOption{"tar": {}, "reference": {OCIRef: true}, "v5": {FsVersion: "5"}, "too long": {Timeout: &hour}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			work, part := t.TempDir(), compress(t, layers(t)[0])[:1_000_000]
			o.WorkDir = work
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancelCause(t.Context())
				defer cancel(nil)
				closed, err := converter.Pack(ctx, io.Discard, o)
				forgotten, err2 := converter.Pack(ctx, io.Discard, o)
				if err = errors.Join(err, err2); err != nil {
					t.Fatal(err)
				}
				for _, w := range []io.Writer{closed, forgotten} {
					if _, err := w.Write(part); err != nil {
						t.Fatal(err)
					}
				}
				want := cause
				if o.Timeout != nil {
					want = context.DeadlineExceeded
					time.Sleep(2 * hour)
				} else {
					cancel(cause)
				}
				synctest.Wait()
				if _, err := closed.Write(part); !errors.Is(err, want) {
					t.Errorf("write: %v", err)
				}
				if err := closed.Close(); !errors.Is(err, want) {
					t.Errorf("close: %v", err)
				}
			})
			empty(t, work)
		})
	}
}

func TestContextEndsMergeAndUnpack(t *testing.T) {
	t.Parallel()
	list, blobs := packAll(t, converter.PackOption{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := converter.Merge(ctx, list, io.Discard, converter.MergeOption{WithTar: true}); !errors.Is(err, context.Canceled) {
		t.Errorf("merge: %v", err)
	}
	p := blobs[list[0].Digest.Encoded()]
	if err := converter.Unpack(ctx, reader(p), io.Discard, converter.UnpackOption{}); !errors.Is(err, context.Canceled) {
		t.Errorf("unpack: %v", err)
	}
	none := time.Duration(0)
	if _, err := converter.Merge(t.Context(), list, io.Discard, converter.MergeOption{Timeout: &none}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("merge in no time: %v", err)
	}
	if err := converter.Unpack(t.Context(), reader(p), io.Discard, converter.UnpackOption{Timeout: &none}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("unpack in no time: %v", err)
	}
	if _, err := converter.LayerConvertFunc(converter.PackOption{})(ctx, newStore(t), ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer}); !errors.Is(err, context.Canceled) {
		t.Errorf("convert: %v", err)
	}
}

// Without an error the tar is whole: neither a blob that was cut or damaged somewhere, nor a destination that fails, is a success.
func TestUnpackTellsEverything(t *testing.T) {
	t.Parallel()
	layer := makeTar(t, file("a", noise(1, 30_000)), file("b", strings.Repeat("text", 5000)), file("c", noise(2, 10_000)))
	p := pack(t, layer, converter.PackOption{ChunkSize: "0x1000"})
	whole := unpack(t, p)
	same(t, "layer", listing(t, whole), listing(t, layer))
	for n := 0; n < len(p); n += 997 {
		var out bytes.Buffer
		if err := converter.Unpack(t.Context(), reader(p[:n]), &out, converter.UnpackOption{}); err == nil {
			t.Fatalf("the first %d bytes gave a tar of %d", n, out.Len())
		}
		damaged := bytes.Clone(p)
		damaged[n] ^= 1
		out.Reset()
		if err := converter.Unpack(t.Context(), reader(damaged), &out, converter.UnpackOption{}); err == nil && !bytes.Equal(out.Bytes(), whole) {
			t.Fatalf("another bit at %d gave another tar", n)
		}
	}
	for n := 0; n < len(whole); n += 1024 {
		if err := converter.Unpack(t.Context(), reader(p), &failing{n, errFull}, converter.UnpackOption{}); !errors.Is(err, errFull) {
			t.Fatalf("a destination for %d bytes of %d: %v", n, len(whole), err)
		}
	}
}

// Options of one call do not reach another: the original finds out once for a process what its builder can do.
func TestNoGlobalState(t *testing.T) {
	t.Parallel()
	layer := layers(t)[0]
	want := listing(t, layer)
	var all sync.WaitGroup
	for _, o := range []converter.PackOption{{}, {Encrypt: true}, {}, {BatchSize: "0x10000"}, {FsVersion: "5"}, {Encrypt: true}} {
		same(t, "one after the other", listing(t, unpack(t, pack(t, layer, o))), want)
		all.Go(func() { same(t, "together", listing(t, unpack(t, pack(t, layer, o))), want) })
	}
	all.Wait()
}

// What a crash left of an earlier conversion is not taken for the beginning of this one.
func TestStaleIngest(t *testing.T) {
	t.Parallel()
	cs := newStore(t)
	layer := layers(t)[0]
	desc := put(t, cs, ocispec.MediaTypeImageLayerGzip, compress(t, layer))
	want := pack(t, layer, converter.PackOption{})
	for _, left := range []int{5, len(want), 2 * len(want)} {
		w, err := content.OpenWriter(t.Context(), cs, content.WithRef("convert-nydus-from-"+desc.Digest.String()))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(bytes.Repeat([]byte("x"), left)); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		blob, err := converter.LayerConvertFunc(converter.PackOption{})(t.Context(), cs, desc)
		if err != nil {
			t.Fatal(err)
		}
		got, err := content.ReadBlob(t.Context(), cs, *blob)
		if err != nil {
			t.Fatal(err)
		}
		same(t, "layer", listing(t, unpack(t, got)), listing(t, layer))
		if err := cs.Delete(t.Context(), blob.Digest); err != nil {
			t.Fatal(err)
		}
	}
	noIngests(t, cs)
}

// noIngests fails where a store has unfinished blobs.
func noIngests(t *testing.T, cs content.Store) {
	t.Helper()
	list, err := cs.ListStatuses(t.Context())
	if err != nil || len(list) > 0 {
		t.Errorf("unfinished: %v, %v", list, err)
	}
}

// A conversion that fails leaves nothing in the store.
func TestFailureLeavesNothing(t *testing.T) {
	t.Parallel()
	cs := newStore(t)
	for _, p := range [][]byte{[]byte("no layer"), compress(t, layers(t)[0])[:1_000_000]} {
		desc := put(t, cs, ocispec.MediaTypeImageLayerGzip, p)
		if blob, err := converter.LayerConvertFunc(converter.PackOption{})(t.Context(), cs, desc); err == nil {
			t.Errorf("%v", blob)
		}
		desc.Annotations = map[string]string{converter.LayerAnnotationNydusBlob: "true"}
		if layer, err := converter.LayerReconvertFunc(converter.UnpackOption{})(t.Context(), cs, desc); err == nil {
			t.Errorf("%v", layer)
		}
		if boot, _, err := converter.MergeLayers(t.Context(), cs, []ocispec.Descriptor{desc}, converter.MergeOption{}); err == nil {
			t.Errorf("%v", boot)
		}
	}
	noIngests(t, cs)
}

// stingy reads less than it is asked for, and has one position, as readers of remote blobs do.
type stingy struct {
	content.ReaderAt
	busy sync.Mutex
}

func (s *stingy) ReadAt(p []byte, off int64) (int, error) {
	if !s.busy.TryLock() {
		return 0, errors.New("two reads at once")
	}
	defer s.busy.Unlock()
	return s.ReaderAt.ReadAt(p[:min(len(p), 1000)], off)
}

func TestShortReads(t *testing.T) {
	t.Parallel()
	list, blobs := packAll(t, converter.PackOption{})
	want, _ := merge(t, list, converter.MergeOption{WithTar: true, FsVersion: "6"})
	var out bytes.Buffer
	p := blobs[list[0].Digest.Encoded()]
	if err := converter.Unpack(t.Context(), &stingy{ReaderAt: reader(p)}, &out, converter.UnpackOption{}); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(out.Bytes(), unpack(t, p)) {
		t.Error("another tar")
	}
	for i := range list {
		list[i].ReaderAt = &stingy{ReaderAt: list[i].ReaderAt}
	}
	if got, _ := merge(t, list, converter.MergeOption{WithTar: true, FsVersion: "6"}); !bytes.Equal(got, want) {
		t.Error("another bootstrap")
	}
}
