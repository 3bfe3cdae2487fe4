package formatstest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"
	"pgregory.net/rapid"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/internal/imagetest"
	"github.com/lazuli-project/lazuli/tarfs"
	"github.com/lazuli-project/lazuli/tree"
)

func (f *Format) testGenerated(t *testing.T) {
	w := f.Writer(t, formats.NewCPU(0))
	rapid.Check(t, func(rt *rapid.T) {
		ops := f.drawLayers().Draw(rt, "layers")
		cut := rapid.SampledFrom([]int{0, 1, 511, f.Chunk, f.Chunk + 1}).Draw(rt, "cut")
		final := rapid.Bool().Draw(rt, "final")
		if err := f.roundTrip(t, w, build(t, ops), manner{cut, final}); err != nil {
			rt.Fatal(err)
		}
	})
}

func (f *Format) testCases(t *testing.T) {
	w := f.Writer(t, formats.NewCPU(0))
	for _, c := range f.cases(t) {
		t.Run(c.name, func(t *testing.T) {
			layers := make([][]byte, len(c.layers))
			for i, items := range c.layers {
				layers[i] = imagetest.Tar(t, items...)
			}
			if _, err := expected(layers); err != nil {
				t.Fatalf("the case is wrong: %v", err)
			}
			err := f.roundTrip(t, w, layers, manner{})
			if f.SmallXattrs && c.name == largeXattrs {
				if !errors.Is(err, blob.ErrUnsupported) {
					t.Fatalf("%v, want blob.ErrUnsupported", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
		})
	}
	t.Run("edge image", func(t *testing.T) {
		var layers [][]byte
		for _, l := range imagetest.Edge(t).Layers {
			layers = append(layers, l.Tar)
		}
		if err := f.roundTrip(t, w, layers, manner{}); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("no layers", func(t *testing.T) {
		if err := f.roundTrip(t, w, nil, manner{}); err != nil {
			t.Fatal(err)
		}
	})
}

// testLargeFile writes a file of more than 8 GiB, nearly all of it a hole, and reads its ends.
func (f *Format) testLargeFile(t *testing.T) {
	const size = 8<<30 + 3
	layers := [][]byte{imagetest.Tar(t, imagetest.Sparse(t, "large", imagetest.Sparse10, size,
		imagetest.Piece{Off: 0, Data: "begin"}, imagetest.Piece{Off: size - 3, Data: "end"}))}
	m := newMemory()
	made, err := write(t.Context(), f.Writer(t, formats.NewCPU(0)), m, f.source(t, layers), manner{})
	if err != nil {
		t.Fatal(err)
	}
	img, err := f.Reader.Open(t.Context(), made, m)
	if err != nil {
		t.Fatal(err)
	}
	n := img.Tree.Lookup("large")
	if n == nil || n.Size != size || len(n.Extents) == 0 {
		t.Fatalf("%+v", n)
	}
	for at, want := range map[int64]string{0: "begin\x00", 4 << 30: "\x00\x00", size - 4: "\x00end"} {
		var got []byte
		var off int64
		for _, x := range n.Extents {
			from, to := max(at, off), min(at+int64(len(want)), off+x.Length)
			if from < to {
				piece := make([]byte, to-from)
				if x.Blob != tree.Hole {
					r := &blobReader{blob: img.Blobs[x.Blob]}
					if piece, err = r.read(t.Context(), x.Offset+from-off, to-from); err != nil {
						t.Fatal(err)
					}
				}
				got = append(got, piece...)
			}
			off += x.Length
		}
		if string(got) != want {
			t.Errorf("at %d: %q, expected %q", at, got, want)
		}
	}
}

// variedLayers are layers with a little of everything, for tests that do many things with few layers.
func variedLayers(tb testing.TB, chunk int) [][]byte {
	tb.Helper()
	return [][]byte{
		imagetest.Tar(tb,
			imagetest.Dir("etc", imagetest.Mode(0o1777), imagetest.At(-5, 7)),
			imagetest.File("etc/a", "content\n", imagetest.Owner(1000, 100), imagetest.Xattr("user.x", "y")),
			imagetest.File("etc/large", string(noise(2*chunk+9, 1))),
			imagetest.File("etc/zero", string(make([]byte, chunk+1))),
			imagetest.Link("etc/same", "etc/a"),
			imagetest.Symlink("link", "etc/a"),
			imagetest.Char("null", 1, 3),
		),
		imagetest.Tar(tb,
			imagetest.Whiteout("etc/same"),
			imagetest.File("etc/b", "more content\n", imagetest.At(imagetest.Time, 5)),
			imagetest.Link("hard", "etc/large"),
			imagetest.File("again", string(noise(2*chunk+9, 1))),
		),
	}
}

// testSameBytes converts layers several times: on any number of cores, whatever the pieces of the content, layers one after
// the other and all at once, the stored bytes are the same.
func (f *Format) testSameBytes(t *testing.T) {
	layers := variedLayers(t, f.Chunk)
	var many []imagetest.Item
	for i := range 300 {
		many = append(many, imagetest.File(fmt.Sprintf("f%03d", i), string(content{(i * 997) % (3 * f.Chunk), i % 7}.bytes())))
	}
	layers = append(layers, imagetest.Tar(t, many...))
	src := f.source(t, layers)
	var first *memory
	var version string
	for _, cores := range []int{1, 1, 2, 8} {
		for _, cut := range []int{0, 1000} {
			w := f.Writer(t, formats.NewCPU(cores))
			if version == "" {
				version = w.Version()
			}
			if got := w.Version(); got != version {
				t.Errorf("version %q and %q of one writer", version, got)
			}
			m := newMemory()
			if _, err := write(t.Context(), w, m, src, manner{cut, true}); err != nil {
				t.Fatal(err)
			}
			if first == nil {
				first = m
			}
			if err := same(first, m); err != nil {
				t.Errorf("%d cores, pieces of %d: %v", cores, cut, err)
			}
		}
	}
	w := f.Writer(t, formats.NewCPU(2))
	if p, ok := w.(formats.NeedsParents); ok && p.NeedsParents() {
		return
	}
	m := newMemory()
	done := make([]formats.Layer, len(layers))
	group, ctx := errgroup.WithContext(t.Context())
	for i := range layers {
		group.Go(func() (err error) {
			done[i], err = writeLayer(ctx, w, m, src, i, nil, manner{final: true})
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	if _, err := finish(t.Context(), w, m, src, done); err != nil {
		t.Fatal(err)
	}
	if err := same(first, m); err != nil {
		t.Errorf("all layers at once: %v", err)
	}
}

// testReopen takes layers up from their stored blobs, all of them and each alone: the image is the same.
func (f *Format) testReopen(t *testing.T) {
	w := f.Writer(t, formats.NewCPU(0))
	re, ok := w.(formats.Reopener)
	if !ok {
		return
	}
	layers := append(variedLayers(t, f.Chunk), imagetest.Tar(t), imagetest.Tar(t, imagetest.Opaque("etc"), imagetest.Link("x", "again")))
	src := f.source(t, layers)
	m := newMemory()
	done, err := writeLayers(t.Context(), w, m, src, manner{})
	if err != nil {
		t.Fatal(err)
	}
	want, err := finish(t.Context(), w, m, src, done)
	if err != nil {
		t.Fatal(err)
	}
	reopened := make([]formats.Layer, len(done))
	for i, l := range done {
		if l.Desc.Digest == "" {
			reopened[i] = l
			continue
		}
		s, err := m.Open(t.Context(), l.Desc)
		if err != nil {
			t.Fatal(err)
		}
		if reopened[i], err = re.Reopen(t.Context(), l.Desc, s); err != nil {
			t.Fatalf("layer %d: %v", i, err)
		}
	}
	check := func(what string, mixed []formats.Layer) {
		got, err := finish(t.Context(), w, m, src, mixed)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if !bytes.Equal(got.Raw, want.Raw) {
			t.Errorf("%s: another manifest:\n%s\n%s", what, want.Raw, got.Raw)
		}
	}
	// Merging must not use up a layer, which may be part of several images.
	check("written again", done)
	check("all reopened", reopened)
	check("all reopened again", reopened)
	for i := range done {
		mixed := append([]formats.Layer(nil), done...)
		mixed[i] = reopened[i]
		check(fmt.Sprintf("layer %d reopened", i), mixed)
	}
}

// testFailures lets the sink fail at every call, and gives conversions up at every entry.
func (f *Format) testFailures(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	layers := variedLayers(t, f.Chunk)
	src := f.source(t, layers)
	w := f.Writer(t, formats.NewCPU(2))
	for n := 0; ; n++ {
		m := newMemory()
		m.left = n
		_, err := write(t.Context(), w, m, src, manner{})
		if m.open != 0 {
			t.Fatalf("sink fails at call %d: %d objects were neither committed nor given up", n, m.open)
		}
		if err == nil {
			break
		}
		if !errors.Is(err, errSink) {
			t.Fatalf("sink fails at call %d: %v", n, err)
		}
	}
	one := imagetest.Tar(t, imagetest.File("a", string(noise(3*f.Chunk, 2))), imagetest.File("b", "b"), imagetest.Dir("c"))
	for stop := range 4 {
		m := newMemory()
		ctx, cancel := context.WithCancelCause(t.Context())
		errStop := errors.New("somebody gave up")
		from, pieces, err := layerSource(w, src, f.Pack(t, one).Stored, formats.LayerSource{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		lw, err := w.Layer(ctx, from, m)
		if err != nil {
			t.Fatal(err)
		}
		pieces.follow(lw)
		entries := 0
		tr, err := readTar(pieces, func(e *tarfs.Entry, n *tree.Node) error {
			if entries == stop {
				cancel(errStop)
				return errStop
			}
			entries++
			return lw.Entry(e, n)
		}, lw.Data)
		if err == nil {
			cancel(errStop)
			_, err = lw.Close(tr)
		}
		lw.Abort()
		lw.Abort()
		if err := from.Stream.Close(); err != nil {
			t.Fatal(err)
		}
		if !errors.Is(err, errStop) || m.open != 0 || len(m.digests()) != 0 {
			t.Errorf("given up at entry %d: %v, %d objects open, %d stored", stop, err, m.open, len(m.digests()))
		}
	}
	// Content that does not fit its entry.
	for name, feed := range map[string]func(lw formats.LayerWriter) error{
		"too much": func(lw formats.LayerWriter) error { return lw.Data(make([]byte, 11)) },
		"too little": func(lw formats.LayerWriter) error {
			if err := lw.Data(make([]byte, 9)); err != nil {
				return err
			}
			_, err := lw.Close(tree.New())
			return err
		},
	} {
		m := newMemory()
		from, _, err := layerSource(w, src, src.layers[0].Stored, formats.LayerSource{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		lw, err := w.Layer(t.Context(), from, m)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := from.Stream.Next(); err != nil { // which holds the beginning of the layer
			t.Fatal(err)
		}
		n := &tree.Node{Mode: tree.TypeRegular, Size: 10}
		e := &tarfs.Entry{Name: "x", Mode: n.Mode, Size: 10, Data: []tree.Extent{{Offset: 512, Length: 10}}}
		if err := lw.Entry(e, n); err != nil {
			t.Error(errors.Join(err, from.Stream.Close()))
			lw.Abort()
			continue
		}
		if err := feed(lw); err == nil || errors.Is(err, io.EOF) {
			t.Errorf("%s content: %v", name, err)
		}
		lw.Abort()
		if err := from.Stream.Close(); err != nil {
			t.Fatal(err)
		}
		if m.open != 0 {
			t.Errorf("%s content: the object stays open", name)
		}
	}
}
