package backend_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/containerd/nydus-snapshotter/pkg/backend"
	"github.com/lazuli-project/lazuli/blob"
)

func TestLocalFS(t *testing.T) {
	t.Parallel()
	cs, err := local.NewStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	text := []byte("a blob")
	desc := ocispec.Descriptor{Digest: digest.FromBytes(text), Size: int64(len(text))}
	if err := content.WriteBlob(t.Context(), cs, "ref", bytes.NewReader(text), desc); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "made")
	open := func(force bool) backend.Backend {
		b, err := backend.NewBackend(backend.BackendTypeLocalFS, fmt.Appendf(nil, `{"dir":%q}`, dir), force)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	b := open(false)
	if path, err := b.Check(desc.Digest); !errdefs.IsNotFound(err) || path != "" {
		t.Errorf("%q, %v", path, err)
	}
	if _, err := b.Size(desc.Digest); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
	if err := b.Push(t.Context(), cs, desc); err != nil {
		t.Fatal(err)
	}
	path, err := b.Check(desc.Digest)
	if err != nil || path != filepath.Join(dir, desc.Digest.Encoded()) || b.Type() != "localfs" {
		t.Fatalf("%q, %v", path, err)
	}
	if n, err := b.Size(desc.Digest); n != 6 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	// What is there stays, but for force.
	for force, want := range map[bool]string{false: "other!", true: "a blob"} {
		if err := os.WriteFile(path, []byte("other!"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := open(force).Push(t.Context(), cs, desc); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != want {
			t.Errorf("force %v: %q, %v", force, got, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := open(true).Push(ctx, cs, desc); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	desc.Digest = digest.FromString("missing")
	if err := b.Push(t.Context(), cs, desc); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
	if _, err := b.Check(digest.SHA512.FromString("x")); !errors.Is(err, blob.ErrUnsupported) {
		t.Error(err)
	}
	if _, err := b.Check("../x"); err == nil {
		t.Error("a path as a digest")
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("%v, %v", left, err)
	}
}

func TestNewBackend(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		kind, config string
		ok           bool
	}{
		{"oss", `{"endpoint":"oss.example.com","bucket_name":"b","access_key_id":"i","access_key_secret":"s","object_prefix":"p/"}`, true},
		{"oss", `{"endpoint":"http://oss.example.com","bucket_name":"b"}`, true},
		{"oss", `{"endpoint":"oss.example.com"}`, false},
		{"s3", `{"endpoint":"localhost:9000","scheme":"http","bucket_name":"b","region":"r","checksum_algorithm":"SHA256"}`, true},
		{"s3", `{"bucket_name":"b","region":"r"}`, true},
		{"s3", `{"bucket_name":"b"}`, false},
		{"s3", `{"bucket_name":"b","region":"r","scheme":"ftp"}`, false},
		{"localfs", `{"dir":"/x"}`, true},
		{"localfs", `{}`, false},
		{"localfs", `[`, false},
		{"http-proxy", `{"addr":"http://x"}`, false},
	} {
		b, err := backend.NewBackend(c.kind, []byte(c.config), false)
		if (err == nil) != c.ok || (b == nil) == c.ok || b != nil && b.Type() != c.kind {
			t.Errorf("%s %s: %v, %v", c.kind, c.config, b, err)
		}
	}
}
