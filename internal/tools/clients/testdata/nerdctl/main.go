// Command nerdctl does what "nerdctl image convert --nydus --oci" does, by nerdctl's own package, with an image that it pulls from
// a registry into containerd before, and pushes there afterwards:
//
//	nerdctl [FLAG...] SOURCE TARGET
//
// scripts/compare-clients.sh builds it in a module of its own: nerdctl's command cannot be built by the module proxy alone.
package main

import (
	"context"
	"flag"
	"log"
	"os"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/nerdctl/v2/pkg/api/types"
	"github.com/containerd/nerdctl/v2/pkg/cmd/image"
)

func main() {
	var o types.ImageConvertOptions
	flag.StringVar(&o.GOptions.Address, "address", "/run/containerd/containerd.sock", "")
	flag.StringVar(&o.GOptions.Namespace, "namespace", "default", "")
	flag.StringVar(&o.GOptions.DataRoot, "data-root", "/var/lib/nerdctl", "")
	flag.StringVar(&o.NydusCompressor, "nydus-compressor", "lz4_block", "")
	flag.StringVar(&o.NydusPrefetchPatterns, "nydus-prefetch-patterns", "", "")
	flag.Parse()
	o.GOptions.Snapshotter, o.GOptions.InsecureRegistry = "overlayfs", true
	o.Stdout, o.Format, o.Oci, o.Nydus = os.Stdout, "", true, true
	if err := run(context.Background(), flag.Arg(0), flag.Arg(1), o); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, source, target string, o types.ImageConvertOptions) error {
	client, err := containerd.New(o.GOptions.Address)
	if err != nil {
		return err
	}
	defer client.Close()
	ctx = namespaces.WithNamespace(ctx, o.GOptions.Namespace)
	if _, err := client.Fetch(ctx, source, containerd.WithResolver(resolver())); err != nil {
		return err
	}
	if err := image.Convert(ctx, client, source, target, o); err != nil {
		return err
	}
	converted, err := client.GetImage(ctx, target)
	if err != nil {
		return err
	}
	return client.Push(ctx, target, converted.Target(), containerd.WithResolver(resolver()))
}

// resolver finds registries without TLS.
func resolver() remotes.Resolver {
	hosts := docker.ConfigureDefaultRegistries(docker.WithPlainHTTP(docker.MatchAllHosts))
	return docker.NewResolver(docker.ResolverOptions{Hosts: hosts})
}
