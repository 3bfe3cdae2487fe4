package nydusimage_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/fetch"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/internal/registrytest"
	"github.com/lazuli-project/lazuli/nydusimage"
	"github.com/lazuli-project/lazuli/store"
)

// nydusify lets the blobs be read from the registry, with the configuration that nydusd gets.
func TestRegistryBackend(t *testing.T) {
	t.Parallel()
	registry, err := registrytest.New(registrytest.Options{Token: true, Username: "user", Password: "secret"})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewTLSServer(registry)
	defer server.Close()
	host := strings.TrimPrefix(server.URL, "https://")
	target, err := store.OpenTarget(t.Context(), store.Ref{Transport: store.Registry, Host: host, Repo: "app", Tag: "v1"},
		store.Options{Insecure: true, Username: "user", Password: "secret"})
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range layersOf(t, "v6-zstd") {
		p := readFile(t, path)
		if err := target.Push(t.Context(), formats.DigestOf("application/octet-stream", p), bytes.NewReader(p)); err != nil {
			t.Fatal(err)
		}
	}
	config := func(password string) []byte {
		return fmt.Appendf(nil, `{"scheme":"https","host":%q,"repo":"app","auth":%q,"skip_verify":true,"proxy":{"url":"","fallback":true}}`, host,
			base64.StdEncoding.EncodeToString([]byte("user:"+password)))
	}
	source, err := nydusimage.Backend(t.Context(), "registry", config("secret"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	boot := filepath.Join(reference, "v6-zstd", "image.boot")
	res, err := nydusimage.Optimize(t.Context(), nydusimage.OptimizeOptions{Bootstrap: boot, Source: source, OutputBlobDir: dir,
		PrefetchFiles: writeFile(t, dir, "list", []byte("/etc/passwd\n")), Output: filepath.Join(dir, "new.boot")})
	if err != nil || len(res.Blobs) != 4 {
		t.Fatalf("%+v, %v", res, err)
	}
	for _, path := range layersOf(t, "v6-zstd") {
		writeFile(t, dir, filepath.Base(path), readFile(t, path))
	}
	if !slices.Equal(list(t, filepath.Join(dir, "new.boot"), dir), list(t, boot, filepath.Join(reference, "blobs"))) {
		t.Error("other files")
	}
	if _, err := source(t.Context(), strings.Repeat("0", 64)); !errors.Is(err, fetch.ErrNotFound) {
		t.Errorf("%v", err)
	}
	if _, err := source(t.Context(), "../x"); err == nil {
		t.Error("an id that is no digest is taken")
	}
	if source, err = nydusimage.Backend(t.Context(), "registry", config("wrong"), store.Options{}); err != nil {
		t.Fatal(err)
	}
	if _, err := source(t.Context(), filepath.Base(layersOf(t, "v6-zstd")[0])); !errors.Is(err, fetch.ErrDenied) {
		t.Errorf("%v", err)
	}
}

func TestBackends(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	id := strings.Repeat("a", 64)
	writeFile(t, dir, id, []byte("content"))
	source, err := nydusimage.Backend(t.Context(), "localfs", fmt.Appendf(nil, `{"dir":%q}`, dir), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	b, err := source(t.Context(), id)
	if err != nil || b.Size() != 7 {
		t.Errorf("%v, %v", b, err)
	}
	for _, c := range [][2]string{
		{"registry", ""}, {"registry", "{}"}, {"registry", `{"host":"h"}`}, {"registry", `{"host":"h","repo":"r","auth":"!"}`}, {"s3", "{}"}, {"oss", "{}"},
	} {
		if _, err := nydusimage.Backend(t.Context(), c[0], []byte(c[1]), store.Options{}); err == nil {
			t.Errorf("%s: %q is taken", c[0], c[1])
		}
	}
	if _, err := nydusimage.Backend(t.Context(), "localdisk", []byte("{}"), store.Options{}); !errors.Is(err, blob.ErrUnsupported) {
		t.Errorf("%v", err)
	}
}
