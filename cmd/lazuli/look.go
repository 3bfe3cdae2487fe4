package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/cache"
	"github.com/lazuli-project/lazuli/catalog"
	"github.com/lazuli-project/lazuli/image"
	"github.com/lazuli-project/lazuli/store"
	"github.com/lazuli-project/lazuli/tree"
)

// imageFlags are the flags of commands that look at one image.
type imageFlags struct {
	store    storeFlags
	platform string
	cacheDir string
	backend  backendFlags
	keys     keyFlags
}

func (i *imageFlags) add(f *pflag.FlagSet) {
	i.store.add(f, "", "the registry")
	f.StringVar(&i.platform, "platform", "", "`OS/ARCH[/VARIANT]` of an index (linux and this machine's)")
	f.StringVar(&i.cacheDir, "cache", "", "keep what is read in `DIR`")
	i.backend.add(f, "the data are")
	i.keys.add(f)
}

// open opens the image that the reference names.
func (a *app) open(ctx context.Context, ref string, i *imageFlags) (*image.Image, error) {
	refs, err := parseRefs(ref)
	if err != nil {
		return nil, err
	}
	return a.openRef(ctx, refs[0], i, store.Options{})
}

func (a *app) openRef(ctx context.Context, ref store.Ref, i *imageFlags, base store.Options) (*image.Image, error) {
	so, err := a.storeOptions(&i.store)
	if err != nil {
		return nil, err
	}
	so.OnRequest = base.OnRequest
	o := image.Options{Store: so, Platform: i.platform, Referrers: true}
	if err := i.keys.checkRef(ref); err != nil {
		return nil, err
	}
	if o.Readers, err = i.keys.readers(); err != nil {
		return nil, err
	}
	if o.Backend, err = i.backend.open(); err != nil {
		return nil, err
	}
	if i.cacheDir != "" {
		if o.Fetch.Cache, err = cache.Open(i.cacheDir); err != nil {
			return nil, err
		}
	}
	return image.Open(ctx, ref, o)
}

func (a *app) catCommand() *cobra.Command {
	var i imageFlags
	cmd := &cobra.Command{
		Use:     "cat IMAGE PATH",
		Short:   "Print a file of an image",
		Example: "  lazuli cat localhost:5000/node:19-nydus /etc/os-release",
		Args:    exactArgs(2),
	}
	i.add(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		im, err := a.open(cmd.Context(), args[0], &i)
		if err != nil {
			return err
		}
		defer closeQuietly(im)
		n, err := lookup(im, args[0], args[1])
		if err != nil {
			return err
		}
		if !n.IsRegular() {
			return usagef("%s: %s is not a regular file", args[0], args[1])
		}
		return im.WriteContent(cmd.Context(), n, a.stdout, make([]byte, 1<<20), blob.Demand)
	}
	return cmd
}

// lookup returns the node at a path; symbolic links are followed inside of the image.
func lookup(im *image.Image, name, path string) (*tree.Node, error) {
	n, err := im.Tree.Resolve(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", name, err, store.ErrNotFound)
	}
	return n, nil
}

// printJSON prints the result of a command.
func (a *app) printJSON(v any) error {
	e := json.NewEncoder(a.stdout)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// readLines reads the lines of a file, or of standard input for "-"; none for "".
func (a *app) readLines(name string) ([]string, error) {
	var r io.Reader
	switch name {
	case "":
		return nil, nil
	case "-":
		r = a.stdin
	default:
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer closeQuietly(f)
		r = f
	}
	var lines []string
	for s := bufio.NewScanner(r); ; {
		if !s.Scan() {
			return lines, s.Err()
		}
		if line := strings.TrimSpace(s.Text()); line != "" {
			lines = append(lines, line)
		}
	}
}

// sizeFlag is a number of bytes: 1MiB, 0x100000 and 1048576 are the same.
type sizeFlag int64

func (s *sizeFlag) String() string { return formatSize(int64(*s)) }
func (*sizeFlag) Type() string     { return "SIZE" }

// Set parses a size.
func (s *sizeFlag) Set(v string) error {
	n, err := catalog.ParseSize(v)
	if err != nil {
		return err
	}
	*s = sizeFlag(n)
	return nil
}

// formatSize writes a number of bytes for people.
func formatSize(n int64) string {
	f := float64(n)
	for _, unit := range []string{"B", "KiB", "MiB", "GiB"} {
		if f < 1024 || unit == "GiB" {
			if f == float64(int64(f)) {
				return fmt.Sprintf("%d%s", int64(f), unit)
			}
			return fmt.Sprintf("%.1f%s", f, unit)
		}
		f /= 1024
	}
	return ""
}
