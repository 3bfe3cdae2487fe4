package main

import (
	"context"
	"path/filepath"
	"strings"
)

// diskRegistries compares registry to registry with overlaybd's own converter.
func (b *bench) diskRegistries(ctx context.Context, work string) error {
	r, err := b.newRegistry(ctx, work)
	if err != nil {
		return err
	}
	defer r.close()
	for _, f := range []struct {
		what, format string
		peer         []string // flags before the tag
		goal         string
	}{
		{"overlaybd", "overlaybd", []string{"--overlaybd"}, "0.5"},
		{"turbo-oci", "turbo-oci", []string{"--fstype", "erofs", "--turboOCI"}, "0.3"},
	} {
		var peer func() (cost, error)
		if b.convertor != "" {
			peer = func() (cost, error) {
				// It converts inside of a repository; so every run gets one with the source in it.
				to := strings.TrimSuffix(r.target("peer"), ":latest")
				if _, err := measure(ctx, "", b.lazuli, "copy", "-q", r.source, to+":src"); err != nil {
					return cost{}, err
				}
				args := []string{b.convertor, "--plain", "--oci", "-r", to, "-i", "src", "-d", filepath.Join(work, "convertor")}
				return measure(ctx, "", append(append(args, f.peer...), "made")...)
			}
		}
		o, p, err := b.alternate(func() (cost, error) {
			to := r.target("ours")
			if f.format == "turbo-oci" {
				to = r.tag("ours") // beside the layers, as there
			}
			return b.convert(ctx, r.source, to, "--jobs", "2", "--format", f.format)
		}, peer)
		if err != nil {
			return err
		}
		b.add(row{f.what + ", registry to registry, against convertor: wall", "s", o.wall, p.wall, f.goal, ""})
		b.add(row{"the same: CPU", "s", o.cpu, p.cpu, "", ""})
	}
	return nil
}
