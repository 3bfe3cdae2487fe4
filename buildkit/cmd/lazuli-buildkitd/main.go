//go:build linux

// Command lazuli-buildkitd is BuildKit's daemon with exporters for images that are read lazily.
//
// It takes buildkitd's configuration file and flags. What the exporters take is in docs/buildkit.md.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/moby/buildkit/cmd/buildkitd/config"
	"github.com/moby/buildkit/util/appcontext"
	"github.com/moby/buildkit/worker"
	"github.com/moby/buildkit/worker/base"
	"github.com/moby/sys/userns"
	"github.com/spf13/pflag"

	"github.com/lazuli-project/lazuli/buildkit/baseimage"
	"github.com/lazuli-project/lazuli/buildkit/daemon"
	"github.com/lazuli-project/lazuli/buildkit/exporter"
)

func main() {
	err := run(appcontext.Context(), os.Args[1:], os.Getenv)
	if err != nil && !errors.Is(err, pflag.ErrHelp) {
		fmt.Fprintf(os.Stderr, "lazuli-buildkitd: %v\n", err)
		os.Exit(1)
	}
}

// run is the program with its arguments and environment variables.
func run(ctx context.Context, args []string, env func(string) string) error {
	opt := daemon.Options{Rootless: daemon.Rootless(env("USER")), WrapWorker: wrap}
	list := settings()
	f := pflag.NewFlagSet("lazuli-buildkitd", pflag.ContinueOnError)
	f.SortFlags = false
	f.Usage = func() {
		fmt.Fprintf(os.Stderr, "BuildKit's daemon with exporters for images that are read lazily.\n\nUsage:\n  lazuli-buildkitd [flags]\n\nFlags:\n%s", f.FlagUsages())
	}
	file := f.String("config", daemon.DefaultConfigFile(opt.Rootless), "path to config file")
	f.BoolVar(&opt.SaveCacheDebug, "save-cache-debug", false, "enable saving cache debug info")
	showVersion := f.BoolP("version", "v", false, "print the version")
	for _, s := range list {
		s.add(f, s.name, s.usage)
		if s.hidden {
			f.Lookup(s.name).Hidden = true
		}
	}
	if err := f.Parse(args); err != nil {
		return err
	}
	if f.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	if *showVersion {
		fmt.Println(daemon.Version())
		return nil
	}
	cfg, err := configure(f, list, *file, env)
	if err != nil {
		return err
	}
	if cfg.Trace || cfg.Debug { //nolint:staticcheck // what is deprecated is named
		opt.Warnings = append(opt.Warnings, "'debug' and 'trace' are deprecated in the configuration, use 'log.level' instead")
	}
	daemon.SetDefaults(cfg, opt.Rootless)
	opt.Config = cfg
	return daemon.Run(ctx, opt)
}

// configure reads the configuration file and puts the flags above it.
func configure(f *pflag.FlagSet, list []setting, file string, env func(string) string) (*config.Config, error) {
	cfg, err := config.LoadFile(file)
	if err != nil {
		return nil, err
	}
	if userns.RunningInUserNS() && !f.Changed("rootless") {
		cfg.Workers.OCI.Rootless, cfg.Workers.Containerd.Rootless = true, true
	}
	for _, s := range list {
		if s.env != "" && !f.Changed(s.name) {
			if v := env(s.env); v != "" {
				if err := f.Set(s.name, v); err != nil {
					return nil, fmt.Errorf("%s: %w", s.env, err)
				}
			}
		}
		if f.Changed(s.name) {
			if err := s.apply(f, s.name, &cfg); err != nil {
				return nil, fmt.Errorf("--%s: %w", s.name, err)
			}
		}
	}
	return &cfg, nil
}

// wrap gives a worker our exporters, and lets it read what they make.
func wrap(w *base.Worker) worker.Worker { return baseimage.Wrap(w, exporter.Wrap(w)) }
