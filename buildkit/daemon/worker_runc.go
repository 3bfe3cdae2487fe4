//go:build linux

package daemon

import (
	"context"
	"errors"
	"fmt"
	"os/exec"

	"github.com/moby/buildkit/executor/oci"
	"github.com/moby/buildkit/util/bklog"
	"github.com/moby/buildkit/worker/base"
	"github.com/moby/buildkit/worker/runc"
	"github.com/moby/sys/user"
)

// runcWorker returns a worker that runs steps by runc; nil where it is disabled, or there is no runc and nothing is said.
func (b *builder) runcWorker(ctx context.Context) (*base.WorkerOpt, error) {
	cfg := b.Config.Workers.OCI
	if cfg.Enabled == nil && !hasRunc(ctx) || cfg.Enabled != nil && !*cfg.Enabled {
		return nil, nil
	}
	mapping, err := identityMapping(cfg.UserRemapUnsupported)
	if err != nil {
		return nil, err
	}
	snapshots, err := b.snapshotter(ctx)
	if err != nil {
		return nil, err
	}
	mode := oci.ProcessSandbox
	if cfg.NoProcessSandbox {
		if !cfg.Rootless {
			return nil, errors.New("can't enable NoProcessSandbox without Rootless")
		}
		bklog.G(ctx).Warn("NoProcessSandbox lets build containers kill, and potentially trace, any process in the daemon's process namespace; " +
			"it is for a daemon that runs in a container as an unprivileged user")
		mode = oci.NoProcessSandbox
	}
	devices, err := b.devices(ctx)
	if err != nil {
		return nil, err
	}
	platforms, err := parsePlatforms(cfg.Platforms)
	if err != nil {
		return nil, err
	}
	opt, err := runc.NewWorkerOpt(b.Config.Root, snapshots, cfg.Rootless, mode, cfg.Labels, mapping, b.network(cfg.NetworkConfig, cfg.Rootless), b.dns(),
		cfg.Binary, cfg.ApparmorProfile, cfg.SELinux, parallelism(cfg.MaxParallelism), b.Config.OTEL.SocketPath, cfg.DefaultCgroupParent, devices)
	if err != nil {
		return nil, fmt.Errorf("runc worker: %w", err)
	}
	opt.GCPolicy = gcPolicy(cfg.GCConfig, b.Config.Root)
	if len(platforms) > 0 {
		opt.Platforms = platforms
	}
	return &opt, nil
}

func hasRunc(ctx context.Context) bool {
	for _, name := range []string{"runc", "buildkit-runc"} {
		if _, err := exec.LookPath(name); err == nil {
			return true
		}
	}
	bklog.G(ctx).Warnf("skipping oci worker, as runc does not exist")
	return false
}

// identityMapping returns the ranges of subordinate IDs of a user; nil for none.
func identityMapping(name string) (*user.IdentityMapping, error) {
	if name == "" {
		return nil, nil
	}
	m, err := user.LoadIdentityMapping(name)
	if err != nil {
		return nil, fmt.Errorf("map IDs of steps to those of %s: %w", name, err)
	}
	return &m, nil
}
