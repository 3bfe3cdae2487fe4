//go:build linux

package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	control "github.com/moby/buildkit/api/services/control"
	"github.com/spf13/pflag"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/lazuli-project/lazuli/buildkit/internal/certtest"
	"github.com/lazuli-project/lazuli/buildkit/proxy"
)

func TestParse(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"": "",
		"--addr unix:///a,tcp://127.0.0.1:1 --addr fd://": "",
		"--tlscert c --tlskey k --tlscacert a":            "",
		"--daemon-tlscacert a":                            "",
		"--daemon-tlscacert a --daemon-tlsservername n":   "",
		"--daemon-tlscert c --daemon-tlskey k":            "",
		"--record=false --jobs 2 --staging-limit 5":       "",
		"build":                                  `unexpected argument "build"`,
		"--colour blue":                          "unknown flag: --colour",
		"--jobs many":                            "invalid argument",
		"--tlscert c":                            "--tlscert and --tlskey go together",
		"--tlskey k":                             "--tlscert and --tlskey go together",
		"--tlscacert a":                          "--tlscacert needs --tlscert",
		"--daemon-tlscert c":                     "--daemon-tlscert and --daemon-tlskey go together",
		"--daemon-tlscacert a --daemon-tlskey k": "--daemon-tlscert and --daemon-tlskey go together",
		"--daemon tcp://host:1 --daemon-tlsservername elsewhere": "--daemon-tlsservername needs --daemon-tlscacert",
	} {
		f, err := parse(strings.Fields(line), io.Discard)
		if want == "" {
			if err != nil || f == nil {
				t.Errorf("%q: %v", line, err)
			}
		} else if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", line, err, want)
		}
	}
	f, err := parse(strings.Fields("--addr unix:///a,tcp://127.0.0.1:1 --addr fd:// --jobs 3"), io.Discard)
	if err != nil || !slices.Equal(f.addr, []string{"unix:///a", "tcp://127.0.0.1:1", "fd://"}) || f.jobs != 3 || !f.record {
		t.Errorf("%+v, %v", f, err)
	}
	var help bytes.Buffer
	if _, err := parse([]string{"--help"}, &help); !errors.Is(err, pflag.ErrHelp) {
		t.Errorf("help: %v", err)
	}
	for _, want := range []string{"Usage:", "--daemon-tlscacert", "Formats: nydus"} {
		if !strings.Contains(help.String(), want) {
			t.Errorf("no %q in the help", want)
		}
	}
}

// daemon has one method, which tells where it is to push to.
type daemon struct {
	control.UnimplementedControlServer
	push chan string
}

func (d *daemon) Solve(_ context.Context, r *control.SolveRequest) (*control.SolveResponse, error) {
	d.push <- r.GetExporters()[0].GetAttrs()["name"]
	return nil, status.Error(codes.Aborted, "seen")
}

// startDaemon serves an API.
func startDaemon(t *testing.T, d *daemon, network, address string, opts ...grpc.ServerOption) string {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(opts...)
	control.RegisterControlServer(server, d)
	go func() { _ = server.Serve(l) }()
	t.Cleanup(server.Stop)
	return l.Addr().String()
}

func TestDial(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	ca := certtest.WritePair(t, file("ca"), "daemon.example", nil)
	server := certtest.WritePair(t, file("server"), "daemon.example", ca)
	certtest.WritePair(t, file("client"), "daemon.example", ca)
	certtest.WritePair(t, file("unknown"), "daemon.example", nil)
	if err := os.WriteFile(file("empty.pem"), []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	clients := x509.NewCertPool()
	clients.AddCert(ca.Leaf)
	path := "unix://" + startDaemon(t, &daemon{}, "unix", file("sock"))
	open := "tcp://" + startDaemon(t, &daemon{}, "tcp", "127.0.0.1:0")
	closed := "tcp://" + startDaemon(t, &daemon{}, "tcp", "127.0.0.1:0", grpc.Creds(credentials.NewTLS(&tls.Config{
		MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{*server}, ClientCAs: clients, ClientAuth: tls.RequireAndVerifyClientCert,
	})))
	const reached, refused = codes.Unimplemented, codes.Unavailable
	known := []string{"--daemon-tlscert", file("client.pem"), "--daemon-tlskey", file("client.key")}
	name := []string{"--daemon-tlsservername", "daemon.example"}
	for _, c := range []struct {
		name string
		args [][]string
		code codes.Code
		want string // an error at once
	}{
		{"unix", [][]string{{"--daemon", path}}, reached, ""},
		{"tcp", [][]string{{"--daemon", open}}, reached, ""},
		{"tcp with TLS", [][]string{{"--daemon", closed, "--daemon-tlscacert", file("ca.pem")}, known, name}, reached, ""},
		{"another name", [][]string{{"--daemon", closed, "--daemon-tlscacert", file("ca.pem")}, known}, refused, ""},
		{"another authority", [][]string{{"--daemon", closed, "--daemon-tlscacert", file("unknown.pem")}, known, name}, refused, ""},
		{"the system's authorities", [][]string{{"--daemon", closed}, known, name}, refused, ""},
		{"no certificate", [][]string{{"--daemon", closed, "--daemon-tlscacert", file("ca.pem")}, name}, refused, ""},
		{"no TLS", [][]string{{"--daemon", closed}}, refused, ""},
		{"nobody", [][]string{{"--daemon", "unix://" + file("none")}}, refused, ""},
		{"no such authority", [][]string{{"--daemon-tlscacert", file("none.pem")}}, 0, "--daemon-tlscacert: open"},
		{"nothing in the authority", [][]string{{"--daemon-tlscacert", file("empty.pem")}}, 0, "no certificate in"},
		{"another key", [][]string{{"--daemon-tlscert", file("client.pem"), "--daemon-tlskey", file("server.key")}}, 0, "--daemon-tlscert: "},
	} {
		f, err := parse(slices.Concat(c.args...), io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		var opt proxy.Options
		if err := f.dial(&opt); err != nil || c.want != "" {
			if c.want == "" || err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: %v, want %q", c.name, err, c.want)
			}
			continue
		}
		conn, err := grpc.NewClient(opt.Daemon, opt.Dial...)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := control.NewControlClient(conn).Info(t.Context(), &control.InfoRequest{}); status.Code(err) != c.code {
			t.Errorf("%s: %v, want %s", c.name, err, c.code)
		}
		conn.Close()
	}
}

// files lists a directory, without what is known of layers.
func files(t *testing.T, dir string) []string {
	t.Helper()
	var list []string
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() && d.Name() != "record.db" {
			list = append(list, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

var stagingAt = regexp.MustCompile(`msg=listening .* staging=(\S+)`)

// TestRun: it listens, for clients and for the daemon, until its context ends; then nothing is left, and it can be started again.
func TestRun(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	d := &daemon{push: make(chan string, 1)}
	addr := startDaemon(t, d, "tcp", "127.0.0.1:0")
	sock := filepath.Join(dir, "sock")
	args := []string{"--addr", "unix://" + sock, "--daemon", "tcp://" + addr, "--root", filepath.Join(dir, "root")}
	for _, name := range []string{"", "proxy.example:5000"} {
		ctx, stop := context.WithCancel(t.Context())
		out, log := io.Pipe()
		done := make(chan error, 1)
		go func() {
			err := run(ctx, slices.Concat(args, []string{"--staging-name", name}), log)
			log.Close()
			done <- err
		}()
		lines := bufio.NewScanner(out)
		var staging string
		for staging == "" && lines.Scan() {
			if m := stagingAt.FindStringSubmatch(lines.Text()); m != nil {
				staging = m[1]
			}
		}
		go func() { _, _ = io.Copy(io.Discard, out) }()
		if staging == "" {
			t.Fatalf("it does not listen: %v", <-done)
		}
		conn, err := grpc.NewClient("unix://"+sock, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := control.NewControlClient(conn).Info(ctx, &control.InfoRequest{}); status.Code(err) != codes.Unimplemented {
			t.Errorf("the daemon's answer: %v", err)
		}
		_, err = control.NewControlClient(conn).Solve(ctx, &control.SolveRequest{Ref: "b", Exporters: []*control.Exporter{
			{Type: "nydus", Attrs: map[string]string{"name": "host.example/app"}},
		}})
		if status.Code(err) != codes.Aborted {
			t.Fatal(err)
		}
		if got, want := <-d.push, cmp.Or(name, staging)+"/"; !strings.HasPrefix(got, want) {
			t.Errorf("the daemon is to push %s, not to %s", got, want)
		}
		conn.Close()
		resp, err := http.Get("http://" + staging + "/v2/")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Errorf("the staging registry: %s", resp.Status)
		}
		stop()
		if err := <-done; err != nil {
			t.Errorf("it ends with: %v", err)
		}
		if left := files(t, dir); len(left) > 0 {
			t.Errorf("left: %q", left)
		}
		if conn, err := net.Dial("tcp", staging); err == nil {
			conn.Close()
			t.Error("the staging registry still listens")
		}
	}
}

// TestRunFails: what cannot begin leaves no socket and nobody who listens.
func TestRunFails(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	over, cancel := context.WithCancel(t.Context())
	cancel()
	for _, c := range []struct {
		name string
		ctx  context.Context
		args []string
		want string
	}{
		{"flag", t.Context(), []string{"--colour"}, "unknown flag"},
		{"authority", t.Context(), []string{"--daemon-tlscacert", "none.pem"}, "--daemon-tlscacert"},
		{"staging address", t.Context(), []string{"--staging-address", taken.Addr().String()}, "--staging-address"},
		{"second address", t.Context(), []string{"--addr", "tcp://" + taken.Addr().String()}, "address already in use"},
		{"address without scheme", t.Context(), []string{"--addr", "/run/sock"}, "you meant unix:///run/sock?"},
		{"cancelled", over, nil, "canceled"},
	} {
		dir := t.TempDir()
		args := append([]string{"--addr", "unix://" + filepath.Join(dir, "sock"), "--root", filepath.Join(dir, "root")}, c.args...)
		err := run(c.ctx, args, io.Discard)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
		if left := files(t, dir); len(left) > 0 {
			t.Errorf("%s: left: %q", c.name, left)
		}
	}
}
