//go:build linux

package daemon

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/cmd/buildkitd/config"
	"github.com/moby/buildkit/executor/oci"
	dockerfileversion "github.com/moby/buildkit/frontend/dockerfile/version"
	"github.com/moby/buildkit/solver/llbsolver/cdidevices"
	"github.com/moby/buildkit/util/archutil"
	"github.com/moby/buildkit/util/bklog"
	"github.com/moby/buildkit/util/disk"
	"github.com/moby/buildkit/util/network/cniprovider"
	"github.com/moby/buildkit/util/network/netproviders"
	"github.com/moby/buildkit/version"
	"github.com/moby/buildkit/worker"
	"github.com/moby/buildkit/worker/base"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/semaphore"
	"tags.cncf.io/container-device-interface/pkg/cdi"
)

// startWorkers starts the workers that are enabled or, where nothing is said of them, can be. The first one builds.
func (b *builder) startWorkers(ctx context.Context) error {
	b.workers = &worker.Controller{}
	for _, start := range []func(context.Context) (*base.WorkerOpt, error){b.runcWorker, b.containerdWorker} {
		opt, err := start(ctx)
		if err != nil {
			return errors.Join(err, b.workers.Close())
		}
		if opt == nil {
			continue
		}
		if err := b.addWorker(ctx, opt); err != nil {
			return errors.Join(err, b.workers.Close())
		}
	}
	w, err := b.workers.GetDefault()
	if err != nil {
		return fmt.Errorf("no worker: there is neither runc nor containerd: %w", err)
	}
	bklog.G(ctx).Infof("worker %q builds", w.ID())
	return nil
}

func (b *builder) addWorker(ctx context.Context, opt *base.WorkerOpt) error {
	opt.RegistryHosts = b.hosts
	opt.BuildkitVersion = client.BuildkitVersion{
		Package: version.Package, Version: version.Version, Revision: version.Revision, DockerfileVersion: dockerfileversion.Version(),
	}
	w, err := base.NewWorker(ctx, *opt)
	if err != nil {
		return err
	}
	var added worker.Worker = w
	if b.WrapWorker != nil {
		added = b.WrapWorker(w)
	}
	p := added.Platforms(false)
	bklog.G(ctx).Infof("found worker %q, labels=%v, platforms=%v", added.ID(), added.Labels(), formatPlatforms(p))
	archutil.WarnIfUnsupported(p)
	return b.workers.Add(added)
}

// network returns how the steps of a worker are connected. Without root, they have the host's network unless something is said.
func (b *builder) network(cfg config.NetworkConfig, rootless bool) netproviders.Opt {
	mode := cfg.Mode
	if rootless && mode == "auto" {
		mode = "host"
	}
	return netproviders.Opt{
		Mode: mode,
		CNI: cniprovider.Opt{
			Root: b.Config.Root, ConfigPath: cfg.CNIConfigPath, BinaryDir: cfg.CNIBinaryPath, PoolSize: cfg.CNIPoolSize,
			BridgeName: cfg.BridgeName, BridgeSubnet: cfg.BridgeSubnet,
		},
	}
}

func (b *builder) dns() *oci.DNSConfig {
	if b.Config.DNS == nil {
		return nil
	}
	return &oci.DNSConfig{Nameservers: b.Config.DNS.Nameservers, Options: b.Config.DNS.Options, SearchDomains: b.Config.DNS.SearchDomains}
}

func (b *builder) cdiDisabled() bool { return b.Config.CDI.Disabled != nil && *b.Config.CDI.Disabled }

// devices returns the devices that builds may ask for; nil where that is disabled.
func (b *builder) devices(ctx context.Context) (*cdidevices.Manager, error) {
	if b.cdiDisabled() {
		return nil, nil
	}
	if len(b.Config.CDI.SpecDirs) == 0 {
		return nil, errors.New("no CDI specification directories specified")
	}
	cache, err := cdi.NewCache(cdi.WithSpecDirs(b.Config.CDI.SpecDirs...))
	if err == nil {
		err = cache.Refresh()
	}
	if err != nil {
		return nil, fmt.Errorf("read the specifications of devices: %w", err)
	}
	for dir, errs := range cache.GetErrors() {
		bklog.G(ctx).Warnf("CDI specifications in %s: %v", dir, errors.Join(errs...))
	}
	return cdidevices.NewManager(cache, b.Config.CDI.AutoAllowed), nil
}

// parallelism returns what limits how many steps run at once; nil for no limit.
func parallelism(n int) *semaphore.Weighted {
	if n <= 0 {
		return nil
	}
	return semaphore.NewWeighted(int64(n))
}

// gcPolicy returns what is cleaned up and when; nil for nothing.
func gcPolicy(cfg config.GCConfig, root string) []client.PruneInfo {
	if cfg.GC != nil && !*cfg.GC {
		return nil
	}
	space, _ := disk.GetDiskStat(root) // without, the limits are absolute ones
	rules := cfg.GCPolicy
	if len(rules) == 0 {
		rules = config.DefaultGCPolicy(cfg, space)
	}
	list := make([]client.PruneInfo, 0, len(rules))
	for _, r := range rules {
		if r.ReservedSpace == (config.DiskSpace{}) {
			r.ReservedSpace = r.KeepBytes //nolint:staticcheck // the old name still works
		}
		list = append(list, client.PruneInfo{
			Filter: r.Filters, All: r.All, KeepDuration: r.KeepDuration.Duration,
			ReservedSpace: r.ReservedSpace.AsBytes(space), MaxUsedSpace: r.MaxUsedSpace.AsBytes(space), MinFreeSpace: r.MinFreeSpace.AsBytes(space),
		})
	}
	return list
}

func formatPlatforms(list []ocispec.Platform) []string {
	names := make([]string, 0, len(list))
	for _, p := range list {
		names = append(names, platforms.Format(platforms.Normalize(p)))
	}
	return names
}

func parsePlatforms(names []string) ([]ocispec.Platform, error) {
	list := make([]ocispec.Platform, 0, len(names))
	for _, n := range names {
		p, err := platforms.Parse(n)
		if err != nil {
			return nil, fmt.Errorf("platform of a worker: %w", err)
		}
		list = append(list, platforms.Normalize(p))
	}
	return list, nil
}
