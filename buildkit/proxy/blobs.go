package proxy

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// blobs are the files of a staging registry, by their digests. It may be used concurrently. What is in a file was verified when it was
// written.
type blobs struct{ dir string }

var (
	_ registry.BlobHandler     = (*blobs)(nil)
	_ registry.BlobStatHandler = (*blobs)(nil)
	_ registry.BlobPutHandler  = (*blobs)(nil)
)

// unfinished are the names of files that are being written.
const unfinished = "upload-*"

// path returns the file of a blob. Hashes were parsed: they are hexadecimal.
func (b *blobs) path(h v1.Hash) string { return filepath.Join(b.dir, h.Algorithm+"-"+h.Hex) }

// Get implements [registry.BlobHandler].
func (b *blobs) Get(_ context.Context, _ string, h v1.Hash) (io.ReadCloser, error) {
	f, err := os.Open(b.path(h))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, registry.ErrNotFound
	}
	return f, err
}

// Stat implements [registry.BlobStatHandler]. Who asks will use the blob.
func (b *blobs) Stat(_ context.Context, _ string, h v1.Hash) (int64, error) {
	info, err := os.Stat(b.path(h))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, registry.ErrNotFound
	}
	if err != nil {
		return 0, err
	}
	now := time.Now()
	_ = os.Chtimes(b.path(h), now, now) // else it only goes earlier
	return info.Size(), nil
}

// Put implements [registry.BlobPutHandler]. content ends with an error unless it has the digest.
func (b *blobs) Put(_ context.Context, _ string, h v1.Hash, content io.ReadCloser) (err error) {
	f, err := os.CreateTemp(b.dir, unfinished)
	if err != nil {
		return err
	}
	defer func() {
		if err = errors.Join(err, f.Close()); err == nil {
			err = os.Rename(f.Name(), b.path(h))
		}
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, err = io.Copy(f, content)
	return err
}

// clean removes what another process left half-written.
func (b *blobs) clean() error {
	files, err := filepath.Glob(filepath.Join(b.dir, unfinished))
	for _, f := range files {
		err = errors.Join(err, os.Remove(f))
	}
	return err
}

// shrink removes the least used blobs until all together have no more than limit bytes.
func (b *blobs) shrink(limit int64) error {
	entries, err := os.ReadDir(b.dir)
	if err != nil {
		return fmt.Errorf("staging directory: %w", err)
	}
	var files []fs.FileInfo
	var total int64
	for _, e := range entries {
		info, err := e.Info()
		if err == nil && isBlob(e.Name()) {
			files, total = append(files, info), total+info.Size()
		}
	}
	slices.SortFunc(files, func(x, y fs.FileInfo) int { return x.ModTime().Compare(y.ModTime()) })
	for _, f := range files {
		if total <= limit {
			break
		}
		if err := os.Remove(filepath.Join(b.dir, f.Name())); err != nil {
			return fmt.Errorf("staging directory: %w", err)
		}
		total -= f.Size()
	}
	return nil
}

// isBlob reports whether a file has the name of a blob.
func isBlob(name string) bool {
	digits, ok := strings.CutPrefix(name, "sha256-")
	_, err := hex.DecodeString(digits)
	return ok && err == nil && len(digits) == 64
}
