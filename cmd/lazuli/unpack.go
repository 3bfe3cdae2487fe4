package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/tarfs"
	"github.com/lazuli-project/lazuli/tree"
	"github.com/lazuli-project/lazuli/unpack"
)

func (a *app) unpackCommand() *cobra.Command {
	var i imageFlags
	cmd := &cobra.Command{
		Use:   "unpack IMAGE DIR|-",
		Short: "Unpack an image to a directory, or as one tar to standard output",
		Long: `Unpack the merged files of an image of any format to a directory, which must be empty or absent,
or as one tar to standard output. Root keeps every owner, device and attribute; for other users what
they may not have is left out and counted.`,
		Example: `  lazuli unpack localhost:5000/node:19-nydus /tmp/node
  lazuli unpack localhost:5000/node:19-nydus - | tar -t`,
		Args: exactArgs(2),
	}
	i.add(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ctx := cmd.Context()
		im, err := a.open(ctx, args[0], &i)
		if err != nil {
			return err
		}
		defer closeQuietly(im)
		if args[1] == "-" {
			buf := make([]byte, 1<<20)
			if err := tarfs.WriteTar(a.stdout, im.Tree, func(_ string, n *tree.Node, w io.Writer) error {
				return im.WriteContent(ctx, n, w, buf, blob.Background)
			}); err != nil {
				return err
			}
			return im.Drain()
		}
		skipped, err := unpack.Dir(ctx, im.Image, args[1])
		if err == nil && skipped.Any() {
			fmt.Fprintf(a.stderr, "lazuli: left out, as they need root: owners of %d files, %d devices, %d extended attributes\n",
				skipped.Owners, skipped.Devices, skipped.Xattrs)
		}
		return err
	}
	return cmd
}
