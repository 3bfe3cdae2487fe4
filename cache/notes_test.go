package cache

import (
	"os"
	"testing"
)

func TestNotes(t *testing.T) {
	t.Parallel()
	d, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := d.Note("a/../b"); ok {
		t.Error("a note that nobody wrote")
	}
	for _, content := range []string{"one", "", "two"} {
		if err := d.PutNote("a/../b", []byte(content)); err != nil {
			t.Fatal(err)
		}
		if got, ok := d.Note("a/../b"); !ok || string(got) != content {
			t.Errorf("%q, %v", got, ok)
		}
	}
	if err := d.PutNote("big", make([]byte, maxNote+1)); err == nil {
		t.Error("a note over the limit is taken")
	}
	for name, spoil := range map[string]func(path string){
		"cut":     func(path string) { truncate(t, path, 10) },
		"changed": func(path string) { write(t, path, 33, 'X') },
		"gone":    func(path string) { _ = os.Remove(path) },
	} {
		if err := d.PutNote(name, []byte("content")); err != nil {
			t.Fatal(err)
		}
		spoil(d.notePath(name))
		if got, ok := d.Note(name); ok {
			t.Errorf("%s: %q", name, got)
		}
	}
}
