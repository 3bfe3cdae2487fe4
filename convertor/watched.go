package convertor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/convert"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/formats/overlaybd"
	"github.com/lazuli-project/lazuli/store"
)

// watched is a target of which documents are noted, and layers kept as files if they are reserved.
type watched struct {
	store.Target
	dir *WorkDir

	mu     sync.Mutex // guards the rest
	small  map[digest.Digest][]byte
	layers map[digest.Digest]string // names of files
}

var _ store.ManifestPusher = (*watched)(nil)

// PushManifest implements [store.ManifestPusher].
func (o *watched) PushManifest(ctx context.Context, desc ocispec.Descriptor, raw []byte) error {
	if p, ok := o.Target.(store.ManifestPusher); ok {
		return p.PushManifest(ctx, desc, raw)
	}
	return o.Target.Put(ctx, desc, raw)
}

// Put implements [formats.Sink].
func (o *watched) Put(ctx context.Context, desc ocispec.Descriptor, content []byte) error {
	switch {
	case isDocument(desc.MediaType):
		o.mu.Lock()
		o.small[desc.Digest] = append([]byte(nil), content...)
		o.mu.Unlock()
	case o.dir.reserve:
		f, err := o.dir.create()
		if err != nil {
			return err
		}
		_, err = f.Write(content)
		o.note(desc.Digest, f.Name())
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	return o.Target.Put(ctx, desc, content)
}

// Create implements [formats.Sink].
func (o *watched) Create(ctx context.Context, mediaType string) (formats.ObjectWriter, error) {
	w, err := o.Target.Create(ctx, mediaType)
	if err != nil || !o.dir.reserve {
		return w, err
	}
	f, err := o.dir.create()
	if err != nil {
		w.Abort()
		return nil, err
	}
	return &reserved{ObjectWriter: w, f: f, o: o}, nil
}

// note notes the file of a layer; one that is known already is removed.
func (o *watched) note(d digest.Digest, file string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if _, ok := o.layers[d]; ok {
		_ = os.Remove(file) // the same bytes once more
		return
	}
	o.layers[d] = file
}

// dumpImage writes a manifest and its configuration into a directory.
func (o *watched) dumpImage(ctx context.Context, desc ocispec.Descriptor, dir, suffix string) error {
	raw, err := o.dump(ctx, desc, filepath.Join(dir, withSuffix(fileManifest, suffix)))
	if err != nil {
		return err
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		return fmt.Errorf("manifest %s: %w", desc.Digest, err)
	}
	_, err = o.dump(ctx, m.Config, filepath.Join(dir, withSuffix(fileConfig, suffix)))
	return err
}

// maxDocument bounds a document, in bytes.
const maxDocument = 16 << 20

// dump writes a document to a file and returns it. What was not seen, as the target had it from an earlier conversion, is read there.
func (o *watched) dump(ctx context.Context, desc ocispec.Descriptor, name string) ([]byte, error) {
	o.mu.Lock()
	p, ok := o.small[desc.Digest]
	o.mu.Unlock()
	if !ok {
		var err error
		if p, err = store.ReadAll(ctx, o.Target, desc, maxDocument); err != nil {
			return nil, err
		}
	}
	return p, os.WriteFile(name, p, 0o644)
}

// nameLayers gives the layers of an image their names. Those that were not converted, as they were known, are not there.
func (o *watched) nameLayers(im convert.Image, dir string) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	for i, l := range im.Layers {
		file, ok := o.layers[l.Desc.Digest]
		if !ok {
			continue
		}
		name := fileTurbo
		if im.Format == overlaybd.Name {
			name = fileNative
		}
		own := filepath.Join(dir, fmt.Sprintf("%04d_%s", i, l.Source.Digest))
		if err := os.MkdirAll(own, 0o755); err != nil {
			return err
		}
		name = filepath.Join(own, name)
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := os.Link(file, name); err != nil { // images share layers
			return err
		}
	}
	return nil
}

// clean removes the files without names.
func (o *watched) clean() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	errs := make([]error, 0, len(o.layers))
	for d, file := range o.layers {
		errs = append(errs, os.Remove(file))
		delete(o.layers, d)
	}
	return errors.Join(errs...)
}

// reserved is an object that is also written to a file.
type reserved struct {
	formats.ObjectWriter
	f *os.File
	o *watched
}

// Write implements io.Writer.
func (r *reserved) Write(p []byte) (int, error) {
	if _, err := r.f.Write(p); err != nil {
		return 0, err
	}
	return r.ObjectWriter.Write(p)
}

// RunningSHA256 implements [formats.RunningDigest].
func (r *reserved) RunningSHA256() (sum [32]byte, ok bool) {
	if d, is := r.ObjectWriter.(formats.RunningDigest); is {
		return d.RunningSHA256()
	}
	return sum, false
}

// Commit implements [formats.ObjectWriter].
func (r *reserved) Commit(ctx context.Context) (digest.Digest, int64, error) {
	d, size, err := r.ObjectWriter.Commit(ctx)
	if err != nil {
		return d, size, err
	}
	f := r.f
	r.f = nil
	r.o.note(d, f.Name())
	return d, size, f.Close()
}

// Abort implements [formats.ObjectWriter].
func (r *reserved) Abort() {
	r.ObjectWriter.Abort()
	if r.f != nil {
		_ = r.f.Close() // given up
		_ = os.Remove(r.f.Name())
		r.f = nil
	}
}
