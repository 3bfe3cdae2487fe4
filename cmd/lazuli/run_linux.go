package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/mount"
	container "github.com/lazuli-project/lazuli/run"
)

type runFlags struct {
	lazyFlags
	env     []string
	runtime string
}

// runStats are the figures of a container. Times count from the start of this program, in seconds.
type runStats struct {
	Image    string  `json:"image"`
	ExitCode int     `json:"exit_code"`
	Mounted  float64 `json:"mounted_seconds"`
	// FirstOutput is 0 where the container printed nothing to standard output.
	FirstOutput float64 `json:"first_output_seconds"`
	Exit        float64 `json:"exit_seconds"`
	lazyStats
}

func (a *app) runCommand() *cobra.Command {
	var f runFlags
	began := time.Now()
	cmd := &cobra.Command{
		Use:   "run IMAGE [-- CMD...]",
		Short: "Run a container from an image that is mounted lazily",
		Long: `Mount an image and run its command, or the given one, in it by runc: to try an image without
containerd. The container uses the host's network and has no limits; what it changes is lost at its
end. Its exit code is this command's.`,
		Example: `  lazuli run localhost:5000/node:19-nydus -- node -v
  lazuli run --stats localhost:5000/node:19-nydus -- node -v`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef("no image given; usage: %s", cmd.UseLine())
			}
			return nil
		},
	}
	f.add(cmd.Flags())
	cmd.Flags().SetInterspersed(false) // flags behind the image are the container's
	cmd.Flags().StringArrayVar(&f.env, "env", nil, "`NAME=VALUE` for the container")
	cmd.Flags().StringVar(&f.runtime, "runtime", "runc", "`PROGRAM` of the OCI runtime")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		command := args[1:]
		if len(command) > 0 && command[0] == "--" {
			command = command[1:]
		}
		return a.runContainer(cmd.Context(), args[0], command, &f, began)
	}
	return cmd
}

func (a *app) runContainer(ctx context.Context, arg string, command []string, f *runFlags, began time.Time) error {
	im, err := a.openLazy(ctx, arg, &f.lazyFlags)
	if err != nil {
		return err
	}
	defer closeQuietly(im)
	var config ocispec.ImageConfig
	if im.Manifest != nil {
		config = im.Manifest.Config.Config
	}
	printer := &errorPrinter{app: a}
	terminal := !f.stats && isTerminal(a.stdin) && isTerminal(a.stdout)
	signals := make(chan os.Signal, 16)
	list := []os.Signal{syscall.SIGTERM, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2}
	if !isTerminal(a.stdin) { // a terminal sends these to the runtime itself
		list = append(list, os.Interrupt, syscall.SIGQUIT)
	}
	signal.Notify(signals, list...)
	defer signal.Stop(signals)
	res, err := container.Run(ctx, im.Image.Image, config, container.Options{
		Command: command, Env: f.env, Runtime: f.runtime, Terminal: terminal, FirstOutput: f.stats,
		Stdin: a.stdin, Stdout: a.stdout, Stderr: a.stderr, Signals: signals,
		Mount: mount.Options{Mode: mount.Mode(f.mode), Cache: im.cache, OnError: printer.print},
	})
	switch {
	case errors.Is(err, mount.ErrMode), errors.Is(err, container.ErrNoCommand):
		return &usageError{err}
	case err != nil:
		return fmt.Errorf("%s: %w", arg, err)
	}
	if f.stats {
		since := func(t time.Time) float64 {
			if t.IsZero() {
				return 0
			}
			return t.Sub(began).Seconds()
		}
		err := a.printRunStats(runStats{
			Image: arg, ExitCode: res.ExitCode, Mounted: since(res.Mounted), FirstOutput: since(res.FirstOutput), Exit: since(res.Ended),
			lazyStats: im.statsIn(res.Mode),
		})
		if err != nil {
			return err
		}
	}
	if res.ExitCode != 0 {
		return &exitError{res.ExitCode}
	}
	return nil
}

// printRunStats prints to standard error, as the last line: standard output is the container's.
func (a *app) printRunStats(s runStats) error {
	if a.json {
		return json.NewEncoder(a.stderr).Encode(s)
	}
	_, err := fmt.Fprintf(a.stderr, "mounted after %.2f s, first output after %.2f s, exit after %.2f s\n%s\n", s.Mounted, s.FirstOutput, s.Exit, s.lazyStats)
	return err
}

func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
