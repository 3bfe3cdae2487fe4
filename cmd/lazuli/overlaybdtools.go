package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/lazuli-project/lazuli/overlaybdtools"
)

// Exit codes of overlaybd's tools, those of wrong command lines being of the library that they have.
const (
	overlaybdFailed     = 255
	overlaybdConversion = 104
	overlaybdValidation = 105
	overlaybdRequired   = 106
	overlaybdExtras     = 109
	overlaybdMismatch   = 114
)

// overlaybdTool is one of overlaybd's tools.
type overlaybdTool struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	cmd            *cobra.Command
	// required and optional are the names of the arguments that are no flags.
	required, optional []string
	// files are those of them, and of the flags, that must exist.
	files []string
}

// overlaybdUsage is a wrong command line.
type overlaybdUsage struct {
	code int
	err  error
}

func (e *overlaybdUsage) Error() string { return e.err.Error() }

func (a *app) overlaybdTool(name, short string, required []string, optional ...string) *overlaybdTool {
	t := &overlaybdTool{stdin: a.stdin, stdout: a.stdout, stderr: a.stderr, required: required, optional: optional}
	use := name + " [OPTIONS]"
	for _, arg := range required {
		use += " " + arg
	}
	for _, arg := range optional {
		use += " [" + arg + "]"
	}
	t.cmd = &cobra.Command{Use: use, Short: short, Args: cobra.ArbitraryArgs, SilenceErrors: true, SilenceUsage: true, DisableFlagsInUseLine: true}
	t.cmd.CompletionOptions.DisableDefaultCmd = true
	t.cmd.SetIn(a.stdin)
	t.cmd.SetOut(a.stdout)
	t.cmd.SetErr(a.stderr)
	t.cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &overlaybdUsage{flagCode(err), err} })
	_ = t.cmd.Flags().Bool("verbose", false, "output debug info; accepted, there is none")
	return t
}

// flagCode returns the exit code for a wrong flag.
func flagCode(err error) int {
	var missing *pflag.ValueRequiredError
	var value *pflag.InvalidValueError
	switch {
	case errors.As(err, &missing):
		return overlaybdMismatch
	case errors.As(err, &value):
		return overlaybdConversion
	}
	return overlaybdExtras
}

// run executes the tool and returns its exit code. fn gets the arguments that are no flags, "" for those that are not given.
func (t *overlaybdTool) run(ctx context.Context, args []string, fn func(ctx context.Context, args []string) error) int {
	t.cmd.RunE = func(cmd *cobra.Command, given []string) error { //nolint:contextcheck // that of the execution
		values, err := t.arguments(given)
		if err != nil {
			return err
		}
		return fn(cmd.Context(), values)
	}
	t.cmd.SetArgs(args)
	err := t.cmd.ExecuteContext(ctx)
	var usage *overlaybdUsage
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &usage):
		fmt.Fprintf(t.stderr, "%v\nRun with --help for more information.\n", err)
		return usage.code
	case ctx.Err() != nil && errors.Is(err, context.Canceled):
		fmt.Fprintln(t.stderr, "interrupted")
		return exitInterrupted
	}
	fmt.Fprintf(t.stderr, "%s: %v\n", t.cmd.Name(), err)
	return overlaybdFailed
}

// arguments checks the arguments that are no flags and returns them, "" for those that are not given.
func (t *overlaybdTool) arguments(given []string) ([]string, error) {
	names := slices.Concat(t.required, t.optional)
	if len(given) < len(t.required) {
		return nil, &overlaybdUsage{overlaybdRequired, fmt.Errorf("%s is required", t.required[len(given)])}
	}
	if len(given) > len(names) {
		return nil, &overlaybdUsage{overlaybdExtras, fmt.Errorf("the following argument was not expected: %s", given[len(names)])}
	}
	values := make([]string, len(names))
	copy(values, given)
	for _, name := range t.files {
		path := ""
		if i := slices.Index(names, name); i >= 0 {
			path = values[i]
		} else if f := t.cmd.Flags().Lookup(name); f != nil {
			path = f.Value.String()
		}
		if path == "" {
			continue
		}
		if i, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			return nil, &overlaybdUsage{overlaybdValidation, fmt.Errorf("%s: File does not exist: %s", name, path)}
		} else if err == nil && i.IsDir() {
			return nil, &overlaybdUsage{overlaybdValidation, fmt.Errorf("%s: File is actually a directory: %s", name, path)}
		}
	}
	return values, nil
}

// compressionFlags adds the flags of those tools that compress.
func (t *overlaybdTool) compressionFlags(c *overlaybdtools.Compression) {
	f := t.cmd.Flags()
	f.StringVar(&c.Algorithm, "algorithm", "", "compress algorithm, [lz4|zstd] (default lz4)")
	f.IntVar(&c.BlockKB, "bs", 4, "The size of a data block in KB. Must be a power of two between 4K~64K [4/8/16/32/64]")
}

// uploadFlags adds the flags of uploads, which check refuses.
func (t *overlaybdTool) uploadFlags() (check func() error) {
	f := t.cmd.Flags()
	url := f.String("upload", "", "registry upload url (not supported)")
	_ = f.Int("upload_bs", 262144, "block size for upload, in KB (not supported)")
	for _, name := range []string{"cred_file_path", "tls_key_path", "tls_cert_path"} {
		_ = f.String(name, "", "for --upload (not supported)")
		t.files = append(t.files, name)
	}
	return func() error {
		if *url != "" {
			return errors.New("--upload is not supported: store the layer by the registry's clients, or convert with lazuli, which uploads")
		}
		return nil
	}
}

// serviceFlag adds the flag of the service's configuration, which is not needed here.
func (t *overlaybdTool) serviceFlag() {
	_ = t.cmd.Flags().String("service_config_path", "", "overlaybd image service config path; accepted, not needed")
}
