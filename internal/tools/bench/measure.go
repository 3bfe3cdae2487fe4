package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/internal/registrytest"
)

// converted is the part of "lazuli convert --json" that is used here.
type converted struct {
	CPU    float64            `json:"cpu_seconds"`
	Peak   float64            `json:"peak_memory_bytes"`
	Stages map[string]float64 `json:"stage_seconds"`
	Images []struct {
		Size int64 `json:"size"`
	} `json:"images"`
}

func (b *bench) convert(ctx context.Context, source, target string, flags ...string) (cost, error) {
	if dir, ok := strings.CutPrefix(target, "oci:"); ok {
		if err := os.RemoveAll(dir); err != nil {
			return cost{}, err
		}
	}
	args := append([]string{b.lazuli, "convert", "--json", "-q", "--record", "none"}, flags...)
	return measure(ctx, "", append(args, source, target)...)
}

// layers lists the files of a layout's layers.
func layers(layout string) ([]string, error) {
	path := func(d ocispec.Descriptor) string { return filepath.Join(layout, "blobs", "sha256", d.Digest.Encoded()) }
	var index ocispec.Index
	var m ocispec.Manifest
	if err := readJSON(filepath.Join(layout, "index.json"), &index); err != nil {
		return nil, err
	}
	if err := readJSON(path(index.Manifests[0]), &m); err != nil {
		return nil, err
	}
	var files []string
	for _, l := range m.Layers {
		files = append(files, path(l))
	}
	return files, nil
}

func readJSON(file string, v any) error {
	raw, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	return json.Unmarshal(raw, v)
}

// create runs nydus-image for every layer, jobs at a time, and returns its cost and the size of the blobs. kind is the kind
// of conversion as the flags have it.
func (b *bench) create(ctx context.Context, files []string, dir string, jobs int, kind ...string) (cost, int64, error) {
	if err := os.RemoveAll(dir); err != nil {
		return cost{}, 0, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return cost{}, 0, err
	}
	var mu sync.Mutex // guards sum, size, failed
	var sum cost
	var size int64
	var failed error
	slots := make(chan struct{}, jobs)
	var wg sync.WaitGroup
	begin := time.Now()
	for i, f := range files {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			blob := filepath.Join(dir, fmt.Sprint(i))
			args := append([]string{b.nydusImage, "create", "--log-level", "error", "--blob-inline-meta", "--blob", blob,
				"--prefetch-policy", "fs", "--whiteout-spec", "none", "--features", "blob-toc"}, kind...)
			c, err := measure(ctx, "/", append(args, f)...)
			fi, serr := os.Stat(blob)
			mu.Lock()
			defer mu.Unlock()
			if err != nil || serr != nil {
				failed = fmt.Errorf("create: %w %w", err, serr)
				return
			}
			sum.cpu += c.cpu
			sum.rss = max(sum.rss, c.rss)
			size += fi.Size()
		})
	}
	wg.Wait()
	sum.wall = time.Since(begin).Seconds()
	return sum, size, failed
}

// layouts compares local layout to local layout with create, two at a time, and merge.
func (b *bench) layouts(ctx context.Context, work string) error {
	files, err := layers(b.image)
	if err != nil {
		return err
	}
	var peerSize int64
	var mergeCost cost
	var peer func() (cost, error)
	if b.nydusImage != "" {
		peer = func() (cost, error) {
			c, size, err := b.create(ctx, files, filepath.Join(work, "peer"), 2, "--type", "targz-rafs", "--compressor", "zstd")
			if err != nil {
				return c, err
			}
			peerSize = size
			m, err := b.merge(ctx, work, len(files))
			mergeCost = m
			c.wall += m.wall
			c.cpu += m.cpu
			return c, err
		}
	}
	o, p, err := b.alternate(func() (cost, error) {
		return b.convert(ctx, "oci:"+b.image, "oci:"+filepath.Join(work, "ours"), "--jobs", "2")
	}, peer)
	if err != nil {
		return err
	}
	var res converted
	if err := json.Unmarshal(o.out, &res); err != nil {
		return err
	}
	b.add(row{"layout to layout, 2 jobs, against create (2 at a time) + merge: wall", "s", o.wall, p.wall, "0.8", ""})
	b.add(row{"the same: CPU", "s", o.cpu, p.cpu, "0.65", ""})
	b.add(row{"the same: output", "MB", float64(res.Images[0].Size) / 1e6, float64(peerSize) / 1e6, "1.03", ""})
	b.add(row{"the same: peak memory of a process", "MiB", o.rss, p.rss, "128 MiB", ""})
	b.add(row{"merge of the bootstraps", "ms", res.Stages["merge"] * 1000, mergeCost.wall * 1000, "100 ms", ""})
	floor := res.Stages["inflate"] + res.Stages["diff_id"] + res.Stages["digest"] + res.Stages["compress"] + res.Stages["write"]
	fmt.Printf("stages in seconds, with waiting for a core: %v; floor %.2f\n", res.Stages, floor)
	return nil
}

// merge merges the peer's layers.
func (b *bench) merge(ctx context.Context, work string, n int) (cost, error) {
	args := []string{b.nydusImage, "merge", "--log-level", "error", "--prefetch-policy", "fs", "--bootstrap", filepath.Join(work, "merged")}
	for i := range n {
		boot := filepath.Join(work, "peer", fmt.Sprintf("%d.boot", i))
		if err := extractBootstrap(ctx, filepath.Join(work, "peer", fmt.Sprint(i)), boot); err != nil {
			return cost{}, err
		}
		args = append(args, boot)
	}
	return measure(ctx, "/", args...)
}

// codecs compares lz4.
func (b *bench) codecs(ctx context.Context, work string) error {
	files, err := layers(b.image)
	if err != nil {
		return err
	}
	var size int64
	var peer func() (cost, error)
	if b.nydusImage != "" {
		peer = func() (c cost, err error) {
			c, size, err = b.create(ctx, files, filepath.Join(work, "peer"), 2, "--type", "targz-rafs", "--compressor", "lz4_block")
			return c, err
		}
	}
	o, p, err := b.alternate(func() (cost, error) {
		return b.convert(ctx, "oci:"+b.image, "oci:"+filepath.Join(work, "ours"), "--jobs", "2", "--compression", "lz4")
	}, peer)
	if err != nil {
		return err
	}
	var res converted
	if err := json.Unmarshal(o.out, &res); err != nil {
		return err
	}
	b.add(row{"lz4, layout to layout, against create alone: CPU", "s", o.cpu, p.cpu, "", ""})
	b.add(row{"the same: output", "MB", float64(res.Images[0].Size) / 1e6, float64(size) / 1e6, "", ""})
	return nil
}

// benchRegistry is a registry with the source image. It runs in this process and takes a share of the cores in all cases.
type benchRegistry struct {
	host, source string
	n            int
	close        func()
}

func (b *bench) newRegistry(ctx context.Context, work string) (*benchRegistry, error) {
	dir := filepath.Join(work, "registry")
	r, err := registrytest.New(registrytest.Options{Dir: dir})
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &http.Server{Handler: r, ReadHeaderTimeout: time.Minute, ErrorLog: log.New(io.Discard, "", 0)}
	ended := make(chan struct{})
	go func() {
		_ = s.Serve(l) // until it is closed
		close(ended)
	}()
	reg := &benchRegistry{host: l.Addr().String(), close: func() {
		_ = s.Close()
		<-ended
	}}
	reg.source = reg.host + "/source:latest"
	if _, err := measure(ctx, "", b.lazuli, "copy", "-q", "oci:"+b.image, reg.source); err != nil {
		reg.close()
		return nil, err
	}
	return reg, nil
}

// target names a repository of its own for each run, so that nothing is there already.
func (r *benchRegistry) target(name string) string {
	r.n++
	return fmt.Sprintf("%s/%s%d:latest", r.host, name, r.n)
}

// tag names a tag of its own for each run, where the original layers are.
func (r *benchRegistry) tag(name string) string {
	r.n++
	return fmt.Sprintf("%s/source:%s%d", r.host, name, r.n)
}

// registries compares registry to registry.
func (b *bench) registries(ctx context.Context, work string) error {
	r, err := b.newRegistry(ctx, work)
	if err != nil {
		return err
	}
	defer r.close()
	source, target, tag := r.source, r.target, r.tag
	var peer func() (cost, error)
	if b.nydusify != "" {
		peer = func() (cost, error) {
			return measure(ctx, "", b.nydusify, "convert", "--source", source, "--target", target("peer"), "--source-insecure", "--target-insecure",
				"--plain-http", "--oci", "--nydus-image", b.nydusImage, "--work-dir", filepath.Join(work, "nydusify"))
		}
	}
	o, p, err := b.alternate(func() (cost, error) { return b.convert(ctx, source, target("ours"), "--jobs", "2") }, peer)
	if err != nil {
		return err
	}
	b.add(row{"registry to registry, against nydusify: wall", "s", o.wall, p.wall, "0.35", ""})
	b.add(row{"the same: CPU", "s", o.cpu, p.cpu, "", ""})

	if b.nydusify != "" {
		peer = func() (cost, error) {
			return measure(ctx, "", b.nydusify, "convert", "--oci-ref", "--source", source, "--target", tag("peer"), "--source-insecure",
				"--target-insecure", "--plain-http", "--nydus-image", b.nydusImage, "--work-dir", filepath.Join(work, "nydusify"))
		}
	}
	o, p, err = b.alternate(func() (cost, error) {
		return b.convert(ctx, source, tag("ours"), "--jobs", "2", "--format", "nydus-ref")
	}, peer)
	if err != nil {
		return err
	}
	b.add(row{"nydus-ref, registry to registry, against nydusify: wall", "s", o.wall, p.wall, "0.45", ""})
	b.add(row{"the same: CPU", "s", o.cpu, p.cpu, "", ""})
	return nil
}

// refs compares nydus-ref, layout to layout, with create and merge.
func (b *bench) refs(ctx context.Context, work string) error {
	files, err := layers(b.image)
	if err != nil {
		return err
	}
	var source int64
	for _, f := range files {
		fi, err := os.Stat(f)
		if err != nil {
			return err
		}
		source += fi.Size()
	}
	var size int64
	var peer func() (cost, error)
	if b.nydusImage != "" {
		peer = func() (cost, error) {
			c, n, err := b.create(ctx, files, filepath.Join(work, "peer"), 2, "--type", "targz-ref")
			if err != nil {
				return c, err
			}
			size = n
			m, err := b.merge(ctx, work, len(files))
			c.wall += m.wall
			c.cpu += m.cpu
			return c, err
		}
	}
	o, p, err := b.alternate(func() (cost, error) {
		return b.convert(ctx, "oci:"+b.image, "oci:"+filepath.Join(work, "ours"), "--jobs", "2", "--format", "nydus-ref")
	}, peer)
	if err != nil {
		return err
	}
	var res converted
	if err := json.Unmarshal(o.out, &res); err != nil {
		return err
	}
	b.add(row{"nydus-ref, layout to layout, against create (2 at a time) + merge: wall", "s", o.wall, p.wall, "", ""})
	b.add(row{"the same: CPU", "s", o.cpu, p.cpu, "0.9", ""})
	b.add(row{"the same: added to the layers (the peer without its bootstrap layer)", "MB", float64(res.Images[0].Size) / 1e6, float64(size) / 1e6, "", ""})
	b.add(row{"the same: added, of the layers", "%", float64(res.Images[0].Size) / float64(source) * 100, float64(size) / float64(source) * 100, "2 %", ""})
	return nil
}

// memory measures the large image, if there is one.
func (b *bench) memory(ctx context.Context, work string) error {
	if b.large == "" {
		return nil
	}
	c, err := b.convert(ctx, "oci:"+b.large, "oci:"+filepath.Join(work, "ours"), "--jobs", "2")
	if err != nil {
		return err
	}
	b.add(row{"large image, 2 jobs: peak memory", "MiB", c.rss, 0, "128 MiB", "-"})
	b.add(row{"large image, 2 jobs: wall", "s", c.wall, 0, "", "-"})
	return nil
}
