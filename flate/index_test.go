package flate

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
)

// TestIndex compares StoredAt, CheckpointAt and AppendCheckpoints with the plain decoder, which writes down every bit.
func TestIndex(t *testing.T) {
	t.Parallel()
	eachStream(t, func(t *testing.T, s stream) {
		for _, step := range []int{3, 701, 40_000, 1 << 30} {
			checkIndex(t, s.data, s.want, step)
		}
		checkCheckpoints(t, s.data, s.want)
	})
}

// checkIndex asks for every step-th offset.
func checkIndex(t *testing.T, data []byte, want *reference, step int) {
	t.Helper()
	r, err := NewTracingReader(bytes.NewReader(data), TraceIndex)
	if err != nil {
		t.Fatal(err)
	}
	total := int64(0)
	var held []*Checkpoint
	var last *Checkpoint
	for {
		p, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if r.StoredAt(total-1) != -1 || r.CheckpointAt(total+int64(len(p))+1) != nil {
			t.Fatal("answers outside of the piece")
		}
		for i := 0; ; i = min(i+step, len(p)) {
			off := total + int64(i)
			if got, want := r.StoredAt(off), want.storedAt(off); got != want {
				t.Fatalf("%d stored bytes at %d, want %d", got, off, want)
			}
			if step < 100 && i%97 != 0 && i != len(p) {
				continue
			}
			c := r.CheckpointAt(off)
			if stored, plain := r.BoundaryAt(off); stored != c.Stored || plain != c.Plain {
				t.Fatalf("boundary at %d and %d, checkpoint at %d and %d", stored, plain, c.Stored, c.Plain)
			}
			checkPlace(t, data, c, want.boundaryAt(off))
			if c != last {
				held = append(held, c)
				last = c
			}
			if i == len(p) {
				break
			}
		}
		total += int64(len(p))
	}
	for _, c := range held {
		checkWindow(t, c, want)
	}
}

// checkCheckpoints takes all of them.
func checkCheckpoints(t *testing.T, data []byte, want *reference) {
	t.Helper()
	r, err := NewTracingReader(bytes.NewReader(data), TraceIndex)
	if err != nil {
		t.Fatal(err)
	}
	var all []*Checkpoint
	for err == nil {
		_, err = r.Next()
		all = r.AppendCheckpoints(all)
	}
	if !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	// Of a run without plain bytes between, what is in the middle is left out.
	var expect []refBoundary
	for run := want.boundaries; len(run) > 0; {
		n := slices.IndexFunc(run, func(b refBoundary) bool { return b.plain != run[0].plain })
		if n < 0 {
			n = len(run)
		}
		if expect = append(expect, run[:min(n, maxEmpty)]...); n > maxEmpty {
			expect[len(expect)-1] = run[n-1]
		}
		run = run[n:]
	}
	if len(all) != len(expect) {
		t.Fatalf("%d checkpoints, want %d", len(all), len(expect))
	}
	for i, c := range all {
		checkPlace(t, data, c, expect[i])
		checkWindow(t, c, want)
	}
}

func checkPlace(t *testing.T, data []byte, c *Checkpoint, want refBoundary) {
	t.Helper()
	stored := (want.bit + 7) / 8
	left := uint8(stored*8 - want.bit)
	if c.Plain != want.plain || c.Stored != stored || c.Bits != left || c.Member != want.member || c.Final != want.final {
		t.Fatalf("checkpoint %+v, want %+v", *c, want)
	}
	if left > 0 && c.Byte != data[stored-1] || left == 0 && c.Byte != 0 {
		t.Fatalf("checkpoint at %d with byte %#x", c.Plain, c.Byte)
	}
}

func checkWindow(t *testing.T, c *Checkpoint, want *reference) {
	t.Helper()
	if !c.Complete() {
		t.Fatalf("checkpoint at %d is not complete", c.Plain)
	}
	i := slices.IndexFunc(want.boundaries, func(b refBoundary) bool { return (b.bit+7)/8 == c.Stored && b.plain == c.Plain })
	b := want.boundaries[i]
	if !bytes.Equal(c.Window(), want.plain[max(b.begin, c.Plain-historySize):c.Plain]) {
		t.Fatalf("window of %d at %d differs", len(c.Window()), c.Plain)
	}
	if !bytes.Equal(c.Sparse(), want.sparse(b)) {
		t.Fatalf("sparse window at %d differs", c.Plain)
	}
}

// TestZlib compares with what zlib's inflate says, see testdata/zlib.
func TestZlib(t *testing.T) {
	t.Parallel()
	golden, err := os.ReadFile("testdata/zlib/mixed.txt")
	if err != nil {
		t.Fatal(err)
	}
	r, err := NewTracingReader(bytes.NewReader(mixedStream), TraceIndex)
	if err != nil {
		t.Fatal(err)
	}
	total, lines := int64(0), 0
	for line := range strings.Lines(string(golden)) {
		var off, in, stored, plain int64
		var left, value, final uint8
		var size int
		var sum uint32
		if _, err := fmt.Sscanf(line, "%d %d %d %d %d %d %d %d %x", &off, &in, &stored, &plain, &left, &value, &final, &size, &sum); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		for off > total {
			p, err := r.Next()
			if err != nil {
				t.Fatal(err)
			}
			total += int64(len(p))
		}
		c := r.CheckpointAt(off)
		if got := r.StoredAt(off); got != in {
			t.Errorf("at %d: %d stored bytes, zlib %d", off, got, in)
		}
		if c.Stored != stored || c.Plain != plain || c.Bits != left || c.Byte != value || c.Final != (final == 1) ||
			len(c.Window()) != size || crc32.ChecksumIEEE(c.Window()) != sum {
			t.Errorf("at %d: %+v, zlib %s", off, *c, line)
		}
		lines++
	}
	if lines < 300 {
		t.Errorf("%d lines", lines)
	}
}

// TestIndexIsBounded has streams whose blocks are as many as their bytes.
func TestIndexIsBounded(t *testing.T) {
	t.Parallel()
	eachStream(t, func(t *testing.T, s stream) {
		r, err := NewTracingReader(bytes.NewReader(s.data), TraceIndex)
		if err != nil {
			t.Fatal(err)
		}
		for err == nil {
			_, err = r.Next()
			x := &r.trace.index
			if len(x.blocks) > maxBlocks || len(x.places) > maxPlaces+maxEmpty || len(x.spare.windows) > 4 || len(x.spare.used) > 4 || len(x.asked) > 0 {
				t.Fatalf("%d blocks, %d places, %d windows", len(x.blocks), len(x.places), len(x.spare.windows))
			}
		}
		if !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
	})
}
