//go:build linux

// Command lazuli-buildkit-proxy gives any BuildKit daemon exporters for images that are read lazily: clients talk to it instead of the
// daemon. What the exporters take is in docs/buildkit.md.
package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/moby/buildkit/cmd/buildkitd/config"
	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/lazuli-project/lazuli/buildkit/listen"
	"github.com/lazuli-project/lazuli/buildkit/proxy"
	"github.com/lazuli-project/lazuli/catalog"
	"github.com/lazuli-project/lazuli/record"
	"github.com/lazuli-project/lazuli/store"
)

const usage = `lazuli-buildkit-proxy stands before a BuildKit daemon, also before the one in a container of docker buildx, and gives it exporters
for images that are read lazily. Clients talk to the proxy as to the daemon:

  lazuli-buildkit-proxy --daemon unix:///run/buildkit/buildkitd.sock --addr unix:///run/lazuli/buildkit.sock &
  buildctl --addr unix:///run/lazuli/buildkit.sock build --frontend dockerfile.v0 --local context=. --local dockerfile=. \
    --output type=nydus,name=host/app:1

The daemon pushes plain images to a registry of the proxy, which it must reach: with its own network namespace, as in a container, listen
where it can see that (--staging-address) and say how it is called there (--staging-name). Images are pushed to their registries with
the credentials in docker's and podman's files of the user who runs the proxy.

Usage:
  lazuli-buildkit-proxy [flags]

Flags:
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stderr)
	stop()
	if err != nil && !errors.Is(err, pflag.ErrHelp) {
		fmt.Fprintf(os.Stderr, "lazuli-buildkit-proxy: %v\n", err)
		os.Exit(1)
	}
}

// flags of the command line.
type flags struct {
	addr                        []string
	server, client              config.TLSConfig // of what clients see, and for the daemon
	daemon, serverName          string
	root                        string
	stagingAddress, stagingName string
	stagingMiB                  int64
	record                      bool
	jobs                        int
	plainHTTP, insecure         bool
	ca, authFile                string
}

func (f *flags) add(s *pflag.FlagSet) {
	s.StringSliceVar(&f.addr, "addr", []string{"unix:///run/lazuli/buildkit.sock"}, "listen at unix://PATH, tcp://HOST:PORT or fd://")
	s.StringVar(&f.server.Cert, "tlscert", "", "certificate to listen with at tcp")
	s.StringVar(&f.server.Key, "tlskey", "", "its key")
	s.StringVar(&f.server.CA, "tlscacert", "", "authority that clients' certificates must be of")
	s.StringVar(&f.daemon, "daemon", "unix:///run/buildkit/buildkitd.sock", "where the daemon listens: unix://PATH or tcp://HOST:PORT")
	s.StringVar(&f.client.CA, "daemon-tlscacert", "", "authority of the daemon's certificate; without it the connection is not encrypted")
	s.StringVar(&f.client.Cert, "daemon-tlscert", "", "certificate for the daemon")
	s.StringVar(&f.client.Key, "daemon-tlskey", "", "its key")
	s.StringVar(&f.serverName, "daemon-tlsservername", "", "name in the daemon's certificate (that of its address)")
	s.StringVar(&f.root, "root", "/var/lib/lazuli/buildkit-proxy", "directory for plain layers, and for what is known of them")
	s.StringVar(&f.stagingAddress, "staging-address", "127.0.0.1:0", "HOST:PORT where the daemon pushes plain images to")
	s.StringVar(&f.stagingName, "staging-name", "", "HOST:PORT by which the daemon knows it (that of the address)")
	s.Int64Var(&f.stagingMiB, "staging-limit", 10<<10, "MiB of layers to keep for the next builds")
	s.BoolVar(&f.record, "record", true, "remember what layers became, in --root")
	s.IntVar(&f.jobs, "jobs", 0, "cores for conversions (all)")
	s.BoolVar(&f.plainHTTP, "plain-http", false, "talk plain HTTP to registries")
	s.BoolVar(&f.insecure, "insecure", false, "do not verify certificates of registries")
	s.StringVar(&f.ca, "ca", "", "file with certificate authorities for registries")
	s.StringVar(&f.authFile, "authfile", "", "credential file for registries")
}

// parse reads the command line. Help goes to w.
func parse(args []string, w io.Writer) (*flags, error) {
	var f flags
	s := pflag.NewFlagSet("lazuli-buildkit-proxy", pflag.ContinueOnError)
	s.SortFlags = false
	f.add(s)
	s.Usage = func() {
		fmt.Fprintf(w, "%s%s\nFormats: %s\n", usage, s.FlagUsages(), strings.Join(catalog.Formats(), ", "))
	}
	if err := s.Parse(args); err != nil {
		return nil, err
	}
	if s.NArg() > 0 {
		return nil, fmt.Errorf("unexpected argument %q", s.Arg(0))
	}
	// Else somebody could believe that a connection is protected.
	for _, c := range []struct {
		wrong bool
		text  string
	}{
		{(f.server.Cert == "") != (f.server.Key == ""), "--tlscert and --tlskey go together"},
		{f.server.CA != "" && f.server.Cert == "", "--tlscacert needs --tlscert"},
		{(f.client.Cert == "") != (f.client.Key == ""), "--daemon-tlscert and --daemon-tlskey go together"},
		{f.serverName != "" && f.client == (config.TLSConfig{}), "--daemon-tlsservername needs --daemon-tlscacert"},
	} {
		if c.wrong {
			return nil, errors.New(c.text)
		}
	}
	return &f, nil
}

// run does what the command line says, until ctx ends. Help and log go to w.
func run(ctx context.Context, args []string, w io.Writer) (err error) {
	f, err := parse(args, w)
	if err != nil {
		return err
	}
	opt := proxy.Options{Jobs: f.jobs, Store: store.Options{
		PlainHTTP: f.plainHTTP, Insecure: f.insecure, AuthFile: f.authFile, Env: os.Getenv, Proxy: http.ProxyFromEnvironment,
	}}
	if f.ca != "" {
		opt.Store.CAFiles = []string{f.ca}
	}
	if err := f.dial(&opt); err != nil {
		return err
	}
	staging, listener, err := f.staging(ctx)
	if err != nil {
		return err
	}
	opt.Staging = staging
	if f.record {
		known, err := record.Open(ctx, filepath.Join(f.root, "record.db"))
		if err != nil {
			return errors.Join(err, listener.Close())
		}
		defer func() { err = errors.Join(err, known.Close()) }()
		opt.Record = known
	}
	return f.serve(ctx, opt, listener, slog.New(slog.NewTextHandler(w, nil)))
}

// staging makes the registry for plain images, and listens for it.
func (f *flags) staging(ctx context.Context) (*proxy.Staging, net.Listener, error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", f.stagingAddress)
	if err != nil {
		return nil, nil, fmt.Errorf("--staging-address: %w", err)
	}
	local := listener.Addr().String()
	s, err := proxy.NewStaging(cmp.Or(f.stagingName, local), local, filepath.Join(f.root, "staging"), f.stagingMiB<<20)
	if err != nil {
		return nil, nil, errors.Join(err, listener.Close())
	}
	return s, listener, nil
}

// dial says how to reach the daemon.
func (f *flags) dial(opt *proxy.Options) error {
	opt.Daemon = f.daemon
	if host, ok := strings.CutPrefix(f.daemon, "tcp://"); ok {
		opt.Daemon = "dns:///" + host
	}
	if f.client == (config.TLSConfig{}) {
		opt.Dial = append(opt.Dial, grpc.WithTransportCredentials(insecure.NewCredentials()))
		return nil
	}
	t := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: f.serverName}
	if f.client.CA != "" {
		pem, err := os.ReadFile(f.client.CA)
		if err != nil {
			return fmt.Errorf("--daemon-tlscacert: %w", err)
		}
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(pem) {
			return fmt.Errorf("--daemon-tlscacert: no certificate in %s", f.client.CA)
		}
	}
	if f.client.Cert != "" {
		pair, err := tls.LoadX509KeyPair(f.client.Cert, f.client.Key)
		if err != nil {
			return fmt.Errorf("--daemon-tlscert: %w", err)
		}
		t.Certificates = append(t.Certificates, pair)
	}
	opt.Dial = append(opt.Dial, grpc.WithTransportCredentials(credentials.NewTLS(t)))
	return nil
}

// lastCalls is how long calls may go on after the end was asked for.
const lastCalls = 10 * time.Second

// serve answers clients and the daemon until ctx ends.
func (f *flags) serve(ctx context.Context, opt proxy.Options, staging net.Listener, log *slog.Logger) error {
	p, err := proxy.New(opt)
	if err != nil {
		return errors.Join(err, staging.Close())
	}
	listeners, err := listen.All(ctx, config.GRPCConfig{Address: f.addr, TLS: f.server})
	if err != nil {
		return errors.Join(err, staging.Close())
	}
	registry := &http.Server{Handler: opt.Staging, ReadHeaderTimeout: 30 * time.Second, MaxHeaderBytes: 64 << 10}
	group, gctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		if err := registry.Serve(staging); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	for _, l := range listeners {
		log.Info("listening", "address", l.Addr().String(), "daemon", f.daemon, "staging", staging.Addr().String())
		group.Go(func() error {
			if err := p.Serve(l); !errors.Is(err, grpc.ErrServerStopped) { // when ctx ends before it begins
				return err
			}
			return nil
		})
	}
	group.Go(func() error {
		<-gctx.Done()
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastCalls)
		defer cancel()
		return errors.Join(p.Close(last), registry.Close())
	})
	return group.Wait()
}
