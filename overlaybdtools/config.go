package overlaybdtools

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/lazuli-project/lazuli/blob"
)

// maxConfig bounds the size of a configuration in bytes.
const maxConfig = 64 << 20

// config describes a disk, as in config.v1.json of overlaybd. What is not needed here is passed over.
type config struct {
	Lowers []lower `json:"lowers"` // the lowest first
	Upper  upper   `json:"upper"`
	// ResultFile gets "success", or "failed:" with the reason.
	ResultFile string `json:"resultFile"`
	// AccelerationLayer says that the highest lower has a list of what to read in advance, and is no part of the disk.
	AccelerationLayer bool `json:"accelerationLayer"`
}

// lower is a finished layer.
type lower struct {
	File   string `json:"file"`
	Dir    string `json:"dir"`
	Digest string `json:"digest"`
	// Of layers of turboOCI: the layer that it refers to, and the index of that.
	TargetFile   string `json:"targetFile"`
	TargetDigest string `json:"targetDigest"`
	GzipIndex    string `json:"gzipIndex"`
}

// upper is the writable layer. Target is set in those of turboOCI.
type upper struct {
	Data   string `json:"data"`
	Index  string `json:"index"`
	Target string `json:"target"`
}

func readConfig(path string) (_ *config, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	defer func() { _ = f.Close() }() // was read only
	raw, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	if len(raw) > maxConfig {
		return nil, fmt.Errorf("configuration %s: more than %d bytes: %w", path, maxConfig, blob.ErrUnsupported)
	}
	c := &config{}
	if err := json.Unmarshal(raw, c); err != nil {
		return nil, fmt.Errorf("configuration %s: %w", path, err)
	}
	if c.AccelerationLayer && len(c.Lowers) > 0 {
		c.Lowers = c.Lowers[:len(c.Lowers)-1]
	}
	return c, nil
}

// finish writes how an operation ended to the file for that. It returns the operation's error, with its own if there is one.
func (c *config) finish(err error) error {
	if c.ResultFile == "" {
		return err
	}
	text := "success"
	if err != nil {
		text = "failed:" + err.Error()
	}
	if failed := os.WriteFile(c.ResultFile, []byte(text), 0o644); failed != nil {
		return errors.Join(err, fmt.Errorf("result: %w", failed))
	}
	return err
}

// Files in the directory of a layer that runtimes download to.
var layerFiles = []string{"overlaybd.commit", ".commit", "overlaybd.sealed"}

// path returns where a layer lies.
func (l *lower) path() (string, error) {
	var places []string
	if l.File != "" {
		places = append(places, l.File)
	}
	if l.Dir != "" {
		for _, name := range layerFiles {
			places = append(places, filepath.Join(l.Dir, name))
		}
	}
	for _, p := range places {
		if _, err := os.Stat(p); err == nil {
			return p, nil
		}
	}
	if l.Digest != "" {
		return "", fmt.Errorf("layer %s is not on this machine, and layers of registries are not fetched: %w", l.Digest, blob.ErrUnsupported)
	}
	return "", fmt.Errorf("layer %q: %w", l.File, os.ErrNotExist)
}

// withDisk opens the disk that a configuration describes, calls fn, and reports to the result file.
func withDisk(ctx context.Context, path string, content bool, fn func(*stack) error) error {
	c, err := readConfig(path)
	if err != nil {
		return err
	}
	run := func() (err error) {
		s, err := openStack(ctx, c, content)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, s.close()) }()
		return fn(s)
	}
	return c.finish(run())
}

// errRefused marks what this package does not do.
func errRefused(what string) error { return fmt.Errorf("%s: %w", what, blob.ErrUnsupported) }
