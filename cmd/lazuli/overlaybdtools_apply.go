package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/opencontainers/go-digest"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/overlaybdtools"
)

// overlaybdCreate is the program overlaybd-create.
func (a *app) overlaybdCreate(ctx context.Context, args []string) int {
	t := a.overlaybdTool("overlaybd-create", "Create a writable layer of overlaybd", []string{"data_file", "index_file", "vsize"})
	var o overlaybdtools.CreateOptions
	var fastoci bool
	f := t.cmd.Flags()
	f.StringVarP(&o.Parent, "parent", "u", "", "parent uuid")
	f.BoolVarP(&o.Sparse, "sparse", "s", false, "create sparse RW layer")
	f.BoolVar(&o.Turbo, "turboOCI", false, "create a layer of turboOCI")
	f.BoolVar(&fastoci, "fastoci", false, "create a layer of turboOCI (deprecated)")
	f.BoolVar(&o.Raw, "raw", false, "create raw image")
	f.BoolVar(&o.MakeFS, "mkfs", false, "mkfs after create")
	return t.run(ctx, args, func(ctx context.Context, args []string) (err error) {
		if o.SizeGB, err = strconv.ParseUint(args[2], 10, 63); err != nil {
			return &overlaybdUsage{overlaybdValidation, fmt.Errorf("vsize: value %s is no size in GB", args[2])}
		}
		o.Data, o.Index, o.Turbo = args[0], args[1], o.Turbo || fastoci
		if err := overlaybdtools.Create(ctx, o); err != nil {
			return err
		}
		fmt.Fprintln(t.stdout, "overlaybd-create has created files SUCCESSFULLY")
		return nil
	})
}

// overlaybdApply is the program overlaybd-apply.
func (a *app) overlaybdApply(ctx context.Context, args []string) int {
	t := a.overlaybdTool("overlaybd-apply", "Apply a layer's tar to a disk of overlaybd", []string{"input_path", "image_config_path"})
	t.files = t.required
	t.serviceFlag()
	var o overlaybdtools.ApplyOptions
	var qcow2 bool
	var checksum string
	f := t.cmd.Flags()
	f.BoolVar(&o.Raw, "raw", false, "image_config_path is a raw disk")
	f.BoolVar(&o.MakeFS, "mkfs", false, "mkfs before apply")
	f.BoolVar(&qcow2, "from_qcow2", false, "convert from a qcow2 image file (not supported)")
	_ = f.Bool("extract-rootfs", true, "for --from_qcow2 (not supported)")
	_ = f.Bool("no-extract-rootfs", false, "for --from_qcow2 (not supported)")
	f.StringVar(&o.GzipIndex, "gz_index_path", "", "build gzip index if layer is gzip; the layer is of turboOCI then")
	f.StringVar(&checksum, "checksum", "", "sha256 checksum for origin uncompressed data")
	return t.run(ctx, args, func(ctx context.Context, args []string) error {
		if qcow2 {
			return fmt.Errorf("--from_qcow2: %w", blob.ErrUnsupported)
		}
		o.Input, o.Config, o.Checksum = args[0], args[1], digest.Digest(checksum)
		if err := overlaybdtools.Apply(ctx, o); err != nil {
			return err
		}
		fmt.Fprintln(t.stdout, "overlaybd-apply done")
		fmt.Fprintln(t.stderr, checksum)
		return nil
	})
}

// turboOCIApply is the program turboOCI-apply.
func (a *app) turboOCIApply(ctx context.Context, args []string) int {
	t := a.overlaybdTool("turboOCI-apply", "Apply a layer's tar to a disk of turboOCI, or take out its headers", []string{"input_path"}, "image_config_path")
	t.files = t.required
	t.serviceFlag()
	var o overlaybdtools.TurboOptions
	var export bool
	f := t.cmd.Flags()
	f.BoolVar(&o.MakeFS, "mkfs", false, "mkfs before apply")
	f.StringVar(&o.FSType, "fstype", overlaybdtools.Ext4, "filesystem type, ext4 or erofs")
	f.StringVar(&o.GzipIndex, "gz_index_path", "gzip.meta", "build gzip index if layer is gzip")
	f.BoolVar(&o.Import, "import", false, "input_path is what --export made")
	f.BoolVar(&export, "export", false, "write the headers of the tar to image_config_path")
	return t.run(ctx, args, func(ctx context.Context, args []string) error {
		o.Input, o.Config = args[0], args[1]
		if export {
			return overlaybdtools.ExportTar(ctx, o.Input, o.Config, o.GzipIndex)
		}
		if o.Config == "" {
			return errors.New("image_config_path is missing")
		}
		if err := overlaybdtools.ApplyTurbo(ctx, o); err != nil {
			return err
		}
		fmt.Fprintln(t.stdout, "turboOCI-apply done")
		return nil
	})
}
