package lsmt

import (
	"bytes"
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/lazuli-project/lazuli/blob"
)

// payload is a layer in memory.
type payload struct{ p []byte }

func (w *payload) Write(p []byte) (int, error) { w.p = append(w.p, p...); return len(p), nil }
func (w *payload) Offset() int64               { return int64(len(w.p)) }

// finish makes a layer of the payload.
func (w *payload) finish(t testing.TB, i Info, segs []Segment, pad bool) *Layer {
	t.Helper()
	w.p = AppendTail(w.p, i, w.Offset(), segs, pad)
	l, err := Parse(bytes.NewReader(w.p), w.Offset())
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestHeader(t *testing.T) {
	t.Parallel()
	// The header of the reference's conversion of hello-world.
	want := "4c534d5400010200657e63d29444084c" + "a2d2c8ec4fcfae8a8601000007000000" + strings.Repeat("0", 32) +
		"00000000100000003031424234464345" + "2d334542312d423536422d303541442d" + "46393935303444414644333100303030"
	p := AppendHeader(nil, Info{VirtualSize: 64 << 30, UUID: "01BB4FCE-3EB1-B56B-05AD-F99504DAFD31"})
	if got := hex.EncodeToString(p[:len(want)/2]); got != want || len(p) != HeaderSize {
		t.Errorf("%s\n%s", got, want)
	}
	if p[132] != 1 || p[133] != 1 || !bytes.Equal(p[390:], make([]byte, HeaderSize-390)) {
		t.Error("version, or what is behind the header")
	}
	info := Info{VirtualSize: 4096, UUID: "01BB4FCE-3EB1-B56B-05AD-F99504DAFD31", Parent: "11BB4FCE-3EB1-B56B-05AD-F99504DAFD31", UserTag: "text"}
	s, err := parseSlot(AppendHeader(nil, info), flagHeader, flagHeader)
	if err != nil || s.Info != info {
		t.Errorf("%+v, %v", s, err)
	}
}

// TestEntries has the entries that the specification shows.
func TestEntries(t *testing.T) {
	t.Parallel()
	for want, s := range map[string]Segment{
		"00000000000040810800000000000000": {Length: 8272, Source: 8},
		"502000000000e0015820000000008000": {Offset: 8272, Length: 120, Source: 8280, Zero: true},
		"ff3f00000000fcff6820000000008000": {Offset: 16383, Length: 16383, Source: 8296, Zero: true},
		"88300000000004000200000000000001": {Offset: 12424, Length: 1, Source: 2, Tag: 1},
	} {
		p := s.appendTo(nil)
		if got := hex.EncodeToString(p); got != want {
			t.Errorf("%+v: %s, want %s", s, got, want)
		}
		a, b := s.words()
		if got := segmentOf(a, b); got != s {
			t.Errorf("%+v, want %+v", got, s)
		}
	}
	if got := hex.EncodeToString(appendPadding(nil)); got != "ffffffffffff03000000000000000000" {
		t.Errorf("padding %s", got)
	}
}

func TestNormalize(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ in, want []Segment }{
		"empty": {},
		"sorted and joined": {
			[]Segment{{Offset: 10, Length: 5, Source: 18}, {Offset: 0, Length: 10, Source: 8}, {Offset: 15, Length: 1, Source: 100}},
			[]Segment{{Offset: 0, Length: 15, Source: 8}, {Offset: 15, Length: 1, Source: 100}},
		},
		"zeros join": {
			[]Segment{{Offset: 0, Length: 10, Source: 8, Zero: true}, {Offset: 10, Length: 1, Source: 50, Zero: true, Tag: 1}, {Offset: 11, Length: 1, Source: 9}},
			[]Segment{{Offset: 0, Length: 11, Source: 8, Zero: true}, {Offset: 11, Length: 1, Source: 9}},
		},
		"tags do not": {
			[]Segment{{Offset: 0, Length: 1, Source: 8}, {Offset: 1, Length: 1, Source: 9, Tag: 1}, {Offset: 3, Length: 0}},
			[]Segment{{Offset: 0, Length: 1, Source: 8}, {Offset: 1, Length: 1, Source: 9, Tag: 1}},
		},
		"longest":  {[]Segment{{Length: MaxLength - 1, Source: 8}, {Offset: MaxLength - 1, Length: 1, Source: 7 + MaxLength}}, []Segment{{Length: MaxLength, Source: 8}}},
		"too long": {[]Segment{{Length: MaxLength + 1, Source: 8}}, []Segment{{Length: 16376, Source: 8}, {Offset: 16376, Length: 8, Source: 16384}}},
		"zeros too long": {
			[]Segment{{Length: 2 * 16376, Source: 8, Zero: true}},
			[]Segment{{Length: 16376, Source: 8, Zero: true}, {Offset: 16376, Length: 16376, Source: 8, Zero: true}},
		},
	} {
		got, err := Normalize(slices.Clone(c.in))
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	for name, in := range map[string][]Segment{
		"overlap":  {{Offset: 4, Length: 4, Source: 8}, {Offset: 0, Length: 5, Source: 8}},
		"negative": {{Offset: -1, Length: 4, Source: 8}},
		"source":   {{Length: 4, Source: -8}},
		"length":   {{Length: -4, Source: 8}},
		"behind":   {{Offset: 1<<50 - 1, Length: 2, Source: 8}},
		"remote":   {{Length: 2, Source: 1<<54 - 1}},
	} {
		if got, err := Normalize(in); err == nil {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestParse(t *testing.T) {
	t.Parallel()
	info := Info{VirtualSize: 1 << 30, Parent: "11BB4FCE-3EB1-B56B-05AD-F99504DAFD31"}
	for _, n := range []int{0, 1, 255, 256, 257, 5000, 70_000} {
		for _, pad := range []bool{false, true} {
			w := &payload{AppendHeader(nil, info)}
			w.p = append(w.p, make([]byte, 8*SectorSize)...)
			var segs []Segment
			for i := range n {
				segs = append(segs, Segment{Offset: int64(i * 3), Length: int64(i%2 + 1), Source: int64(8 + i%7), Zero: i%3 == 0})
			}
			l := w.finish(t, info, segs, pad)
			if l.Info != info || l.Len() != n || l.DataEnd != HeaderSize+8*SectorSize || l.Remote || !slices.Equal(slices.Collect(l.Segments()), segs) {
				t.Fatalf("%d segments: %+v, %d", n, l.Info, l.Len())
			}
			if pad && (w.Offset()-HeaderSize-l.DataEnd)%4096 != 0 {
				t.Errorf("%d segments: not padded", n)
			}
		}
	}
}

func TestParseWarp(t *testing.T) {
	t.Parallel()
	w := &payload{AppendHeader(nil, Info{})}
	w.p = append(w.p, make([]byte, SectorSize)...)
	// Tags count from the smallest one.
	l := w.finish(t, Info{}, []Segment{{Length: 1, Source: 8, Tag: 3}, {Offset: 4, Length: 9, Source: 1 << 40, Tag: 4}}, false)
	want := []Segment{{Length: 1, Source: 8}, {Offset: 4, Length: 9, Source: 1 << 40, Tag: 1}}
	if !l.Remote || !slices.Equal(slices.Collect(l.Segments()), want) || l.At(1) != want[1] {
		t.Errorf("%+v", slices.Collect(l.Segments()))
	}
}

func TestParseDamaged(t *testing.T) {
	t.Parallel()
	build := func(segs ...Segment) []byte {
		w := &payload{AppendHeader(nil, Info{VirtualSize: 1 << 20})}
		w.p = append(w.p, make([]byte, 8*SectorSize)...)
		return AppendTail(w.p, Info{VirtualSize: 1 << 20}, w.Offset(), segs, false)
	}
	edit := func(at int, to ...byte) []byte {
		p := build(Segment{Length: 8, Source: 8})
		if at < 0 {
			at += len(p)
		}
		copy(p[at:], to)
		return p
	}
	zeroed := build(Segment{Length: 8, Source: 8, Zero: true})
	zeroed[len(zeroed)-HeaderSize-8] = 7
	const trailer = -HeaderSize
	for name, c := range map[string]struct {
		p    []byte
		want error
	}{
		"short":           {make([]byte, 8191), blob.ErrCorrupt},
		"header magic":    {edit(3, 9), blob.ErrCorrupt},
		"header flags":    {edit(28, 6), blob.ErrCorrupt},
		"header version":  {edit(132, 2), blob.ErrUnsupported},
		"trailer magic":   {edit(trailer+20, 9), blob.ErrCorrupt},
		"trailer flags":   {edit(trailer+28, 7), blob.ErrCorrupt},
		"not sealed":      {edit(trailer+28, 2), blob.ErrCorrupt},
		"index offset":    {edit(trailer+32, 1), blob.ErrCorrupt},
		"index behind":    {edit(trailer+39, 1), blob.ErrCorrupt},
		"index in header": {edit(trailer+32, 0, 2), blob.ErrCorrupt},
		"index size":      {edit(trailer+40, 2), blob.ErrCorrupt},
		"index too large": {edit(trailer+47, 255), blob.ErrCorrupt},
		"virtual size":    {edit(trailer+55, 255), blob.ErrCorrupt},
		"overlap":         {build(Segment{Length: 5, Source: 8}, Segment{Offset: 4, Length: 1, Source: 8}), blob.ErrCorrupt},
		"disorder":        {build(Segment{Offset: 4, Length: 1, Source: 8}, Segment{Length: 1, Source: 8}), blob.ErrCorrupt},
		"no sectors":      {build(Segment{Source: 8}), blob.ErrCorrupt},
		"in the header":   {build(Segment{Length: 1, Source: 7}), blob.ErrCorrupt},
		"behind the data": {build(Segment{Length: 2, Source: 15}), blob.ErrCorrupt},
		"zeros before":    {zeroed, blob.ErrCorrupt},
		"behind, tags":    {build(Segment{Length: 2, Source: 8}, Segment{Offset: 8, Length: 2, Source: 15, Tag: 2}), blob.ErrCorrupt},
	} {
		if l, err := Parse(bytes.NewReader(c.p), int64(len(c.p))); !errors.Is(err, c.want) || l != nil {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	p := build(Segment{Length: 8, Source: 8})
	if _, err := Parse(bytes.NewReader(p[:len(p)-1]), int64(len(p))); err == nil {
		t.Error("cut off")
	}
	if _, err := Parse(bytes.NewReader(p), int64(len(p))); err != nil {
		t.Error(err)
	}
}

// overlaybd-merge leaves the numbers of layers in the tags.
func TestNative(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		tags   []uint8
		remote bool
		source int64 // of the last segment
		want   error
	}{
		{tags: []uint8{0, 0, 0}, source: 8},
		{tags: []uint8{4, 4, 4}, source: 8},
		{tags: []uint8{0, 2, 1}, source: 8},
		{tags: []uint8{0, 1, 1}, source: 8, remote: true},
		{tags: []uint8{0, 1, 1}, source: 800, remote: true, want: blob.ErrCorrupt},
	} {
		w := &payload{AppendHeader(nil, Info{VirtualSize: 1 << 20})}
		w.p = append(w.p, make([]byte, 8*SectorSize)...)
		var segs []Segment
		for i, tag := range c.tags {
			segs = append(segs, Segment{Offset: int64(i * 8), Length: 2, Source: 8, Tag: tag})
		}
		segs[len(segs)-1].Source = c.source
		p := AppendTail(w.p, Info{VirtualSize: 1 << 20}, w.Offset(), segs, false)
		l, err := Parse(bytes.NewReader(p), int64(len(p)))
		if err != nil {
			t.Fatalf("tags %v: %v", c.tags, err)
		}
		if l.Remote != c.remote {
			t.Errorf("tags %v: refers to something: %t", c.tags, l.Remote)
		}
		n, err := l.Native()
		if !errors.Is(err, c.want) {
			t.Errorf("tags %v: error %v, want %v", c.tags, err, c.want)
		}
		if err != nil {
			continue
		}
		for i, want := range segs {
			if want.Tag = TagData; n.Remote || n.At(i) != want {
				t.Errorf("tags %v: segment %d is %+v", c.tags, i, n.At(i))
			}
		}
	}
}

func FuzzParse(f *testing.F) {
	w := &payload{AppendHeader(nil, Info{VirtualSize: 1 << 20})}
	w.p = append(w.p, make([]byte, 8*SectorSize)...)
	segs := []Segment{{Length: 3, Source: 8}, {Offset: 5, Length: 2, Source: 11, Zero: true}, {Offset: 9, Length: 5, Source: 11}}
	f.Add(AppendTail(bytes.Clone(w.p), Info{VirtualSize: 1 << 20}, w.Offset(), segs, false))
	segs[2].Tag = TagRemote
	f.Add(AppendTail(bytes.Clone(w.p), Info{VirtualSize: 1 << 20}, w.Offset(), segs, true))
	f.Fuzz(func(t *testing.T, p []byte) {
		l, err := Parse(bytes.NewReader(p), int64(len(p)))
		if err != nil {
			return
		}
		x, err := NewIndex([]*Layer{l, l})
		if err != nil {
			t.Fatal(err)
		}
		d := NewDevice(x, []Sources{{bytes.NewReader(p), bytes.NewReader(nil)}, {bytes.NewReader(p), bytes.NewReader(nil)}})
		buf := make([]byte, 3*SectorSize)
		for s := range l.Segments() {
			n, err := d.ReadAt(buf[:min(s.Length*SectorSize, int64(len(buf)))], s.Offset*SectorSize)
			if want := p[min(s.Source*SectorSize, int64(len(p))):]; s.Tag == TagData && !s.Zero && !bytes.Equal(buf[:n], want[:n]) {
				t.Fatalf("segment %+v: %v", s, err)
			}
		}
	})
}
