package cache

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/lazuli-project/lazuli/blob"
)

var key = digest.FromString("a blob")

func open(t *testing.T, dir string) *Blob {
	t.Helper()
	d, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	b, err := d.Blob(key, 4096*10, 10)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b
}

func span(i int) (blob.Span, []byte) {
	return blob.Span{Index: i, Plain: blob.Range{Off: int64(i) * 4096, Len: 4096}}, bytes.Repeat([]byte{byte('a' + i)}, 4096)
}

func TestPutSurvivesReopening(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first, other := open(t, dir), open(t, dir)
	s, p := span(3)
	if first.Present(3) || first.Put(s, p) != nil || !first.Present(3) || first.Present(2) {
		t.Fatal("Put does not mark its span alone")
	}
	if !other.Present(3) {
		t.Error("another process does not see the span")
	}
	again := open(t, dir)
	got := make([]byte, 4096)
	if !again.Present(3) || again.ReadAt(got, s.Plain.Off) != nil || !bytes.Equal(got, p) {
		t.Error("the span is not there after reopening")
	}
	if err := again.Drop(3); err != nil || again.Present(3) || open(t, dir).Present(3) {
		t.Error("a dropped span is still there")
	}
}

func TestComplete(t *testing.T) {
	t.Parallel()
	b := open(t, t.TempDir())
	for i := range 10 {
		if b.Complete() {
			t.Fatalf("complete with %d of 10 spans", i)
		}
		s, p := span(i)
		for range 2 { // a second Put of a span counts once
			if err := b.Put(s, p); err != nil {
				t.Fatal(err)
			}
		}
	}
	if !b.Complete() {
		t.Fatal("not complete with all spans")
	}
}

// What another version, another layout or a crash left behind is not taken for data.
func TestForeignFilesBeginAnew(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(t *testing.T, folder string){
		"header cut":     func(t *testing.T, f string) { truncate(t, filepath.Join(f, "spans"), 30) },
		"marks cut":      func(t *testing.T, f string) { truncate(t, filepath.Join(f, "spans"), headerSize+5) },
		"data cut":       func(t *testing.T, f string) { truncate(t, filepath.Join(f, "data"), 100) },
		"header damaged": func(t *testing.T, f string) { write(t, filepath.Join(f, "spans"), 17, 0xff) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			b := open(t, dir)
			s, p := span(1)
			if err := b.Put(s, p); err != nil {
				t.Fatal(err)
			}
			spoil(t, filepath.Dir(b.DataPath()))
			if again := open(t, dir); again.Present(1) || again.Complete() {
				t.Error("a span of a damaged folder counts as present")
			} else if err := again.Put(s, p); err != nil || !open(t, dir).Present(1) {
				t.Errorf("the folder cannot be used again: %v", err)
			}
		})
	}
}

func truncate(t *testing.T, path string, n int64) {
	t.Helper()
	if err := os.Truncate(path, n); err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path string, off int64, b byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err == nil {
		_, err = f.WriteAt([]byte{b}, off)
	}
	if err != nil || f.Close() != nil {
		t.Fatal(err)
	}
}

func TestBlobRefusesBadKeysAndSizes(t *testing.T) {
	t.Parallel()
	d, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		key   digest.Digest
		size  int64
		spans int
	}{{"sha256:../../x", 1, 1}, {"", 1, 1}, {key, -1, 1}, {key, 1, -1}, {key, 1, maxSpans + 1}} {
		if _, err := d.Blob(c.key, c.size, c.spans); err == nil {
			t.Errorf("Blob(%q, %d, %d) is accepted", c.key, c.size, c.spans)
		}
	}
}

func TestFileIsWrittenOnceAndMendedWhenDamaged(t *testing.T) {
	t.Parallel()
	d, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	calls := 0
	fill := func(w io.Writer) error { calls++; _, err := io.WriteString(w, "12345"); return err }
	for i := range 3 {
		p, err := d.File(digest.FromString("12345"), fill)
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := os.ReadFile(p); string(got) != "12345" {
			t.Fatalf("file holds %q", got)
		}
		if i == 1 {
			write(t, p, 2, 'X')
		}
	}
	if calls != 2 {
		t.Errorf("written %d times, want once, and once more after damage", calls)
	}
	if _, err := d.File(digest.FromString("y"), func(io.Writer) error { return fmt.Errorf("disk full") }); err == nil {
		t.Error("a failed write is not reported")
	}
	if left, _ := filepath.Glob(filepath.Join(d.Path(), "images", ".new-*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
