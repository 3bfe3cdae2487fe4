package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/nydusimage"
	"github.com/lazuli-project/lazuli/store"
)

// bootstrapFlag is a bootstrap that is an argument, or a flag as it once was.
type bootstrapFlag struct{ value string }

func (b *bootstrapFlag) add(f *pflag.FlagSet, text string) {
	f.StringVarP(&b.value, "bootstrap", "B", "", text)
}

const deprecatedBootstrap = "[Deprecated] File path of RAFS meta blob/bootstrap"

func (b *bootstrapFlag) take(args []string) (string, error) {
	switch {
	case b.value != "" && len(args) > 0:
		return "", usagef("the argument '--bootstrap <bootstrap>' cannot be used with '[BOOTSTRAP]'")
	case b.value != "":
		return b.value, nil
	case len(args) == 0:
		return "", usagef("the following required arguments were not provided: <BOOTSTRAP>")
	}
	return args[0], nil
}

func (n *nydusApp) logFlags(names []string) { n.infof("RAFS features: %s", strings.Join(names, " | ")) }

func (n *nydusApp) checkCommand() *cobra.Command {
	var o nydusimage.CheckOptions
	var b bootstrapFlag
	var c nydusCommon
	cmd := &cobra.Command{
		Use:   "check [OPTIONS] [BOOTSTRAP]",
		Short: "Validate RAFS filesystem metadata",
		Args:  nydusArgs(0, 1),
	}
	f := cmd.Flags()
	b.add(f, deprecatedBootstrap)
	f.StringVarP(&o.BlobDir, "blob-dir", "D", "", "Directory for localfs storage backend, hosting data blobs and cache files")
	c.addConfig(f)
	f.BoolVarP(&o.Verbose, "verbose", "v", false, "Output message in verbose mode")
	c.addJSON(f)
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		if o.Bootstrap, err = b.take(args); err != nil {
			return err
		}
		o.Out, o.OnFlags = n.stdout, n.logFlags
		res, err := nydusimage.Check(cmd.Context(), o)
		if err != nil || c.outputJSON == "" {
			return err
		}
		return res.WriteJSON(c.outputJSON)
	}
	return cmd
}

func (n *nydusApp) inspectCommand() *cobra.Command {
	var o nydusimage.InspectOptions
	var b bootstrapFlag
	var c nydusCommon
	var blobDir string
	cmd := &cobra.Command{
		Use:   "inspect [OPTIONS] [BOOTSTRAP]",
		Short: "Inspect RAFS filesystem metadata in interactive or request mode",
		Args:  nydusArgs(0, 1),
	}
	f := cmd.Flags()
	b.add(f, deprecatedBootstrap)
	f.StringVarP(&blobDir, "blob-dir", "D", "", "Directory for localfs storage backend, hosting data blobs and cache files")
	c.addConfig(f)
	f.StringVarP(&o.Request, "request", "R", "", "Inspect RAFS filesystem metadata in request mode")
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		if o.Bootstrap, err = b.take(args); err != nil {
			return err
		}
		o.In, o.Out, o.OnFlags = n.stdin, n.stdout, n.logFlags
		return nydusimage.Inspect(cmd.Context(), o)
	}
	return cmd
}

func (n *nydusApp) statCommand() *cobra.Command {
	var o nydusimage.StatOptions
	var c nydusCommon
	var digester string
	cmd := &cobra.Command{
		Use:   "stat [OPTIONS]",
		Short: "Generate statistics information for RAFS filesystems",
		Args:  nydusArgs(0, 0),
	}
	f := cmd.Flags()
	f.StringVarP(&o.Bootstrap, "bootstrap", "B", "", "Generate statistics information for the RAFS filesystem")
	f.StringVarP(&o.BlobDir, "blob-dir", "D", "", "Generate statistics information for all RAFS filesystems in the directory")
	f.StringVarP(&o.Target, "target", "T", "", "Generate statistics information for the RAFS filesystem after applying chunk deduplication")
	c.addConfig(f)
	oneOf(f, &digester, "digester", "", "blake3", "Algorithm to digest data chunks:", nydusDigesters)
	f.StringVarP(&o.JSON, "output-json", "J", "", "File path to save operation result in JSON format")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		o.Out = n.stdout
		_, err := nydusimage.Stat(cmd.Context(), o)
		return err
	}
	return cmd
}

// nydusBackend are the flags that say where blobs are.
type nydusBackend struct{ kind, config, configFile string }

func (b *nydusBackend) add(f *pflag.FlagSet) {
	oneOf(f, &b.kind, "backend-type", "", "", "Type of backend", []string{"oss", "s3", "registry", "localfs", "localdisk", "http-proxy"})
	f.StringVar(&b.config, "backend-config", "", "Config string of backend")
	f.StringVar(&b.configFile, "backend-config-file", "", "Config file of backend")
}

// source returns what finds the blobs, nil without the flags.
func (b *nydusBackend) source(ctx context.Context) (nydusimage.BlobSource, error) {
	if b.kind == "" {
		return nil, nil
	}
	config := []byte(b.config)
	switch {
	case b.configFile != "":
		var err error
		if config, err = os.ReadFile(b.configFile); err != nil {
			return nil, fmt.Errorf("backend configuration: %w", err)
		}
	case b.config == "":
		return nil, errors.New("--backend-config or --backend-config-file must be specified")
	}
	return nydusimage.Backend(ctx, b.kind, config, store.Options{Proxy: http.ProxyFromEnvironment})
}

func (n *nydusApp) unpackCommand() *cobra.Command {
	var o nydusimage.UnpackOptions
	var b bootstrapFlag
	var backend nydusBackend
	cmd := &cobra.Command{
		Use:   "unpack [OPTIONS] --output <output> [BOOTSTRAP]",
		Short: "Unpack a RAFS filesystem to a tar file",
		Args:  nydusArgs(0, 1),
	}
	f := cmd.Flags()
	backend.add(f)
	b.add(f, deprecatedBootstrap)
	f.StringVarP(&o.Blob, "blob", "b", "", "Path to RAFS data blob file")
	f.StringVarP(&o.BlobDir, "blob-dir", "D", "", "Directory for localfs storage backend, hosting data blobs and cache files")
	f.StringVar(&o.Output, "output", "", "Path for output tar file")
	cmd.RunE = func(cmd *cobra.Command, args []string) (err error) {
		if o.Bootstrap, err = b.take(args); err != nil {
			return err
		}
		if !f.Changed("output") {
			return usagef("the following required arguments were not provided: --output <output>")
		}
		if o.Source, err = backend.source(cmd.Context()); err != nil {
			return err
		}
		sockets, err := nydusimage.Unpack(cmd.Context(), o)
		if sockets > 0 {
			fmt.Fprintf(n.stderr, "nydus-image: %d sockets left out: a tar cannot hold them\n", sockets)
		}
		return err
	}
	return cmd
}

func (n *nydusApp) exportCommand() *cobra.Command {
	var o nydusimage.ExportOptions
	var c nydusCommon
	var block bool
	var threads int
	cmd := &cobra.Command{
		Use:   "export [OPTIONS] --block",
		Short: "Export RAFS filesystems as raw block disk images or tar files",
		Args:  nydusArgs(0, 0),
	}
	f := cmd.Flags()
	f.BoolVar(&block, "block", false, "Export RAFS filesystems as raw block disk images")
	f.StringVarP(&o.Bootstrap, "bootstrap", "B", "", "Bootstrap of the RAFS filesystem to be exported")
	f.StringVarP(&c.config, "config", "C", "", "Configuration file containing a `BlobCacheEntry` object")
	f.StringVarP(&o.BlobDir, "localfs-dir", "D", "", "Path to the `localfs` working directory, which also enables the `localfs` storage backend")
	f.IntVar(&threads, "threads", 4, "Number of worker threads to execute export operation, valid values: [1-32]")
	f.StringVarP(&o.Output, "output", "O", "", "File path for saving the exported content")
	f.BoolVar(&o.Verity, "verity", false, "Generate dm-verity data for block device")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		switch {
		case !block:
			return usagef("the following required arguments were not provided: --block")
		case threads < 1 || threads > 32:
			return usagef("invalid value '%d' for '--threads <threads>': 1 to 32 are possible", threads)
		case (o.BlobDir == "") != (o.Bootstrap == ""):
			return usagef("'--bootstrap' and '--localfs-dir' need each other")
		case o.BlobDir != "" && c.config != "":
			return usagef("the argument '--localfs-dir <localfs-dir>' cannot be used with '--config <config>'")
		case c.config != "":
			if _, err := os.Stat(c.config); err != nil {
				return fmt.Errorf("configuration: %w", err)
			}
			return fmt.Errorf("export with --config: %w", blob.ErrUnsupported)
		case o.BlobDir == "":
			return errors.New("both option `-C/--config` and `-D/--localfs-dir` are missing")
		}
		v, err := nydusimage.Export(cmd.Context(), o)
		if err != nil || v == nil {
			return err
		}
		_, err = fmt.Fprintln(n.stdout, v.Options())
		return err
	}
	return cmd
}
