package convert

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/store"
)

// spool gives random access to objects that were verified as a whole: their metadata may then be believed. Objects of
// registries are fetched once, into temporary files; those of layouts are read once more where they are.
type spool struct {
	formats.Sources
	local bool   // objects can be read where they are
	dir   string // of temporary files

	mu      sync.Mutex // guards objects
	objects map[digest.Digest]*spooled
}

type spooled struct {
	once sync.Once
	src  blob.Source
	file *os.File
	err  error
}

func newSpool(src store.Source, dir string) *spool {
	return &spool{Sources: src, local: src.Ref().Transport != store.Registry, dir: dir, objects: make(map[digest.Digest]*spooled)}
}

// Open implements [formats.Sources]. Who comes first fetches the object, with its context.
func (s *spool) Open(ctx context.Context, desc ocispec.Descriptor) (blob.Source, error) {
	s.mu.Lock()
	o := s.objects[desc.Digest]
	if o == nil {
		o = &spooled{}
		s.objects[desc.Digest] = o
	}
	s.mu.Unlock()
	o.once.Do(func() { o.err = s.fetch(ctx, desc, o) })
	return o.src, o.err
}

func (s *spool) fetch(ctx context.Context, desc ocispec.Descriptor, o *spooled) (err error) {
	r, err := s.Fetch(ctx, desc)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	if s.local {
		if _, err := io.Copy(io.Discard, r); err != nil {
			return err
		}
		o.src, err = s.Sources.Open(ctx, desc)
		return err
	}
	if o.file, err = os.CreateTemp(s.dir, "lazuli-blob-"); err != nil {
		return fmt.Errorf("temporary file for %s: %w", desc.Digest, err)
	}
	if _, err := io.Copy(o.file, r); err != nil {
		return fmt.Errorf("spool %s: %w", desc.Digest, err)
	}
	o.src = blob.ReaderAtSource{R: o.file, N: desc.Size}
	return nil
}

// Close removes the files. Nothing may be read any more.
func (s *spool) Close() error {
	var errs []error
	for _, o := range s.objects {
		if o.file != nil {
			errs = append(errs, o.file.Close(), os.Remove(o.file.Name()))
		}
	}
	return errors.Join(errs...)
}
