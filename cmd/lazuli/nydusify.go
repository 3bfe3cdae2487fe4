package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/lazuli-project/lazuli/blob"
)

// nydusifyApp is what the commands of nydusify share. Messages go to log, which is standard error or a file.
type nydusifyApp struct {
	*app
	log      io.Writer
	logFile  string
	logLevel string
	debug    bool
	closeLog func() error
}

var nydusifyLevels = []string{"panic", "fatal", "error", "warn", "info", "debug", "trace"}

// nydusify is the program nydusify.
func (a *app) nydusify(ctx context.Context, args []string) int {
	quiet := *a
	quiet.quiet, quiet.progress = true, "none"
	n := &nydusifyApp{app: &quiet, log: a.stderr, closeLog: func() error { return nil }}
	root := n.root() //nolint:contextcheck // commands get theirs when they are executed
	root.SetArgs(args)
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		err = n.closeLog()
	} else {
		n.message("fatal", "%v", err)
		err = errors.Join(err, n.closeLog())
	}
	if err != nil {
		return exitFailed // for everything, as there
	}
	return exitDone
}

func (n *nydusifyApp) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "nydusify",
		Short: "Nydus utility tool to build, convert, verify and view container images",
		Example: `  nydusify convert --source localhost:5000/app:1 --target localhost:5000/app:1-nydus
  nydusify check --source localhost:5000/app:1 --target localhost:5000/app:1-nydus
  nydusify mount --target localhost:5000/app:1-nydus --mount-path /mnt`,
		Version:           "v2.4.4-lazuli " + version(),
		Args:              exactArgs(0),
		RunE:              func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		SilenceErrors:     true,
		SilenceUsage:      true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error { return n.begin(cmd) },
	}
	root.CompletionOptions.DisableDefaultCmd = true
	f := root.PersistentFlags()
	f.BoolVarP(&n.debug, "debug", "D", false, "Enable debug log level, overwrites the 'log-level' option [$DEBUG_LOG_LEVEL]")
	f.StringVarP(&n.logLevel, "log-level", "l", "info", "Set log level ("+strings.Join(nydusifyLevels, ", ")+") [$LOG_LEVEL]")
	f.StringVar(&n.logFile, "log-file", "", "Write logs to a file [$LOG_FILE]")
	root.AddCommand(n.convertCommand(), n.checkCommand(), n.mountCommand(), n.buildCommand(), n.copyCommand(), n.optimizeCommand(), n.chunkDictCommand(), n.commitCommand())
	return root
}

// begin takes the flags that were not given from the environment, and opens the log.
func (n *nydusifyApp) begin(cmd *cobra.Command) error {
	var errs []error
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		name, ok := cutEnv(f.Usage)
		value := os.Getenv(name)
		if !ok || f.Changed || value == "" {
			return
		}
		if err := cmd.Flags().Set(f.Name, value); err != nil {
			errs = append(errs, usagef("environment variable %s: %v", name, err))
		}
	})
	if n.debug {
		n.logLevel = "debug"
	}
	if !slices.Contains(nydusifyLevels, n.logLevel) {
		errs = append(errs, usagef("--log-level %s: one of %s is possible", n.logLevel, strings.Join(nydusifyLevels, ", ")))
	}
	if n.logFile != "" {
		f, err := os.OpenFile(n.logFile, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
		if err != nil {
			return errors.Join(append(errs, fmt.Errorf("log file: %w", err))...)
		}
		n.log, n.closeLog = f, f.Close
	}
	return errors.Join(errs...)
}

// cutEnv returns the name of the environment variable that stands in a flag's help as "[$NAME]".
func cutEnv(usage string) (string, bool) {
	_, rest, ok := strings.Cut(usage, "[$")
	name, _, closed := strings.Cut(rest, "]")
	return name, ok && closed
}

// message logs a line.
func (n *nydusifyApp) message(level, format string, args ...any) {
	if slices.Index(nydusifyLevels, level) <= slices.Index(nydusifyLevels, n.logLevel) || level == "fatal" {
		fmt.Fprintf(n.log, "level=%s msg=%q\n", level, fmt.Sprintf(format, args...))
	}
}

func (n *nydusifyApp) infof(format string, args ...any) { n.message("info", format, args...) }

// without registers flags that have nothing to do here, and returns what warns of those that were given.
func (n *nydusifyApp) without(f *pflag.FlagSet, why map[string]string, texts ...[3]string) func() {
	for _, t := range texts {
		f.String(t[0], t[1], t[2])
	}
	return func() {
		f.Visit(func(g *pflag.Flag) {
			if reason, ok := why[g.Name]; ok {
				n.message("warn", "--%s has no effect: %s", g.Name, reason)
			}
		})
	}
}

// Flags that many commands have, and why they do nothing.
var (
	flagWorkDir    = [3]string{"work-dir", "./tmp", "Working directory; nothing is unpacked to a disk [$WORK_DIR]"}
	flagNydusImage = [3]string{"nydus-image", "nydus-image", "Path to the nydus-image binary; none is started [$NYDUS_IMAGE]"}
	flagNydusd     = [3]string{"nydusd", "nydusd", "Path to the nydusd binary; none is started [$NYDUSD]"}
	flagPushChunk  = [3]string{"push-chunk-size", "0MB", "Chunk size for pushing a blob; the registry is asked"}

	nydusifyWhy = map[string]string{
		"work-dir": "layers are converted as streams, without files", "nydus-image": "no other program is started", "nydusd": "no other program is started",
		"push-chunk-size": "blobs are pushed in the pieces that the registry wants", "push-retry-count": "failed requests are repeated, for a time",
		"push-retry-delay": "waiting times grow, and follow what the registry says", "fs-align-chunk": "chunks are always aligned",
		"backend-aligned-chunk": "chunks are always aligned", "backend-force-push": "a blob that is there has the same bytes",
		"build-cache": reasonCache, "build-cache-tag": reasonCache, "build-cache-version": reasonCache, "build-cache-insecure": reasonCache,
		"build-cache-max-records": reasonCache, "oci": "the image keeps the media types of its source",
		"docker-v2-format": "the image keeps the media types of its source", "prefetch": "what is read is fetched",
	}
)

const reasonCache = "what was converted before is known from the record; see \"lazuli record\""

// nydusifyBackend are the flags of a storage backend.
type nydusifyBackend struct{ kind, config, file string }

func (b *nydusifyBackend) add(f *pflag.FlagSet, prefix string) {
	f.StringVar(&b.kind, prefix+"backend-type", "", "Type of storage backend, possible values: 'oss', 's3', 'localfs' [$BACKEND_TYPE]")
	f.StringVar(&b.config, prefix+"backend-config", "", "Json configuration string for storage backend [$BACKEND_CONFIG]")
	f.StringVar(&b.file, prefix+"backend-config-file", "", "Json configuration file for storage backend [$BACKEND_CONFIG_FILE]")
}

// flags returns them as lazuli has them.
func (b *nydusifyBackend) flags() (backendFlags, error) {
	if b.kind == "" {
		return backendFlags{}, nil
	}
	config := b.config
	if b.file != "" {
		if config != "" {
			return backendFlags{}, usagef("--backend-config conflicts with --backend-config-file")
		}
		config = b.file
	}
	if strings.TrimSpace(config) == "" {
		return backendFlags{}, usagef("backend configuration is empty, please specify option '--backend-config'")
	}
	return backendFlags{kind: b.kind, config: config}, nil
}

// nydusifyPlatforms are the flags that choose platforms.
type nydusifyPlatforms struct {
	list string
	all  bool
}

func (p *nydusifyPlatforms) add(f *pflag.FlagSet) {
	f.BoolVar(&p.all, "all-platforms", false, "For all platforms, conflicts with --platform")
	f.StringVar(&p.list, "platform", "linux/"+runtime.GOARCH, "For specific platforms, for example: 'linux/amd64,linux/arm64'")
}

// platforms lists them; none means all.
func (p *nydusifyPlatforms) platforms(f *pflag.FlagSet) ([]string, error) {
	if !p.all {
		return commaList(p.list), nil
	}
	if f.Changed("platform") {
		return nil, usagef("--all-platforms conflicts with --platform")
	}
	return nil, nil
}

func (n *nydusifyApp) commitCommand() *cobra.Command {
	return &cobra.Command{
		Use:                "commit",
		Short:              "Create and push a new nydus image from a container's changes (not in this build)",
		DisableFlagParsing: true,
		RunE: func(*cobra.Command, []string) error {
			return fmt.Errorf("commit: needs containerd, whose containers are not reached by this build: %w", blob.ErrUnsupported)
		},
	}
}
