package main

import (
	"fmt"
	"runtime"
	"slices"

	"github.com/spf13/cobra"

	"github.com/lazuli-project/lazuli/check"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/formats/nydus"
	"github.com/lazuli-project/lazuli/formats/oci"
	"github.com/lazuli-project/lazuli/image"
	"github.com/lazuli-project/lazuli/nydusify"
)

func (n *nydusifyApp) checkCommand() *cobra.Command {
	var source, target, platform string
	var sourceInsecure, targetInsecure, multi bool
	var sourceBackend, targetBackend nydusifyBackend
	cmd := &cobra.Command{
		Use:     "check",
		Short:   "Verify nydus image format and content",
		Example: "  nydusify check --source host/app:1 --target host/app:1-nydus",
		Args:    exactArgs(0),
	}
	f := cmd.Flags()
	f.StringVar(&source, "source", "", "Source OCI image reference [$SOURCE]")
	f.StringVar(&target, "target", "", "Target (Nydus) image reference [$TARGET]")
	f.BoolVar(&sourceInsecure, "source-insecure", false, "Skip verifying server certs for HTTPS source registry [$SOURCE_INSECURE]")
	f.BoolVar(&targetInsecure, "target-insecure", false, "Skip verifying server certs for HTTPS target registry [$TARGET_INSECURE]")
	sourceBackend.add(f, "source-")
	targetBackend.add(f, "target-")
	f.BoolVar(&multi, "multi-platform", false, "Verify that the image contains an image index with both OCI and Nydus manifests [$MULTI_PLATFORM]")
	f.StringVar(&platform, "platform", "linux/"+runtime.GOARCH, "Specify platform identifier to choose image manifest")
	warn := n.without(f, nydusifyWhy, flagWorkDir, flagNydusImage, flagNydusd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		warn()
		if target == "" {
			return usagef("required flag \"target\" not set")
		}
		o := nydusify.CheckOptions{MultiPlatform: multi,
			OnRule: func(name string) { n.infof("checking %s", name) },
			OnDifference: func(d check.Difference, minor bool) {
				level := "error"
				if minor {
					level = "warn"
				}
				n.message(level, "%s", d)
			}}
		var err error
		if o.Image, err = n.imageOptions(platform, targetInsecure, &targetBackend); err != nil {
			return err
		}
		if o.SourceImage, err = n.imageOptions(platform, sourceInsecure, &sourceBackend); err != nil {
			return err
		}
		slices.Reverse(o.SourceImage.Readers) // the plain image is the source where there are several
		refs, err := parseRefs(target)
		if err != nil {
			return err
		}
		o.Target = refs[0]
		if source != "" {
			if refs, err = parseRefs(source); err != nil {
				return err
			}
			o.Source = refs[0]
		}
		if err := nydusify.Check(cmd.Context(), o); err != nil {
			return fmt.Errorf("%s: %w", target, err)
		}
		n.infof("verified image %s", target)
		return nil
	}
	return cmd
}

// imageOptions says how to open an image.
func (n *nydusifyApp) imageOptions(platform string, insecure bool, b *nydusifyBackend) (image.Options, error) {
	so, err := n.storeOptions(&storeFlags{insecure: insecure})
	if err != nil {
		return image.Options{}, err
	}
	o := image.Options{Store: so, Platform: platform, Readers: []formats.Reader{nydus.Reader{}, oci.Reader{}}}
	flags, err := b.flags()
	if err != nil {
		return o, err
	}
	o.Backend, err = flags.open()
	return o, err
}
