//go:build linux

package daemon_test

import (
	"context"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/cmd/buildkitd/config"
	"github.com/moby/buildkit/worker"
	"github.com/moby/buildkit/worker/base"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/buildkit/baseimage"
	"github.com/lazuli-project/lazuli/buildkit/daemon"
	"github.com/lazuli-project/lazuli/buildkit/exporter"
	"github.com/lazuli-project/lazuli/catalog"
	"github.com/lazuli-project/lazuli/check"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/image"
	"github.com/lazuli-project/lazuli/store"
)

// testDaemon is a daemon in this process, with a registry.
type testDaemon struct {
	t        *testing.T
	client   *client.Client
	registry string
}

// newDaemon starts a daemon that can do all but run programs.
func newDaemon(t *testing.T) *testDaemon {
	if os.Geteuid() != 0 {
		t.Skip("needs root: BuildKit mounts what it packs")
	}
	dir := t.TempDir()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	yes, no := true, false
	cfg := &config.Config{Root: filepath.Join(dir, "root")}
	cfg.GRPC.Address = []string{"unix://" + filepath.Join(dir, "sock")}
	cfg.OTEL.SocketPath = filepath.Join(dir, "otel")
	cfg.CDI.Disabled = &yes
	oci := &cfg.Workers.OCI
	oci.Enabled, oci.Snapshotter, oci.Binary, oci.Mode, oci.GC = &yes, "native", program, "host", &no
	cfg.Workers.Containerd.Enabled = &no
	cfg.Log.Level = "error"
	daemon.SetDefaults(cfg, false)

	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- daemon.Run(ctx, daemon.Options{Config: cfg, WrapWorker: func(w *base.Worker) worker.Worker { return baseimage.Wrap(w, exporter.Wrap(w)) }})
	}()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("the daemon ends with: %v", err)
		}
	})
	c, err := client.New(t.Context(), cfg.GRPC.Address[0])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	ready, cancel := context.WithCancelCause(t.Context())
	go func() {
		select {
		case err := <-done:
			done <- err
			cancel(err)
		case <-ready.Done():
		}
	}()
	if err := c.Wait(ready); err != nil {
		t.Fatal(err, context.Cause(ready))
	}
	cancel(nil)
	r := httptest.NewServer(registry.New(registry.WithReferrersSupport(true), registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(r.Close)
	return &testDaemon{t, c, strings.TrimPrefix(r.URL, "http://")}
}

// solve builds and exports; it returns what the client is told, and the names of the steps' lines.
func (d *testDaemon) solve(state llb.State, exports ...client.ExportEntry) (map[string]string, []string) {
	d.t.Helper()
	def, err := state.Marshal(d.t.Context(), llb.LinuxAmd64)
	if err != nil {
		d.t.Fatal(err)
	}
	var lines []string
	statuses := make(chan *client.SolveStatus)
	var group sync.WaitGroup
	group.Go(func() {
		for s := range statuses {
			for _, line := range s.Statuses {
				if line.Completed != nil {
					lines = append(lines, line.ID)
				}
			}
		}
	})
	res, err := d.client.Solve(d.t.Context(), def, client.SolveOpt{Exports: exports}, statuses)
	group.Wait()
	if err != nil {
		d.t.Fatal(err)
	}
	return res.ExporterResponse, lines
}

// output is an output under a name in the registry.
func (d *testDaemon) output(format, name string, attrs ...string) client.ExportEntry {
	e := client.ExportEntry{Type: format, Attrs: map[string]string{"name": d.registry + "/" + name}}
	for _, a := range attrs {
		key, value, _ := strings.Cut(a, "=")
		e.Attrs[key] = value
	}
	return e
}

// open opens what a name in the registry names.
func (d *testDaemon) open(name string) (store.Source, ocispec.Descriptor) {
	d.t.Helper()
	ref, err := store.Parse(d.registry + "/" + name)
	if err != nil {
		d.t.Fatal(err)
	}
	src, err := store.OpenSource(d.t.Context(), ref, store.Options{})
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { src.Close() })
	desc, err := src.Resolve(d.t.Context())
	if err != nil {
		d.t.Fatal(err)
	}
	return src, desc
}

func (d *testDaemon) manifest(name string) *formats.Manifest {
	d.t.Helper()
	src, desc := d.open(name)
	m, err := store.LoadManifest(d.t.Context(), src, desc)
	if err != nil {
		d.t.Fatal(err)
	}
	return m
}

// equal fails unless two names have the same files.
func (d *testDaemon) equal(want, got string) {
	d.t.Helper()
	images := make([]*image.Image, 0, 2)
	for _, name := range []string{want, got} {
		src, desc := d.open(name)
		o, err := image.OpenManifest(d.t.Context(), src, nil, desc, image.Options{Readers: catalog.Readers()})
		if err != nil {
			d.t.Fatal(err)
		}
		defer o.Close()
		images = append(images, o)
	}
	err := check.Compare(d.t.Context(), images[0].Image, images[1].Image, func(f check.Difference) error {
		d.t.Errorf("%s and %s: %v", want, got, f)
		return nil
	})
	if err != nil {
		d.t.Error(err)
	}
}

// kinds says what the layers of an image are.
func kinds(m *formats.Manifest) string {
	var list []string
	for _, l := range m.Manifest.Layers {
		switch {
		case l.Annotations["containerd.io/snapshot/nydus-blob"] != "":
			list = append(list, "blob")
		case l.Annotations["containerd.io/snapshot/nydus-bootstrap"] != "":
			list = append(list, "bootstrap")
		default:
			list = append(list, strings.TrimPrefix(l.MediaType, "application/vnd.oci.image.layer.v1."))
		}
	}
	return strings.Join(list, " ")
}

// count counts lines that begin with a word.
func count(lines []string, word string) int {
	return len(slices.DeleteFunc(slices.Clone(lines), func(l string) bool { return !strings.HasPrefix(l, word) }))
}

func TestDaemon(t *testing.T) { //nolint:tparallel // the parts build on each other
	d := newDaemon(t)
	base := llb.Scratch().File(llb.Mkfile("/base", 0o644, []byte(strings.Repeat("base ", 1000))))
	app := base.File(llb.Mkfile("/app", 0o755, []byte(strings.Repeat("app ", 1000))))

	t.Run("exports", func(t *testing.T) {
		d.t = t
		resp, lines := d.solve(app, d.output("nydus", "app"))
		m := d.manifest("app")
		if got := kinds(m); got != "blob blob bootstrap" {
			t.Errorf("layers: %s", got)
		}
		if got := resp["containerimage.digest"]; got != m.Desc.Digest.String() {
			t.Errorf("the client is told of %s instead of %s", got, m.Desc.Digest)
		}
		if got := resp["image.name"]; got != d.registry+"/app" {
			t.Errorf("the client is told of the name %q", got)
		}
		if n := count(lines, "converting layer"); n != 2 {
			t.Errorf("%d layers are converted: %q", n, lines)
		}
	})
	t.Run("converts layers once", func(t *testing.T) {
		d.t = t
		changed := base.File(llb.Mkfile("/app", 0o755, []byte("changed")))
		_, lines := d.solve(changed, d.output("nydus", "app:changed"))
		if c, r := count(lines, "converting layer"), count(lines, "reusing layer"); c != 1 || r != 1 {
			t.Errorf("%d layers are converted, %d taken as they were: %q", c, r, lines)
		}
		_, lines = d.solve(changed, d.output("nydus", "app:level", "level=9"))
		if c := count(lines, "converting layer"); c != 2 {
			t.Errorf("%d layers are converted with other options: %q", c, lines)
		}
	})
	t.Run("leaves other exporters alone", func(t *testing.T) {
		d.t = t
		d.solve(app, d.output("image", "plain", "push=true"), d.output("image", "plain:source", "push=true"))
		if got := kinds(d.manifest("plain")); got != "tar+gzip tar+gzip" {
			t.Errorf("layers: %s", got)
		}
		// And these do not change what ours make.
		before := d.manifest("app").Desc.Digest
		d.solve(app, d.output("nydus", "app"))
		if after := d.manifest("app").Desc.Digest; after != before {
			t.Errorf("%s became %s", before, after)
		}
	})
	t.Run("merges", func(t *testing.T) {
		d.t = t
		for range 3 {
			d.solve(app, d.output("nydus", "plain", "merge-manifest="))
			src, desc := d.open("plain")
			x, err := store.LoadIndex(t.Context(), src, desc)
			if err != nil {
				t.Fatal(err)
			}
			list := x.Index.Manifests
			if len(list) != 2 || list[0].ArtifactType != "" || list[1].ArtifactType == "" {
				t.Fatalf("entries: %+v", list)
			}
		}
	})
	t.Run("begins with images of ours", func(t *testing.T) {
		d.t = t
		_, lines := d.solve(llb.Image(d.registry+"/app").File(llb.Mkfile("/more", 0o644, nil)), d.output("image", "on", "push=true"))
		if got := kinds(d.manifest("on")); got != "tar+gzip tar+gzip tar+gzip" {
			t.Errorf("layers: %s", got)
		}
		if n := count(lines, "making"); n > 1 {
			t.Errorf("the base was read %d times: %q", n, lines)
		}
	})
	t.Run("begins with images of every format", func(t *testing.T) {
		d.t = t
		on := func(base string) llb.State {
			return llb.Image(d.registry + "/" + base).File(llb.Mkfile("/more", 0o644, []byte("more"), llb.WithCreatedTime(time.Unix(1, 0)))).File(llb.Rm("/base"))
		}
		d.solve(on("plain:source"), d.output("image", "made:plain", "push=true"))
		for _, format := range catalog.Formats() {
			d.solve(llb.Image(d.registry+"/plain:source"), d.output(format, "base:"+format))
			_, lines := d.solve(on("base:"+format), d.output("image", "made:"+format, "push=true"))
			d.equal("made:plain", "made:"+format)
			if n := count(lines, "making"); n > 1 {
				t.Errorf("%s: the base was read %d times: %q", format, n, lines)
			}
		}
	})
}

func TestRunRefuses(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, as the daemon does")
	}
	for name, c := range map[string]struct {
		change func(c *config.Config)
		want   string
	}{
		"log format":  {func(c *config.Config) { c.Log.Format = "xml" }, "log format"},
		"log level":   {func(c *config.Config) { c.Log.Level = "loud" }, "log level"},
		"address":     {func(c *config.Config) { c.GRPC.Address = []string{"/run/sock"} }, "you meant unix:///run/sock?"},
		"scheme":      {func(c *config.Config) { c.GRPC.Address = []string{"udp://127.0.0.1:1"} }, "unix, tcp and fd are possible"},
		"half of TLS": {func(c *config.Config) { c.GRPC.TLS.Cert = "cert.pem" }, "key and cert"},
		"snapshotter": {func(c *config.Config) { c.Workers.OCI.Snapshotter = "zfs" }, "snapshotter \"zfs\""},
		"no worker":   {func(c *config.Config) { no := false; c.Workers.OCI.Enabled = &no }, "no worker"},
		"connections": {func(c *config.Config) { n := 0; c.System = &config.SystemConfig{MaxRegistryConcurrency: &n} }, "maxRegistryConcurrency"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			yes, no := true, false
			cfg := &config.Config{Root: filepath.Join(dir, "root")}
			cfg.GRPC.Address = []string{"unix://" + filepath.Join(dir, "sock")}
			cfg.OTEL.SocketPath = filepath.Join(dir, "otel")
			cfg.CDI.Disabled, cfg.Workers.OCI.Enabled, cfg.Workers.Containerd.Enabled = &yes, &yes, &no
			c.change(cfg)
			daemon.SetDefaults(cfg, false)
			err := daemon.Run(t.Context(), daemon.Options{Config: cfg})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v", err)
			}
		})
	}
}
