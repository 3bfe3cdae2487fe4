//go:build linux

package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	runtimeoptions "github.com/containerd/containerd/api/types/runtimeoptions/v1"
	ctd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/plugins"
	"github.com/moby/buildkit/cmd/buildkitd/config"
	"github.com/moby/buildkit/util/bklog"
	"github.com/moby/buildkit/worker/base"
	"github.com/moby/buildkit/worker/containerd"
	"github.com/pelletier/go-toml/v2"
)

// containerdTimeout bounds how long a worker waits for containerd.
const containerdTimeout = 60 * time.Second

// containerdWorker returns a worker that runs steps by containerd; nil where it is disabled, or containerd does not answer and nothing
// is said.
func (b *builder) containerdWorker(ctx context.Context) (*base.WorkerOpt, error) {
	cfg := b.Config.Workers.Containerd
	if cfg.Enabled == nil && !hasContainerd(ctx, cfg) || cfg.Enabled != nil && !*cfg.Enabled {
		return nil, nil
	}
	devices, err := b.devices(ctx)
	if err != nil {
		return nil, err
	}
	runtime, err := containerdRuntime(cfg.Runtime)
	if err != nil {
		return nil, err
	}
	platforms, err := parsePlatforms(cfg.Platforms)
	if err != nil {
		return nil, err
	}
	opt, err := containerd.NewWorkerOpt(containerd.WorkerOptions{
		Root:            b.Config.Root,
		Address:         cfg.Address,
		SnapshotterName: cfg.Snapshotter,
		Namespace:       cfg.Namespace,
		CgroupParent:    cfg.DefaultCgroupParent,
		Rootless:        cfg.Rootless,
		Labels:          cfg.Labels,
		DNS:             b.dns(),
		NetworkOpt:      b.network(cfg.NetworkConfig, cfg.Rootless),
		ApparmorProfile: cfg.ApparmorProfile,
		Selinux:         cfg.SELinux,
		ParallelismSem:  parallelism(cfg.MaxParallelism),
		TraceSocket:     b.Config.OTEL.SocketPath,
		Runtime:         runtime,
		CDIManager:      devices,
	}, ctd.WithTimeout(containerdTimeout))
	if err != nil {
		return nil, fmt.Errorf("containerd worker: %w", err)
	}
	opt.GCPolicy = gcPolicy(cfg.GCConfig, b.Config.Root)
	if len(platforms) > 0 {
		opt.Platforms = platforms
	}
	return &opt, nil
}

// containerdRuntime returns the runtime with its options, which are of the type that it takes.
func containerdRuntime(cfg config.ContainerdRuntime) (*containerd.RuntimeInfo, error) {
	var options any = &runtimeoptions.Options{}
	if cfg.Name == plugins.RuntimeRuncV2 {
		options = &runcoptions.Options{}
	}
	if err := recode(cfg.Options, options); err != nil {
		return nil, fmt.Errorf("options of the runtime %s: %w", cfg.Name, err)
	}
	return &containerd.RuntimeInfo{Name: cfg.Name, Path: cfg.Path, Options: options}, nil
}

// recode fills in a structure from a part of the configuration that was read without knowing its type.
func recode(from map[string]any, to any) error {
	p, err := toml.Marshal(from)
	if err != nil {
		return err
	}
	return toml.Unmarshal(p, to)
}

// hasContainerd reports whether containerd answers.
func hasContainerd(ctx context.Context, cfg config.ContainerdConfig) bool {
	if strings.HasPrefix(cfg.Address, "tcp://") {
		return true
	}
	socket := strings.TrimPrefix(cfg.Address, "unix://")
	skip := func(err error) bool {
		bklog.G(ctx).Warnf("skipping containerd worker, as %q does not answer: %v", socket, err)
		return false
	}
	if _, err := os.Stat(socket); errors.Is(err, os.ErrNotExist) {
		return skip(err)
	}
	c, err := ctd.New(socket, ctd.WithDefaultNamespace(cfg.Namespace))
	if err != nil {
		return skip(err)
	}
	defer c.Close()
	if _, err := c.Server(ctx); err != nil {
		return skip(err)
	}
	return true
}
