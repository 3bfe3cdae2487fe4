package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/lazuli-project/lazuli/nydusimage"
)

// Exit codes of nydus-image.
const (
	nydusFailed       = 1
	nydusUsage        = 2
	nydusInconsistent = 2 // merge only
)

// nydusApp is what the sub-commands of nydus-image share.
type nydusApp struct {
	stdin             io.Reader
	stdout, stderr    io.Writer
	logFile, logLevel string
	log               io.Writer // of messages at level info; nil drops them
	closeLog          func() error
}

var nydusLogLevels = []string{"trace", "debug", "info", "warn", "error"}

// nydusImage is the program nydus-image.
func (a *app) nydusImage(ctx context.Context, args []string) int {
	n := &nydusApp{stdin: a.stdin, stdout: a.stdout, stderr: a.stderr, closeLog: func() error { return nil }}
	root := n.root() //nolint:contextcheck // commands get theirs when they are executed
	root.SetArgs(args)
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	cmd, err := root.ExecuteContextC(ctx)
	err = errors.Join(err, n.closeLog())
	var usage *usageError
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &usage):
		fmt.Fprintf(a.stderr, "error: %v\n\nFor more information, try '--help'.\n", err)
		return nydusUsage
	case ctx.Err() != nil:
		fmt.Fprintln(a.stderr, "Error: interrupted")
		return exitInterrupted
	}
	fmt.Fprintf(a.stderr, "Error: %v\n", err)
	if cmd.Name() == "merge" && errors.Is(err, nydusimage.ErrInconsistent) {
		return nydusInconsistent
	}
	return nydusFailed
}

func (n *nydusApp) root() *cobra.Command {
	var showVersion bool
	root := &cobra.Command{
		Use:           "nydus-image",
		Short:         "Build, analyze, inspect or validate RAFS filesystems/Nydus accelerated container images",
		Args:          cobra.ArbitraryArgs,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE: func(_ *cobra.Command, args []string) error {
			if showVersion {
				_, err := fmt.Fprintf(n.stdout, " Version: \tv%s\nLazuli: \t%s\n", nydusimage.Level, version())
				return err
			}
			if len(args) > 0 {
				return usagef("unrecognized subcommand '%s'", args[0])
			}
			_, err := fmt.Fprintln(n.stdout, "Usage: [OPTIONS] [COMMAND]")
			return err
		},
		PersistentPreRunE: func(*cobra.Command, []string) error { return n.openLog() },
	}
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &usageError{err} })
	root.Flags().BoolVarP(&showVersion, "version", "V", false, "Print version")
	f := root.PersistentFlags()
	f.StringVarP(&n.logFile, "log-file", "L", "", "Log file path")
	oneOf(f, &n.logLevel, "log-level", "l", "info", "Log level:", nydusLogLevels)
	root.AddCommand(n.createCommand(), n.mergeCommand(), n.chunkDictCommand(), n.optimizeCommand(), n.compactCommand(), n.checkCommand(), n.exportCommand(), n.inspectCommand(), n.statCommand(), n.unpackCommand())
	return root
}

// openLog begins logging, to standard error where no file is given.
func (n *nydusApp) openLog() error {
	w := n.stderr
	if n.logFile != "" {
		f, err := os.OpenFile(n.logFile, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
		if err != nil {
			return fmt.Errorf("log file: %w", err)
		}
		w, n.closeLog = f, f.Close
	}
	if slices.Index(nydusLogLevels, n.logLevel) <= slices.Index(nydusLogLevels, "info") {
		n.log = w
	}
	return nil
}

// infof logs a message.
func (n *nydusApp) infof(format string, args ...any) {
	if n.log != nil {
		fmt.Fprintf(n.log, "[%s] INFO %s\n", time.Now().UTC().Format("2006-01-02 15:04:05.000000 -07:00"), fmt.Sprintf(format, args...))
	}
}

// finish logs a result, and writes it to a file if one is wanted.
func (n *nydusApp) finish(res *nydusimage.Result, what, outputJSON string) error {
	var text strings.Builder
	if err := res.Print(&text); err != nil {
		return err
	}
	n.infof("%s: \n%s", what, strings.TrimSuffix(text.String(), "\n"))
	if outputJSON == "" {
		return nil
	}
	return res.WriteJSON(outputJSON)
}

// prefetchList reads paths from standard input, if the policy asks for them.
func (n *nydusApp) prefetchList(policy string) ([]string, error) {
	if policy == nydusimage.PrefetchNone {
		return nil, nil
	}
	var lines []string
	s := bufio.NewScanner(n.stdin)
	for s.Scan() {
		lines = append(lines, s.Text())
	}
	if err := s.Err(); err != nil {
		return nil, fmt.Errorf("read prefetch patterns from standard input: %w", err)
	}
	return lines, nil
}

// enum is a flag with a list of values.
type enum struct {
	value   *string
	allowed []string
}

func (e enum) String() string { return *e.value }
func (e enum) Type() string   { return "value" }
func (e enum) Set(s string) error {
	if !slices.Contains(e.allowed, s) {
		return fmt.Errorf("invalid value '%s' [possible values: %s]", s, strings.Join(e.allowed, ", "))
	}
	*e.value = s
	return nil
}

// oneOf adds a flag with a list of values.
func oneOf(f *pflag.FlagSet, value *string, name, short, def, text string, allowed []string) {
	*value = def
	f.VarP(enum{value, allowed}, name, short, fmt.Sprintf("%s [possible values: %s]", text, strings.Join(allowed, ", ")))
}

// nydusArgs is a check of the number of arguments with an error of ours.
func nydusArgs(low, high int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < low {
			return usagef("the following required arguments were not provided; usage: %s", cmd.UseLine())
		}
		if high >= 0 && len(args) > high {
			return usagef("unexpected argument '%s' found; usage: %s", args[high], cmd.UseLine())
		}
		return nil
	}
}

// parseNumber parses a decimal or, with 0x in front, hexadecimal number.
func parseNumber(what, s string) (int, error) {
	digits, base := s, 10
	for _, prefix := range []string{"0x", "0X"} {
		if rest, ok := strings.CutPrefix(s, prefix); ok {
			digits, base = rest, 16
		}
	}
	v, err := strconv.ParseUint(digits, base, 31)
	if err != nil {
		return 0, fmt.Errorf("invalid %s %q: %w", what, s, err)
	}
	return int(v), nil
}

// commaList splits the value of a flag that has one entry for each source.
func commaList(s string) []string {
	if s == "" {
		return nil
	}
	list := strings.Split(s, ",")
	for i := range list {
		list[i] = strings.TrimSpace(list[i])
	}
	return list
}

func commaNumbers(what, s string) ([]uint64, error) {
	var list []uint64
	for _, item := range commaList(s) {
		v, err := strconv.ParseUint(item, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("invalid number in --%s: %w", what, err)
		}
		list = append(list, v)
	}
	return list, nil
}
