package backend

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/lazuli-project/lazuli/fetch"
)

// findServer looks for an S3 server that keeps objects as files: versitygw, in PATH or where .ci/run installs it.
func findServer() (string, error) {
	if p, err := exec.LookPath("versitygw"); err == nil {
		return p, nil
	}
	return exec.LookPath(filepath.Join("..", "build", "versitygw"))
}

// startServer starts an S3 server with one bucket, and returns its address.
func startServer(t *testing.T) string {
	t.Helper()
	server, err := findServer()
	if err != nil {
		t.Skip("no S3 server: go install github.com/versity/versitygw/cmd/versitygw@v1.8.0")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "images"), 0o755); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	c := exec.CommandContext(ctx, server, "--port", addr, "--access", "key", "--secret", "secret", "--region", "eu-1", "--quiet", "posix", "--sidecar", t.TempDir(), root)
	var log bytes.Buffer
	c.Stdout, c.Stderr = &log, &log
	if err := c.Start(); err != nil {
		cancel()
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = c.Wait() // it was killed
	})
	for range 200 {
		resp, err := http.Get("http://" + addr + "/")
		if err == nil {
			_ = resp.Body.Close()
			return addr
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatalf("the server does not answer:\n%s", log.String())
	return ""
}

func TestBucket(t *testing.T) {
	t.Parallel()
	addr := startServer(t)
	config := func(secret string) []byte {
		return fmt.Appendf(nil, `{"endpoint":%q,"scheme":"http","region":"eu-1","bucket_name":"images","object_prefix":"nydus/","access_key_id":"key","access_key_secret":%q}`,
			addr, secret)
	}
	b, err := New(KindS3, config("secret"), Options{Retry: fetch.Retry{Attempts: 2, Wait: time.Millisecond}})
	if err != nil {
		t.Fatal(err)
	}
	writable(t, b)
	store := b.(*bucket)
	for o := range store.client.ListObjects(t.Context(), "images", minio.ListObjectsOptions{Recursive: true}) {
		if o.Err != nil {
			t.Fatal(o.Err)
		}
		if strings.Contains(o.Key, "upload") || !strings.HasPrefix(o.Key, "nydus/") {
			t.Errorf("left behind: %s", o.Key)
		}
	}
	wrong, err := New(KindS3, config("wrong"), Options{Retry: fetch.Retry{Attempts: 2, Wait: time.Millisecond}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := wrong.Open(t.Context(), put(t, b, content(10))); !errors.Is(err, fetch.ErrDenied) {
		t.Errorf("read with a wrong key: %v", err)
	}
	w, err := wrong.Create(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	_, err = w.Write(content(10))
	if err == nil {
		_, _, err = w.Commit(t.Context())
	}
	if !errors.Is(err, fetch.ErrDenied) {
		t.Errorf("write with a wrong key: %v", err)
	}
}
