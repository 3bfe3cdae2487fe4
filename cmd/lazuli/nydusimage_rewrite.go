package main

import (
	"fmt"
	"strconv"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/lazuli-project/lazuli/nydusimage"
)

func (n *nydusApp) optimizeCommand() *cobra.Command {
	var o nydusimage.OptimizeOptions
	var c nydusCommon
	var backend nydusBackend
	cmd := &cobra.Command{
		Use:   "optimize [OPTIONS] --bootstrap <bootstrap>",
		Short: "Optimize By Prefetch",
		Args:  nydusArgs(0, 0),
	}
	f := cmd.Flags()
	f.StringVarP(&o.Bootstrap, "bootstrap", "B", "", "File path of RAFS metadata")
	f.StringVarP(&o.PrefetchFiles, "prefetch-files", "p", "", "Path to a hint file listing files to be prefetched: JSON, or each file on a separate line.")
	c.addConfig(f)
	backend.add(f)
	f.StringVarP(&o.BlobDir, "blob-dir", "D", "", "Directory for localfs storage backend, hosting data blobs and cache files")
	f.StringVarP(&o.Blob, "blob", "b", "", "Path to RAFS data blob file")
	f.StringVarP(&o.Output, "output-bootstrap", "O", "", "Output path of optimized bootstrap")
	f.StringVar(&o.OutputBlobDir, "output-blob-dir", "", "Directory path for storing optimized blob")
	c.addJSON(f)
	cmd.RunE = func(cmd *cobra.Command, _ []string) (err error) {
		if o.Bootstrap == "" {
			return usagef("the following required arguments were not provided: --bootstrap <bootstrap>")
		}
		if o.Source, err = backend.source(cmd.Context()); err != nil {
			return err
		}
		res, err := nydusimage.Optimize(cmd.Context(), o)
		if err != nil {
			return err
		}
		return n.finish(res, "successfully optimized RAFS filesystem", c.outputJSON)
	}
	return cmd
}

// number is a flag with a number that is a text on the command line of nydus-image.
func number(f *pflag.FlagSet, name, text string) func(def int64) (int64, error) {
	value := f.String(name, "", text)
	return func(def int64) (int64, error) {
		if *value == "" {
			return def, nil
		}
		v, err := strconv.ParseInt(*value, 10, 64)
		if err != nil || v < 0 {
			return 0, fmt.Errorf("invalid value %q for --%s", *value, name)
		}
		return v, nil
	}
}

func (n *nydusApp) compactCommand() *cobra.Command {
	o := nydusimage.DefaultCompact()
	var c nydusCommon
	var backend nydusBackend
	cmd := &cobra.Command{
		Use:   "compact [OPTIONS] --bootstrap <bootstrap> --blob-dir <blob-dir>",
		Short: "(experimental)Compact specific nydus image, remove unused chunks in blobs, merge small blobs",
		Args:  nydusArgs(0, 0),
	}
	f := cmd.Flags()
	f.StringVarP(&o.Bootstrap, "bootstrap", "B", "", "bootstrap to compact")
	backend.add(f)
	ratio := number(f, "min-used-ratio", "Lower bound of used ratio for blobs to be kept, possible values: 0-99, 0 means disable")
	size := number(f, "compact-blob-size", "Upper bound of blob size for blobs to be compacted, in bytes")
	most := number(f, "max-compact-size", "Upper bound of compacted blob size, in bytes")
	layers := number(f, "layers-to-compact", "If number of blobs >= layers_to_compact, do compact. 0 means always compact")
	f.StringVarP(&o.BlobDir, "blob-dir", "D", "", "Local blobs dir for blobs not in backend, also for output blobs")
	f.StringVar(&o.ChunkDict, "chunk-dict", "", "File path of chunk dictionary for data deduplication")
	f.StringVarP(&o.Output, "output-bootstrap", "O", "", "bootstrap to output, default is source bootstrap add suffix .compact")
	c.addJSON(f)
	cmd.RunE = func(cmd *cobra.Command, _ []string) (err error) {
		if o.Bootstrap == "" || o.BlobDir == "" {
			return usagef("the following required arguments were not provided: --bootstrap <bootstrap> --blob-dir <blob-dir>")
		}
		if o.Source, err = backend.source(cmd.Context()); err != nil {
			return err
		}
		r, err := ratio(int64(o.MinUsedRatio))
		if err != nil {
			return err
		}
		l, err := layers(int64(o.LayersToCompact))
		if err != nil {
			return err
		}
		if o.CompactBlobSize, err = size(o.CompactBlobSize); err != nil {
			return err
		}
		if o.MaxCompactSize, err = most(o.MaxCompactSize); err != nil {
			return err
		}
		if r > 99 {
			return fmt.Errorf("invalid value %d for --min-used-ratio: 0 to 99 are possible", r)
		}
		o.MinUsedRatio, o.LayersToCompact = int(r), int(min(l, 1<<20))
		res, err := nydusimage.Compact(cmd.Context(), o)
		if err != nil {
			return err
		}
		if res == nil {
			n.infof("blobs need no compaction")
			return nil
		}
		return n.finish(res, "successfully compacted RAFS filesystem", c.outputJSON)
	}
	return cmd
}

func (n *nydusApp) chunkDictCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "chunkdict [OPTIONS] [COMMAND]",
		Short: "deduplicate RAFS filesystem metadata",
		Args:  cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("unrecognized subcommand '%s'", args[0])
			}
			return cmd.Help()
		},
	}
	var o nydusimage.ChunkDictOptions
	var c nydusCommon
	var database, policy string
	var verbose bool
	generate := &cobra.Command{
		Use:   "generate [OPTIONS] <SOURCE>...",
		Short: "generate chunk dictionary based on database",
		Args:  nydusArgs(1, -1),
	}
	f := generate.Flags()
	f.StringVar(&database, "database", "", "Accepted and not used: the chunks are held in memory")
	f.StringVarP(&o.Bootstrap, "bootstrap", "B", "", "Output path of nydus overlaid bootstrap")
	f.StringVarP(&o.BlobDir, "blob-dir", "D", "", "Directory path to save generated RAFS metadata and data blobs")
	addPolicy(f, &policy)
	c.addJSON(f)
	c.addConfig(f)
	f.BoolVarP(&verbose, "verbose", "v", false, "Output message in verbose mode")
	generate.RunE = func(cmd *cobra.Command, args []string) error {
		o.Sources = args
		res, err := nydusimage.GenerateChunkDict(cmd.Context(), o)
		if err != nil {
			return err
		}
		return n.finish(res, "successfully generated chunk dictionary", c.outputJSON)
	}
	cmd.AddCommand(generate)
	return cmd
}
