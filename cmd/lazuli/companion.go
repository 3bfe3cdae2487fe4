package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/spf13/cobra"
)

// companion is a program of a module of its own, which brings more than this one needs. "lazuli NAME" starts lazuli-NAME.
type companion struct{ name, short string }

func companions() []companion {
	return []companion{
		{"buildkitd", "Start lazuli-buildkitd: BuildKit's daemon, which exports lazy-loading formats"},
		{"buildkit-proxy", "Start lazuli-buildkit-proxy: lazy-loading formats from any BuildKit daemon"},
	}
}

// errNoCompanion means that a companion is neither beside this program nor in PATH.
var errNoCompanion = errors.New("not installed")

func (a *app) companionCommands() []*cobra.Command {
	cmds := make([]*cobra.Command, 0, len(companions()))
	for _, c := range companions() {
		cmds = append(cmds, &cobra.Command{
			Use: c.name + " [ARG]...", Short: c.short, DisableFlagParsing: true,
			RunE: func(cmd *cobra.Command, args []string) error {
				return a.startCompanion(cmd.Context(), "lazuli-"+c.name, args)
			},
		})
	}
	return cmds
}

// startCompanion becomes the other program, where the system can do that.
func (a *app) startCompanion(ctx context.Context, name string, args []string) error {
	path, err := findCompanion(name)
	if err != nil {
		return err
	}
	if err := replaceProcess(path, append([]string{name}, args...)); !errors.Is(err, errors.ErrUnsupported) {
		return fmt.Errorf("start %s: %w", path, err)
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = a.stdin, a.stdout, a.stderr
	err = cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return &exitError{exit.ExitCode()}
	}
	return err
}

// findCompanion looks beside this program first: they are installed together.
func findCompanion(name string) (string, error) {
	if self, err := os.Executable(); err == nil {
		if path, err := exec.LookPath(filepath.Join(filepath.Dir(self), name)); err == nil {
			return path, nil
		}
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("%s: %w", name, errNoCompanion)
	}
	return path, nil
}
