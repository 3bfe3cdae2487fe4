//go:build linux

package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/gofrs/flock"
	"github.com/moby/buildkit/cmd/buildkitd/config"
	"github.com/moby/buildkit/util/apicaps"
	"github.com/moby/buildkit/util/archutil"
	"github.com/moby/buildkit/util/bklog"
	"github.com/moby/buildkit/util/cachedigest"
	"github.com/moby/buildkit/util/resolver/limited"
	"github.com/moby/buildkit/util/stack"
	"github.com/moby/buildkit/version"
	"github.com/moby/buildkit/worker"
	"github.com/moby/buildkit/worker/base"
	"github.com/sirupsen/logrus"
	fsutilcopy "github.com/tonistiigi/fsutil/copy"

	"github.com/lazuli-project/lazuli/buildkit/listen"
)

// telemetryTimeout bounds how long the end waits for the last spans and figures to be sent.
const telemetryTimeout = 5 * time.Second

// Options of a daemon.
type Options struct {
	// Config is complete: see [SetDefaults].
	Config *config.Config
	// Rootless says that the defaults are those of a daemon without root; see [Rootless].
	Rootless bool
	// SaveCacheDebug keeps what cache keys are made of, for the debug handlers.
	SaveCacheDebug bool
	// Warnings are logged once the log is set up.
	Warnings []string
	// WrapWorker, if set, gives what stands for a worker.
	WrapWorker func(w *base.Worker) worker.Worker
}

// Run serves until ctx ends, which is no error, or a listener fails.
func Run(ctx context.Context, opt Options) (err error) {
	if os.Geteuid() > 0 {
		return errNoRoot
	}
	cfg := opt.Config
	prepareProcess()
	if err := setUpLog(cfg); err != nil {
		return err
	}
	for _, w := range opt.Warnings {
		bklog.G(ctx).Warn(w)
	}
	if err := setUpSystem(cfg.System); err != nil {
		return err
	}
	unlock, err := lockRoot(cfg)
	if err != nil {
		return err
	}
	defer unlock()
	t, err := newTelemetry(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.shutdown(ctx)) }()
	// Before the controller, so that a second daemon fails before it touches anything.
	listeners, err := listen.All(ctx, cfg.GRPC)
	if err != nil {
		return err
	}
	defer listen.Close(listeners)
	if opt.SaveCacheDebug {
		db, err := cachedigest.NewDB(filepath.Join(cfg.Root, "cache-debug.db"))
		if err != nil {
			return fmt.Errorf("open the database of cache keys: %w", err)
		}
		cachedigest.SetDefaultDB(db)
		defer func() { err = errors.Join(err, db.Close()) }()
	}
	b := &builder{Options: opt, telemetry: t, stopping: ctx.Done()}
	controller, err := b.controller(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, controller.Close()) }()
	if addr := cfg.GRPC.DebugAddress; addr != "" {
		stop, err := serveDebug(ctx, addr, b.cacheStorage)
		if err != nil {
			return err
		}
		defer stop()
	}
	return serve(ctx, newServer(t, controller), listeners)
}

var errNoRoot = errors.New("rootless mode requires to be executed as the mapped root in a user namespace; you may use RootlessKit for setting up the namespace")

// prepareProcess sets what holds for the whole process.
func prepareProcess() {
	// Files that builds create have the modes that they ask for.
	syscall.Umask(0)
	fsutilcopy.UmaskIsZero = true
	apicaps.ExportedProduct = "buildkit"
	if v := buildkitVersion(); v != "" {
		version.Version = v
	}
	stack.SetVersionInfo(version.Version, version.Revision)
}

// buildkitVersion returns the version of the BuildKit that is in this program, which no linker flag tells.
func buildkitVersion() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, m := range info.Deps {
		if m.Path == version.Package {
			return m.Version
		}
	}
	return ""
}

// Version returns what this program is, for people.
func Version() string {
	own := "unknown"
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		own = info.Main.Version
	}
	return "lazuli-buildkitd " + own + ", BuildKit " + buildkitVersion()
}

func setUpLog(cfg *config.Config) error {
	switch cfg.Log.Format {
	case "json":
		logrus.SetFormatter(&logrus.JSONFormatter{})
	case "text", "":
		logrus.SetFormatter(&logrus.TextFormatter{FullTimestamp: true})
	default:
		return fmt.Errorf("log format %q: json and text are possible", cfg.Log.Format)
	}
	if cfg.Log.Level == "" {
		return nil
	}
	level, err := logrus.ParseLevel(cfg.Log.Level)
	if err != nil {
		return fmt.Errorf("log level: %w", err)
	}
	logrus.SetLevel(level)
	return nil
}

func setUpSystem(cfg *config.SystemConfig) error {
	if cfg == nil {
		return nil
	}
	if age := cfg.PlatformsCacheMaxAge; age != nil {
		archutil.CacheMaxAge = age.Duration
	}
	if n := cfg.MaxRegistryConcurrency; n != nil {
		if *n <= 0 {
			return fmt.Errorf("system.maxRegistryConcurrency is %d: it must be greater than zero", *n)
		}
		limited.SetMaxConcurrency(*n)
	}
	return nil
}

// lockRoot makes the state directory, and it this daemon's alone until the returned function is called.
func lockRoot(cfg *config.Config) (func(), error) {
	root, err := filepath.Abs(cfg.Root) // locks need absolute paths
	if err != nil {
		return nil, err
	}
	cfg.Root = root
	if err := os.MkdirAll(root, 0o700); err != nil {
		return nil, fmt.Errorf("create the state directory: %w", err)
	}
	path := filepath.Join(root, "buildkitd.lock")
	lock := flock.New(path)
	locked, err := lock.TryLock()
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	if !locked {
		return nil, fmt.Errorf("lock %s: another daemon has it", path)
	}
	return func() {
		_ = lock.Unlock() // the process ends
		_ = os.Remove(path)
	}, nil
}
