// Command demo shows the main job on a real image: it starts a registry on loopback whose answers come at 3 MB/s, converts the
// image into it, runs "node -v" from the lazy image and after a full pull of the original one, and prints both side by side.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"github.com/lazuli-project/lazuli/internal/registrytest"
)

// rate of the registry's answers, in bytes a second.
const rate = 3_000_000

type demo struct {
	lazuli, dir string
	image       string   // reference of the source
	command     []string // in the image
	format      string   // of the lazy image
	full        string   // "", "0" or "1"
	registry    *registrytest.Registry
	host        string
	out         *os.File
}

// figures of one way to start.
type figures struct {
	First    time.Duration `json:"first_output_ns"` // from the beginning to the first byte that the program prints
	Bytes    int64         `json:"bytes"`
	Requests int           `json:"requests"`
	How      string        `json:"how"`
}

func main() {
	d := demo{out: os.Stdout}
	flag.StringVar(&d.lazuli, "lazuli", "build/lazuli", "the binary")
	flag.StringVar(&d.dir, "dir", "build", "where images and the registry are kept")
	flag.StringVar(&d.image, "image", "", "source image; without it, a node image is built from Debian packages")
	flag.StringVar(&d.format, "format", "nydus", "format of the lazy image, as convert has it")
	flag.StringVar(&d.full, "full", "", "1: measure the full pull again; 0: compute it from size and rate")
	cmd := flag.String("command", "node -v", "what to run in the image")
	flag.Parse()
	d.command = strings.Fields(*cmd)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := d.run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func (d *demo) run(ctx context.Context) error {
	if os.Geteuid() != 0 {
		return errors.New("building an image, mounting it and running it in a container need root: run make demo as root")
	}
	var err error
	if d.dir, err = filepath.Abs(d.dir); err != nil {
		return err
	}
	if d.lazuli, err = filepath.Abs(d.lazuli); err != nil {
		return err
	}
	if err := d.prepare(ctx); err != nil {
		return err
	}
	// Without a limit while the images are made; the same registry then goes on with its limit.
	stop, err := d.startRegistry(0)
	if err != nil {
		return err
	}
	err = d.make(ctx)
	stop()
	if err != nil {
		return err
	}
	if stop, err = d.startRegistry(rate); err != nil {
		return err
	}
	defer stop()
	plain, lazy := d.names()
	started, err := d.lazy(ctx, lazy)
	if err != nil {
		return err
	}
	pulled, err := d.pulled(ctx, plain)
	if err != nil {
		return err
	}
	d.table(started, pulled)
	return nil
}

// names of the two images in the registry.
func (d *demo) names() (plain, lazy string) {
	return d.host + "/demo:oci", d.host + "/demo:" + d.format
}

// make puts both images into the registry.
func (d *demo) make(ctx context.Context) error {
	plain, lazy := d.names()
	d.say("converting %s to format %s in the registry %s", d.image, d.format, d.host)
	begin := time.Now()
	if err := d.lazuliCommand(ctx, "convert", "--check", "--format", d.format, d.image, lazy); err != nil {
		return err
	}
	converted := time.Since(begin)
	if err := d.lazuliCommand(ctx, "copy", d.image, plain); err != nil {
		return err
	}
	d.say("converted and compared with its source, file by file, in %.1f s; from now on the registry gives %d MB/s", converted.Seconds(), rate/1_000_000)
	return nil
}

func (d *demo) say(format string, args ...any) {
	fmt.Fprintf(d.out, "demo: "+format+"\n", args...)
}

// prepare installs runc where it is missing, and builds the image where none is given.
func (d *demo) prepare(ctx context.Context) error {
	if _, err := exec.LookPath("runc"); err != nil {
		d.say("installing runc")
		if err := d.shell(ctx, "apt-get update -q && apt-get install -y -q --no-install-recommends runc"); err != nil {
			return fmt.Errorf("install runc: %w", err)
		}
	}
	if d.image != "" {
		return nil
	}
	d.image = "oci:" + filepath.Join(d.dir, "images", "node")
	begin := time.Now()
	if err := d.shell(ctx, "scripts/node-image.sh "+filepath.Join(d.dir, "images")); err != nil {
		return fmt.Errorf("build the node image: %w", err)
	}
	if took := time.Since(begin); took > 5*time.Second {
		d.say("built the image in %.0f s", took.Seconds())
	}
	return nil
}

func (d *demo) shell(ctx context.Context, line string) error {
	c := exec.CommandContext(ctx, "sh", "-c", line)
	c.Stderr = os.Stderr
	return c.Run()
}

// lazuliCommand runs lazuli and shows what it prints.
func (d *demo) lazuliCommand(ctx context.Context, args ...string) error {
	c := exec.CommandContext(ctx, d.lazuli, args...)
	c.Stdout, c.Stderr = d.out, os.Stderr
	if err := c.Run(); err != nil {
		return fmt.Errorf("lazuli %s: %w", strings.Join(args, " "), err)
	}
	return nil
}

// startRegistry serves the registry on a free loopback port, at most so many bytes a second; 0 is without a limit.
func (d *demo) startRegistry(bytesPerSecond int64) (func(), error) {
	var err error
	d.registry, err = registrytest.New(registrytest.Options{Dir: filepath.Join(d.dir, "registry"), BytesPerSecond: bytesPerSecond})
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &http.Server{Handler: d.registry, ReadHeaderTimeout: time.Minute}
	ended := make(chan struct{})
	go func() {
		_ = s.Serve(l) // until it is closed
		close(ended)
	}()
	d.host = l.Addr().String()
	return func() {
		_ = s.Close()
		<-ended
	}, nil
}

// measure runs a command cold and notes when it prints its first byte, and what the registry answered until it ended.
func (d *demo) measure(ctx context.Context, name string, args ...string) (figures, error) {
	_ = os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0) // not possible everywhere
	d.registry.ResetStats()
	c := exec.CommandContext(ctx, name, args...)
	c.Stderr = os.Stderr
	pipe, err := c.StdoutPipe()
	if err != nil {
		return figures{}, err
	}
	begin := time.Now()
	if err := c.Start(); err != nil {
		return figures{}, err
	}
	buf := make([]byte, 4096)
	n, err := pipe.Read(buf)
	f := figures{First: time.Since(begin), How: "measured"}
	d.say("it printed %q", strings.TrimSpace(string(buf[:n])))
	if werr := c.Wait(); err != nil || werr != nil {
		return f, fmt.Errorf("%s: %w", strings.Join(c.Args, " "), errors.Join(err, werr))
	}
	s := d.registry.Stats()
	f.Bytes, f.Requests = s.Bytes, s.Requests
	return f, nil
}

// lazy runs the command in the lazy image with an empty cache.
func (d *demo) lazy(ctx context.Context, ref string) (figures, error) {
	cache, err := os.MkdirTemp(d.dir, "cache-")
	if err != nil {
		return figures{}, err
	}
	defer os.RemoveAll(cache) // a folder of ours
	d.say("running %q in the lazy image", strings.Join(d.command, " "))
	return d.measure(ctx, d.lazuli, append([]string{"run", "--cache", cache, ref, "--"}, d.command...)...)
}

// pulled is the way without lazy loading: everything is downloaded and unpacked, then the command runs. A result is kept for
// the next demo with the same image.
func (d *demo) pulled(ctx context.Context, ref string) (figures, error) {
	var in struct {
		Digest string `json:"digest"`
		Stored int64  `json:"stored_bytes"`
		Layers []any  `json:"layers"`
	}
	out, err := exec.CommandContext(ctx, d.lazuli, "inspect", "--json", d.image).Output()
	if err != nil {
		return figures{}, fmt.Errorf("inspect %s: %w", d.image, err)
	}
	if err := json.Unmarshal(out, &in); err != nil {
		return figures{}, err
	}
	computed := figures{
		First: time.Duration(float64(in.Stored) / rate * float64(time.Second)), Bytes: in.Stored, Requests: len(in.Layers) + 2,
		How: "computed from size and rate, without unpacking",
	}
	if d.full == "0" {
		return computed, nil
	}
	kept := filepath.Join(d.dir, "pull-"+strings.TrimPrefix(in.Digest, "sha256:")+".json")
	if raw, err := os.ReadFile(kept); err == nil && d.full != "1" {
		var f figures
		if json.Unmarshal(raw, &f) == nil {
			f.How = "measured in an earlier run; FULL=1 measures again"
			return f, nil
		}
	}
	d.say("pulling and unpacking the whole original image, which takes about %.0f s at this rate", computed.First.Seconds())
	tmp, err := os.MkdirTemp(d.dir, "pull-")
	if err != nil {
		return figures{}, err
	}
	defer os.RemoveAll(tmp) // a folder of ours
	script := `set -e; "$1" copy -q "$2" "oci:$3/layout" >/dev/null; "$1" unpack "oci:$3/layout" "$3/root"; root=$3/root; shift 3; exec chroot "$root" "$@"`
	f, err := d.measure(ctx, "sh", append([]string{"-c", script, "sh", d.lazuli, ref, tmp}, d.command...)...)
	if err != nil {
		return f, err
	}
	raw, err := json.Marshal(f)
	if err != nil {
		return f, err
	}
	return f, os.WriteFile(kept, raw, 0o644)
}

func (d *demo) table(lazy, full figures) {
	fmt.Fprintf(d.out, "\n%-28s %14s %12s %10s\n", "from a registry at 3 MB/s", "first output", "bytes", "requests")
	for _, r := range []struct {
		name string
		f    figures
	}{{"lazy, as " + d.format, lazy}, {"full pull of the OCI image", full}} {
		fmt.Fprintf(d.out, "%-28s %12.1f s %9.1f MB %10d   %s\n", r.name, r.f.First.Seconds(), float64(r.f.Bytes)/1e6, r.f.Requests, r.f.How)
	}
	fmt.Fprintf(d.out, "%-28s %13.1fx %11.1fx\n", "gain", full.First.Seconds()/lazy.First.Seconds(), float64(full.Bytes)/float64(lazy.Bytes))
}
