package main

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"github.com/lazuli-project/lazuli/catalog"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/store"
)

type copyResult struct {
	Source  string `json:"source"`
	Target  string `json:"target"`
	Digest  string `json:"digest"`
	Copied  int    `json:"copied_objects"`
	Bytes   int64  `json:"copied_bytes"`
	Mounted int    `json:"mounted_objects"`
	Present int    `json:"present_objects"`
}

func (a *app) copyCommand() *cobra.Command {
	var referrers bool
	cmd := &cobra.Command{
		Use:   "copy SOURCE TARGET",
		Short: "Copy an image as it is",
		Example: `  lazuli copy node:19 oci:/tmp/node:19
  lazuli copy --referrers host/app:1 other/app:1`,
		Args: exactArgs(2),
	}
	cmd.Flags().BoolVar(&referrers, "referrers", false, "also copy what refers to the image")
	both, src, dest := addStoreFlags(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return a.copy(cmd.Context(), args[0], args[1], src.over(both), dest.over(both), referrers)
	}
	return cmd
}

func (a *app) copy(ctx context.Context, source, target string, srcFlags, destFlags *storeFlags, referrers bool) (err error) {
	refs, src, dest, err := a.openSides(ctx, source, target, srcFlags, destFlags)
	if err != nil {
		return err
	}
	defer closeQuietly(src)
	defer func() { err = errors.Join(err, dest.Close()) }()
	desc, err := src.Resolve(ctx)
	if err != nil {
		return err
	}
	res := copyResult{Source: refs[0].String(), Target: refs[1].String(), Digest: desc.Digest.String()}
	var mu sync.Mutex // guards res
	err = store.Copy(ctx, dest, src, desc, store.CopyOptions{Concurrency: a.jobs, Referrers: referrers, Needed: neededObjects, OnBlob: func(d ocispec.Descriptor, how store.CopyResult) {
		mu.Lock()
		defer mu.Unlock()
		switch how {
		case store.Copied:
			res.Copied++
			res.Bytes += d.Size
		case store.Mounted:
			res.Mounted++
		case store.Present:
			res.Present++
		case store.Skipped:
		}
	}})
	if err != nil {
		return err
	}
	if err := dest.Tag(ctx, desc, ""); err != nil {
		return err
	}
	if err := dest.Commit(ctx); err != nil {
		return err
	}
	if a.json {
		return a.printJSON(res)
	}
	_, err = fmt.Fprintf(a.stdout, "%s@%s: %d objects copied (%s), %d mounted, %d there already\n",
		refs[1], res.Digest, res.Copied, formatSize(res.Bytes), res.Mounted, res.Present)
	return err
}

// neededObjects returns what an image needs beside what its manifest lists.
func neededObjects(desc ocispec.Descriptor, raw *ocispec.Manifest) []digest.Digest {
	m := &formats.Manifest{Desc: desc, Manifest: *raw}
	for _, r := range catalog.LazyReaders() {
		if n, ok := r.(formats.ObjectNeeder); ok && r.Recognize(m) {
			return n.NeededObjects(m)
		}
	}
	return nil
}
