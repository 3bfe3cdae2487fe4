package main

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"

	"github.com/opencontainers/go-digest"
)

// Tools of overlaybd that are started.
var diskTools = []string{"overlaybd-create", "overlaybd-apply", "overlaybd-commit", "turboOCI-apply"}

// findOverlaybd forgets overlaybd's tools and their converter where they are not installed, and says how to get them.
func (b *bench) findOverlaybd() {
	for _, name := range diskTools {
		if _, err := exec.LookPath(filepath.Join(b.overlaybd, name)); err != nil {
			b.overlaybd = ""
			fmt.Println("overlaybd's tools are not installed: cmake and make in the source of containerd/overlaybd (needs libcurl, openssl, libaio, libnl, gflags, zstd).\n" +
				"Then give -overlaybd DIR with the programs.")
			break
		}
	}
	if p, err := exec.LookPath(b.convertor); err == nil && b.overlaybd != "" {
		b.convertor = p
	} else {
		b.convertor = ""
		fmt.Println("convertor is not installed: `go install github.com/containerd/accelerated-container-image/cmd/convertor@v1.4.3`, beside overlaybd's tools in\n" +
			"/opt/overlaybd/bin. Then give -convertor FILE.")
	}
}

// lower is a finished layer in the peer's configuration.
type lower struct {
	File         string `json:"file"`
	TargetFile   string `json:"targetFile,omitempty"`
	TargetDigest string `json:"targetDigest,omitempty"`
	GzipIndex    string `json:"gzipIndex,omitempty"`
}

type upper struct {
	Index  string `json:"index"`
	Data   string `json:"data"`
	Target string `json:"target,omitempty"`
}

type diskConfig struct {
	RepoBlobURL string  `json:"repoBlobUrl"`
	Lowers      []lower `json:"lowers"`
	Upper       upper   `json:"upper"`
	ResultFile  string  `json:"resultFile"`
}

// peerDisk makes the layers of an image one after the other, as they depend on each other, by the peer's tools, as its converter calls them.
type peerDisk struct {
	b       *bench
	dir     string
	service string
	lowers  []lower
	sum     cost
	size    int64
}

func (b *bench) newPeerDisk(dir string) (*peerDisk, error) {
	if err := os.RemoveAll(dir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	p := &peerDisk{b: b, dir: dir, service: filepath.Join(dir, "service.json"), lowers: []lower{}}
	return p, writeJSON(p.service, map[string]any{
		"registryFsVersion": "v2", "logPath": "", "logLevel": 1, "cacheConfig": map[string]any{"cacheType": "file", "cacheDir": filepath.Join(dir, "cache"), "cacheSizeGB": 4},
		"gzipCacheConfig": map[string]any{"enable": false}, "credentialConfig": map[string]any{"mode": "file", "path": ""}, "ioEngine": 0,
		"download": map[string]any{"enable": false}, "enableAudit": false,
	})
}

func writeJSON(file string, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return os.WriteFile(file, raw, 0o644)
}

// tool runs one of the peer's tools.
func (p *peerDisk) tool(ctx context.Context, name string, args ...string) error {
	c, err := measure(ctx, "", append([]string{filepath.Join(p.b.overlaybd, name)}, args...)...)
	p.sum.wall += c.wall
	p.sum.cpu += c.cpu
	p.sum.rss = max(p.sum.rss, c.rss)
	return err
}

// native makes a layer of overlaybd.
func (p *peerDisk) native(ctx context.Context, layer string) error {
	at := func(name string) string { return filepath.Join(p.dir, fmt.Sprintf("%d.%s", len(p.lowers), name)) }
	data, index, out := at("data"), at("index"), at("commit")
	create := []string{data, index, "0", "-s"}
	if len(p.lowers) == 0 {
		create = []string{data, index, "64", "-s", "--mkfs"}
	}
	if err := p.tool(ctx, "overlaybd-create", create...); err != nil {
		return err
	}
	if err := writeJSON(at("json"), diskConfig{Lowers: p.lowers, Upper: upper{Index: index, Data: data}, ResultFile: at("result")}); err != nil {
		return err
	}
	if err := p.tool(ctx, "overlaybd-apply", layer, at("json"), "--service_config_path", p.service); err != nil {
		return err
	}
	if err := p.tool(ctx, "overlaybd-commit", data, index, out, "-z", "-t"); err != nil {
		return err
	}
	fi, err := os.Stat(out)
	if err != nil {
		return err
	}
	p.size += fi.Size()
	p.lowers = append(p.lowers, lower{File: out})
	return os.Remove(data)
}

// turbo makes a layer of turboOCI with EROFS.
func (p *peerDisk) turbo(ctx context.Context, layer string) error {
	at := func(name string) string { return filepath.Join(p.dir, fmt.Sprintf("%d.%s", len(p.lowers), name)) }
	data, index, out, gz := at("data"), at("index"), at("erofs.fs.meta"), at("gzip.meta")
	if err := p.tool(ctx, "overlaybd-create", data, index, "64", "-s", "--turboOCI"); err != nil {
		return err
	}
	if err := writeJSON(at("json"), diskConfig{Lowers: p.lowers, Upper: upper{Index: index, Data: data, Target: layer}, ResultFile: at("result")}); err != nil {
		return err
	}
	if err := p.tool(ctx, "turboOCI-apply", layer, at("json"), "--gz_index_path", gz, "--fstype", "erofs", "--service_config_path", p.service); err != nil {
		return err
	}
	if err := p.tool(ctx, "overlaybd-commit", data, index, out, "-z", "--fastoci"); err != nil {
		return err
	}
	size, err := packedSize(out, gz)
	if err != nil {
		return err
	}
	p.size += size
	p.lowers = append(p.lowers, lower{File: out, TargetFile: layer, TargetDigest: "sha256:" + filepath.Base(layer), GzipIndex: gz})
	return os.Remove(data)
}

// counter counts what is written.
type counter struct{ n int64 }

func (c *counter) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return len(p), nil
}

// packedSize returns the size of a compressed tar of files, as a layer of turboOCI is one.
func packedSize(files ...string) (int64, error) {
	var c counter
	z := gzip.NewWriter(&c)
	t := tar.NewWriter(z)
	for _, f := range files {
		raw, err := os.ReadFile(f)
		if err == nil {
			err = t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: filepath.Base(f), Size: int64(len(raw)), Mode: 0o644})
		}
		if err == nil {
			_, err = t.Write(raw)
		}
		if err != nil {
			return 0, err
		}
	}
	if err := t.Close(); err != nil {
		return 0, err
	}
	err := z.Close()
	return c.n, err
}

// disks compares layout to layout with overlaybd's tools, layer after layer.
func (b *bench) disks(ctx context.Context, work string) error {
	files, err := layers(b.image)
	if err != nil {
		return err
	}
	// The order of runs is ours, theirs; both formats together come last, since their peer is the sum of the others.
	var sum cost
	for _, f := range []struct {
		format, goalWall, goalSize string
		layer                      func(*peerDisk, context.Context, string) error
	}{
		{"overlaybd", "0.5", "0.9", (*peerDisk).native},
		{"turbo-oci", "0.3", "0.5", (*peerDisk).turbo},
	} {
		var size int64
		var peer func() (cost, error)
		if b.overlaybd != "" {
			peer = func() (cost, error) {
				p, err := b.newPeerDisk(filepath.Join(work, "peer"))
				if err != nil {
					return cost{}, err
				}
				for _, l := range files {
					if err := f.layer(p, ctx, l); err != nil {
						return cost{}, err
					}
				}
				size = p.size
				return p.sum, nil
			}
		}
		o, p, err := b.alternate(func() (cost, error) {
			return b.convert(ctx, "oci:"+b.image, "oci:"+filepath.Join(work, "ours"), "--jobs", "2", "--format", f.format)
		}, peer)
		if err != nil {
			return err
		}
		var res converted
		if err := json.Unmarshal(o.out, &res); err != nil {
			return err
		}
		sum.wall += p.wall
		b.add(row{f.format + ", layout to layout, against overlaybd's tools: wall", "s", o.wall, p.wall, f.goalWall, ""})
		b.add(row{"the same: CPU", "s", o.cpu, p.cpu, "", ""})
		b.add(row{"the same: output", "MB", float64(res.Images[0].Size) / 1e6, float64(size) / 1e6, f.goalSize, ""})
		b.add(row{"the same: peak memory of a process", "MiB", o.rss, p.rss, "256 MiB", ""})
	}
	o, _, err := b.alternate(func() (cost, error) {
		return b.convert(ctx, "oci:"+b.image, "oci:"+filepath.Join(work, "ours")+":x", "--jobs", "2", "--format", "overlaybd,turbo-oci")
	}, nil)
	if err != nil {
		return err
	}
	b.add(row{"both from one download, against the sum: wall", "s", o.wall, sum.wall, "0.4", ""})
	b.add(row{"the same: peak memory", "MiB", o.rss, 0, "256 MiB", "-"})
	return b.largeDisk(ctx, work)
}

// publishedRate is what overlaybd's converter is published to do, in bytes of plain layers a second: 4.84 GB in 93 s.
const publishedRate = 4.84e9 / 93

// largeDisk measures the rate of a large image, if there is one.
func (b *bench) largeDisk(ctx context.Context, work string) error {
	if b.large == "" {
		return nil
	}
	files, err := layers(b.large)
	if err != nil {
		return err
	}
	var plain counter
	for _, name := range files {
		if err := inflateTo(&plain, name); err != nil {
			return fmt.Errorf("%s: %w", digest.NewDigestFromEncoded(digest.SHA256, filepath.Base(name)), err)
		}
	}
	c, err := b.convert(ctx, "oci:"+b.large, "oci:"+filepath.Join(work, "ours"), "--jobs", "2", "--format", "overlaybd")
	if err != nil {
		return err
	}
	b.add(row{"overlaybd, large image (" + strconv.FormatInt(plain.n/1e6, 10) + " MB plain), against the published rate", "MB/s", float64(plain.n) / c.wall / 1e6, publishedRate / 1e6, "3", ""})
	b.add(row{"the same: peak memory", "MiB", c.rss, 0, "256 MiB", "-"})
	return nil
}

func inflateTo(w io.Writer, name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close() // only read from
	z, err := gzip.NewReader(f)
	if err != nil {
		return err
	}
	_, err = io.Copy(w, z)
	return err
}
