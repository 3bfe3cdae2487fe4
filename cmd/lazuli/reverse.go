package main

import (
	"context"
	"errors"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/convert"
)

// reverse makes a plain image of a lazy one.
func (a *app) reverse(ctx context.Context, c *convertFlags, source, target string, srcFlags, destFlags *storeFlags) (err error) {
	if c.attach != string(convert.AttachTag) || c.dryRun {
		return usagef("--format oci: neither --attach nor --dry-run is possible")
	}
	refs, src, dest, err := a.openSides(ctx, source, target, srcFlags, destFlags)
	if err != nil {
		return err
	}
	defer closeQuietly(src)
	defer func() { err = errors.Join(err, dest.Close()) }()
	p := a.newProgress()
	all, err := c.keys.readers()
	if err != nil {
		return err
	}
	opt := convert.Options{Platforms: c.platforms, Jobs: a.jobs, Readers: all[:len(all)-1], OnProgress: p.layer, OnMissing: a.onMissing(refs[0])}
	if c.check {
		opt.BeforeTag = func(ctx context.Context, out convert.Output, made, source ocispec.Descriptor) error {
			got, want := convertedSides(out.Target, made, src, source)
			want.readers = all[:len(all)-1]
			return a.checkBeforeTag(ctx, want, got)
		}
	}
	res, err := convert.Reverse(ctx, src, dest, opt)
	p.end()
	if err != nil {
		return err
	}
	if c.report != nil {
		return c.report(res)
	}
	return a.printResult(res, refs)
}
