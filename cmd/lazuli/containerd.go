package main

import (
	"cmp"
	"fmt"
	"os"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/pflag"

	"github.com/lazuli-project/lazuli/containerd"
	"github.com/lazuli-project/lazuli/store"
)

// containerdFlags say which containerd "containerd:" references name. What is not given is taken from the environment, as with
// containerd's own programs.
type containerdFlags struct{ address, namespace string }

func (c *containerdFlags) add(f *pflag.FlagSet, prefix string) {
	f.StringVar(&c.address, prefix+"containerd-address", "", "`SOCKET` of containerd ($CONTAINERD_ADDRESS, or "+containerd.DefaultAddress+")")
	f.StringVar(&c.namespace, prefix+"containerd-namespace", "", "`NAMESPACE` of containerd: references without one ($CONTAINERD_NAMESPACE, or "+containerd.DefaultNamespace+")")
}

// over returns the flags, with others where they are not given.
func (c containerdFlags) over(others containerdFlags) containerdFlags {
	return containerdFlags{cmp.Or(c.address, others.address), cmp.Or(c.namespace, others.namespace)}
}

func (c containerdFlags) options() containerd.Options {
	return containerd.Options{
		Address:   cmp.Or(c.address, os.Getenv("CONTAINERD_ADDRESS")),
		Namespace: cmp.Or(c.namespace, os.Getenv("CONTAINERD_NAMESPACE")),
		Needed:    neededObjects,
	}
}

func (c containerdFlags) opener() *containerd.Opener { return containerd.NewOpener(c.options()) }

// onMissing says what of an image is left out because containerd does not have it; nil where a source should be whole.
func (a *app) onMissing(source store.Ref) func(ocispec.Descriptor, string) {
	if source.Transport != store.Containerd {
		return nil
	}
	return func(d ocispec.Descriptor, platform string) {
		what := "the image for " + platform
		if d.Platform != nil && d.Platform.OS == "unknown" {
			what = "an attestation"
		}
		fmt.Fprintf(a.stderr, "lazuli: %s is left out: containerd has not pulled it\n", what)
	}
}
