package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	control "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/client/buildid"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/lazuli-project/lazuli/fetch"
	"github.com/lazuli-project/lazuli/store"
)

// daemon is one for faults and for what cannot be seen from outside; scripts/compare-buildkit.sh has a real one.
type daemon struct {
	control.UnimplementedControlServer
	solve func(ctx context.Context, r *control.SolveRequest) (*control.SolveResponse, error)
	ended chan struct{} // its own progress ends
}

func (d *daemon) Solve(ctx context.Context, r *control.SolveRequest) (*control.SolveResponse, error) {
	return d.solve(ctx, r)
}

func (d *daemon) Status(_ *control.StatusRequest, s grpc.ServerStreamingServer[control.StatusResponse]) error {
	err := s.Send(&control.StatusResponse{Vertexes: []*control.Vertex{{Digest: "sha256:1", Name: "building"}}})
	<-d.ended
	return err
}

// Session sends everything back, with what it got as metadata.
func (d *daemon) Session(s grpc.BidiStreamingServer[control.BytesMessage, control.BytesMessage]) error {
	md, _ := metadata.FromIncomingContext(s.Context())
	if err := s.SendHeader(metadata.Pairs("answer", strings.Join(md.Get("question"), ","))); err != nil {
		return err
	}
	s.SetTrailer(metadata.Pairs("last", "words"))
	for {
		m, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return status.Error(codes.DataLoss, "the end")
		}
		if err != nil {
			return err
		}
		if err := s.Send(m); err != nil {
			return err
		}
	}
}

// rig is a proxy before a daemon, with a registry for what it pushes.
type rig struct {
	daemon   *daemon
	proxy    *Proxy
	client   control.ControlClient
	registry string
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{daemon: &daemon{ended: make(chan struct{})}}
	dir := t.TempDir()
	listen := func(name string) (net.Listener, string) {
		path := filepath.Join(dir, name)
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		return l, "unix://" + path
	}
	l, daemonAddr := listen("d")
	server := grpc.NewServer()
	control.RegisterControlServer(server, r.daemon)
	go func() { _ = server.Serve(l) }()
	t.Cleanup(server.Stop)

	web := httptest.NewUnstartedServer(nil)
	host := web.Listener.Addr().String()
	staging, err := NewStaging(host, host, filepath.Join(dir, "staging"), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	web.Config.Handler = staging
	web.Start()
	t.Cleanup(web.Close)
	target := httptest.NewServer(registry.New(registry.WithReferrersSupport(true), registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(target.Close)
	r.registry = strings.TrimPrefix(target.URL, "http://")

	plain := grpc.WithTransportCredentials(insecure.NewCredentials())
	r.proxy, err = New(Options{Daemon: daemonAddr, Dial: []grpc.DialOption{plain}, Staging: staging, Store: store.Options{PlainHTTP: true, Retry: fetch.Retry{Wait: time.Millisecond, MaxWait: time.Millisecond}}, TempDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	front, addr := listen("p")
	go func() { _ = r.proxy.Serve(front) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 5*time.Second)
		defer cancel()
		_ = r.proxy.Close(ctx)
	})
	conn, err := grpc.NewClient(addr, plain)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	r.client = control.NewControlClient(conn)
	return r
}

func TestForwardsEverything(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	ctx := metadata.AppendToOutgoingContext(t.Context(), "question", "why")
	s, err := r.client.Session(ctx)
	if err != nil {
		t.Fatal(err)
	}
	want := bytes.Repeat([]byte("x"), 1<<20)
	if err := s.Send(&control.BytesMessage{Data: want}); err != nil {
		t.Fatal(err)
	}
	if m, err := s.Recv(); err != nil || !bytes.Equal(m.GetData(), want) {
		t.Errorf("%d bytes, %v", len(m.GetData()), err)
	}
	if err := s.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Recv(); status.Code(err) != codes.DataLoss || !strings.Contains(err.Error(), "the end") {
		t.Errorf("end: %v", err)
	}
	header, err := s.Header()
	if got := header.Get("answer"); err != nil || len(got) != 1 || got[0] != "why" {
		t.Errorf("header %v, %v", header, err)
	}
	if got := s.Trailer().Get("last"); len(got) != 1 || got[0] != "words" {
		t.Errorf("trailer %v", s.Trailer())
	}
	if _, err := r.client.Info(t.Context(), &control.InfoRequest{}); status.Code(err) != codes.Unimplemented {
		t.Errorf("what the daemon has not: %v", err)
	}
}

// pushed stores a plain image of one file where the request says, as a daemon does, and answers.
func pushed(ctx context.Context, r *control.SolveRequest) (*control.SolveResponse, error) {
	for _, e := range r.Exporters {
		if e.Type != "image" || e.Attrs["push"] != "true" || e.Attrs["registry.insecure"] != "true" {
			return nil, fmt.Errorf("exporter %v", e)
		}
		ref, err := store.Parse(e.Attrs["name"])
		if err != nil {
			return nil, err
		}
		target, err := store.OpenTarget(ctx, ref, store.Options{PlainHTTP: true})
		if err != nil {
			return nil, err
		}
		if err := pushImage(ctx, target); err != nil {
			return nil, err
		}
	}
	return &control.SolveResponse{ExporterResponse: map[string]string{
		"containerimage.digest": "sha256:plain", "containerimage.config.digest": "sha256:config", "frontend": "kept",
	}}, nil
}

func pushImage(ctx context.Context, target store.Target) error {
	layer := tarOf("hello", "world")
	diff := digest.FromBytes(layer)
	put := func(mediaType string, p []byte) ocispec.Descriptor {
		d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(p), Size: int64(len(p))}
		if err := target.Push(ctx, d, bytes.NewReader(p)); err != nil {
			panic(err)
		}
		return d
	}
	l := put(ocispec.MediaTypeImageLayer, layer)
	c := put(ocispec.MediaTypeImageConfig, fmt.Appendf(nil, `{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":["%s"]}}`, diff))
	m := put(ocispec.MediaTypeImageManifest, fmt.Appendf(nil,
		`{"schemaVersion":2,"mediaType":"%s","config":{"mediaType":"%s","digest":"%s","size":%d},"layers":[{"mediaType":"%s","digest":"%s","size":%d}]}`,
		ocispec.MediaTypeImageManifest, c.MediaType, c.Digest, c.Size, l.MediaType, l.Digest, l.Size))
	return errors.Join(target.Tag(ctx, m, ""), target.Commit(ctx), target.Close())
}

func TestSolveConverts(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.daemon.solve = pushed
	name := r.registry + "/app:1"
	events := make(chan []string, 1)
	go func() {
		var seen []string
		s, err := r.client.Status(t.Context(), &control.StatusRequest{Ref: "b1"})
		for err == nil {
			var n *control.StatusResponse
			if n, err = s.Recv(); err == nil {
				for _, v := range n.Vertexes {
					seen = append(seen, fmt.Sprintf("%s completed=%t %s", v.Name, v.Completed != nil, v.Error))
				}
			}
		}
		events <- append(seen, err.Error())
	}()
	var held bool
	r.daemon.solve = func(ctx context.Context, req *control.SolveRequest) (*control.SolveResponse, error) {
		resp, err := pushed(ctx, req)
		close(r.daemon.ended) // its own progress is over before the conversion begins
		held = true
		return resp, err
	}
	resp, err := r.client.Solve(t.Context(), &control.SolveRequest{Ref: "b1", Exporters: []*control.Exporter{
		{Type: "nydus", Attrs: map[string]string{"name": name}},
	}})
	if err != nil || !held {
		t.Fatal(err)
	}
	ref, err := store.Parse(name)
	if err != nil {
		t.Fatal(err)
	}
	src, err := store.OpenSource(t.Context(), ref, store.Options{PlainHTTP: true})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	desc, err := src.Resolve(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got := resp.ExporterResponse; got["containerimage.digest"] != desc.Digest.String() || got["image.name"] != name || got["frontend"] != "kept" || got["containerimage.config.digest"] != "" {
		t.Errorf("answer %v, the tag names %s", got, desc.Digest)
	}
	m, err := store.LoadManifest(t.Context(), src, desc)
	if err != nil || len(m.Manifest.Layers) != 2 { // blob, bootstrap
		t.Errorf("%+v, %v", m, err)
	}
	seen := strings.Join(<-events, "\n")
	for _, want := range []string{"building", "converting to nydus and pushing " + name + " completed=false", "completed=true", "EOF"} {
		if !strings.Contains(seen, want) {
			t.Errorf("no %q in the progress:\n%s", want, seen)
		}
	}
}

func TestSolveFails(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	nothing := func(context.Context, *control.SolveRequest) (*control.SolveResponse, error) {
		return &control.SolveResponse{}, nil
	}
	never := func(context.Context, *control.SolveRequest) (*control.SolveResponse, error) {
		t.Error("the daemon was asked")
		return nil, errors.New("no")
	}
	for _, c := range []struct {
		name  string
		attrs map[string]string
		solve func(context.Context, *control.SolveRequest) (*control.SolveResponse, error)
		code  codes.Code
		want  string
	}{
		{"key", map[string]string{"name": "x", "colour": "blue"}, never, codes.InvalidArgument, "unknown key"},
		{"option", map[string]string{"name": "x", "chunk-size": "5"}, never, codes.InvalidArgument, "5"},
		{"no push", map[string]string{"name": "x", "push": "false"}, never, codes.InvalidArgument, "push=false"},
		{"no name", map[string]string{}, never, codes.InvalidArgument, "name"},
		{"nothing pushed", map[string]string{"name": r.registry + "/x"}, nothing, codes.Unknown, "exporter nydus"},
		{"registry away", map[string]string{"name": "127.0.0.1:1/x"}, pushed, codes.Unknown, "127.0.0.1:1"},
		{"the daemon's own error", map[string]string{"name": "x"}, func(context.Context, *control.SolveRequest) (*control.SolveResponse, error) {
			return nil, status.Error(codes.ResourceExhausted, "no space")
		}, codes.ResourceExhausted, "no space"},
	} {
		r.daemon.solve = c.solve
		_, err := r.client.Solve(t.Context(), &control.SolveRequest{Ref: c.name, Exporters: []*control.Exporter{{Type: "nydus", Attrs: c.attrs}}})
		if status.Code(err) != c.code || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s %q", c.name, err, c.code, c.want)
		}
		if r.proxy.builds.find(c.name) != nil {
			t.Errorf("%s: the build is not over", c.name)
		}
	}
	if n := len(r.proxy.opt.Staging.places); n != 0 {
		t.Errorf("%d places are left", n)
	}
}

// TestRefusedBuildsEndAtOnce: the daemon's progress of a build that it never hears of would not end here.
func TestRefusedBuildsEndAtOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	ends := func(s control.Control_StatusClient) {
		t.Helper()
		for {
			if _, err := s.Recv(); errors.Is(err, io.EOF) {
				return
			} else if err != nil {
				t.Fatal(err)
			}
		}
	}
	progress := func() control.Control_StatusClient {
		t.Helper()
		s, err := r.client.Status(ctx, &control.StatusRequest{Ref: "b"})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	// A frontend's call, which waits until what it sends is over.
	frontend := func() error {
		t.Helper()
		s, err := r.client.Session(buildid.AppendToOutgoingContext(ctx, "b"))
		if err == nil {
			_, err = s.Recv()
		}
		return err
	}
	waits := make(chan error, 1)
	go func() { waits <- frontend() }()
	before := progress()
	if _, err := before.Recv(); err != nil { // now it waits
		t.Fatal(err)
	}
	wrong := []*control.Exporter{{Type: "nydus", Attrs: map[string]string{"name": "x", "colour": "blue"}}}
	if _, err := r.client.Solve(t.Context(), &control.SolveRequest{Ref: "b", Exporters: wrong}); status.Code(err) != codes.InvalidArgument {
		t.Fatal(err)
	}
	ends(before)
	ends(progress())
	for _, err := range []error{<-waits, frontend()} {
		if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "colour") {
			t.Errorf("a frontend is told: %v", err)
		}
	}

	// The same reference can be used again.
	r.daemon.solve = func(context.Context, *control.SolveRequest) (*control.SolveResponse, error) {
		return &control.SolveResponse{}, nil
	}
	if _, err := r.client.Solve(t.Context(), &control.SolveRequest{Ref: "b"}); err != nil {
		t.Fatal(err)
	}
	again := progress()
	if _, err := again.Recv(); err != nil {
		t.Errorf("progress of a build that was refused once: %v", err)
	}
	close(r.daemon.ended)
	ends(again)
}

func TestAwaitRefusal(t *testing.T) {
	t.Parallel()
	over, cancel := context.WithCancel(t.Context())
	cancel()
	var b builds
	for i := range maxRefused + 1 {
		b.refuse(fmt.Sprint(i), errors.New(fmt.Sprint("no ", i)))
	}
	b.accept("7")
	for ref, want := range map[string]bool{"0": false, "1": true, "7": false, fmt.Sprint(maxRefused): true, "other": false} {
		if got := b.awaitRefusal(over, ref); (got != nil) != want || want && got.Error() != "no "+ref {
			t.Errorf("%s is refused: %v", ref, got)
		}
	}
}

// TestOthersAreUntouched: requests without our formats reach the daemon byte for byte, fields of other versions included.
func TestOthersAreUntouched(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for _, req := range []*control.SolveRequest{
		{Ref: "a", Exporters: []*control.Exporter{{Type: "image", Attrs: map[string]string{"name": "x"}}, {Type: "nydus-nothing"}}},
		{Ref: "b", ExporterDeprecated: "tar"},
		{Ref: "c"},
	} {
		req.ProtoReflect().SetUnknown([]byte{0xfa, 0x3f, 1, 'x'}) // field 1023
		r.daemon.solve = func(_ context.Context, got *control.SolveRequest) (*control.SolveResponse, error) {
			if !proto.Equal(got, req) {
				t.Errorf("%v instead of %v", got, req)
			}
			return &control.SolveResponse{}, nil
		}
		if _, err := r.client.Solve(t.Context(), req); err != nil {
			t.Error(err)
		}
	}
}

func TestLargeMessagesAreRefused(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	_, err := r.client.Solve(t.Context(), &control.SolveRequest{Ref: strings.Repeat("x", maxMessage+1)})
	if status.Code(err) != codes.ResourceExhausted {
		t.Errorf("%v", err)
	}
}

func TestDaemonIsAway(t *testing.T) {
	t.Parallel()
	staging, err := NewStaging("h", "h", t.TempDir(), 1)
	if err != nil {
		t.Fatal(err)
	}
	p, err := New(Options{
		Daemon: "unix://" + filepath.Join(t.TempDir(), "none"), Dial: []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}, Staging: staging,
	})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "p"))
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = p.Serve(l) }()
	conn, err := grpc.NewClient("unix://"+l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for name, call := range map[string]func() error{
		"info": func() error {
			_, err := control.NewControlClient(conn).Info(t.Context(), &control.InfoRequest{})
			return err
		},
		"solve": func() error {
			_, err := control.NewControlClient(conn).Solve(t.Context(), &control.SolveRequest{})
			return err
		},
	} {
		if err := call(); status.Code(err) != codes.Unavailable {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := p.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestStagingIsBounded(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, err := NewStaging("h", "h", dir, 10)
	if err != nil {
		t.Fatal(err)
	}
	place := s.begin()
	do := func(method, path, body string) int {
		w := httptest.NewRecorder()
		s.ServeHTTP(w, httptest.NewRequest(method, path, strings.NewReader(body)))
		return w.Code
	}
	put := func(content string) (int, v1.Hash) {
		h, _, err := v1.SHA256(strings.NewReader(content))
		if err != nil {
			t.Fatal(err)
		}
		return do(http.MethodPut, "/v2/"+place.name+"/image/blobs/uploads/1?digest="+h.String(), content), h
	}
	for _, c := range []struct {
		method, path, body string
		want               int
	}{
		{"GET", "/v2/", "", http.StatusOK},
		{"GET", "/", "", http.StatusNotFound},
		{"GET", "/v2/" + strings.Repeat("0", 32) + "/image/manifests/0", "", http.StatusNotFound},
		{"PATCH", "/v2/" + place.name + "/image/blobs/uploads/1", "x", http.StatusMethodNotAllowed},
		{"DELETE", "/v2/" + place.name + "/image/manifests/0", "", http.StatusMethodNotAllowed},
		{"PUT", "/v2/" + place.name + "/image/blobs/uploads/1?digest=sha256:" + strings.Repeat("0", 64), "x", http.StatusBadRequest},
	} {
		if got := do(c.method, c.path, c.body); got != c.want {
			t.Errorf("%s %s: %d, want %d", c.method, c.path, got, c.want)
		}
	}
	if got := do("PUT", "/v2/"+place.name+"/image/manifests/0", strings.Repeat(" ", maxStagedManifest+1)); got < 400 {
		t.Errorf("a large manifest: %d", got)
	}
	code, old := put("first eight")
	if code != http.StatusCreated {
		t.Fatalf("%d", code)
	}
	_, kept := put("second")
	if _, err := s.blobs.Stat(t.Context(), "", kept); err != nil {
		t.Error(err)
	}
	place.end()
	if got := do("GET", "/v2/"+place.name+"/image/blobs/"+kept.String(), ""); got != http.StatusNotFound {
		t.Errorf("after the end: %d", got)
	}
	if _, err := s.blobs.Stat(t.Context(), "", old); !errors.Is(err, registry.ErrNotFound) {
		t.Errorf("the older blob: %v", err)
	}
	if n, err := s.blobs.Stat(t.Context(), "", kept); err != nil || n != 6 {
		t.Errorf("the younger blob: %d bytes, %v", n, err)
	}
	left, err := filepath.Glob(filepath.Join(dir, unfinished))
	if err != nil || len(left) > 0 {
		t.Errorf("half-written: %q, %v", left, err)
	}
}
