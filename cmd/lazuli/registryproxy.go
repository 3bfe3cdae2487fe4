package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/distribution/reference"
	"github.com/spf13/cobra"

	"github.com/lazuli-project/lazuli/catalog"
	"github.com/lazuli-project/lazuli/registryproxy"
)

type registryProxyFlags struct {
	address, cert, key string
	rules              []string
	record             string
	queue              int
	timeout, grace     time.Duration
	logLevel           string
	store              storeFlags
}

func (a *app) registryProxyCommand() *cobra.Command {
	var f registryProxyFlags
	cmd := &cobra.Command{
		Use:   "registry-proxy [flags] REGISTRY",
		Short: "Convert what is pushed to a registry, on its way",
		Long: `Stand before a registry, and convert the images that are pushed through: any builder and any client push to
this address instead of the registry's. What they push arrives there as it is, with their credentials; then each rule
that fits makes of it a referrer, an image under another tag, or an index.

A rule is a line of KEY=VALUE with commas between them:
  repository=PATTERN  tag=PATTERN   what it is for (everything); * is anything without a slash, ** anything
  format=FORMAT[,FORMAT]            ` + strings.Join(catalog.Formats(), ", ") + ` (nydus); lists stand in quotes: "format=nydus,overlaybd"
  attach=referrer|tag|index         how the result appears (referrer)
  suffix=TEXT                       behind the tag of the result (-{format} for tag, none for index)
  platform=OS/ARCH[,...]            of images to convert (all)
and the options of formats: compression, chunk-size, batch-size, fs and others, as in "lazuli convert".

GET ` + registryproxy.StatusPath + ` tells what became of pushes. A push whose request for the manifest has the header
"` + registryproxy.HeaderConvert + `: wait" is answered when the image is converted.`,
		Example: `  # every image gets a Nydus image as its referrer
  lazuli registry-proxy --rule format=nydus registry.example
  # releases of one team get a tag beside theirs: app:v1-overlaybd
  lazuli registry-proxy --rule 'repository=team/**,tag=v*,format=overlaybd,attach=tag' registry.example
  # then
  crane push app.tar localhost:5001/team/app:v1`,
		Args: exactArgs(1),
	}
	fl := cmd.Flags()
	fl.StringVar(&f.address, "address", "127.0.0.1:5001", "`HOST:PORT` to listen at")
	fl.StringVar(&f.cert, "tls-cert", "", "`FILE` with the certificate to listen with (plain HTTP)")
	fl.StringVar(&f.key, "tls-key", "", "`FILE` with its key")
	fl.StringArrayVar(&f.rules, "rule", nil, "`RULE`, see above; may be repeated (format=nydus,attach=referrer)")
	fl.IntVar(&f.queue, "queue", 100, "how many conversions may wait")
	fl.DurationVar(&f.timeout, "timeout", time.Hour, "how long one conversion may take")
	fl.DurationVar(&f.grace, "grace", time.Minute, "how long conversions may go on after the end was asked for")
	fl.StringVar(&f.record, "record", "", "what was converted before: `sqlite:FILE`, mysql:DSN or none (a file in the user's state directory)")
	fl.StringVar(&f.logLevel, "log-level", "info", "debug, info, warn or error")
	f.store.add(fl, "", "the registry")
	cmd.RunE = func(cmd *cobra.Command, args []string) error { return a.registryProxy(cmd.Context(), &f, args[0]) }
	return cmd
}

func (a *app) registryProxy(ctx context.Context, f *registryProxyFlags, registry string) error {
	log, err := a.logger(f.logLevel)
	if err != nil {
		return err
	}
	host, err := registryHost(registry)
	if err != nil {
		return err
	}
	if (f.cert == "") != (f.key == "") {
		return usagef("--tls-cert and --tls-key go together")
	}
	rules := f.rules
	if len(rules) == 0 {
		rules = []string{"format=nydus"}
	}
	opt := registryproxy.Options{Registry: host, Jobs: a.jobs, Queue: f.queue, Timeout: f.timeout, Log: log}
	for _, line := range rules {
		rule, err := registryproxy.ParseRule(line)
		if err != nil {
			return &usageError{err}
		}
		opt.Rules = append(opt.Rules, rule)
	}
	if opt.Store, err = a.storeOptions(&f.store); err != nil {
		return err
	}
	known, err := a.openRecord(ctx, f.record)
	if err != nil {
		return err
	}
	defer closeQuietly(known)
	if known != nil {
		opt.Record = known
	}
	// Conversions go on for a while after the end was asked for.
	proxy, err := registryproxy.New(context.WithoutCancel(ctx), opt)
	if err != nil {
		return err
	}
	err = a.serveHTTP(ctx, f, proxy, log)
	waiting, cancel := context.WithTimeout(context.WithoutCancel(ctx), f.grace)
	defer cancel()
	return errors.Join(err, proxy.Close(waiting))
}

// serveHTTP serves until ctx ends.
func (a *app) serveHTTP(ctx context.Context, f *registryProxyFlags, handler http.Handler, log *slog.Logger) error {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", f.address)
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler: handler, ReadHeaderTimeout: 30 * time.Second, IdleTimeout: 5 * time.Minute, MaxHeaderBytes: 64 << 10,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	if f.cert != "" {
		pair, err := tls.LoadX509KeyPair(f.cert, f.key)
		if err != nil {
			return errors.Join(fmt.Errorf("--tls-cert: %w", err), listener.Close())
		}
		listener = tls.NewListener(listener, &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}})
	}
	log.Info("listening", "address", listener.Addr().String())
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), f.grace)
	defer cancel()
	if err := server.Shutdown(last); err != nil {
		log.Warn("clients were cut off", "err", err)
	}
	return nil
}

// registryHost returns the name of a registry as it stands in references.
func registryHost(arg string) (string, error) {
	named, err := reference.ParseNormalizedNamed(arg + "/x")
	if err != nil || reference.Path(named) != "x" && reference.Path(named) != "library/x" || reference.Domain(named) != arg {
		return "", usagef("%q: the name of a registry is needed, as host or host:port or docker.io", arg)
	}
	return arg, nil
}

// logger returns the log of a command that goes on: what happens, on standard error.
func (a *app) logger(level string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, usagef("--log-level %s: debug, info, warn and error are possible", level)
	}
	o := &slog.HandlerOptions{Level: l}
	if a.json {
		return slog.New(slog.NewJSONHandler(a.stderr, o)), nil
	}
	return slog.New(slog.NewTextHandler(a.stderr, o)), nil
}
