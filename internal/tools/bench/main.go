// Command bench measures conversions and compares them with the reference tools where these are installed. Everything that
// is compared runs in turns in one call, because machines are noisy; medians and ratios are printed as a Markdown table.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

type bench struct {
	lazuli, dir          string
	nydusImage, nydusify string
	overlaybd, convertor string // folder of the tools; converter of images
	image, large         string // OCI layouts
	runs                 int
	only                 string
	tiny                 int
	rows                 []row
}

// row is a line of the table: ours against the peer, with the goal for the ratio.
type row struct {
	what, unit string
	ours, peer float64
	goal       string
	note       string
}

func main() {
	var b bench
	flag.StringVar(&b.lazuli, "lazuli", "build/lazuli", "the binary")
	flag.StringVar(&b.dir, "dir", "build", "where images and results are kept")
	flag.StringVar(&b.image, "image", "", "OCI layout of the image (DIR/images/node, which is built where it is absent)")
	flag.StringVar(&b.large, "large", "", "OCI layout of a large image, for its memory; none by default")
	flag.StringVar(&b.nydusImage, "nydus-image", "nydus-image", "the peer's converter of layers")
	flag.StringVar(&b.nydusify, "nydusify", "nydusify", "the peer's converter of images")
	flag.StringVar(&b.overlaybd, "overlaybd", "/opt/overlaybd/bin", "folder of the tools of overlaybd")
	flag.StringVar(&b.convertor, "convertor", "convertor", "overlaybd's converter of images")
	flag.IntVar(&b.runs, "runs", 3, "measured runs of each; the median counts")
	flag.IntVar(&b.tiny, "tiny", 1_000_000, "files of the layer of tiny files; 0 leaves it out")
	flag.StringVar(&b.only, "only", "", "one step alone: layouts, refs, codecs, registries, disks, diskregistries, memory or tiny")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := b.run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func (b *bench) run(ctx context.Context) error {
	for _, p := range []*string{&b.lazuli, &b.dir} {
		abs, err := filepath.Abs(*p)
		if err != nil {
			return err
		}
		*p = abs
	}
	if b.image == "" {
		b.image = filepath.Join(b.dir, "images", "node")
		c := exec.CommandContext(ctx, "scripts/node-image.sh", filepath.Join(b.dir, "images"))
		c.Stderr = os.Stderr
		if err := c.Run(); err != nil {
			return fmt.Errorf("build the node image: %w", err)
		}
	}
	b.findPeers()
	b.findOverlaybd()
	if err := os.MkdirAll(b.dir, 0o755); err != nil {
		return err
	}
	work, err := os.MkdirTemp(b.dir, "bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work) // a folder of ours
	for _, step := range []struct {
		name string
		run  func(context.Context, string) error
	}{{"layouts", b.layouts}, {"refs", b.refs}, {"codecs", b.codecs}, {"registries", b.registries}, {"disks", b.disks}, {"diskregistries", b.diskRegistries}, {"memory", b.memory}, {"tiny", b.tinyFiles}} {
		if b.only != "" && b.only != step.name {
			continue
		}
		if err := step.run(ctx, work); err != nil {
			return err
		}
	}
	b.print()
	return nil
}

// findPeers forgets peers that are not installed, and says how to get them.
func (b *bench) findPeers() {
	if p, err := exec.LookPath(b.nydusImage); err == nil {
		b.nydusImage = p
	} else {
		b.nydusImage = ""
		fmt.Println("nydus-image is not installed: 2.2.0 comes by `cargo install --locked nydus-rs --version 2.2.0` (needs protobuf-compiler);\n" +
			"2.4 by `cargo build --release --locked` in the source of Nydus. Then give -nydus-image FILE.")
	}
	if p, err := exec.LookPath(b.nydusify); err == nil && b.nydusImage != "" {
		b.nydusify = p
	} else {
		b.nydusify = ""
		fmt.Println("nydusify is not installed: `go build ./cmd` in contrib/nydusify of the source of Nydus. Then give -nydusify FILE.")
	}
}

// cost is what one command, or several, took.
type cost struct {
	wall, cpu float64 // seconds
	rss       float64 // MiB, of the largest process
	out       []byte
}

// measure runs a command to its end.
func measure(ctx context.Context, stdin string, args ...string) (cost, error) {
	c := exec.CommandContext(ctx, args[0], args[1:]...)
	var stderr strings.Builder
	c.Stderr = &stderr
	c.Stdin = strings.NewReader(stdin)
	begin := time.Now()
	out, err := c.Output()
	k := cost{wall: time.Since(begin).Seconds(), out: out}
	if err != nil {
		return k, fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, stderr.String())
	}
	u, ok := c.ProcessState.SysUsage().(*syscall.Rusage)
	if !ok {
		return k, errors.New("no resource usage on this system")
	}
	k.cpu = float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
	k.rss = float64(u.Maxrss) / 1024
	return k, nil
}

// alternate runs both in turns and returns the medians. The second may be nil.
func (b *bench) alternate(ours, peer func() (cost, error)) (o, p cost, err error) {
	var all [2][]cost
	for i := 0; i <= b.runs; i++ { // the first warms up
		for k, f := range []func() (cost, error){ours, peer} {
			if f == nil {
				continue
			}
			c, err := f()
			if err != nil {
				return o, p, err
			}
			if i > 0 {
				all[k] = append(all[k], c)
			}
		}
	}
	return median(all[0]), median(all[1]), nil
}

func median(list []cost) cost {
	var m cost
	if len(list) == 0 {
		return m
	}
	pick := func(f func(cost) float64) float64 {
		var v []float64
		for _, c := range list {
			v = append(v, f(c))
		}
		slices.Sort(v)
		return v[len(v)/2]
	}
	m.wall = pick(func(c cost) float64 { return c.wall })
	m.cpu = pick(func(c cost) float64 { return c.cpu })
	m.rss = pick(func(c cost) float64 { return c.rss })
	m.out = list[0].out
	return m
}

func (b *bench) add(r row) {
	b.rows = append(b.rows, r)
	fmt.Printf("%-60s ours %8.2f %s, peer %8.2f\n", r.what, r.ours, r.unit, r.peer)
}

func (b *bench) print() {
	fmt.Print("\n| what | ours | peer | ratio | goal |\n|---|---|---|---|---|\n")
	for _, r := range b.rows {
		peer, ratio := "not installed", ""
		if r.peer > 0 {
			peer, ratio = fmt.Sprintf("%.2f %s", r.peer, r.unit), fmt.Sprintf("%.2f", r.ours/r.peer)
		} else if r.note != "" {
			peer = r.note
		}
		fmt.Printf("| %s | %.2f %s | %s | %s | %s |\n", r.what, r.ours, r.unit, peer, ratio, r.goal)
	}
}
