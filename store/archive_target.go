package store

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// spooled keeps the objects of an archive in temporary files without names until the archive is written, in the order
// of their names: the same objects make the same archive.
type spooled struct {
	path   string // "-" for out
	out    io.Writer
	temp   string     // directory; "" for the system's
	mu     sync.Mutex // guards blobs
	blobs  map[string]spooledBlob
	closed bool
}

type spooledBlob struct {
	file *os.File
	size int64
}

func newArchiveTarget(ref Ref, opts Options) (*localTarget, error) {
	s := &spooled{path: ref.Path, out: opts.Stdout, temp: opts.TempDir, blobs: map[string]spooledBlob{}}
	if s.path == "-" {
		if s.out == nil {
			return nil, fmt.Errorf("write %s: there is no standard output: %w", ref, ErrReference)
		}
		return newLocalTarget(ref, s), nil
	}
	if st, err := os.Stat(s.path); err == nil && st.IsDir() {
		return nil, fmt.Errorf("write %s: it is a directory: %w", ref, ErrReference)
	}
	if st, err := os.Stat(filepath.Dir(s.path)); err != nil {
		return nil, fileError("write archive in", filepath.Dir(s.path), err)
	} else if !st.IsDir() {
		return nil, fmt.Errorf("write %s: %s is no directory: %w", ref, filepath.Dir(s.path), ErrReference)
	}
	if s.temp == "" {
		s.temp = filepath.Dir(s.path)
	}
	return newLocalTarget(ref, s), nil
}

func (s *spooled) create() (*os.File, error) { return nameless(s.temp) }

func (s *spooled) keep(f *os.File, d digest.Digest, size int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return fs.ErrClosed
	}
	name := blobName(d)
	if old, ok := s.blobs[name]; ok { // two made the same at the same time
		removeNameless(old.file)
	}
	s.blobs[name] = spooledBlob{f, size}
	return nil
}

func (s *spooled) discard(f *os.File) { removeNameless(f) }

func (s *spooled) link(string, digest.Digest) bool { return false }

func (s *spooled) open(name string) (object, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, ok := s.blobs[name]
	if !ok {
		return object{}, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return object{b.file, nothing{}, b.size}, nil
}

func (s *spooled) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range s.blobs {
		removeNameless(b.file)
	}
	clear(s.blobs)
	s.closed = true
	return nil
}

// publish writes the archive: to standard output as a stream, else beside its name and then under it.
func (s *spooled) publish(ctx context.Context, entries []ocispec.Descriptor) error {
	if s.path == "-" {
		if err := s.write(ctx, s.out, entries); err != nil {
			return fileError("write", "standard output", err)
		}
		return nil
	}
	f, err := os.CreateTemp(filepath.Dir(s.path), tempPrefix+"*")
	if err != nil {
		return fileError("write into", filepath.Dir(s.path), err)
	}
	err = s.write(ctx, f, entries)
	err = errors.Join(err, f.Chmod(0o644), f.Sync())
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), s.path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return fileError("write", s.path, err)
	}
	return syncDirs(filepath.Dir(s.path))
}

// write writes oci-layout and index.json first, so that who reads a stream knows early what it is.
func (s *spooled) write(ctx context.Context, w io.Writer, entries []ocispec.Descriptor) error {
	s.mu.Lock()
	blobs := maps.Clone(s.blobs)
	s.mu.Unlock()
	entries = slices.Clone(entries)
	slices.SortStableFunc(entries, func(a, b ocispec.Descriptor) int {
		return cmp.Or(cmp.Compare(a.Annotations[ocispec.AnnotationRefName], b.Annotations[ocispec.AnnotationRefName]),
			cmp.Compare(a.Digest, b.Digest))
	})
	raw, err := encodeIndex(&ocispec.Index{Manifests: merge([]ocispec.Descriptor{}, entries)})
	if err != nil {
		return err
	}
	tw := tar.NewWriter(w)
	small := func(name string, p []byte) error {
		return writeMember(tw, name, bytes.NewReader(p), int64(len(p)), nil)
	}
	if err := errors.Join(small(ocispec.ImageLayoutFile, []byte(layoutVersion)), small(ocispec.ImageIndexFile, raw)); err != nil {
		return err
	}
	buf := make([]byte, 1<<20)
	for _, name := range slices.Sorted(maps.Keys(blobs)) {
		b := blobs[name]
		r := &contextReader{ctx, io.NewSectionReader(b.file, 0, b.size)}
		if err := writeMember(tw, name, r, b.size, buf); err != nil {
			return err
		}
	}
	return tw.Close()
}

func writeMember(tw *tar.Writer, name string, r io.Reader, size int64, buf []byte) error {
	h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644, ModTime: time.Unix(0, 0)}
	if err := tw.WriteHeader(h); err != nil {
		return err
	}
	_, err := io.CopyBuffer(onlyWriter{tw}, r, buf)
	return err
}
