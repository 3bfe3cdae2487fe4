package convertor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/lazuli-project/lazuli/convert"
	"github.com/lazuli-project/lazuli/store"
)

// Names of the reference's files.
const (
	fileConfig   = "config.json"
	fileManifest = "manifest.json"
	fileIndex    = "index.json"
	fileNative   = "overlaybd.commit"
	fileTurbo    = "turboOCIv1.tar.gz"
)

// WorkDir is the directory in which the reference works. Here nothing is needed in it; it has what the user asked for, under the
// reference's names:
//
//	index.json                                        converted index
//	N-PLATFORM-DIGEST/manifest.json, config.json      of image N of the index, or of the only one; PLATFORM and DIGEST are the source's
//	N-PLATFORM-DIGEST/NNNN_DIGEST/overlaybd.commit    converted layer; turboOCIv1.tar.gz is one of turboOCI
//
// Of two formats, the last one has these names, as it would overwrite the other's files in the reference. The first one's documents
// have its name in theirs: manifest.overlaybd.json.
type WorkDir struct {
	path          string
	dump, reserve bool
	made          []string // directories that were made, the deepest first
	outputs       []*watched
}

// OpenWorkDir makes the work directory, unless it is there. dump and reserve say whether documents and layers are kept.
func OpenWorkDir(path string, dump, reserve bool) (*WorkDir, error) {
	w := &WorkDir{path: path, dump: dump, reserve: reserve}
	for d := filepath.Clean(path); ; d = filepath.Dir(d) {
		if _, err := os.Stat(d); !errors.Is(err, fs.ErrNotExist) {
			break
		}
		w.made = append(w.made, d)
	}
	if err := os.MkdirAll(path, 0o755); err != nil {
		return nil, fmt.Errorf("work directory: %w", err)
	}
	return w, nil
}

// Watch returns a target in whose place w sees what is stored in t. Targets are watched in the order of the conversion's outputs.
func (w *WorkDir) Watch(t store.Target) store.Target {
	if !w.dump && !w.reserve {
		return t
	}
	o := &watched{Target: t, dir: w, small: make(map[digest.Digest][]byte), layers: make(map[digest.Digest]string)}
	w.outputs = append(w.outputs, o)
	return o
}

// Keep gives what was seen its names, once all is converted.
func (w *WorkDir) Keep(ctx context.Context, res *convert.Result) error {
	for n, o := range w.outputs {
		suffix := ""
		if n < len(w.outputs)-1 {
			suffix = "." + formatOf(res, n)
		}
		if err := w.keepOutput(ctx, res, n, o, suffix); err != nil {
			return fmt.Errorf("work directory %s: %w", w.path, err)
		}
	}
	return nil
}

func formatOf(res *convert.Result, output int) string {
	i := slices.IndexFunc(res.Images, func(im convert.Image) bool { return im.Output == output })
	if i < 0 {
		return ""
	}
	return res.Images[i].Format
}

func (w *WorkDir) keepOutput(ctx context.Context, res *convert.Result, n int, o *watched, suffix string) error {
	number, top := 0, res.Tagged[n]
	isIndex := store.IsIndex(top.MediaType)
	for _, im := range res.Images {
		if im.Output != n {
			continue
		}
		number++
		platform := ""
		if isIndex { // only an index tells the reference
			platform = strings.ReplaceAll(im.Platform, "/", "_")
		}
		dir := filepath.Join(w.path, fmt.Sprintf("%d-%s-%s", number, platform, im.Source.Digest.Encoded()))
		if w.dump {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return err
			}
			if err := o.dumpImage(ctx, im.Desc, dir, suffix); err != nil {
				return err
			}
		}
		if err := o.nameLayers(im, dir); err != nil {
			return err
		}
	}
	if w.dump && isIndex {
		_, err := o.dump(ctx, top, filepath.Join(w.path, withSuffix(fileIndex, suffix)))
		return err
	}
	return nil
}

// withSuffix puts a suffix before a name's extension.
func withSuffix(name, suffix string) string {
	ext := filepath.Ext(name)
	return strings.TrimSuffix(name, ext) + suffix + ext
}

// create makes a file for a layer whose name is not known yet.
func (w *WorkDir) create() (*os.File, error) { return os.CreateTemp(w.path, ".layer-") }

// Close removes what has no name, and the directories that were made for nothing.
func (w *WorkDir) Close() error {
	errs := make([]error, 0, len(w.outputs))
	for _, o := range w.outputs {
		errs = append(errs, o.clean())
	}
	if !w.reserve {
		for _, d := range w.made {
			_ = os.Remove(d) // unless something is in it
		}
	}
	return errors.Join(errs...)
}
