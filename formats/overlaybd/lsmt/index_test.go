package lsmt

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"testing"
)

// layerOf returns a layer with segments, as Parse does.
func layerOf(t testing.TB, size int64, segs []Segment) *Layer {
	t.Helper()
	segs, err := Normalize(segs)
	if err != nil {
		t.Fatal(err)
	}
	l := &Layer{Info: Info{VirtualSize: size}}
	for _, s := range segs {
		a, b := s.words()
		l.entries = append(l.entries, entry{a, b})
		l.Remote = l.Remote || s.Tag == TagRemote
	}
	return l
}

// randomSegments returns segments of a disk of so many sectors, and what each sector is.
func randomSegments(r *rand.Rand, sectors int64, layer int, disk []Piece) []Segment {
	var segs []Segment
	for at := r.Int64N(20); at < sectors; {
		s := Segment{Offset: at, Length: min(1+r.Int64N(30), sectors-at), Source: 8 + r.Int64N(1000), Zero: r.IntN(4) == 0, Tag: uint8(r.IntN(2))}
		segs = append(segs, s)
		for i := range s.Length {
			p := &disk[at+i]
			*p = Piece{Layer: layer, Source: (s.Source + i) * SectorSize, Tag: s.Tag}
			if s.Zero {
				*p = Piece{Layer: -1}
			}
		}
		at += s.Length + r.Int64N(20)*r.Int64N(2)
	}
	r.Shuffle(len(segs), func(i, j int) { segs[i], segs[j] = segs[j], segs[i] })
	return segs
}

func TestLookup(t *testing.T) {
	t.Parallel()
	for seed := range uint64(30) {
		r := rand.New(rand.NewPCG(seed, 1))
		const sectors = 700
		disk := make([]Piece, sectors)
		for i := range disk {
			disk[i].Layer = -1
		}
		layers := make([]*Layer, 1+r.IntN(9))
		for i := range layers {
			layers[i] = layerOf(t, int64(r.IntN(2))*sectors*SectorSize, randomSegments(r, sectors, i, disk))
		}
		x, err := NewIndex(layers)
		if err != nil {
			t.Fatal(err)
		}
		last := int64(0)
		for layer, s := range x.Segments() {
			if s.Offset < last || s.Length == 0 || !s.Zero && disk[s.Offset].Layer != layer {
				t.Fatalf("seed %d: segment %+v of layer %d behind one up to %d", seed, s, layer, last)
			}
			last = s.End()
		}
		for range 60 {
			off, n := r.Int64N(sectors*SectorSize), r.Int64N(40*SectorSize)
			if r.IntN(10) == 0 {
				n = sectors * SectorSize
			}
			at := off
			x.Lookup(off, n, func(p Piece) bool {
				if p.Offset != at || p.Length <= 0 {
					t.Fatalf("seed %d: piece %+v, expected one at %d", seed, p, at)
				}
				for at := p.Offset; at < p.Offset+p.Length; at += SectorSize - at%SectorSize {
					want := Piece{Layer: -1}
					if at < sectors*SectorSize {
						want = disk[at/SectorSize]
					}
					got := Piece{Layer: p.Layer, Tag: p.Tag}
					if p.Layer >= 0 {
						want.Source += at % SectorSize
						got.Source = p.Source + at - p.Offset
					}
					if got != want {
						t.Fatalf("seed %d: byte %d: %+v, want %+v", seed, at, got, want)
					}
				}
				at += p.Length
				return true
			})
			if at != off+n {
				t.Fatalf("seed %d: pieces up to %d, want %d", seed, at, off+n)
			}
		}
	}
}

func TestLookupStops(t *testing.T) {
	t.Parallel()
	x, err := NewIndex([]*Layer{layerOf(t, 1<<20, []Segment{{Offset: 3, Length: 1, Source: 8}, {Offset: 5, Length: 1, Source: 8}})})
	if err != nil {
		t.Fatal(err)
	}
	for stop := 1; stop <= 5; stop++ {
		calls := 0
		x.Lookup(0, 1<<20, func(Piece) bool { calls++; return calls < stop })
		if calls != stop {
			t.Errorf("%d calls, want %d", calls, stop)
		}
	}
	x.Lookup(-1, 5, func(Piece) bool { t.Error("negative"); return false })
	x.Lookup(maxSize, 5, func(Piece) bool { t.Error("behind all disks"); return false })
}

func TestNewIndexLimits(t *testing.T) {
	t.Parallel()
	if _, err := NewIndex(nil); err == nil {
		t.Error("no layers")
	}
	if _, err := NewIndex(slices.Repeat([]*Layer{{}}, MaxLayers+1)); err == nil {
		t.Error("too many layers")
	}
	layers := []*Layer{{Info: Info{VirtualSize: 4096}}, {Info: Info{VirtualSize: 8192}}, {}}
	x, err := NewIndex(layers)
	if err != nil || x.Size() != 8192 || x.Len() != 0 {
		t.Errorf("%+v, %v", x, err)
	}
}

func TestDevice(t *testing.T) {
	t.Parallel()
	data, remote := make([]byte, 64<<10), make([]byte, 2000)
	for i := range data {
		data[i] = byte(i * 7)
	}
	for i := range remote {
		remote[i] = byte(i * 13)
	}
	x, err := NewIndex([]*Layer{
		layerOf(t, 16<<10, []Segment{{Offset: 0, Length: 24, Source: 10}}),
		layerOf(t, 0, []Segment{{Offset: 2, Length: 4, Source: 0, Tag: TagRemote}, {Offset: 6, Length: 2, Zero: true}}),
	})
	if err != nil {
		t.Fatal(err)
	}
	want := make([]byte, 16<<10)
	copy(want[:24*512], data[10*512:])
	clear(want[1024:4096])
	copy(want[1024:], remote)
	d := NewDevice(x, []Sources{{Data: bytes.NewReader(data)}, {Remote: bytes.NewReader(remote)}})
	r := rand.New(rand.NewPCG(1, 2))
	for range 3000 {
		off := r.IntN(len(want))
		p := make([]byte, r.IntN(len(want)-off+1))
		if n, err := d.ReadAt(p, int64(off)); err != nil || n != len(p) || !bytes.Equal(p, want[off:off+n]) {
			t.Fatalf("%d bytes at %d: %d, %v", len(p), off, n, err)
		}
	}
	p := make([]byte, 100)
	if n, err := d.ReadAt(p, 16<<10-10); n != 10 || !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %d, %v", n, err)
	}
	if n, err := d.ReadAt(p, 16<<10); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("behind the end: %d, %v", n, err)
	}
	if _, err := d.ReadAt(p, -1); err == nil {
		t.Error("negative offset")
	}
	cut := NewDevice(x, []Sources{{Data: bytes.NewReader(data[:6000])}, {Remote: bytes.NewReader(remote[:1500])}})
	for _, off := range []int64{512, 1024 + 1500} {
		if _, err := cut.ReadAt(make([]byte, 1024), off); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("source cut off, at %d: %v", off, err)
		}
	}
	if _, err := NewDevice(x, []Sources{{}}).ReadAt(p, 0); err == nil {
		t.Error("no source")
	}
}

func TestSearch(t *testing.T) {
	t.Parallel()
	for n := range 700 {
		keys := make([]uint64, n)
		for i := range keys {
			keys[i] = uint64(3*i + 3)
		}
		s := newSearch(keys)
		for x := range uint64(3*n + 8) {
			want := max(min(int(x/3)-1, n-1), 0)
			if got := s.last(x); got != want {
				t.Fatalf("%d keys: last(%d) = %d, want %d", n, x, got, want)
			}
		}
	}
}

// BenchmarkFind looks for random sectors of a disk that is filled with segments.
func BenchmarkFind(b *testing.B) {
	for _, n := range []int{1_000, 10_000, 100_000, 1_000_000} {
		l := &Layer{Info: Info{VirtualSize: int64(n) * 10 * SectorSize}}
		for i := range n {
			a, w := Segment{Offset: int64(i) * 10, Length: 8, Source: int64(8 + i*8)}.words()
			l.entries = append(l.entries, entry{a, w})
		}
		x, err := NewIndex([]*Layer{l})
		if err != nil {
			b.Fatal(err)
		}
		r := rand.New(rand.NewPCG(1, 2))
		sectors := make([]int64, 1<<16)
		for i := range sectors {
			sectors[i] = r.Int64N(int64(n) * 10)
		}
		rate := func(b *testing.B) { b.ReportMetric(float64(b.N)/b.Elapsed().Seconds()/1e6, "M/s") }
		b.Run(fmt.Sprintf("find/%d", n), func(b *testing.B) {
			sum := 0
			for i := range b.N {
				sum += x.find(sectors[i&(1<<16-1)])
			}
			rate(b)
			b.ReportMetric(0, "ns/op")
			if sum == 1 {
				b.Log(sum)
			}
		})
		b.Run(fmt.Sprintf("Lookup/%d", n), func(b *testing.B) {
			b.ReportAllocs()
			var sum int64
			for i := range b.N {
				x.Lookup(sectors[i&(1<<16-1)]*SectorSize, SectorSize, func(p Piece) bool { sum += p.Source; return true })
			}
			rate(b)
			if sum == 1 {
				b.Log(sum)
			}
		})
	}
}
