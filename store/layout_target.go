package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/blob"
)

// tempPrefix begins the names of files that are being written, in the directory blobs of a layout.
const tempPrefix = ".lazuli-"

// errBusy: another open file holds the lock.
var errBusy = errors.New("locked by another")

// layoutDir is an OCI layout directory that is written to, perhaps by several processes. Blobs appear under their
// names when they are complete and on disk; index.json, which makes it a layout, comes last. What a killed process
// leaves are blobs that the next one finds, and temporary files that it removes: whoever writes one holds a lock on it.
type layoutDir struct {
	directory
	prepare sync.Once
	err     error // of prepare

	mu      sync.Mutex // guards what follows
	made    []string   // directories that did not exist, outermost first
	kept    []string   // blobs stored by this target
	user    *os.File   // holds a shared lock on the directory while the target is open
	written bool       // index.json is
}

func newLayoutTarget(ref Ref) (*localTarget, error) {
	d := &layoutDir{directory: directory(ref.Path)}
	if err := d.check(); err != nil {
		return nil, err
	}
	return newLocalTarget(ref, d), nil
}

// check refuses to make a layout of a directory with something else in it.
func (d *layoutDir) check() error {
	entries, err := os.ReadDir(string(d.directory))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fileError("open OCI layout", string(d.directory), err)
	}
	for _, e := range entries {
		switch e.Name() {
		case ocispec.ImageBlobsDir, ocispec.ImageIndexFile, ocispec.ImageLayoutFile:
			return nil
		}
	}
	if len(entries) > 0 {
		return fmt.Errorf("open OCI layout %s: the directory has other things in it: %w", d.directory, blob.ErrUnsupported)
	}
	return nil
}

func (d directory) path(name string) string {
	return filepath.Join(string(d), filepath.FromSlash(name))
}

// begin makes the directories, once, before the first object.
func (d *layoutDir) begin() error {
	d.prepare.Do(func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		blobs := d.path(ocispec.ImageBlobsDir)
		if d.err = d.makeAll(filepath.Join(blobs, digest.SHA256.String())); d.err != nil {
			return
		}
		if d.user, d.err = os.Open(string(d.directory)); d.err != nil {
			return
		}
		if d.err = lockShared(d.user); d.err != nil {
			return
		}
		d.err = removeStale(blobs)
	})
	return d.err
}

// makeAll is os.MkdirAll that remembers what it made.
func (d *layoutDir) makeAll(dir string) error {
	if st, err := os.Stat(dir); err == nil {
		if !st.IsDir() {
			return &fs.PathError{Op: "mkdir", Path: dir, Err: errors.New("not a directory")}
		}
		return nil
	}
	if parent := filepath.Dir(dir); parent != dir {
		if err := d.makeAll(parent); err != nil {
			return err
		}
	}
	err := os.Mkdir(dir, 0o755)
	if err == nil {
		d.made = append(d.made, dir)
	} else if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

// removeStale removes temporary files that nobody holds.
func removeStale(blobs string) error {
	entries, err := os.ReadDir(blobs)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), tempPrefix) {
			continue
		}
		f, err := os.OpenFile(filepath.Join(blobs, e.Name()), os.O_RDWR, 0)
		if err != nil {
			continue // gone meanwhile, or another user's
		}
		if tryLock(f) == nil {
			_ = os.Remove(f.Name())
		}
		_ = f.Close()
	}
	return nil
}

func (d *layoutDir) create() (*os.File, error) {
	if err := d.begin(); err != nil {
		return nil, err
	}
	return createTemp(d.path(ocispec.ImageBlobsDir))
}

// createTemp makes a temporary file that removeStale leaves alone.
func createTemp(dir string) (*os.File, error) {
	for {
		f, err := os.CreateTemp(dir, tempPrefix+"*")
		if err != nil {
			return nil, err
		}
		if err := f.Chmod(0o644); err != nil {
			_ = f.Close()
			_ = os.Remove(f.Name())
			return nil, err
		}
		if err := tryLock(f); !errors.Is(err, errBusy) {
			// Between making and locking, another process may have taken it for a stale one.
			if _, err := os.Stat(f.Name()); err == nil {
				return f, nil
			}
		}
		_ = f.Close()
	}
}

func (d *layoutDir) keep(f *os.File, dg digest.Digest, _ int64) error {
	name := d.path(blobName(dg))
	if err := f.Sync(); err != nil {
		return err
	}
	d.mu.Lock()
	err := d.makeAll(filepath.Dir(name))
	d.mu.Unlock()
	if err != nil {
		return err
	}
	if err := renameOpen(f, name); err != nil {
		return err
	}
	d.mu.Lock()
	d.kept = append(d.kept, name)
	d.mu.Unlock()
	return nil
}

func (d *layoutDir) discard(f *os.File) {
	_ = f.Close()
	_ = os.Remove(f.Name())
}

func (d *layoutDir) link(file string, dg digest.Digest) bool {
	if d.begin() != nil {
		return false
	}
	name := d.path(blobName(dg))
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.makeAll(filepath.Dir(name)) != nil {
		return false
	}
	if os.Link(file, name) != nil {
		return false
	}
	d.kept = append(d.kept, name)
	return true
}

// publish adds the entries to index.json, which other processes may be doing too.
func (d *layoutDir) publish(_ context.Context, entries []ocispec.Descriptor) error {
	if err := d.begin(); err != nil {
		return fileError("write into", string(d.directory), err)
	}
	blobs, err := os.Open(d.path(ocispec.ImageBlobsDir))
	if err != nil {
		return fileError("lock", string(d.directory), err)
	}
	defer blobs.Close()
	if err := lockExclusive(blobs); err != nil {
		return fileError("lock", string(d.directory), err)
	}
	l := newLayout(Ref{Path: string(d.directory)}, d.directory)
	x, err := l.index()
	if err != nil {
		if !errors.Is(err, ErrNotFound) {
			return err
		}
		x = &ocispec.Index{}
	}
	x.Manifests = merge(x.Manifests, entries)
	raw, err := encodeIndex(x)
	if err != nil {
		return err
	}
	if err := syncDirs(d.path(ocispec.ImageBlobsDir), d.path(ocispec.ImageBlobsDir+"/sha256")); err != nil {
		return fileError("write into", string(d.directory), err)
	}
	if err := d.replace(ocispec.ImageLayoutFile, []byte(layoutVersion)); err != nil {
		return fileError("write into", string(d.directory), err)
	}
	if err := d.replace(ocispec.ImageIndexFile, raw); err != nil {
		return fileError("write into", string(d.directory), err)
	}
	d.mu.Lock()
	d.written = true
	d.mu.Unlock()
	return syncDirs(string(d.directory))
}

// replace writes a file of the layout so that others see the old or the new one.
func (d *layoutDir) replace(name string, content []byte) error {
	if old, err := os.ReadFile(d.path(name)); err == nil && string(old) == string(content) {
		return nil
	}
	f, err := createTemp(d.path(ocispec.ImageBlobsDir))
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	err = errors.Join(err, f.Sync())
	if err == nil {
		err = renameOpen(f, d.path(name))
	}
	if err != nil {
		d.discard(f)
	}
	return err
}

// Close takes back what a new layout got if index.json was never written, unless somebody else is writing to it. In a
// layout that was there before, blobs stay: another process may have seen and named them.
func (d *layoutDir) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.user == nil {
		d.removeMade()
		return nil
	}
	if _, err := os.Stat(d.path(ocispec.ImageIndexFile)); !d.written && errors.Is(err, fs.ErrNotExist) && tryLock(d.user) == nil {
		for _, name := range d.kept {
			_ = os.Remove(name)
		}
		_ = os.Remove(d.path(ocispec.ImageLayoutFile))
		d.removeMade()
	}
	err := d.user.Close()
	d.user, d.made, d.kept = nil, nil, nil
	return err
}

// removeMade removes the directories that this target made, if they are empty. The caller holds the lock.
func (d *layoutDir) removeMade() {
	if d.written {
		return
	}
	for i := len(d.made) - 1; i >= 0; i-- {
		_ = os.Remove(d.made[i])
	}
}
