//go:build linux

package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/moby/buildkit/cmd/buildkitd/config"
	"github.com/spf13/pflag"
)

// parse reads a configuration file and flags.
func parse(t *testing.T, file string, env map[string]string, args ...string) (*config.Config, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "buildkitd.toml")
	if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	f := pflag.NewFlagSet("test", pflag.ContinueOnError)
	list := settings()
	for _, s := range list {
		s.add(f, s.name, s.usage)
	}
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	return configure(f, list, path, func(key string) string { return env[key] })
}

func TestFlagsStandAboveTheFile(t *testing.T) {
	t.Parallel()
	file := `
root = "/file"
[grpc]
address = ["unix:///file"]
[worker.oci]
enabled = false
gc = true
max-parallelism = 3
[worker.oci.labels]
a = "file"
b = "file"
`
	for _, c := range []struct {
		args  string
		check func(c *config.Config) bool
	}{
		{"", func(c *config.Config) bool {
			return c.Root == "/file" && !*c.Workers.OCI.Enabled && c.Workers.OCI.MaxParallelism == 3 && c.Log.Level == ""
		}},
		{"--root /flag --oci-max-parallelism=5", func(c *config.Config) bool { return c.Root == "/flag" && c.Workers.OCI.MaxParallelism == 5 }},
		{"--addr unix:///1 --addr tcp://2", func(c *config.Config) bool { return slices.Equal(c.GRPC.Address, []string{"unix:///1", "tcp://2"}) }},
		{"--debug", func(c *config.Config) bool { return c.Log.Level == "debug" }},
		{"--trace", func(c *config.Config) bool { return c.Log.Level == "trace" }},
		{"--log-level=warn --log-format json", func(c *config.Config) bool { return c.Log.Level == "warn" && c.Log.Format == "json" }},
		{"--group 7", func(c *config.Config) bool { return *c.GRPC.GID == 7 }},
		{"--tlscert=c --tlskey=k --tlscacert=a", func(c *config.Config) bool { return c.GRPC.TLS == config.TLSConfig{Cert: "c", Key: "k", CA: "a"} }},
		{"--allow-insecure-entitlement=network.host --allow-insecure-entitlement device", func(c *config.Config) bool { return len(c.Entitlements) == 2 }},
		{"--cdi-disabled --cdi-spec-dir /a --proxy-network --otel-socket-path /otel", func(c *config.Config) bool {
			return *c.CDI.Disabled && len(c.CDI.SpecDirs) == 1 && c.ProxyNetwork && c.OTEL.SocketPath == "/otel"
		}},
		{"--rootless", func(c *config.Config) bool { return c.Workers.OCI.Rootless && c.Workers.Containerd.Rootless }},
		{"--oci-worker=auto --containerd-worker=true", func(c *config.Config) bool { return c.Workers.OCI.Enabled == nil && *c.Workers.Containerd.Enabled }},
		{"--oci-worker-labels b=flag,1 --oci-worker-labels c=", func(c *config.Config) bool {
			l := c.Workers.OCI.Labels
			return len(l) == 3 && l["a"] == "file" && l["b"] == "flag,1" && l["c"] == ""
		}},
		{"--oci-worker-gc=false", func(c *config.Config) bool { return !*c.Workers.OCI.GC }},
		{"--containerd-worker-gc-keepstorage 10,20,30", func(c *config.Config) bool {
			g := c.Workers.Containerd.GCConfig
			return g.GCReservedSpace.Bytes == 10e6 && g.GCMinFreeSpace.Bytes == 20e6 && g.GCMaxUsedSpace.Bytes == 30e6
		}},
		{"--oci-worker-net=host --oci-cni-config-path /c --oci-cni-binary-dir /b --oci-cni-pool-size 2", func(c *config.Config) bool {
			n := c.Workers.OCI.NetworkConfig
			return n.Mode == "host" && n.CNIConfigPath == "/c" && n.CNIBinaryPath == "/b" && n.CNIPoolSize == 2
		}},
		{"--containerd-worker-runtime r --containerd-worker-namespace n --containerd-worker-addr /a --containerd-worker-snapshotter s", func(c *config.Config) bool {
			w := c.Workers.Containerd
			return w.Runtime.Name == "r" && w.Namespace == "n" && w.Address == "/a" && w.Snapshotter == "s"
		}},
		{"--oci-worker-snapshotter native --oci-worker-proxy-snapshotter-path /p --oci-worker-platform linux/amd64 --oci-worker-binary crun --oci-worker-selinux " +
			"--oci-worker-apparmor-profile a --oci-worker-no-process-sandbox", func(c *config.Config) bool {
			w := c.Workers.OCI
			return w.Snapshotter == "native" && w.ProxySnapshotterPath == "/p" && len(w.Platforms) == 1 && w.Binary == "crun" && w.SELinux && w.ApparmorProfile == "a" && w.NoProcessSandbox
		}},
	} {
		cfg, err := parse(t, file, nil, strings.Fields(c.args)...)
		if err != nil || !c.check(cfg) {
			t.Errorf("%s: %+v, %v", c.args, cfg, err)
		}
	}
}

func TestVariablesStandBelowFlags(t *testing.T) {
	t.Parallel()
	env := map[string]string{"BUILDKITD_LOG_LEVEL": "error", "BUILDKITD_DEBUGADDR": "127.0.0.1:1"}
	cfg, err := parse(t, "[log]\nlevel = \"warn\"", env, "--debugaddr=127.0.0.1:2")
	if err != nil || cfg.Log.Level != "error" || cfg.GRPC.DebugAddress != "127.0.0.1:2" {
		t.Errorf("%+v, %v", cfg, err)
	}
}

func TestFlagsRefuse(t *testing.T) {
	t.Parallel()
	for _, args := range []string{
		"--oci-worker=perhaps", "--oci-worker-labels=a", "--group=nobody-has-this-name", "--allow-insecure-entitlement=all", "--oci-worker-gc-keepstorage=1GB",
		"--oci-worker-gc-keepstorage=1,2,3,4", "--oci-worker-gc-keepstorage=-1", "--oci-max-parallelism=many", "--unknown",
	} {
		if cfg, err := parse(t, "", nil, args); err == nil {
			t.Errorf("%s is taken: %+v", args, cfg)
		}
	}
	if _, err := parse(t, "root = 1", nil); err == nil {
		t.Error("a file that cannot be is taken")
	}
}

// TestFlagsAreBuildkitds has the flags of buildkitd 0.32 on Linux, but for those of profiles.
func TestFlagsAreBuildkitds(t *testing.T) {
	t.Parallel()
	var names []string
	for _, s := range settings() {
		if s.usage == "" || slices.Contains(names, s.name) {
			t.Errorf("--%s is there twice, or not described", s.name)
		}
		names = append(names, s.name)
	}
	names = append(names, "config", "save-cache-debug")
	for _, name := range strings.Fields(`
		config debug trace root addr log-format log-level group debugaddr tlscert tlskey tlscacert allow-insecure-entitlement proxy-network otel-socket-path
		cdi-disabled cdi-spec-dir save-cache-debug rootless
		oci-worker oci-worker-labels oci-worker-snapshotter oci-worker-proxy-snapshotter-path oci-worker-platform oci-worker-net oci-cni-config-path
		oci-cni-binary-dir oci-cni-pool-size oci-worker-binary oci-worker-apparmor-profile oci-worker-selinux oci-max-parallelism oci-worker-rootless
		oci-worker-no-process-sandbox oci-worker-gc oci-worker-gc-keepstorage
		containerd-worker containerd-worker-addr containerd-worker-labels containerd-worker-platform containerd-worker-namespace containerd-worker-runtime
		containerd-worker-net containerd-cni-config-path containerd-cni-binary-dir containerd-cni-pool-size containerd-worker-snapshotter
		containerd-worker-apparmor-profile containerd-worker-selinux containerd-max-parallelism containerd-worker-rootless containerd-worker-gc
		containerd-worker-gc-keepstorage`) {
		if !slices.Contains(names, name) {
			t.Errorf("--%s is missing", name)
		}
	}
}
