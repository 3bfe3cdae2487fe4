package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/lazuli-project/lazuli/overlaybdtools"
)

// overlaybdCommit is the program overlaybd-commit.
func (a *app) overlaybdCommit(ctx context.Context, args []string) int {
	t := a.overlaybdTool("overlaybd-commit", "Make a finished layer of overlaybd of a writable one", []string{"data_file"}, "index_file", "commit_file")
	t.files = t.required
	checkUpload := t.uploadFlags()
	var o overlaybdtools.CommitOptions
	var fastoci, seal bool
	f := t.cmd.Flags()
	f.StringVarP(&o.Message, "message", "m", "", "add some custom message if needed")
	f.StringVar(&o.UUID, "uuid", "", "uuid")
	f.StringVarP(&o.Parent, "parent-uuid", "p", "", "parent uuid")
	f.BoolVarP(&o.Compress, "compress", "z", false, "compress to zfile")
	f.BoolVarP(&o.Tar, "tar", "t", false, "wrapper with tar")
	f.BoolVarP(&o.Replace, "force", "f", false, "force compress. unlink exist")
	t.compressionFlags(&o.Compression)
	f.IntVar(&o.Compression.Threads, "compress_threads", 0, "compress threads (default: one for each core)")
	f.BoolVar(&o.Turbo, "turboOCI", false, "commit using turboOCIv1 format")
	f.BoolVar(&fastoci, "fastoci", false, "commit using turboOCIv1 format (deprecated)")
	f.BoolVar(&seal, "seal", false, "seal only, data_file is output itself")
	f.BoolVar(&o.Sealed, "commit_sealed", false, "commit sealed, index_file is output")
	return t.run(ctx, args, func(ctx context.Context, args []string) error {
		if err := checkUpload(); err != nil {
			return err
		}
		if !o.Compress && (f.Changed("algorithm") || f.Changed("bs")) {
			fmt.Fprintln(t.stderr, "WARNING option '--bs' and '--algorithm' will be ignored without '-z'")
			o.Compression.Algorithm, o.Compression.BlockKB = "", 0
		}
		o.Data, o.Index, o.Output, o.Turbo = args[0], args[1], args[2], o.Turbo || fastoci
		switch {
		case seal && (o.Turbo || o.Sealed):
			return errors.New("--seal is for layers that are written, and not for those of turboOCI")
		case seal:
			return overlaybdtools.Seal(o.Data, o.Index)
		case o.Sealed:
			o.Output = o.Index
		}
		if err := overlaybdtools.Commit(ctx, o); err != nil {
			return err
		}
		fmt.Fprintln(t.stdout, "overlaybd-commit has committed files SUCCESSFULLY")
		return nil
	})
}

// overlaybdMerge is the program overlaybd-merge.
func (a *app) overlaybdMerge(ctx context.Context, args []string) int {
	t := a.overlaybdTool("overlaybd-merge", "Merge the layers of a disk of overlaybd into one", []string{"image_config_path"}, "output")
	t.files = t.required
	t.serviceFlag()
	checkUpload := t.uploadFlags()
	var o overlaybdtools.MergeOptions
	f := t.cmd.Flags()
	f.BoolVar(&o.Compress, "compress", true, "do zfile compression for the output layer")
	f.BoolVarP(&o.Tar, "tar", "t", false, "wrapper with tar")
	return t.run(ctx, args, func(ctx context.Context, args []string) error {
		if err := checkUpload(); err != nil {
			return err
		}
		o.Config, o.Output = args[0], args[1]
		return overlaybdtools.Merge(ctx, o)
	})
}

// overlaybdZFile is the program overlaybd-zfile.
func (a *app) overlaybdZFile(ctx context.Context, args []string) int {
	t := a.overlaybdTool("overlaybd-zfile", "Create, extract and verify compressed files of overlaybd", []string{"source_file"}, "target_file")
	o := overlaybdtools.CompressOptions{Stdin: a.stdin}
	var extract, verify bool
	f := t.cmd.Flags()
	f.BoolVarP(&o.Tar, "tar", "t", false, "wrapper with tar")
	f.BoolVarP(&extract, "extract", "x", false, "extract zfile")
	f.BoolVar(&verify, "verify", false, "verify checksum of {source_file}")
	f.BoolVarP(&o.Replace, "force", "f", false, "force compress. unlink exist")
	t.compressionFlags(&o.Compression)
	return t.run(ctx, args, func(ctx context.Context, args []string) error {
		source, target := args[0], args[1]
		switch {
		case verify:
			if err := overlaybdtools.Verify(ctx, source); err != nil {
				fmt.Fprintf(t.stdout, "%s is not a valid zfile blob or checksum can't be found.\n", source)
				return err
			}
			fmt.Fprintf(t.stdout, "%s is a valid zfile blob.\n", source)
			return nil
		case extract && target == "":
			return errors.New("decompression can't use STDIN")
		case extract:
			fmt.Fprintf(t.stdout, "decompress file %s as %s\n", source, target)
			if err := overlaybdtools.Extract(ctx, source, target, o.Replace); err != nil {
				return err
			}
			fmt.Fprintln(t.stdout, "decompress file done.")
			return nil
		}
		if target == "" { // the one argument is the target
			source, target = "", source
		}
		fmt.Fprintf(t.stdout, "compress file %s as %s\n", source, target)
		o.Source, o.Output = source, target
		if err := overlaybdtools.Compress(ctx, o); err != nil {
			return err
		}
		fmt.Fprintln(t.stdout, "compress file done.")
		return nil
	})
}
