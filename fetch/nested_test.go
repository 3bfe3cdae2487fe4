package fetch

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/formats"
)

// nested is a layout as inflate contexts have it: groups of groupSpans spans, each of which needs all that is stored of its
// group up to its own end. Plain and stored bytes are the same.
type nested struct{ data []byte }

const (
	groupSpans = 4
	nestedSpan = 1000
)

func (l *nested) Size() int64          { return int64(len(l.data)) }
func (l *nested) NumSpans() int        { return len(l.data) / nestedSpan }
func (l *nested) SpanAt(off int64) int { return int(off / nestedSpan) }

func (l *nested) Span(i int) blob.Span {
	group := i / groupSpans * groupSpans
	return blob.Span{Index: i, Plain: blob.Range{Off: int64(i) * nestedSpan, Len: nestedSpan},
		Stored: blob.Range{Off: int64(group) * nestedSpan, Len: int64(i-group+1) * nestedSpan}}
}

func (l *nested) Decode(plain, stored []byte, s blob.Span) error {
	return l.DecodeSpans([][]byte{plain}, stored, []blob.Span{s})
}

func (l *nested) DecodeSpans(plain [][]byte, stored []byte, spans []blob.Span) error {
	for i, s := range spans {
		if s.Stored.Len > int64(len(stored)) {
			return errors.New("too little is stored")
		}
		copy(plain[i], stored[s.Plain.Off-s.Stored.Off:])
	}
	return nil
}

func (l *nested) Verify(plain []byte, s blob.Span) error {
	if !bytes.Equal(plain, l.data[s.Plain.Off:s.Plain.End()]) {
		return blob.ErrDigest
	}
	return nil
}

// noting is a source that notes what is asked of it.
type noting struct {
	data   []byte
	ranges []blob.Range
	wrong  int // so many answers are wrong
}

func (n *noting) Size() int64 { return int64(len(n.data)) }

func (n *noting) ReadRange(_ context.Context, p []byte, off int64, _ blob.Class) error {
	n.ranges = append(n.ranges, blob.Range{Off: off, Len: int64(len(p))})
	copy(p, n.data[off:])
	if n.wrong > 0 {
		n.wrong--
		p[len(p)-1] ^= 1
	}
	return nil
}

func newNested(t *testing.T, src *noting) *Reader {
	t.Helper()
	src.data = make([]byte, 3*groupSpans*nestedSpan)
	for i := range src.data {
		src.data[i] = byte(i * 7 >> 3)
	}
	b := formats.Blob{Desc: ocispec.Descriptor{Digest: digest.FromBytes(src.data)}, Layout: &nested{src.data}, PlainSize: int64(len(src.data)),
		Open: func(context.Context) (blob.Source, error) { return src, nil }}
	// Requests take nothing along but what is there anyway.
	r, err := NewReader(b, Options{MinRequest: 1, Gap: 1, Requests: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return r
}

func TestNestedSpans(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		wrong int
		reads []int // spans
		want  []blob.Range
	}{
		{"what is before in the group comes along", 0, []int{2, 0, 1, 2}, []blob.Range{{Off: 0, Len: 3000}}},
		{"and is not fetched again for what is behind", 0, []int{1, 3, 2}, []blob.Range{{Off: 0, Len: 2000}, {Off: 2000, Len: 2000}}},
		{"step by step, then in larger steps", 0, []int{4, 5, 6, 7, 8}, []blob.Range{{Off: 4000, Len: 1000}, {Off: 5000, Len: 1000}, {Off: 6000, Len: 2000}, {Off: 8000, Len: 4000}}},
		{"groups are apart", 0, []int{9, 1}, []blob.Range{{Off: 8000, Len: 2000}, {Off: 0, Len: 2000}}},
		{"a wrong byte is fetched anew, and not kept", 1, []int{1, 3}, []blob.Range{{Off: 0, Len: 2000}, {Off: 0, Len: 2000}, {Off: 2000, Len: 2000}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			src := &noting{wrong: c.wrong}
			r := newNested(t, src)
			for _, i := range c.reads {
				p := make([]byte, nestedSpan)
				if err := r.ReadAt(t.Context(), p, int64(i)*nestedSpan, blob.Demand); err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(p, src.data[i*nestedSpan:][:nestedSpan]) {
					t.Fatalf("span %d reads as something else", i)
				}
			}
			if len(src.ranges) != len(c.want) {
				t.Fatalf("asked for %v, expected %v", src.ranges, c.want)
			}
			for i, w := range c.want {
				if src.ranges[i] != w {
					t.Errorf("asked for %v, expected %v", src.ranges, c.want)
					break
				}
			}
		})
	}
}

// All of a blob at once, in requests of several groups.
func TestNestedSpansInBulk(t *testing.T) {
	t.Parallel()
	src := &noting{}
	r := newNested(t, src)
	p := make([]byte, len(src.data))
	if err := r.ReadAt(t.Context(), p, 0, blob.Background); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(p, src.data) || len(src.ranges) != 1 || src.ranges[0].Len != int64(len(src.data)) {
		t.Errorf("asked for %v", src.ranges)
	}
}

// What is kept of spans that go on is bounded.
func TestBegunIsBounded(t *testing.T) {
	t.Parallel()
	var b begun
	for i := range 100 {
		b.put(make([]byte, 1<<20), int64(i)<<20)
	}
	if b.total > maxBegun || len(b.kept) != maxBegun>>20 {
		t.Errorf("%d bytes in %d pieces", b.total, len(b.kept))
	}
	p := make([]byte, 2<<20)
	if n := b.take(p, 99<<20); n != 1<<20 {
		t.Errorf("%d bytes of the latest", n)
	}
	if n := b.take(p, 99<<20); n != 0 {
		t.Errorf("%d bytes of what was taken", n)
	}
	if n := b.take(p, 0); n != 0 {
		t.Errorf("%d bytes of what was dropped", n)
	}
}
