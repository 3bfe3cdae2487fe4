package main

import (
	"os"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/lazuli-project/lazuli/mount"
)

func (n *nydusifyApp) mountCommand() *cobra.Command {
	var m mountFlags
	var target, path string
	var b nydusifyBackend
	cmd := &cobra.Command{
		Use: "mount", Aliases: []string{"view"},
		Short:   "Mount the nydus image as a filesystem, until Ctrl-C",
		Example: "  nydusify mount --target host/app:1-nydus --mount-path /mnt",
		Args:    exactArgs(0),
	}
	f := cmd.Flags()
	f.StringVar(&target, "target", "", "Target (Nydus) image reference [$TARGET]")
	f.BoolVar(&m.image.store.insecure, "target-insecure", false, "Skip verifying server certs for HTTPS target registry [$TARGET_INSECURE]")
	b.add(f, "")
	f.StringVar(&path, "mount-path", "./image-fs", "Path to mount the image [$MOUNT_PATH]")
	f.StringVar(&m.image.platform, "platform", "linux/"+runtime.GOARCH, "Specify platform identifier to choose image manifest")
	f.Bool("prefetch", false, "Without effect: "+nydusifyWhy["prefetch"]+" [$PREFETCH]")
	warn := n.without(f, nydusifyWhy, flagWorkDir, flagNydusd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) (err error) {
		warn()
		if target == "" {
			return usagef("required flag \"target\" not set")
		}
		if m.image.backend, err = b.flags(); err != nil {
			return err
		}
		m.mode = string(mount.Auto)
		if dir, ok := cacheDir(); ok {
			m.image.cacheDir = dir
		}
		if err := os.MkdirAll(path, 0o755); err != nil {
			return err
		}
		n.infof("mounting %s on %s", target, path)
		return n.mount(cmd.Context(), target, path, &m)
	}
	return cmd
}
