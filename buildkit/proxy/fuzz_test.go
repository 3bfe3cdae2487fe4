package proxy

import (
	"archive/tar"
	"bytes"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	control "github.com/moby/buildkit/api/services/control"
	"google.golang.org/protobuf/proto"

	"github.com/lazuli-project/lazuli/formats"
)

// tarOf is a layer of one file.
func tarOf(name, content string) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content))})
	if err == nil {
		_, err = w.Write([]byte(content))
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		panic(err)
	}
	return b.Bytes()
}

// FuzzSolve gives the proxy requests as clients might.
func FuzzSolve(f *testing.F) {
	for _, r := range []*control.SolveRequest{
		{Ref: "r", Exporters: []*control.Exporter{{Type: "nydus", Attrs: map[string]string{"name": "a/b:c", "merge-manifest": ""}}}},
		{ExporterDeprecated: "overlaybd", ExporterAttrsDeprecated: map[string]string{"name": "x", "attach": "referrer", "vsize": "8"}},
		{Exporters: []*control.Exporter{nil, {Type: "turbo-oci", Attrs: map[string]string{"name": "x,y", "fs": "ext4"}}, {Type: "image"}}},
	} {
		p, err := proto.Marshal(r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(p)
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, payload []byte) {
		var req control.SolveRequest
		if proto.Unmarshal(payload, &req) != nil {
			return
		}
		staging, err := NewStaging("localhost:1", "localhost:1", dir, 0)
		if err != nil {
			t.Fatal(err)
		}
		p := &Proxy{opt: Options{Staging: staging}, cpu: formats.NewCPU(1)}
		place := staging.begin()
		defer place.end()
		outputs, err := p.rewrite(&req, place)
		if err != nil {
			return
		}
		for _, o := range outputs {
			if len(o.opt.Names) == 0 || !strings.HasPrefix(o.image, place.name+"/") {
				t.Errorf("%+v", o)
			}
		}
		for _, e := range req.Exporters {
			if e.GetType() == "nydus" {
				t.Error("an output of ours reaches the daemon")
			}
		}
	})
}

// FuzzStaging asks the registry for anything.
func FuzzStaging(f *testing.F) {
	f.Add("GET", "manifests/0", "", []byte(nil))
	f.Add("PUT", "blobs/uploads/1", "digest=sha256:"+strings.Repeat("0", 64), []byte("x"))
	f.Add("POST", "blobs/uploads/", "mount=a&from=b", []byte("x"))
	f.Add("HEAD", "blobs/sha256:../../x", "", []byte(nil))
	dir := f.TempDir()
	s, err := NewStaging("h", "h", dir, 1<<20)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, method, path, query string, body []byte) {
		place := s.begin()
		defer place.end()
		r := httptest.NewRequest("GET", "/", bytes.NewReader(body))
		r.Method, r.URL.Path, r.URL.RawQuery = method, "/v2/"+place.name+"/image/"+path, query
		s.ServeHTTP(httptest.NewRecorder(), r)
		files, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range files {
			if !isBlob(e.Name()) {
				t.Errorf("file %q in the staging directory", e.Name())
			}
		}
	})
}
