package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/lazuli-project/lazuli/catalog"
	"github.com/lazuli-project/lazuli/check"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/formats/oci"
	"github.com/lazuli-project/lazuli/image"
)

type checkResult struct {
	Image       string             `json:"image"`
	Format      string             `json:"format"`
	Verified    check.Figures      `json:"verified"`
	Source      string             `json:"source,omitempty"`
	Differences []check.Difference `json:"differences"`
}

func (a *app) checkCommand() *cobra.Command {
	var i imageFlags
	var source string
	var sourceStore storeFlags
	cmd := &cobra.Command{
		Use:   "check IMAGE [--source SOURCE]",
		Short: "Verify an image, and compare it with its source",
		Long: `Verify the structure and every chunk's digest of an image. With --source, compare every path,
mode, owner, time, extended attribute, link, device and content with those of the source,
read through the lazy path. Each difference is printed on a line, and the exit code is 1.`,
		Example: `  lazuli check localhost:5000/node:19-nydus
  lazuli check localhost:5000/node:19-nydus --source node:19`,
		Args: exactArgs(1),
	}
	i.add(cmd.Flags())
	cmd.Flags().StringVar(&source, "source", "", "`IMAGE` that this one was made of")
	sourceStore.add(cmd.Flags(), "src-", "the source's registry")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ctx := cmd.Context()
		im, err := a.open(ctx, args[0], &i)
		if err != nil {
			return err
		}
		defer closeQuietly(im)
		res := checkResult{Image: args[0], Format: im.Format, Differences: []check.Difference{}, Source: source}
		if res.Verified, err = check.Verify(ctx, im.Image); err != nil {
			return fmt.Errorf("%s: %w", args[0], err)
		}
		if source != "" {
			refs, err := parseRefs(source)
			if err != nil {
				return err
			}
			so, err := a.storeOptions(sourceStore.over(&i.store))
			if err != nil {
				return err
			}
			// The plain image is the source where there are several.
			plainFirst := append([]formats.Reader{oci.Reader{}}, catalog.LazyReaders()...)
			src, err := image.Open(ctx, refs[0], image.Options{Store: so, Platform: i.platform, Readers: plainFirst})
			if err != nil {
				return fmt.Errorf("source: %w", err)
			}
			defer closeQuietly(src)
			err = check.Compare(ctx, src.Image, im.Image, func(d check.Difference) error {
				res.Differences = append(res.Differences, d)
				if a.json {
					return nil
				}
				_, err := fmt.Fprintln(a.stdout, d)
				return err
			})
			if err != nil {
				return err
			}
		}
		if a.json {
			err = a.printJSON(res)
		} else if len(res.Differences) == 0 {
			_, err = fmt.Fprintf(a.stdout, "%s: %s, %d blobs, %s of content verified%s\n", args[0], im.Format, res.Verified.Blobs, formatSize(res.Verified.Plain), equalTo(source))
		}
		if n := len(res.Differences); n > 0 {
			err = errors.Join(err, fmt.Errorf("%s: %w from %s in %d places", args[0], errDifferent, source, n))
		}
		return err
	}
	return cmd
}

func equalTo(source string) string {
	if source == "" {
		return ""
	}
	return ", equal to " + source + " in every detail"
}
