package registrytest

import (
	"bytes"
	"io"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
)

func do(t *testing.T, method, url string, body []byte, header ...string) (*http.Response, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	p, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, p
}

// TestDisk pushes to a registry in a directory and reads from its successor.
func TestDisk(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first, err := New(Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	base := "http://" + first.Listen(t) + "/v2/a/b"
	blob := []byte("0123456789")
	d := digest.FromBytes(blob)
	manifest := []byte(`{"schemaVersion":2,"layers":[{"digest":"` + d.String() + `"}]}`)
	if resp, _ := do(t, http.MethodPut, base+"/manifests/v1", manifest, "Content-Type", "application/x"); resp.StatusCode != http.StatusNotFound {
		t.Errorf("manifest before its blob: %s", resp.Status)
	}
	resp, _ := do(t, http.MethodPost, base+"/blobs/uploads/", nil)
	at, err := resp.Location()
	if err != nil {
		t.Fatal(err)
	}
	for i, step := range []struct {
		header []string
		body   string
		want   int
	}{
		{[]string{"Content-Range", "0-3"}, "0123", http.StatusAccepted},
		{[]string{"Content-Range", "5-6"}, "56", http.StatusRequestedRangeNotSatisfiable},
		{[]string{"Content-Range", "4-9"}, "456789", http.StatusAccepted},
	} {
		if resp, _ := do(t, http.MethodPatch, at.String(), []byte(step.body), step.header...); resp.StatusCode != step.want {
			t.Errorf("piece %d: %s", i, resp.Status)
		}
	}
	if resp, _ := do(t, http.MethodGet, at.String(), nil); resp.Header.Get("Range") != "0-9" {
		t.Errorf("status %s, %q", resp.Status, resp.Header.Get("Range"))
	}
	if resp, p := do(t, http.MethodPut, at.String()+"&digest="+d.String(), nil); resp.StatusCode != http.StatusCreated {
		t.Fatalf("%s: %s", resp.Status, p)
	}
	if resp, _ := do(t, http.MethodPut, base+"/manifests/v1", manifest, "Content-Type", "application/x"); resp.StatusCode != http.StatusCreated {
		t.Fatalf("manifest: %s", resp.Status)
	}

	second, err := New(Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	base = "http://" + second.Listen(t) + "/v2/a/b"
	if resp, p := do(t, http.MethodGet, base+"/blobs/"+d.String(), nil, "Range", "bytes=2-4"); string(p) != "234" || resp.Header.Get("Content-Range") != "bytes 2-4/10" {
		t.Errorf("%s: %q", resp.Status, p)
	}
	if resp, p := do(t, http.MethodGet, base+"/manifests/v1", nil); !bytes.Equal(p, manifest) || resp.Header.Get("Content-Type") != "application/x" {
		t.Errorf("%s: %s", resp.Status, p)
	}
	if resp, _ := do(t, http.MethodGet, "http://"+second.Listen(t)+"/v2/other/blobs/"+d.String(), nil); resp.StatusCode != http.StatusNotFound {
		t.Errorf("blob of another repository: %s", resp.Status)
	}
}

func TestLimiter(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLimiter(1000)
		began := time.Now()
		done := make(chan struct{})
		for range 2 {
			go func() {
				for range 10 {
					_ = l.wait(t.Context(), 100)
				}
				done <- struct{}{}
			}()
		}
		<-done
		<-done
		if d := time.Since(began); d != 2*time.Second {
			t.Errorf("2000 bytes at 1000 a second took %v", d)
		}
	})
}
