package lsmt

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/lazuli-project/lazuli/blob"
)

func newFile(t testing.TB, name string) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), name))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// plainFile hides what system calls need.
type plainFile struct{ f *os.File }

func (p plainFile) ReadAt(b []byte, off int64) (int, error)  { return p.f.ReadAt(b, off) }
func (p plainFile) WriteAt(b []byte, off int64) (int, error) { return p.f.WriteAt(b, off) }
func (p plainFile) Truncate(n int64) error                   { return p.f.Truncate(n) }
func (p plainFile) Stat() (fs.FileInfo, error)               { return p.f.Stat() }

// TestWritable writes at random and compares with an array.
func TestWritable(t *testing.T) {
	t.Parallel()
	const size = 256 << 10
	info := Info{VirtualSize: size, UUID: "01BB4FCE-3EB1-B56B-05AD-F99504DAFD31"}
	for _, kind := range []string{"append-only", "sparse", "sparse without system calls", "warp"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			var data File = newFile(t, "data")
			var index File
			create := func() (*Writable, error) { return CreateSparse(data, info) }
			open := func() (*Writable, error) { return OpenSparse(data) }
			unit := 4096
			switch kind {
			case "append-only":
				index, unit = newFile(t, "index"), SectorSize
				create = func() (*Writable, error) { return CreateAppendOnly(data, index, info) }
				open = func() (*Writable, error) { return OpenAppendOnly(data, index) }
			case "warp":
				index, unit = newFile(t, "index"), SectorSize
				create = func() (*Writable, error) { return CreateWarp(data, index, info) }
				open = func() (*Writable, error) { return OpenWarp(data, index) }
			case "sparse without system calls":
				data = plainFile{newFile(t, "plain")}
			}
			w, err := create()
			if err != nil {
				t.Fatal(err)
			}
			r := rand.New(rand.NewPCG(7, 7))
			lower := make([]byte, size)
			for i := range lower {
				lower[i] = byte(r.Uint32() | 1)
			}
			if index == nil {
				clear(lower) // holes of the file do not hide what is below
			}
			w.Lower = bytes.NewReader(lower)
			want := bytes.Clone(lower)
			for i := range 3000 {
				off := r.IntN(size/unit) * unit
				n := min((1+r.IntN(8))*unit, size-off)
				if r.IntN(4) == 0 {
					clear(want[off : off+n])
					if err := w.Discard(int64(off), int64(n)); err != nil {
						t.Fatal(err)
					}
				} else {
					for j := range n {
						want[off+j] = byte(r.Uint32() | 1)
					}
					if _, err := w.WriteAt(want[off:off+n], int64(off)); err != nil {
						t.Fatal(err)
					}
				}
				if i%500 == 499 {
					if w, err = open(); err != nil {
						t.Fatal(err)
					}
					w.Lower = bytes.NewReader(lower)
				}
				off = r.IntN(size)
				p := make([]byte, r.IntN(min(20000, size-off)))
				if n, err := w.ReadAt(p, int64(off)); err != nil || !bytes.Equal(p, want[off:off+n]) {
					t.Fatalf("step %d: read %d bytes at %d: %d, %v", i, len(p), off, n, err)
				}
			}
			checkCommit(t, w, want, info)
			if kind == "warp" {
				if _, err := w.Seal(); !errors.Is(err, blob.ErrUnsupported) {
					t.Errorf("seal: %v", err)
				}
				return
			}
			n, err := w.Seal()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := w.WriteAt(want[:512], 0); !errors.Is(err, ErrSealed) {
				t.Errorf("write to a sealed layer: %v", err)
			}
			l, err := Parse(data, n)
			if err != nil {
				t.Fatal(err)
			}
			checkDisk(t, l, data, want)
			if err := Restack(data, n, "", "21BB4FCE-3EB1-B56B-05AD-F99504DAFD31"); err != nil {
				t.Fatal(err)
			}
			if err := Resize(data, n, size/2); err != nil {
				t.Fatal(err)
			}
			l, err = Parse(data, n)
			if err != nil || l.UUID != "" || l.Parent != "21BB4FCE-3EB1-B56B-05AD-F99504DAFD31" || l.VirtualSize != size/2 {
				t.Errorf("%+v, %v", l.Info, err)
			}
		})
	}
}

// checkCommit commits a layer and compares it.
func checkCommit(t *testing.T, w *Writable, want []byte, info Info) {
	t.Helper()
	to := &payload{AppendHeader(nil, info)}
	segs, err := w.Commit(t.Context(), to)
	if err != nil {
		t.Fatal(err)
	}
	l := to.finish(t, info, segs, true)
	checkDisk(t, l, bytes.NewReader(to.p), want)
}

// checkDisk compares a layer that covers the whole disk, but maybe for zeros.
func checkDisk(t *testing.T, l *Layer, data io.ReaderAt, want []byte) {
	t.Helper()
	x, err := NewIndex([]*Layer{l})
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(want))
	if _, err := NewDevice(x, []Sources{{Data: data}}).ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("disk differs: %v", err)
	}
}

func TestWritableErrors(t *testing.T) {
	t.Parallel()
	w, err := CreateAppendOnly(newFile(t, "data"), newFile(t, "index"), Info{VirtualSize: 8192})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ off, n int64 }{{1, 512}, {0, 511}, {-512, 512}, {8192, 512}, {7680, 1024}} {
		if _, err := w.WriteAt(make([]byte, c.n), c.off); err == nil {
			t.Errorf("%d bytes at %d", c.n, c.off)
		}
		if err := w.Discard(c.off, c.n); err == nil {
			t.Errorf("discard %d bytes at %d", c.n, c.off)
		}
	}
	if err := w.MapRemote(0, 512, 0); err == nil {
		t.Error("remote in a native layer")
	}
	if n, err := w.ReadAt(make([]byte, 10), 8190); n != 2 || !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %d, %v", n, err)
	}
	if err := w.Resize(4096); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenAppendOnly(w.data, w.index); err != nil {
		t.Error(err)
	}
	if _, err := OpenSparse(w.data); !errors.Is(err, blob.ErrCorrupt) {
		t.Errorf("append-only as sparse: %v", err)
	}
	if _, err := OpenAppendOnly(w.data, w.data); !errors.Is(err, blob.ErrCorrupt) {
		t.Errorf("data as index: %v", err)
	}
	// An entry of data that is not there.
	if _, err := w.index.WriteAt(Segment{Length: 1, Source: 8}.appendTo(nil), HeaderSize); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenAppendOnly(w.data, w.index); !errors.Is(err, blob.ErrCorrupt) {
		t.Errorf("entry without data: %v", err)
	}
}

// What kind of layer it is stands in its files; the tags that overlaybd's tools write do not count.
func TestOpenWritable(t *testing.T) {
	t.Parallel()
	for _, sparse := range []bool{true, false} {
		data, index := newFile(t, "data"), newFile(t, "index")
		create := func() (*Writable, error) { return CreateAppendOnly(data, index, Info{VirtualSize: 1 << 20}) }
		if sparse {
			create = func() (*Writable, error) { return CreateSparse(data, Info{VirtualSize: 1 << 20}) }
		}
		w, err := create()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.WriteAt(bytes.Repeat([]byte{7}, 4096), 8192); err != nil {
			t.Fatal(err)
		}
		if !sparse {
			if _, err := index.WriteAt([]byte{4}, HeaderSize+15); err != nil {
				t.Fatal(err)
			}
		}
		own, err := w.Segments()
		if err != nil {
			t.Fatal(err)
		}
		w, isSparse, err := OpenWritable(data, index)
		if err != nil || isSparse != sparse {
			t.Fatalf("sparse %t: %t, %v", sparse, isSparse, err)
		}
		if got, err := w.Segments(); err != nil || !slices.Equal(got, own) {
			t.Errorf("sparse %t: %v, %v, want %v", sparse, got, err, own)
		}
	}
	if _, _, err := OpenWritable(newFile(t, "empty"), newFile(t, "index")); err == nil {
		t.Error("an empty file is a layer")
	}
}

func TestWarp(t *testing.T) {
	t.Parallel()
	w, err := CreateWarp(newFile(t, "meta"), newFile(t, "index"), Info{VirtualSize: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	meta := bytes.Repeat([]byte{7}, 8192)
	if _, err := w.WriteAt(meta, 4096); err != nil {
		t.Fatal(err)
	}
	if err := w.MapRemote(8192, 1024, 512); err != nil {
		t.Fatal(err)
	}
	if w, err = OpenWarp(w.data, w.index); err != nil {
		t.Fatal(err)
	}
	if _, err := w.ReadAt(make([]byte, 512), 8192); !errors.Is(err, blob.ErrUnsupported) {
		t.Errorf("read of the other object: %v", err)
	}
	// Over three layers, overlaybd's tools write other tags.
	own, err := w.Segments()
	if err != nil {
		t.Fatal(err)
	}
	for at := int64(HeaderSize + 15); at < w.indexEnd; at += entrySize {
		var tag [1]byte
		if _, err := w.index.ReadAt(tag[:], at); err != nil {
			t.Fatal(err)
		}
		if _, err := w.index.WriteAt([]byte{tag[0] + 3}, at); err != nil {
			t.Fatal(err)
		}
	}
	if w, err = OpenWarp(w.data, w.index); err != nil {
		t.Fatal(err)
	}
	if got, err := w.Segments(); err != nil || !slices.Equal(got, own) {
		t.Errorf("with other tags: %v, %v, want %v", got, err, own)
	}
	to := &payload{AppendHeader(nil, w.Info())}
	segs, err := w.Commit(t.Context(), to)
	if err != nil {
		t.Fatal(err)
	}
	l := to.finish(t, w.Info(), segs, false)
	x, err := NewIndex([]*Layer{l})
	if err != nil {
		t.Fatal(err)
	}
	remote := bytes.Repeat([]byte{9}, 4096)
	d := NewDevice(x, []Sources{{bytes.NewReader(to.p), bytes.NewReader(remote)}})
	got := make([]byte, 16384)
	if _, err := d.ReadAt(got, 0); err != nil {
		t.Fatal(err)
	}
	want := make([]byte, 16384)
	copy(want[4096:], meta)
	copy(want[8192:], remote[:1024])
	if !bytes.Equal(got, want) {
		t.Error("disk differs")
	}
	// Flattened, nothing is remote.
	flat := &payload{AppendHeader(nil, w.Info())}
	if segs, err = Merge(t.Context(), flat, d, false); err != nil {
		t.Fatal(err)
	}
	l = flat.finish(t, w.Info(), segs, true)
	if l.Remote || flat.Offset() != HeaderSize+8192+4096+HeaderSize {
		t.Errorf("%d bytes", flat.Offset())
	}
	checkDisk(t, l, bytes.NewReader(flat.p), want)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Merge(ctx, flat, d, false); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// TestMergeBelow merges the upper ones of some layers: zeros go on hiding what is below.
func TestMergeBelow(t *testing.T) {
	t.Parallel()
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 3))
		const sectors = 500
		disk := make([]Piece, sectors)
		layers, sources := make([]*Layer, 4), make([]Sources, 4)
		for i := range layers {
			layers[i] = layerOf(t, sectors*SectorSize, randomSegments(r, sectors, i, disk))
			data := make([]byte, 600<<10)
			for j := range data {
				data[j] = byte(r.Uint32()) | 1
			}
			clear(data[r.IntN(300<<10) : 300<<10])
			sources[i] = Sources{bytes.NewReader(data), bytes.NewReader(data)}
		}
		read := func(layers []*Layer, sources []Sources) (*Device, []byte) {
			x, err := NewIndex(layers)
			if err != nil {
				t.Fatal(err)
			}
			d, p := NewDevice(x, sources), make([]byte, sectors*SectorSize)
			if _, err := d.ReadAt(p, 0); err != nil {
				t.Fatal(err)
			}
			return d, p
		}
		_, want := read(layers, sources)
		upper, _ := read(layers[2:], sources[2:])
		to := &payload{AppendHeader(nil, Info{})}
		segs, err := Merge(t.Context(), to, upper, true)
		if err != nil {
			t.Fatal(err)
		}
		merged := to.finish(t, Info{}, segs, true)
		if _, got := read(append(layers[:2:2], merged), append(sources[:2:2], Sources{Data: bytes.NewReader(to.p)})); !bytes.Equal(got, want) {
			t.Fatalf("seed %d: disk differs", seed)
		}
	}
}
