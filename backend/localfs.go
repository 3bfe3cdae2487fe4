package backend

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/fetch"
	"github.com/lazuli-project/lazuli/formats"
)

// local is a directory of blobs. Others are looked into where it lacks one.
type local struct{ dirs []string }

func newLocal(c *config) (*local, error) {
	if c.Dir == "" {
		return nil, errors.New("configuration without dir")
	}
	return &local{append([]string{c.Dir}, c.AltDirs...)}, nil
}

// checkID refuses names that are no digests, which also keeps them out of paths and URLs.
func checkID(id string) error {
	if p, err := hex.DecodeString(id); err != nil || len(p) != sha256.Size {
		return fmt.Errorf("blob name %.100q: %w", id, blob.ErrCorrupt)
	}
	return nil
}

// file reads a file, which it opens for every read: there may be many blobs, and nobody says when they are not needed any more.
type file struct {
	path string
	size int64
}

func (f *file) Size() int64 { return f.size }

func (f *file) ReadRange(ctx context.Context, p []byte, off int64, class blob.Class) (err error) {
	r, err := os.Open(f.path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	return blob.ReaderAtSource{R: r, N: f.size}.ReadRange(ctx, p, off, class)
}

// Open implements [Backend].
func (l *local) Open(_ context.Context, id string) (blob.Source, error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	for _, d := range l.dirs {
		path := filepath.Join(d, id)
		fi, err := os.Stat(path)
		switch {
		case err == nil && fi.Mode().IsRegular():
			return &file{path, fi.Size()}, nil
		case err != nil && !errors.Is(err, os.ErrNotExist):
			return nil, err
		}
	}
	return nil, fmt.Errorf("blob %s in %s: %w", id, l.dirs[0], fetch.ErrNotFound)
}

// Create implements [Backend]. A blob appears by rename.
func (l *local) Create(context.Context) (formats.ObjectWriter, error) {
	if err := os.MkdirAll(l.dirs[0], 0o755); err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(l.dirs[0], ".lazuli-*")
	if err != nil {
		return nil, err
	}
	return &localWriter{dir: l.dirs[0], f: f, sum: sha256.New()}, nil
}

type localWriter struct {
	dir  string
	f    *os.File // nil once it has ended
	sum  hash.Hash
	size int64
}

func (w *localWriter) Write(p []byte) (int, error) {
	n, err := w.f.Write(p)
	w.sum.Write(p[:n])
	w.size += int64(n)
	return n, err
}

// RunningSHA256 implements [formats.RunningDigest].
func (w *localWriter) RunningSHA256() (sum [sha256.Size]byte, ok bool) {
	w.sum.Sum(sum[:0])
	return sum, true
}

// Commit implements [formats.ObjectWriter].
func (w *localWriter) Commit(context.Context) (digest.Digest, int64, error) {
	defer w.Abort()
	d := digest.NewDigest(digest.SHA256, w.sum)
	err := w.f.Chmod(0o644)
	if err == nil {
		err = w.f.Sync()
	}
	if err == nil {
		err = os.Rename(w.f.Name(), filepath.Join(w.dir, d.Encoded()))
	}
	if err != nil {
		return "", 0, fmt.Errorf("blob %s: %w", d, err)
	}
	err = w.f.Close()
	w.f = nil
	return d, w.size, err
}

// Abort implements [formats.ObjectWriter].
func (w *localWriter) Abort() {
	if w.f != nil {
		_ = w.f.Close()
		_ = os.Remove(w.f.Name()) // what is left has a name that nobody reads
		w.f = nil
	}
}
