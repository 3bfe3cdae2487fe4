package flate

import (
	"bytes"
	"errors"
	"fmt"
	"sort"
	"sync"
	"testing"

	"github.com/lazuli-project/lazuli/blob"
)

// TestResume goes on from checkpoints of each stream, with the whole window and with the sparse one, and with all that
// follows, just enough, and one byte less.
func TestResume(t *testing.T) {
	t.Parallel()
	resumer := NewResumer()
	eachStream(t, func(t *testing.T, s stream) {
		all := checkpoints(t, s.data)
		step := 1 + len(all)/200 // of thousands of short members some are enough
		for i, c := range all {
			if c.Final || i%step != 0 && i < len(all)-10 {
				continue
			}
			n := min([]int{0, 1, 2, 300, 5000, 300_000}[i/step%6], len(s.want.plain)-int(c.Plain))
			if err := resumeAt(resumer, s.data, s.want, c, c.Window(), n); err != nil {
				t.Fatalf("%d bytes at %d: %v", n, c.Plain, err)
			}
			n = min(33_000, len(s.want.plain)-int(c.Plain))
			if err := resumeAt(resumer, s.data, s.want, c, c.Sparse(), n); err != nil {
				t.Fatalf("%d bytes at %d with a sparse window: %v", n, c.Plain, err)
			}
		}
	})
}

// checkpoints returns all of a stream.
func checkpoints(t *testing.T, data []byte) (all []*Checkpoint) {
	t.Helper()
	r, err := NewTracingReader(bytes.NewReader(data), TraceIndex)
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = r.Next()
		all = r.AppendCheckpoints(all)
	}
	return all
}

func resumeAt(r *Resumer, data []byte, want *reference, c *Checkpoint, window []byte, n int) error {
	from := Start{Bits: c.Bits, Byte: c.Byte, Window: window}
	// The symbol that gives the last byte.
	end := c.Stored
	if n > 0 {
		last := c.Plain + int64(n) - 1
		i := sort.Search(len(want.symbols), func(i int) bool { return want.symbols[i].plain+int64(want.symbols[i].length) > last })
		end = (want.symbols[i].end + 7) / 8
	}
	for _, stored := range [][]byte{data[c.Stored:], data[c.Stored:end]} {
		plain := make([]byte, n)
		if err := r.Decode(plain, stored, from); err != nil {
			return err
		}
		if !bytes.Equal(plain, want.plain[c.Plain:c.Plain+int64(n)]) {
			return errors.New("wrong bytes")
		}
	}
	if end == c.Stored {
		return nil
	}
	if err := r.Decode(make([]byte, n), data[c.Stored:end-1], from); !errors.Is(err, blob.ErrCorrupt) {
		return fmt.Errorf("with too few stored bytes: %w", err)
	}
	return nil
}

func TestResumeRefuses(t *testing.T) {
	t.Parallel()
	data := gzipped(t, generated(100), 6)
	members := append(bytes.Clone(data), data...)
	for name, c := range map[string]struct {
		stored []byte
		from   Start
	}{
		"bits":              {data[10:], Start{Bits: 8}},
		"nothing":           {nil, Start{}},
		"end of members":    {data[10:], Start{}},
		"end of trailer":    {data[10 : len(data)-1], Start{}},
		"header cut":        {members[10 : len(data)+9], Start{}},
		"no header":         {append(bytes.Clone(data[10:]), "no header at all"...), Start{}},
		"window too short":  {[]byte{0x03, 0x02, 0x00}, Start{}},
		"reserved block":    {[]byte{0x07}, Start{}},
		"reserved, by bits": {[]byte{0x01}, Start{Bits: 2, Byte: 0xc0}},
	} {
		if err := NewResumer().Decode(make([]byte, 150), c.stored, c.from); !errors.Is(err, blob.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := NewResumer().Decode(make([]byte, 150), members[10:], Start{}); err != nil {
		t.Errorf("two members: %v", err)
	}
}

// TestResumeConcurrently has many at work with one Resumer.
func TestResumeConcurrently(t *testing.T) {
	t.Parallel()
	plain := generated(200_000)
	data := gzipped(t, plain, 6)
	all := checkpoints(t, data)
	r := NewResumer()
	var wg sync.WaitGroup
	for i := range 40 {
		c := all[i%(len(all)-1)]
		wg.Go(func() {
			got := make([]byte, min(30_000, len(plain)-int(c.Plain)))
			err := r.Decode(got, data[c.Stored:], Start{Bits: c.Bits, Byte: c.Byte, Window: c.Window()})
			if err != nil || !bytes.Equal(got, plain[c.Plain:][:len(got)]) {
				t.Errorf("at %d: %v", c.Plain, err)
			}
		})
	}
	wg.Wait()
}

func TestResumeAllocates(t *testing.T) {
	data := gzipped(t, generated(50_000), 6)
	r := NewResumer()
	plain := make([]byte, 50_000)
	if n := testing.AllocsPerRun(50, func() {
		if err := r.Decode(plain, data[10:], Start{}); err != nil {
			t.Error(err)
		}
	}); n > 2 { // the race detector makes pools forget
		t.Errorf("%v allocations per call", n)
	}
}
