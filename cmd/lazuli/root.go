package main

import (
	"context"
	"errors"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"strings"

	"github.com/spf13/cobra"
)

// app is what commands share: the streams and the flags of all commands.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	quiet          bool
	progress       string
	json           bool
	jobs           int
	profile        string
	profileEnd     func()
}

// run is the program: it returns the exit code.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
		watching, stop := context.WithCancel(ctx)
		defer stop()
		go watchMemory(watching)
	}
	a := &app{stdin: stdin, stdout: stdout, stderr: stderr}
	cmd := a.root() //nolint:contextcheck // commands get theirs when they are executed
	cmd.SetArgs(args)
	cmd.SetIn(stdin)
	cmd.SetOut(stdout)
	cmd.SetErr(stderr)
	err := cmd.ExecuteContext(ctx)
	if a.profileEnd != nil {
		a.profileEnd()
	}
	return a.report(ctx, err)
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "lazuli",
		Short: "Container images that start before they are downloaded",
		Long: `Lazuli converts OCI images into lazy-loading formats, proves that the results equal
their sources, and mounts and runs them while their bytes are still in the registry.

An image is named as
  node:19, host:5000/repo:tag, host/repo@sha256:...   in a registry
  oci:DIR[:TAG]                                       in an OCI layout directory
  oci-archive:FILE[:TAG]                              in a tar of one; "-" is standard input or output
  docker-archive:FILE[:REF]                           what "docker save" writes
  containerd:[NAMESPACE/]REF                          in containerd
  rafs:BOOTSTRAP[,DIR...]                             a bare Nydus bootstrap and its blobs`,
		Example: `  lazuli convert node:19 localhost:5000/node:19-nydus
  lazuli check localhost:5000/node:19-nydus --source node:19
  lazuli run localhost:5000/node:19-nydus -- node -v`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			err := usagef("unknown command %q", args[0])
			if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
				err = usagef("unknown command %q; is %s meant?", args[0], strings.Join(near, " or "))
			}
			return err
		},
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		SilenceErrors: true,
		SilenceUsage:  true,
		PersistentPreRunE: func(*cobra.Command, []string) error {
			if err := a.startProfile(); err != nil {
				return err
			}
			if a.jobs > 0 && a.jobs < runtime.GOMAXPROCS(0) {
				runtime.GOMAXPROCS(a.jobs)
			}
			switch a.progress {
			case "auto", "tty", "plain", "json", "none":
				return nil
			}
			return usagef("--progress %s: auto, tty, plain, json and none are possible", a.progress)
		},
	}
	f := root.PersistentFlags()
	f.BoolVarP(&a.quiet, "quiet", "q", false, "print no progress")
	f.StringVar(&a.progress, "progress", "auto", "auto, tty, plain, json or none")
	f.BoolVar(&a.json, "json", false, "print the result as one JSON object")
	f.StringVar(&a.profile, "cpuprofile", "", "write a CPU profile to `FILE`")
	_ = f.MarkHidden("cpuprofile")
	f.IntVar(&a.jobs, "jobs", 0, "how many cores and layers at once (all cores)")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &usageError{err} })
	root.AddCommand(
		a.convertCommand(), a.checkCommand(), a.inspectCommand(), a.lsCommand(), a.catCommand(), a.unpackCommand(), a.copyCommand(),
		a.recordCommand(), a.registryProxyCommand(), a.versionCommand(),
	)
	root.AddCommand(a.platformCommands()...)
	root.AddCommand(a.companionCommands()...)
	root.AddCommand(a.dropInCommands()...)
	return root
}

// startProfile begins the CPU profile that developers ask for.
func (a *app) startProfile() error {
	if a.profile == "" {
		return nil
	}
	f, err := os.Create(a.profile)
	if err != nil {
		return err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return errors.Join(err, f.Close())
	}
	a.profileEnd = func() {
		pprof.StopCPUProfile()
		_ = f.Close()
	}
	return nil
}

// exactArgs is cobra's check with an error of ours.
func exactArgs(n int) cobra.PositionalArgs { return rangeArgs(n, n) }

func rangeArgs(low, high int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < low || len(args) > high {
			return usagef("%d arguments given; usage: %s", len(args), cmd.UseLine())
		}
		return nil
	}
}
