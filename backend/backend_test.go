package backend

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/fetch"
)

// content is some bytes that are not all the same.
func content(n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(i*i>>7 + i)
	}
	return p
}

// put stores a blob and returns its name.
func put(t *testing.T, b Backend, p []byte) string {
	t.Helper()
	w, err := b.Create(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	for rest := p; len(rest) > 0; {
		n := min(len(rest), 100_000)
		if _, err := w.Write(rest[:n]); err != nil {
			t.Fatal(err)
		}
		rest = rest[n:]
	}
	d, size, err := w.Commit(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if d != digest.FromBytes(p) || size != int64(len(p)) {
		t.Fatalf("stored %d bytes as %s and %d", len(p), d, size)
	}
	return d.Encoded()
}

// check reads a blob, whole and in parts.
func check(t *testing.T, b Backend, id string, want []byte) {
	t.Helper()
	s, err := b.Open(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if s.Size() != int64(len(want)) {
		t.Fatalf("%d bytes, expected %d", s.Size(), len(want))
	}
	for _, r := range [][2]int{{0, len(want)}, {0, 1}, {len(want) / 2, len(want) / 3}, {len(want) - 1, 1}, {len(want), 0}} {
		p := make([]byte, r[1])
		if err := s.ReadRange(t.Context(), p, int64(r[0]), blob.Demand); err != nil {
			t.Fatalf("%d bytes at %d: %v", r[1], r[0], err)
		}
		if !bytes.Equal(p, want[r[0]:r[0]+r[1]]) {
			t.Fatalf("%d bytes at %d are wrong", r[1], r[0])
		}
	}
	if err := s.ReadRange(t.Context(), make([]byte, 2), s.Size()-1, blob.Demand); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("beyond the end: %v", err)
	}
}

// writable is what all backends that can be written do.
func writable(t *testing.T, b Backend) {
	t.Helper()
	for _, n := range []int{1, 5000, partSize + 12345} {
		p := content(n)
		check(t, b, put(t, b, p), p)
		check(t, b, put(t, b, p), p) // again
	}
	if _, err := b.Open(t.Context(), digest.FromString("none").Encoded()); !errors.Is(err, fetch.ErrNotFound) {
		t.Errorf("a blob that is not there: %v", err)
	}
	for _, id := range []string{"", "x", "../../etc/passwd", digest.FromString("none").String()} {
		if _, err := b.Open(t.Context(), id); !errors.Is(err, blob.ErrCorrupt) {
			t.Errorf("name %q: %v", id, err)
		}
	}
	w, err := b.Create(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	given := []byte("given up")
	if _, err := w.Write(given); err != nil {
		t.Fatal(err)
	}
	w.Abort()
	w.Abort()
	if _, err := b.Open(t.Context(), digest.FromBytes(given).Encoded()); !errors.Is(err, fetch.ErrNotFound) {
		t.Errorf("a blob that was given up: %v", err)
	}
}

func TestLocal(t *testing.T) {
	t.Parallel()
	dir, other := t.TempDir(), t.TempDir()
	b, err := New(KindLocal, fmt.Appendf(nil, `{"dir":%q,"alt_dirs":[%q]}`, dir, other), Options{})
	if err != nil {
		t.Fatal(err)
	}
	writable(t, b)
	p := content(100)
	id := digest.FromBytes(p).Encoded()
	if err := os.WriteFile(filepath.Join(other, id), p, 0o600); err != nil {
		t.Fatal(err)
	}
	check(t, b, id, p)
	left, err := filepath.Glob(filepath.Join(dir, ".lazuli-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

// serve gives blobs by their names, by TCP or by a socket.
func serve(t *testing.T, l net.Listener, path string, blobs map[string][]byte) {
	t.Helper()
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		dir, id := filepath.Split(r.URL.Path)
		p, ok := blobs[id]
		if !ok || dir != path {
			http.NotFound(w, r)
			return
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(p))
	}))
	_ = s.Listener.Close() // ours in its place
	s.Listener = l
	s.Start()
	t.Cleanup(s.Close)
}

func TestProxy(t *testing.T) {
	t.Parallel()
	p := content(70_000)
	id := digest.FromBytes(p).Encoded()
	socket := filepath.Join(t.TempDir(), "s")
	for network, address := range map[string]string{"tcp": "127.0.0.1:0", "unix": socket} {
		l, err := net.Listen(network, address)
		if err != nil {
			t.Fatal(err)
		}
		serve(t, l, "/blobs/", map[string][]byte{id: p})
		addr := socket
		if network == "tcp" {
			addr = "http://" + l.Addr().String()
		}
		b, err := New("", fmt.Appendf(nil, `{"version":2,"backend":{"type":"http-proxy","http-proxy":{"addr":%q,"path":"blobs"}}}`, addr), Options{})
		if err != nil {
			t.Fatal(err)
		}
		check(t, b, id, p)
		if _, err := b.Open(t.Context(), digest.FromString("none").Encoded()); !errors.Is(err, fetch.ErrNotFound) {
			t.Errorf("a blob that is not there: %v", err)
		}
		if _, err := b.Create(t.Context()); !errors.Is(err, blob.ErrUnsupported) {
			t.Errorf("create: %v", err)
		}
	}
}

func TestConfigurations(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		kind, raw string
		ok        bool
	}{
		{"localfs", `{"dir":"/x"}`, true},
		{"", `{"version":2,"backend":{"type":"localfs","localfs":{"dir":"/x"}}}`, true},
		{"", `{"device":{"backend":{"type":"localfs","config":{"dir":"/x"}}},"mode":"direct"}`, true},
		{"s3", `{"endpoint":"localhost:9000","scheme":"http","bucket_name":"b","access_key_id":"k","access_key_secret":"s"}`, true},
		{"oss", `{"endpoint":"oss.example.com","bucket_name":"b"}`, true},
		{"", `{"dir":"/x"}`, false},
		{"s3", `{"version":2,"backend":{"type":"localfs","localfs":{"dir":"/x"}}}`, false},
		{"", `{"version":2,"backend":{"type":"localfs"}}`, false},
		{"localfs", `{}`, false},
		{"localfs", `{`, false},
		{"s3", `{"endpoint":"localhost:9000"}`, false},
		{"s3", `{"endpoint":"localhost:9000","scheme":"ftp","bucket_name":"b"}`, false},
		{"http-proxy", `{"addr":"nowhere"}`, false},
		{"http-proxy", `{}`, false},
		{"registry", `{}`, false},
	} {
		if _, err := New(c.kind, []byte(c.raw), Options{}); (err == nil) != c.ok {
			t.Errorf("%s %s: %v", c.kind, c.raw, err)
		}
	}
}

// A server that fails for a while is asked again, one that refuses is not.
func TestProxyFaults(t *testing.T) {
	t.Parallel()
	p := content(1000)
	id := digest.FromBytes(p).Encoded()
	status := []int{503, 429, 200}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(status) > 1 {
			w.WriteHeader(status[0])
			status = status[1:]
			return
		}
		if status[0] != http.StatusOK {
			w.WriteHeader(status[0])
			return
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(p))
	}))
	defer s.Close()
	b, err := New(KindProxy, fmt.Appendf(nil, `{"addr":%q}`, s.URL), Options{Retry: fetch.Retry{Wait: time.Millisecond}})
	if err != nil {
		t.Fatal(err)
	}
	check(t, b, id, p)
	status = []int{http.StatusForbidden}
	if _, err := b.Open(t.Context(), id); !errors.Is(err, fetch.ErrDenied) {
		t.Errorf("forbidden: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.Open(ctx, id); !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v", err)
	}
}
