//go:build linux

package daemon

import (
	"cmp"
	"path/filepath"

	"github.com/containerd/containerd/v2/defaults"
	"github.com/moby/buildkit/cmd/buildkitd/config"
	"github.com/moby/buildkit/util/appdefaults"
	"github.com/moby/buildkit/util/archutil"
	"github.com/moby/sys/userns"
)

// Rootless reports whether the defaults of a daemon without root hold: in a user namespace, unless the user's name is root, as it is in
// a container of its own.
func Rootless(user string) bool {
	return userns.RunningInUserNS() && user != "" && user != "root"
}

// DefaultConfigFile returns where the configuration file is.
func DefaultConfigFile(rootless bool) string {
	dir := appdefaults.ConfigDir
	if rootless {
		dir = appdefaults.UserConfigDir()
	}
	return filepath.Join(dir, "buildkitd.toml")
}

// SetDefaults fills in what a configuration leaves open.
func SetDefaults(cfg *config.Config, rootless bool) {
	switch {
	case cfg.Log.Level != "":
	case cfg.Trace: //nolint:staticcheck // the old name still works
		cfg.Log.Level = "trace"
	case cfg.Debug: //nolint:staticcheck // as above
		cfg.Log.Level = "debug"
	}
	if rootless {
		_ = appdefaults.EnsureUserAddressDir() // what is missing shows when it is listened there
		cfg.Root = cmp.Or(cfg.Root, appdefaults.UserRoot())
		if len(cfg.GRPC.Address) == 0 {
			cfg.GRPC.Address = []string{appdefaults.UserAddress()}
		}
	}
	cfg.Root = cmp.Or(cfg.Root, appdefaults.Root)
	if len(cfg.GRPC.Address) == 0 {
		cfg.GRPC.Address = []string{appdefaults.Address}
	}
	cfg.OTEL.SocketPath = cmp.Or(cfg.OTEL.SocketPath, appdefaults.TraceSocketPath(rootless))
	if len(cfg.CDI.SpecDirs) == 0 {
		cfg.CDI.SpecDirs = appdefaults.CDISpecDirs
	}
	oci, ctd := &cfg.Workers.OCI, &cfg.Workers.Containerd
	oci.Snapshotter = cmp.Or(oci.Snapshotter, "auto")
	ctd.Snapshotter = cmp.Or(ctd.Snapshotter, defaults.DefaultSnapshotter)
	ctd.Address = cmp.Or(ctd.Address, defaults.DefaultAddress)
	ctd.Namespace = cmp.Or(ctd.Namespace, "buildkit")
	ctd.Runtime.Name = cmp.Or(ctd.Runtime.Name, defaults.DefaultRuntime)
	platforms := formatPlatforms(archutil.SupportedPlatforms(false))
	if oci.Platforms == nil {
		oci.Platforms = platforms
	}
	if ctd.Platforms == nil {
		ctd.Platforms = platforms
	}
	setNetworkDefaults(&oci.NetworkConfig, rootless)
	setNetworkDefaults(&ctd.NetworkConfig, rootless)
}

func setNetworkDefaults(n *config.NetworkConfig, rootless bool) {
	cni := appdefaults.DefaultCNIConfigPath
	if rootless {
		cni = appdefaults.UserCNIConfigPath
	}
	n.Mode = cmp.Or(n.Mode, "auto")
	n.CNIConfigPath = cmp.Or(n.CNIConfigPath, cni)
	n.CNIBinaryPath = cmp.Or(n.CNIBinaryPath, appdefaults.DefaultCNIBinDir)
	n.BridgeName = cmp.Or(n.BridgeName, appdefaults.BridgeName)
	n.BridgeSubnet = cmp.Or(n.BridgeSubnet, appdefaults.BridgeSubnet)
}
