package nydusimage_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/internal/imagetest"
	"github.com/lazuli-project/lazuli/nydusimage"
)

// dataSection cuts what is behind the chunks off a blob.
func dataSection(t *testing.T, path string) []byte {
	t.Helper()
	p := readFile(t, path)
	at := bytes.Index(p, append([]byte("image.blob"), make([]byte, 90)...))
	if at < 0 {
		t.Fatalf("%s has no data section", path)
	}
	return p[:at]
}

// containerd's converter gives the bootstrap and the data section of a layer in two files, or the latter by a server.
func TestUnpackData(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	layer := layersOf(t, "v6-zstd")[0]
	data := dataSection(t, layer)
	boot := filepath.Join(dir, "image.boot")
	// A bootstrap apart: that of the layer alone.
	merge(t, nydusimage.MergeOptions{Sources: []string{layer}, Bootstrap: boot})
	unpack := func(o nydusimage.UnpackOptions) {
		t.Helper()
		o.Bootstrap, o.Output = boot, filepath.Join(dir, "out.tar")
		if _, err := nydusimage.Unpack(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		want := imagetest.EdgeLayer0(t)
		for i := range want {
			want[i] = strings.Replace(want[i], "1700000000123456700", "1700000000000000000", 1) // the reference tool drops fractions
		}
		if diff := imagetest.Diff(want, listTar(t, readFile(t, o.Output))); diff != "" {
			t.Error(diff)
		}
	}
	unpack(nydusimage.UnpackOptions{Blob: writeFile(t, dir, "image.blob", data)})

	socket := filepath.Join(dir, "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/" {
			http.NotFound(w, r)
			return
		}
		if r.Method == http.MethodHead {
			w.Header().Set("Content-Length", strconv.Itoa(len(data)+5000)) // as of the whole layer
			return
		}
		var from, to int
		if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-%d", &from, &to); err != nil || to >= len(data) {
			http.Error(w, "range", http.StatusBadRequest)
			return
		}
		_, _ = w.Write(data[from : to+1]) // without saying which range it is
	}))
	s.Listener = l
	s.Start()
	defer s.Close()
	source, err := nydusimage.HTTPProxy([]byte(`{"addr":"` + socket + `"}`))
	if err != nil {
		t.Fatal(err)
	}
	unpack(nydusimage.UnpackOptions{Source: source})
}

func TestHTTPProxy(t *testing.T) {
	t.Parallel()
	content := []byte("0123456789")
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/v2/blobs/good":
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
		case "/v2/blobs/cut":
			w.Header().Set("Content-Length", "10")
			if r.Method != http.MethodHead {
				_, _ = w.Write(content[:2])
			}
		default:
			http.NotFound(w, r)
		}
	}))
	defer s.Close()
	source, err := nydusimage.HTTPProxy([]byte(`{"addr":"` + s.URL + `","path":"/v2/blobs"}`))
	if err != nil {
		t.Fatal(err)
	}
	b, err := source(t.Context(), "good")
	if err != nil || b.Size() != 10 {
		t.Fatalf("%v, %v", b, err)
	}
	p := make([]byte, 4)
	if err := b.ReadRange(t.Context(), p, 3, blob.Demand); err != nil || string(p) != "3456" {
		t.Errorf("%q, %v", p, err)
	}
	for _, off := range []int64{-1, 7, 1 << 62} {
		if err := b.ReadRange(t.Context(), p, off, blob.Demand); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("at %d: %v", off, err)
		}
	}
	if b, err = source(t.Context(), "cut"); err != nil {
		t.Fatal(err)
	}
	if err := b.ReadRange(t.Context(), p, 0, blob.Demand); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("%v", err)
	}
	if _, err := source(t.Context(), "nowhere"); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("%v", err)
	}
	for _, config := range []string{"", "{}", `{"addr":"http://%zz"}`} {
		if _, err := nydusimage.HTTPProxy([]byte(config)); err == nil {
			t.Errorf("%q is taken", config)
		}
	}
	none, err := nydusimage.HTTPProxy([]byte(`{"addr":"` + filepath.Join(t.TempDir(), "s") + `"}`))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := none(t.Context(), "x"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
}
