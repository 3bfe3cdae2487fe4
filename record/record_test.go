package record

import (
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/convert"
)

func blobOf(s string) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: "m", Digest: digest.FromString(s), Size: 5, Annotations: map[string]string{"a": "b"}}
}

func keyOf(s string) convert.Key {
	return convert.Key{Source: digest.FromString(s), Format: "nydus", Writer: "1"}
}

func open(t *testing.T, file string) *DB {
	t.Helper()
	d, err := Open(t.Context(), file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

func lookup(t *testing.T, d *DB, k convert.Key) (convert.Known, bool) {
	t.Helper()
	known, ok, err := d.Lookup(t.Context(), k)
	if err != nil {
		t.Fatal(err)
	}
	return known, ok
}

// Several converters use one file at the same time.
func TestRemembersAcrossProcesses(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "state of mine?", "record.db")
	k, want := keyOf("layer"), blobOf("blob")
	var wg sync.WaitGroup
	for i := range 6 {
		wg.Go(func() {
			d, err := Open(t.Context(), file)
			if err != nil {
				t.Error(err)
				return
			}
			defer d.Close()
			for n := range 10 {
				if err := d.Store(t.Context(), k, convert.Known{Desc: want, Places: []string{fmt.Sprintf("host/%d", i)}}); err != nil {
					t.Error(err)
				}
				other := keyOf(fmt.Sprint(i, n))
				if err := errors.Join(d.Store(t.Context(), other, convert.Known{Desc: blobOf("x"), Places: []string{"host/x"}}), d.Forget(t.Context(), other, "nowhere")); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	d := open(t, file)
	got, ok := lookup(t, d, k)
	if !ok || got.Desc.Digest != want.Digest || got.Desc.Annotations["a"] != "b" || len(got.Places) != 6 {
		t.Fatalf("%+v, %v", got, ok)
	}
	for _, other := range []convert.Key{{Source: k.Source, Format: "nydus", Writer: "2"}, {Source: k.Source, Format: "oci", Writer: "1"}, {Source: digest.FromString("x"), Format: "nydus", Writer: "1"}} {
		if _, ok := lookup(t, d, other); ok {
			t.Errorf("%+v is known", other)
		}
	}
}

// A file of before there were places keeps what it knows.
func TestMigration(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "record.db")
	old, err := sql.Open("sqlite", file)
	if err != nil {
		t.Fatal(err)
	}
	k := keyOf("layer")
	_, err = old.ExecContext(t.Context(), `CREATE TABLE layers (source TEXT NOT NULL, format TEXT NOT NULL, writer TEXT NOT NULL, descriptor TEXT NOT NULL,
		PRIMARY KEY (source, format, writer)) STRICT, WITHOUT ROWID`)
	if err == nil {
		_, err = old.ExecContext(t.Context(), `INSERT INTO layers VALUES (?1, 'nydus', '1', ?2), (?1, 'overlaybd', '1', ?2)`, k.Source.String(), `{"mediaType":"m","digest":"`+digest.FromString("b").String()+`","size":7}`)
	}
	if err := errors.Join(err, old.Close()); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		d := open(t, file)
		if list, err := d.Entries(t.Context()); err != nil || len(list) != 1 {
			t.Errorf("%+v, %v", list, err)
		}
		if got, ok := lookup(t, d, k); !ok || got.Desc.Size != 7 || len(got.Places) != 0 {
			t.Errorf("%+v, %v", got, ok)
		}
	}
	upper := k
	upper.Below, upper.Chain = digest.FromString("below"), digest.FromString("chain")
	d := open(t, file)
	if _, ok := lookup(t, d, upper); ok {
		t.Error("a layer is known on others than those it was converted on")
	}
	if err := d.Store(t.Context(), upper, convert.Known{Desc: blobOf("upper"), Places: []string{"host/a"}}); err != nil {
		t.Fatal(err)
	}
	if got, ok := lookup(t, d, upper); !ok || got.Desc.Digest != blobOf("upper").Digest {
		t.Errorf("%+v, %v", got, ok)
	}
	if got, ok := lookup(t, d, k); !ok || got.Desc.Size != 7 {
		t.Errorf("%+v, %v", got, ok)
	}
	newer, err := sql.Open("sqlite", file)
	if err == nil {
		_, err = newer.ExecContext(t.Context(), `PRAGMA user_version = 99`)
	}
	if err := errors.Join(err, newer.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), file); !errors.Is(err, ErrNewer) {
		t.Errorf("of a newer version: %v", err)
	}
}

func TestForget(t *testing.T) {
	t.Parallel()
	d := open(t, filepath.Join(t.TempDir(), "record.db"))
	k := keyOf("layer")
	if err := d.Store(t.Context(), k, convert.Known{Desc: blobOf("b"), Places: []string{"host/a", "host/b"}}); err != nil {
		t.Fatal(err)
	}
	if err := d.Forget(t.Context(), k, "host/a"); err != nil {
		t.Fatal(err)
	}
	if got, ok := lookup(t, d, k); !ok || !reflect.DeepEqual(got.Places, []string{"host/b"}) {
		t.Errorf("%+v, %v", got, ok)
	}
	if err := d.Forget(t.Context(), k, "host/b"); err != nil {
		t.Fatal(err)
	}
	if _, ok := lookup(t, d, k); ok {
		t.Error("a layer whose blob is nowhere is known")
	}
	if err := d.Forget(t.Context(), k, "host/b"); err != nil {
		t.Error(err)
	}
}

func TestEntries(t *testing.T) {
	t.Parallel()
	d := open(t, filepath.Join(t.TempDir(), "record.db"))
	entry := func(s string, places ...string) Entry {
		return Entry{Source: digest.FromString(s), Format: "nydus", Writer: "1", Blob: blobOf("blob of " + s), Places: places}
	}
	for _, e := range []Entry{entry("a", "one/x", "two/x"), entry("b", "one/x"), entry("c", "one/x/below"), entry("d", "onetwo/x")} {
		if err := d.Import(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	list, err := d.Entries(t.Context())
	if err != nil || len(list) != 4 {
		t.Fatalf("%+v, %v", list, err)
	}
	other := open(t, filepath.Join(t.TempDir(), "other.db"))
	for _, e := range list {
		if err := other.Import(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	if again, err := other.Entries(t.Context()); err != nil || !reflect.DeepEqual(again, list) {
		t.Errorf("%+v, %v", again, err)
	}
	for _, c := range []struct {
		digest digest.Digest
		place  string
		want   int64
	}{{"", "one/x/", 2}, {"", "nowhere", 0}, {digest.FromString("blob of d"), "", 1}, {digest.FromString("a"), "", 1}, {"", "", 0}} {
		if n, err := d.Remove(t.Context(), c.digest, c.place); err != nil || n != c.want {
			t.Errorf("remove %q %q: %d, %v; want %d", c.digest, c.place, n, err, c.want)
		}
	}
	if n, err := other.Remove(t.Context(), "", ""); err != nil || n != 4 {
		t.Errorf("%d, %v", n, err)
	}
	for name, e := range map[string]Entry{
		"source": {Source: "x", Format: "f", Writer: "w", Blob: blobOf("b")}, "blob": {Source: digest.FromString("x"), Format: "f", Writer: "w"},
		"chain of another's": {Format: "overlaybd", Writer: Foreign, Blob: blobOf("b")}, "below": {Source: digest.FromString("x"), Format: "f", Writer: "w", Below: "x", Blob: blobOf("b")},
		"format": {Source: digest.FromString("x"), Writer: "w", Blob: blobOf("b")}, "writer": {Source: digest.FromString("x"), Format: "f", Blob: blobOf("b")},
	} {
		if err := d.Import(t.Context(), e); !errors.Is(err, ErrEntry) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestNilKnowsNothing(t *testing.T) {
	t.Parallel()
	var d *DB
	if _, ok, err := d.Lookup(t.Context(), convert.Key{}); ok || err != nil {
		t.Error("a nil record answers")
	}
	if d.Store(t.Context(), convert.Key{}, convert.Known{}) != nil || d.Forget(t.Context(), convert.Key{}, "x") != nil || d.Close() != nil {
		t.Error("a nil record fails")
	}
	if list, err := d.Entries(t.Context()); list != nil || err != nil {
		t.Error("a nil record has entries")
	}
	if n, err := d.Remove(t.Context(), "", ""); n != 0 || err != nil {
		t.Error("a nil record forgets")
	}
}
