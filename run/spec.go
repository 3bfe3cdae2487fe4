package run

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// ErrNoCommand means: neither the image nor the user says what to run.
var ErrNoCommand = errors.New("the image names no command, and none is given")

// capabilities are those that Docker gives by default.
var capabilities = []string{
	"CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_MKNOD", "CAP_NET_BIND_SERVICE",
	"CAP_NET_RAW", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT",
}

const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// bundle is what a specification is made of.
type bundle struct {
	root     string // the root file system
	hostname string
	config   ocispec.ImageConfig
	command  []string // in place of the configuration's Cmd; empty for that
	passwd   string   // contents of the image's /etc/passwd
	group    string   // and /etc/group
	terminal bool
	env      []string // in addition
	binds    []string // files of the host at the same place in the container, read-only
}

// spec makes the specification for the runtime.
func (b *bundle) spec() (*specs.Spec, error) {
	u, err := findUser(b.config.User, b.passwd, b.group)
	if err != nil {
		return nil, err
	}
	args := slices.Clone(b.config.Entrypoint)
	if len(b.command) > 0 {
		args = append(args, b.command...)
	} else {
		args = append(args, b.config.Cmd...)
	}
	if len(args) == 0 {
		return nil, ErrNoCommand
	}
	cwd := b.config.WorkingDir
	if cwd == "" {
		cwd = "/"
	}
	if !strings.HasPrefix(cwd, "/") {
		return nil, fmt.Errorf("working directory %q is not absolute", cwd)
	}
	caps := &specs.LinuxCapabilities{Bounding: capabilities}
	if u.uid == 0 {
		caps.Effective, caps.Permitted = capabilities, capabilities
	}
	s := &specs.Spec{
		Version: "1.0.2", // what runc 1.0 and newer take
		Process: &specs.Process{
			Terminal: b.terminal, Args: args, Cwd: cwd, Env: b.environment(u), Capabilities: caps,
			User: specs.User{UID: u.uid, GID: u.gid, AdditionalGids: u.groups},
		},
		Root:     &specs.Root{Path: b.root},
		Hostname: b.hostname,
		Mounts:   mounts(b.binds),
		Linux: &specs.Linux{
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}, {Type: specs.MountNamespace},
			},
			MaskedPaths: []string{
				"/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats",
				"/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/sys/devices/virtual/powercap",
			},
			ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
		},
	}
	return s, nil
}

// environment is the image's, with what programs expect to be there.
func (b *bundle) environment(u user) []string {
	env := slices.Concat(b.config.Env, b.env)
	add := func(entry string) {
		name, _, _ := strings.Cut(entry, "=")
		if !slices.ContainsFunc(env, func(e string) bool { return strings.HasPrefix(e, name+"=") }) {
			env = append(env, entry)
		}
	}
	add(defaultPath)
	add("HOME=" + u.home)
	add("HOSTNAME=" + b.hostname)
	if b.terminal {
		add("TERM=xterm")
	}
	return env
}

func mounts(binds []string) []specs.Mount {
	list := make([]specs.Mount, 0, 16)
	list = append(list, []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
	}...)
	for _, b := range binds {
		list = append(list, specs.Mount{Destination: b, Type: "bind", Source: b, Options: []string{"rbind", "ro"}})
	}
	return list
}
