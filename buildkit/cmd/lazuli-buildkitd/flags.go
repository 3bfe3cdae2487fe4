//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"strconv"
	"strings"

	"github.com/moby/buildkit/cmd/buildkitd/config"
	"github.com/moby/sys/userns"
	"github.com/spf13/pflag"
)

// setting is one of buildkitd's flags: a value that stands above the configuration file's.
type setting struct {
	name, usage string
	add         func(f *pflag.FlagSet, name, usage string)
	// apply puts the flag's value into the configuration; it is called for flags that were given.
	apply func(f *pflag.FlagSet, name string, c *config.Config) error
	// env names the variable that stands for a flag that is not given.
	env    string
	hidden bool
}

func text(name, usage string, field func(*config.Config) *string) setting {
	return parsed(name, usage, func(c *config.Config, v string) error {
		*field(c) = v
		return nil
	})
}

// parsed is a flag whose text has to be understood.
func parsed(name, usage string, set func(*config.Config, string) error) setting {
	return setting{
		name: name, usage: usage,
		add: func(f *pflag.FlagSet, name, usage string) { f.String(name, "", usage) },
		apply: func(f *pflag.FlagSet, name string, c *config.Config) error {
			v, err := f.GetString(name)
			if err == nil {
				err = set(c, v)
			}
			return err
		},
	}
}

func truth(name, usage string, set func(*config.Config, bool) error) setting {
	return setting{
		name: name, usage: usage,
		add: func(f *pflag.FlagSet, name, usage string) { f.Bool(name, false, usage) },
		apply: func(f *pflag.FlagSet, name string, c *config.Config) error {
			v, err := f.GetBool(name)
			if err == nil {
				err = set(c, v)
			}
			return err
		},
	}
}

// flag is a flag that is set or not.
func flag(name, usage string, field func(*config.Config) *bool) setting {
	return truth(name, usage, func(c *config.Config, v bool) error {
		*field(c) = v
		return nil
	})
}

// optional is a flag for what is decided by the circumstances if nothing is said.
func optional(name, usage string, field func(*config.Config) **bool) setting {
	return truth(name, usage, func(c *config.Config, v bool) error {
		*field(c) = &v
		return nil
	})
}

func number(name, usage string, field func(*config.Config) *int) setting {
	return setting{
		name: name, usage: usage,
		add: func(f *pflag.FlagSet, name, usage string) { f.Int(name, 0, usage) },
		apply: func(f *pflag.FlagSet, name string, c *config.Config) error {
			v, err := f.GetInt(name)
			*field(c) = v
			return err
		},
	}
}

// list is a flag that may be given several times.
func list(name, usage string, set func(*config.Config, []string) error) setting {
	return setting{
		name: name, usage: usage,
		add: func(f *pflag.FlagSet, name, usage string) { f.StringArray(name, nil, usage) },
		apply: func(f *pflag.FlagSet, name string, c *config.Config) error {
			v, err := f.GetStringArray(name)
			if err == nil {
				err = set(c, v)
			}
			return err
		},
	}
}

func texts(name, usage string, field func(*config.Config) *[]string) setting {
	return list(name, usage, func(c *config.Config, v []string) error {
		*field(c) = v
		return nil
	})
}

func hide(s setting) setting {
	s.hidden = true
	return s
}

func fromEnv(s setting, variable string) setting {
	s.env = variable
	s.usage += " [$" + variable + "]"
	return s
}

// settings returns all flags that change the configuration.
func settings() []setting {
	general := []setting{
		truth("debug", "enable debug output in logs", func(c *config.Config, v bool) error {
			if v {
				c.Log.Level = "debug"
			}
			return nil
		}),
		hide(truth("trace", "enable trace output in logs; --log-level=trace is the new name", func(c *config.Config, v bool) error {
			if v {
				c.Log.Level = "trace"
			}
			return nil
		})),
		text("root", "path to state directory", func(c *config.Config) *string { return &c.Root }),
		texts("addr", "listening address (unix://, tcp:// or fd://), also several", func(c *config.Config) *[]string { return &c.GRPC.Address }),
		text("log-format", "log formatter: json or text", func(c *config.Config) *string { return &c.Log.Format }),
		fromEnv(text("log-level", "set the log level", func(c *config.Config) *string { return &c.Log.Level }), "BUILDKITD_LOG_LEVEL"),
		parsed("group", "group (name or gid) which will own all Unix socket listening addresses", setGroup),
		fromEnv(text("debugaddr", "debugging address (eg. 0.0.0.0:6060)", func(c *config.Config) *string { return &c.GRPC.DebugAddress }), "BUILDKITD_DEBUGADDR"),
		text("tlscert", "certificate file to use", func(c *config.Config) *string { return &c.GRPC.TLS.Cert }),
		text("tlskey", "key file to use", func(c *config.Config) *string { return &c.GRPC.TLS.Key }),
		text("tlscacert", "ca certificate to verify clients", func(c *config.Config) *string { return &c.GRPC.TLS.CA }),
		list("allow-insecure-entitlement", "allows insecure entitlements e.g. network.host, security.insecure, device", setEntitlements),
		flag("proxy-network", "enable proxy network enforcement for all builds", func(c *config.Config) *bool { return &c.ProxyNetwork }),
		text("otel-socket-path", "OTEL collector trace socket path", func(c *config.Config) *string { return &c.OTEL.SocketPath }),
		optional("cdi-disabled", "disables support of the Container Device Interface (CDI)", func(c *config.Config) **bool { return &c.CDI.Disabled }),
		texts("cdi-spec-dir", "directory to scan for CDI spec files, also several", func(c *config.Config) *[]string { return &c.CDI.SpecDirs }),
		truth("rootless", "set all the default options to be compatible with rootless containers (in a user namespace, true)", func(c *config.Config, v bool) error {
			c.Workers.OCI.Rootless, c.Workers.Containerd.Rootless = v, v
			return nil
		}),
	}
	oci := func(c *config.Config) *config.OCIConfig { return &c.Workers.OCI }
	general = append(general,
		text("oci-worker-snapshotter", "name of snapshotter (auto, overlayfs, native, etc.)", func(c *config.Config) *string { return &oci(c).Snapshotter }),
		text("oci-worker-proxy-snapshotter-path", "address of proxy snapshotter socket (do not include 'unix://' prefix)", func(c *config.Config) *string { return &oci(c).ProxySnapshotterPath }),
		texts("oci-worker-platform", "override supported platforms for worker", func(c *config.Config) *[]string { return &oci(c).Platforms }),
		text("oci-worker-binary", "name of specified oci worker binary", func(c *config.Config) *string { return &oci(c).Binary }),
		flag("oci-worker-no-process-sandbox", "use the host PID namespace and procfs (WARNING: allows build containers to kill (and potentially ptrace) an arbitrary process in the host namespace)",
			func(c *config.Config) *bool { return &oci(c).NoProcessSandbox }))
	general = append(general, workerSettings("oci", workerFields{
		enabled: func(c *config.Config) **bool { return &oci(c).Enabled }, labels: func(c *config.Config) *map[string]string { return &oci(c).Labels },
		network: func(c *config.Config) *config.NetworkConfig { return &oci(c).NetworkConfig }, gc: func(c *config.Config) *config.GCConfig { return &oci(c).GCConfig },
		apparmor: func(c *config.Config) *string { return &oci(c).ApparmorProfile }, selinux: func(c *config.Config) *bool { return &oci(c).SELinux },
		parallelism: func(c *config.Config) *int { return &oci(c).MaxParallelism }, rootless: func(c *config.Config) *bool { return &oci(c).Rootless },
	})...)
	ctd := func(c *config.Config) *config.ContainerdConfig { return &c.Workers.Containerd }
	general = append(general,
		text("containerd-worker-addr", "containerd socket", func(c *config.Config) *string { return &ctd(c).Address }),
		hide(texts("containerd-worker-platform", "override supported platforms for worker", func(c *config.Config) *[]string { return &ctd(c).Platforms })),
		hide(text("containerd-worker-namespace", "override containerd namespace", func(c *config.Config) *string { return &ctd(c).Namespace })),
		hide(parsed("containerd-worker-runtime", "override containerd runtime", func(c *config.Config, v string) error {
			ctd(c).Runtime = config.ContainerdRuntime{Name: v}
			return nil
		})),
		text("containerd-worker-snapshotter", "snapshotter name to use", func(c *config.Config) *string { return &ctd(c).Snapshotter }))
	return append(general, workerSettings("containerd", workerFields{
		enabled: func(c *config.Config) **bool { return &ctd(c).Enabled }, labels: func(c *config.Config) *map[string]string { return &ctd(c).Labels },
		network: func(c *config.Config) *config.NetworkConfig { return &ctd(c).NetworkConfig }, gc: func(c *config.Config) *config.GCConfig { return &ctd(c).GCConfig },
		apparmor: func(c *config.Config) *string { return &ctd(c).ApparmorProfile }, selinux: func(c *config.Config) *bool { return &ctd(c).SELinux },
		parallelism: func(c *config.Config) *int { return &ctd(c).MaxParallelism }, rootless: func(c *config.Config) *bool { return &ctd(c).Rootless },
	})...)
}

// workerFields are what both kinds of workers have in the configuration.
type workerFields struct {
	enabled           func(*config.Config) **bool
	labels            func(*config.Config) *map[string]string
	network           func(*config.Config) *config.NetworkConfig
	gc                func(*config.Config) *config.GCConfig
	apparmor          func(*config.Config) *string
	selinux, rootless func(*config.Config) *bool
	parallelism       func(*config.Config) *int
}

// workerSettings returns the flags that both kinds of workers have.
func workerSettings(kind string, w workerFields) []setting {
	worker := kind + "-worker"
	return []setting{
		parsed(worker, "enable "+kind+" workers (true/false/auto)", func(c *config.Config, v string) (err error) {
			*w.enabled(c), err = boolOrAuto(v)
			return err
		}),
		list(worker+"-labels", "user-specific annotation labels (com.example.foo=bar)", func(c *config.Config, v []string) error { return addLabels(w.labels(c), v) }),
		text(worker+"-net", "worker network type (auto, bridge, cni or host)", func(c *config.Config) *string { return &w.network(c).Mode }),
		text(kind+"-cni-config-path", "path of cni config file", func(c *config.Config) *string { return &w.network(c).CNIConfigPath }),
		text(kind+"-cni-binary-dir", "path of cni binary files", func(c *config.Config) *string { return &w.network(c).CNIBinaryPath }),
		number(kind+"-cni-pool-size", "size of cni network namespace pool", func(c *config.Config) *int { return &w.network(c).CNIPoolSize }),
		text(worker+"-apparmor-profile", "set the name of the apparmor profile applied to containers", w.apparmor),
		flag(worker+"-selinux", "apply SELinux labels", w.selinux),
		number(kind+"-max-parallelism", "limit the number of parallel build steps that can run at the same time", w.parallelism),
		truth(worker+"-rootless", "enable rootless mode (in a user namespace, true)", func(c *config.Config, v bool) error {
			if !userns.RunningInUserNS() || os.Geteuid() > 0 {
				return errors.New("rootless mode requires to be executed as the mapped root in a user namespace; you may use RootlessKit for setting up the namespace")
			}
			*w.rootless(c) = v
			return nil
		}),
		optional(worker+"-gc", "enable automatic garbage collection on worker (true)", func(c *config.Config) **bool { return &w.gc(c).GC }),
		parsed(worker+"-gc-keepstorage", `amount of storage GC keep locally, format "Reserved[,Free[,Maximum]]" (MB)`,
			func(c *config.Config, v string) error { return setKeptStorage(w.gc(c), v) }),
	}
}

// boolOrAuto returns nil for "auto".
func boolOrAuto(s string) (*bool, error) {
	if s == "" || strings.EqualFold(s, "auto") {
		return nil, nil
	}
	v, err := strconv.ParseBool(s)
	if err != nil {
		return nil, fmt.Errorf("%q: true, false and auto are possible", s)
	}
	return &v, nil
}

func addLabels(labels *map[string]string, list []string) error {
	if *labels == nil {
		*labels = make(map[string]string)
	}
	for _, l := range list {
		key, value, ok := strings.Cut(l, "=")
		if !ok {
			return fmt.Errorf("%q has no value", l)
		}
		(*labels)[key] = value
	}
	return nil
}

func setGroup(c *config.Config, name string) error {
	if name == "" {
		return nil
	}
	if _, err := strconv.Atoi(name); err != nil {
		g, err := user.LookupGroup(name)
		if err != nil {
			return err
		}
		name = g.Gid
	}
	gid, err := strconv.Atoi(name)
	c.GRPC.GID = &gid
	return err
}

func setEntitlements(c *config.Config, list []string) error {
	for _, e := range list {
		switch e {
		case "security.insecure", "network.host", "device":
		default:
			return fmt.Errorf("invalid entitlement: %s", e)
		}
	}
	c.Entitlements = list
	return nil
}

func setKeptStorage(gc *config.GCConfig, s string) error {
	if s == "" {
		return nil
	}
	parts := strings.Split(s, ",")
	fields := []*config.DiskSpace{&gc.GCReservedSpace, &gc.GCMinFreeSpace, &gc.GCMaxUsedSpace}
	*fields[0], *fields[1], *fields[2] = config.DiskSpace{}, config.DiskSpace{}, config.DiskSpace{}
	if len(parts) > len(fields) {
		return fmt.Errorf("%q: Reserved[,Free[,Maximum]] is possible", s)
	}
	for i, p := range parts {
		mb, err := strconv.ParseInt(p, 10, 64)
		if err != nil || mb < 0 || mb > 1<<40 {
			return fmt.Errorf("%q: Reserved[,Free[,Maximum]] in MB is possible", s)
		}
		fields[i].Bytes = mb * 1e6
	}
	return nil
}
