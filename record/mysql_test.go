package record

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/convert"
	"github.com/lazuli-project/lazuli/internal/mysqltest"
	"github.com/lazuli-project/lazuli/store"
)

func openMySQL(t *testing.T, dsn string) *MySQL {
	t.Helper()
	m, err := OpenMySQL(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close() })
	return m
}

// nativeKey is the key of an overlaybd layer.
func nativeKey(s string) convert.Key {
	return convert.Key{Source: digest.FromString(s), Format: "overlaybd", Writer: "overlaybd-1", Below: digest.FromString("below " + s), Chain: digest.FromString("chain " + s)}
}

func nativeBlob(s string) ocispec.Descriptor { return nativeLayer(digest.FromString(s), 5) }

// count returns the number that a query gives.
func count(t *testing.T, s *mysqltest.Server, database, query string, args ...any) int {
	t.Helper()
	var n int
	if err := s.Open(t, database).QueryRowContext(t.Context(), query, args...).Scan(&n); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return n
}

func TestMySQL(t *testing.T) {
	t.Parallel()
	s := mysqltest.Start(t)
	for name, test := range map[string]func(*testing.T, *mysqltest.Server){
		"several processes": testSeveral, "forget": testForgetMySQL, "entries": testEntriesMySQL, "overlaybd's rows": testForeign,
		"near": testNear, "manifests": testManifestsMySQL, "no right to create": testNoCreate, "refused": testRefused, "long": testLong,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, s)
		})
	}
}

// Several converters write, forget and read the same layers at the same time.
func testSeveral(t *testing.T, s *mysqltest.Server) {
	dsn := s.DSN(s.Database(t))
	keys := []convert.Key{keyOf("layer"), nativeKey("layer")}
	blobs := []ocispec.Descriptor{blobOf("blob"), nativeBlob("native")}
	var wg sync.WaitGroup
	for i := range 6 {
		wg.Go(func() {
			m, err := OpenMySQL(t.Context(), dsn) // the tables are created by all of them
			if err != nil {
				t.Error(err)
				return
			}
			defer m.Close()
			for n := range 8 {
				for j, k := range keys {
					err := m.Store(t.Context(), k, convert.Known{Desc: blobs[j], Places: []string{fmt.Sprintf("h.io/%d", i), "h.io/all", "oci:/all"}})
					other := k
					other.Writer = "other"
					err = errors.Join(err, m.Store(t.Context(), other, convert.Known{Desc: blobOf("other"), Places: []string{"h.io/x"}}), m.Forget(t.Context(), other, "h.io/x"))
					if err != nil {
						t.Error(n, err)
					}
				}
			}
		})
	}
	wg.Wait()
	m := openMySQL(t, dsn)
	for j, k := range keys {
		got, ok, err := m.Lookup(t.Context(), k)
		if err != nil || !ok || !reflect.DeepEqual(got.Desc, blobs[j]) || len(got.Places) != 8 {
			t.Errorf("%+v, %v, %v", got, ok, err)
		}
		k.Writer = "other"
		if got, ok, err := m.Lookup(t.Context(), k); ok || err != nil {
			t.Errorf("what all forgot is known: %+v, %v", got, err)
		}
		for i, change := range []func(*convert.Key){
			func(k *convert.Key) { k.Below = digest.FromString("other") }, func(k *convert.Key) { k.Chain = digest.FromString("other") },
			func(k *convert.Key) { k.Writer = "1 " }, func(k *convert.Key) { k.Source = digest.FromString("x") },
		} {
			other := keys[j]
			change(&other)
			if _, ok, err := m.Lookup(t.Context(), other); ok || err != nil {
				t.Errorf("change %d: known, %v", i, err)
			}
		}
	}
}

func testForgetMySQL(t *testing.T, s *mysqltest.Server) {
	database := s.Database(t)
	m := openMySQL(t, s.DSN(database))
	for _, c := range []struct {
		key  convert.Key
		blob ocispec.Descriptor
	}{{keyOf("layer"), blobOf("b")}, {nativeKey("layer"), nativeBlob("b")}} {
		if err := m.Store(t.Context(), c.key, convert.Known{Desc: c.blob, Places: []string{"h.io/a", "h.io/b", "oci:/c"}}); err != nil {
			t.Fatal(err)
		}
		left := []string{"h.io/b", "oci:/c"}
		for _, place := range []string{"h.io/nothing", "h.io/a", "oci:/c", "h.io/b"} {
			if err := m.Forget(t.Context(), c.key, place); err != nil {
				t.Fatal(err)
			}
			got, ok, err := m.Lookup(t.Context(), c.key)
			if err != nil {
				t.Fatal(err)
			}
			switch place {
			case "h.io/a":
				if !ok || len(got.Places) != 2 || !strings.Contains(strings.Join(got.Places, " "), left[0]) || !strings.Contains(strings.Join(got.Places, " "), left[1]) {
					t.Errorf("%+v, %v", got, ok)
				}
			case "h.io/b":
				if ok {
					t.Errorf("a layer whose blob is nowhere is known: %+v", got)
				}
			}
		}
	}
	for _, table := range []string{"overlaybd_layers", "lazuli_layers", "lazuli_places"} {
		if n := count(t, s, database, "SELECT COUNT(*) FROM "+table); n != 0 {
			t.Errorf("%s: %d rows are left", table, n)
		}
	}
}

func testEntriesMySQL(t *testing.T, s *mysqltest.Server) {
	m := openMySQL(t, s.DSN(s.Database(t)))
	entry := func(name string, places ...string) Entry {
		e := Entry{Source: digest.FromString(name), Format: "nydus", Writer: "1", Blob: blobOf("blob of " + name), Places: places}
		if name > "b" {
			e.Format, e.Below, e.Chain, e.Blob = "overlaybd", digest.FromString("below"), digest.FromString("chain"), nativeBlob("blob of "+name)
		}
		return e
	}
	for _, e := range []Entry{
		entry("a", "one.io/x", "two.io/x"), entry("b", "one.io/x"), entry("c", "one.io/x/below"), entry("d", "onetwo.io/x"), entry("e", "one.io/x", "oci:/other"), entry("f", "one.io/xyz"),
	} {
		if err := m.Import(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	list, err := m.Entries(t.Context())
	if err != nil || len(list) != 6 {
		t.Fatalf("%+v, %v", list, err)
	}
	// What is exported of one record is the same in another, of either kind.
	for _, other := range []Record{open(t, filepath.Join(t.TempDir(), "other.db")), openMySQL(t, s.DSN(s.Database(t)))} {
		for _, e := range list {
			if err := other.Import(t.Context(), e); err != nil {
				t.Fatal(err)
			}
		}
		again, err := other.Entries(t.Context())
		if err != nil || len(again) != len(list) {
			t.Fatalf("%+v, %v", again, err)
		}
		for i := range list {
			if len(again[i].Places) != len(list[i].Places) {
				t.Errorf("%v instead of %v", again[i].Places, list[i].Places)
			}
			again[i].Places = list[i].Places // in another order
			if !reflect.DeepEqual(again[i], list[i]) {
				t.Errorf("%+v instead of %+v", again[i], list[i])
			}
		}
		if n, err := other.Remove(t.Context(), "", ""); err != nil || n != 6 {
			t.Errorf("%d, %v", n, err)
		}
		if again, err := other.Entries(t.Context()); err != nil || len(again) != 0 {
			t.Errorf("%+v, %v", again, err)
		}
	}
	for _, c := range []struct {
		digest digest.Digest
		place  string
		want   int64
	}{
		{"", "one.io/x/", 2}, {"", "nowhere", 0}, {"", "one.io", 1}, {digest.FromString("blob of d"), "", 1}, {digest.FromString("a"), "", 1},
		{"", "oci:/other", 1}, {"", "", 0},
	} {
		if n, err := m.Remove(t.Context(), c.digest, c.place); err != nil || n != c.want {
			t.Errorf("remove %q %q: %d, %v; want %d", c.digest, c.place, n, err, c.want)
		}
	}
	if err := m.Import(t.Context(), Entry{Source: "x"}); !errors.Is(err, ErrEntry) {
		t.Error(err)
	}
}

// Rows of overlaybd's own converter are listed, copied, and otherwise left alone.
func testForeign(t *testing.T, s *mysqltest.Server) {
	database, other := s.Database(t), s.Database(t)
	m, second := openMySQL(t, s.DSN(database)), openMySQL(t, s.DSN(other))
	chain, a, b := digest.FromString("chain layer"), digest.FromString("a"), digest.FromString("b")
	s.Exec(t, database,
		fmt.Sprintf("INSERT INTO overlaybd_layers (host, repo, chain_id, data_digest, data_size) VALUES ('h.io', 'one', '%s', '%s', 7), ('h.io', 'two', '%[1]s', '%[2]s', 7), ('h.io', 'three', '%[1]s', '%[3]s', 8), ('h.io', 'four', 'x', 'y', 1)", chain, a, b),
		fmt.Sprintf("INSERT INTO overlaybd_manifests (host, repo, src_digest, out_digest, data_size, mediatype) VALUES ('h.io', 'one', '%s', '%s', 7, 'm')", a, b))
	k := nativeKey("layer")
	if _, ok, err := m.Lookup(t.Context(), k); ok || err != nil {
		t.Errorf("a layer of another converter is taken for ours: %v", err)
	}
	if err := m.Store(t.Context(), k, convert.Known{Desc: nativeBlob("ours"), Places: []string{"h.io/one"}}); err != nil {
		t.Fatal(err)
	}
	if n := count(t, s, database, "SELECT COUNT(*) FROM overlaybd_layers WHERE host = 'h.io' AND repo = 'one' AND chain_id = ? AND data_digest = ?", chain.String(), a.String()); n != 1 {
		t.Error("the other converter does not find what it wrote")
	}
	list, err := m.Entries(t.Context())
	if err != nil || len(list) != 3 {
		t.Fatalf("%+v, %v", list, err)
	}
	for _, e := range list[:2] {
		if e.Writer != Foreign || e.Chain != chain || e.Blob.Digest == a && !reflect.DeepEqual(e.Places, []string{"h.io/one", "h.io/two"}) {
			t.Errorf("%+v", e)
		}
		if err := second.Import(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	if n := count(t, s, other, "SELECT COUNT(*) FROM overlaybd_layers WHERE chain_id = ?", chain.String()); n != 3 {
		t.Errorf("%d rows were copied", n)
	}
	file := open(t, filepath.Join(t.TempDir(), "record.db"))
	if err := file.Import(t.Context(), list[0]); err != nil {
		t.Error(err)
	}
	if n, err := m.Remove(t.Context(), "", "h.io"); err != nil || n != 1 {
		t.Errorf("%d, %v", n, err)
	}
	if n, err := m.Remove(t.Context(), "", ""); err != nil || n != 0 {
		t.Errorf("%d, %v", n, err)
	}
	foreign := convert.Key{Format: "overlaybd", Writer: Foreign, Chain: chain}
	if err := m.Forget(t.Context(), foreign, "h.io/one"); err != nil {
		t.Error(err)
	}
	if n := count(t, s, database, "SELECT (SELECT COUNT(*) FROM overlaybd_layers) * 10 + (SELECT COUNT(*) FROM overlaybd_manifests)"); n != 41 {
		t.Errorf("%d rows are left of the other converter's", n)
	}
}

// Of a layer that is in very many places, those near to the target come first.
func testNear(t *testing.T, s *mysqltest.Server) {
	m := openMySQL(t, s.DSN(s.Database(t)))
	var places []string
	for i := range 40 {
		places = append(places, fmt.Sprintf("alpha.io/repo%02d", i), fmt.Sprintf("near.io/repo%02d", i))
	}
	for _, k := range []convert.Key{keyOf("layer"), nativeKey("layer")} {
		if err := m.Store(t.Context(), k, convert.Known{Desc: nativeBlob(k.Format), Places: places}); err != nil {
			t.Fatal(err)
		}
		for here, first := range map[string][2]string{
			"near.io/repo39": {"near.io/repo39", "near.io/"}, "near.io/new": {"near.io/", "near.io/"}, "else.io/x": {"alpha.io/", "alpha.io/"}, "oci:/x": {"alpha.io/", "alpha.io/"}, "": {"alpha.io/", "alpha.io/"},
		} {
			got, ok, err := m.LookupNear(t.Context(), k, here)
			if err != nil || !ok || len(got.Places) != maxNear || !strings.HasPrefix(got.Places[0], first[0]) || !strings.HasPrefix(got.Places[1], first[1]) {
				t.Errorf("%s: %+v, %v, %v", here, got.Places, ok, err)
			}
		}
	}
}

func testManifestsMySQL(t *testing.T, s *mysqltest.Server) {
	database := s.Database(t)
	m := openMySQL(t, s.DSN(database))
	testManifests(t, m)
	k := convert.ManifestKey{Source: digest.FromString("x"), Format: "nydus", Writer: "1"}
	if err := m.StoreManifest(t.Context(), k, convert.Known{Desc: blobOf("m"), Places: []string{"h.io/a"}}); err != nil {
		t.Error(err)
	}
	if n := count(t, s, database, "SELECT COUNT(*) FROM overlaybd_manifests"); n != 0 {
		t.Errorf("%d rows of images that are not overlaybd's", n)
	}
}

// testManifests tests what is known of images as a whole.
func testManifests(t *testing.T, r Record) {
	t.Helper()
	k := convert.ManifestKey{Source: digest.FromString("image"), Format: "overlaybd", Writer: "1"}
	manifest := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("made"), Size: 9}
	for range 2 {
		if err := r.StoreManifest(t.Context(), k, convert.Known{Desc: manifest, Places: []string{"h.io/a", "h.io/b"}}); err != nil {
			t.Fatal(err)
		}
	}
	got, ok, err := r.LookupManifest(t.Context(), k, "h.io/b")
	if err != nil || !ok || !reflect.DeepEqual(got.Desc, manifest) || len(got.Places) != 2 {
		t.Errorf("%+v, %v, %v", got, ok, err)
	}
	other := k
	other.Writer = "2"
	if _, ok, err := r.LookupManifest(t.Context(), other, ""); ok || err != nil {
		t.Errorf("known with other options, %v", err)
	}
	for _, place := range []string{"h.io/a", "h.io/c", "h.io/b", "h.io/b"} {
		if _, ok, err := r.LookupManifest(t.Context(), k, ""); !ok && place != "h.io/b" || err != nil {
			t.Errorf("before %s: %v, %v", place, ok, err)
		}
		if err := r.ForgetManifest(t.Context(), k, place); err != nil {
			t.Fatal(err)
		}
	}
	if got, ok, err := r.LookupManifest(t.Context(), k, ""); ok || err != nil {
		t.Errorf("%+v, %v", got, err)
	}
	if err := r.StoreManifest(t.Context(), k, convert.Known{Desc: manifest, Places: []string{"h.io/a"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Remove(t.Context(), digest.FromString("some layer"), ""); err != nil {
		t.Fatal(err)
	}
	if _, ok, err := r.LookupManifest(t.Context(), k, ""); ok || err != nil {
		t.Errorf("an image is known as a whole of which a layer was to be forgotten: %v", err)
	}
}

func TestManifests(t *testing.T) {
	t.Parallel()
	testManifests(t, open(t, filepath.Join(t.TempDir(), "record.db")))
}

// Who may not create tables uses those that there are: overlaybd's alone are enough for its layers.
func testNoCreate(t *testing.T, s *mysqltest.Server) {
	database := s.Database(t)
	user := "u" + database[4:]
	s.Exec(t, database, createLayers, createManifests, "CREATE USER "+user+" IDENTIFIED BY 'secret'",
		"GRANT SELECT, INSERT, UPDATE, DELETE ON "+database+".* TO "+user)
	dsn := s.UserDSN(user, "secret", database)
	m := openMySQL(t, dsn)
	k, blob := nativeKey("layer"), nativeBlob("b")
	if err := m.Store(t.Context(), k, convert.Known{Desc: blob, Places: []string{"h.io/a"}}); err != nil {
		t.Fatal(err)
	}
	if got, ok, err := m.Lookup(t.Context(), k); err != nil || !ok || !reflect.DeepEqual(got, convert.Known{Desc: blob, Places: []string{"h.io/a"}}) {
		t.Errorf("%+v, %v, %v", got, ok, err)
	}
	if err := m.Store(t.Context(), keyOf("layer"), convert.Known{Desc: blobOf("b"), Places: []string{"h.io/a"}}); !errors.Is(err, errTables) {
		t.Errorf("layers of other formats: %v", err)
	}
	if err := m.Store(t.Context(), k, convert.Known{Desc: blob, Places: []string{"oci:/a"}}); !errors.Is(err, errTables) {
		t.Errorf("other places: %v", err)
	}
	if list, err := m.Entries(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("%+v, %v", list, err)
	}
	if _, err := m.Remove(t.Context(), "", ""); !errors.Is(err, errTables) {
		t.Error(err)
	}
	testManifestsKept(t, m)
	if err := m.Forget(t.Context(), k, "h.io/a"); err != nil {
		t.Error(err)
	}
	if _, ok, err := m.Lookup(t.Context(), k); ok || err != nil {
		t.Errorf("%v, %v", ok, err)
	}
	s.Exec(t, database, "DROP TABLE overlaybd_layers")
	if _, err := OpenMySQL(t.Context(), dsn); !errors.Is(err, errTables) || !strings.Contains(err.Error(), "overlaybd_layers") {
		t.Errorf("without any table: %v", err)
	}
	s.Exec(t, database, createLayers, "REVOKE INSERT, UPDATE, DELETE ON "+database+".* FROM "+user)
	if err := openMySQL(t, dsn).Store(t.Context(), k, convert.Known{Desc: blob, Places: []string{"h.io/a"}}); !errors.Is(err, store.ErrDenied) {
		t.Errorf("who may only read: %v", err)
	}
}

func testManifestsKept(t *testing.T, m *MySQL) {
	t.Helper()
	k := convert.ManifestKey{Source: digest.FromString("image"), Format: "overlaybd", Writer: "1"}
	if err := m.StoreManifest(t.Context(), k, convert.Known{Desc: nativeBlob("m"), Places: []string{"h.io/a"}}); err != nil {
		t.Error(err)
	}
	if _, ok, err := m.LookupManifest(t.Context(), k, "h.io/a"); !ok || err != nil {
		t.Errorf("%v, %v", ok, err)
	}
}

// Errors say what is wrong, and never show the password.
func testRefused(t *testing.T, s *mysqltest.Server) {
	database := s.Database(t)
	known := "k" + database[4:] // names are of 16 bytes at most in old servers
	s.Exec(t, "", "CREATE USER "+known+" IDENTIFIED BY 'right'")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	silent := l.Addr().String()
	t.Cleanup(func() { _ = l.Close() })
	const secret = "hush,hush"
	for name, c := range map[string]struct {
		dsn  string
		want error
		says string
	}{
		"wrong password":   {s.UserDSN(known, secret, database), store.ErrDenied, "Access denied for user '" + known + "'"},
		"no such user":     {s.UserDSN("nobody", secret, database), store.ErrDenied, "Access denied for user 'nobody'"},
		"others' database": {s.UserDSN(known, "right", "mysql"), store.ErrDenied, "Access denied"},
		"no such database": {s.DSN("nothing"), nil, "Unknown database 'nothing'"},
		"nobody there":     {"u:" + secret + "@tcp(127.0.0.1:1)/d", store.ErrNetwork, "127.0.0.1:1"},
		"no answer":        {"u:" + secret + "@tcp(" + silent + ")/d?readTimeout=200ms", store.ErrNetwork, silent},
		"no DSN":           {"mysql://u:" + secret + "@host/d", ErrDSN, "USER:PASSWORD"},
		"no database":      {"u:" + secret + "@tcp(127.0.0.1:1)/", ErrDSN, "USER:PASSWORD"},
		"unknown network":  {"u:" + secret + "@what/d", ErrDSN, "USER:PASSWORD"},
		"wrong option":     {"u:" + secret + "@/d?timeout=" + secret, ErrDSN, "USER:PASSWORD"},
	} {
		_, err := OpenMySQL(t.Context(), c.dsn)
		if err == nil || c.want != nil && !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil && strings.Contains(err.Error(), "hush") {
			t.Errorf("%s: the password is shown: %v", name, err)
		}
	}
}

// What does not fit into a row is no row with something else.
func testLong(t *testing.T, s *mysqltest.Server) {
	m := openMySQL(t, s.DSN(s.Database(t)))
	long := "h.io/" + strings.Repeat("a/", 150) + "b"
	k, blob := nativeKey("layer"), nativeBlob("b")
	if err := m.Store(t.Context(), k, convert.Known{Desc: blob, Places: []string{long, "oci:/\xff\U0001F642'\\"}}); err != nil {
		t.Fatal(err)
	}
	if got, ok, err := m.Lookup(t.Context(), k); err != nil || !ok || len(got.Places) != 2 || got.Places[0] != long || got.Places[1] != "oci:/\xff\U0001F642'\\" {
		t.Errorf("%+v, %v, %v", got, ok, err)
	}
	k.Format = strings.Repeat("f", 300)
	if err := m.Store(t.Context(), k, convert.Known{Desc: blob}); err == nil {
		t.Error("a format that does not fit is stored")
	}
	k.Format, k.Writer = "nydus", strings.Repeat("\U0001F642", 1000)
	if err := m.Store(t.Context(), k, convert.Known{Desc: blob}); err != nil {
		t.Error(err)
	}
}

// A server that dies fails calls, soon at once, and what it had is there when it is back.
func TestMySQLDies(t *testing.T) {
	t.Parallel()
	s := mysqltest.StartOwn(t)
	database := s.Database(t)
	m := openMySQL(t, s.DSN(database))
	k := nativeKey("layer")
	if err := m.Store(t.Context(), k, convert.Known{Desc: nativeBlob("b"), Places: []string{"h.io/a"}}); err != nil {
		t.Fatal(err)
	}
	s.Kill()
	begin := time.Now()
	for i := range 100 {
		if err := m.Store(t.Context(), nativeKey(fmt.Sprint(i)), convert.Known{Desc: nativeBlob("b"), Places: []string{"h.io/a"}}); err == nil {
			t.Error("a dead server takes rows")
		}
		if _, _, err := m.Lookup(t.Context(), k); err == nil {
			t.Error("a dead server answers")
		}
	}
	if d := time.Since(begin); d > callTimeout {
		t.Errorf("200 calls to a dead server take %v", d)
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	s.Restart(t)
	again := openMySQL(t, s.DSN(database))
	if _, _, err := again.Lookup(cancelled, k); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if _, ok, err := again.Lookup(t.Context(), k); err != nil || !ok {
		t.Errorf("who gives up is no reason to rest: %v, %v", ok, err)
	}
	if n := count(t, s, database, "SELECT COUNT(*) FROM overlaybd_layers"); n != 1 {
		t.Errorf("%d rows", n)
	}
}
