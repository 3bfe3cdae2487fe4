package nydusimage

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/lazuli-project/lazuli/formats/nydus/nydusblob"
)

// OptimizeOptions are the flags of "nydus-image optimize".
type OptimizeOptions struct {
	Bootstrap string
	// PrefetchFiles is a file that names the files to be prefetched: JSON,
	// {"version":"v1","files":[{"path":"/a","ranges":[[offset,length]]}]}, where ranges may be missing, or one path a line.
	PrefetchFiles string

	Blob    string     // the only blob's file
	BlobDir string     // blobs by id
	Source  BlobSource // or what finds them

	Output        string // bootstrap; default "optimized_bootstrap"
	OutputBlobDir string
}

// prefetchFile is an entry of the list.
type prefetchFile struct {
	Path   string      `json:"path"`
	Ranges [][2]uint64 `json:"ranges"`
}

// wants reports whether a piece of the file is to be prefetched.
func (f *prefetchFile) wants(off, n uint64) bool {
	if f.Ranges == nil {
		return true
	}
	for _, r := range f.Ranges {
		if off+n > r[0] && (r[1] > off || r[0] > off-r[1]) {
			return true
		}
	}
	return false
}

// Optimize copies the chunks that files need at the start into a blob of their own, so that they lie together, and writes a
// bootstrap that finds them there and has these files as its prefetch list. Files that are not there are passed over. The blobs
// of the image stay as they are.
func Optimize(ctx context.Context, o OptimizeOptions) (_ *Result, err error) {
	if o.OutputBlobDir == "" {
		return nil, errors.New("missing parameter `output-blob-dir`")
	}
	if err := needDir(o.OutputBlobDir, "the prefetch blob"); err != nil {
		return nil, err
	}
	if o.Output == "" {
		o.Output = "optimized_bootstrap"
	}
	files, err := readPrefetchFiles(o.PrefetchFiles)
	if err != nil {
		return nil, err
	}
	finder := &blobFinder{file: o.Blob, dir: o.BlobDir, other: o.Source}
	defer finder.close()
	r, err := openRepacker(ctx, o.Bootstrap, o.OutputBlobDir, finder)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.im.Close()) }()
	var chunks []chunkOf
	var paths []string
	seen := make(map[place]bool)
	for _, f := range files {
		n := r.l.Tree.Lookup(f.Path)
		if n == nil || !n.IsRegular() {
			continue
		}
		paths = append(paths, f.Path)
		for i, c := range r.l.chunks(n) {
			at := place{c.blob, c.Plain.Off}
			if seen[at] || !f.wants(uint64(i)*uint64(r.l.ChunkSize), uint64(c.Plain.Len)) {
				continue
			}
			seen[at] = true
			chunks = append(chunks, c)
		}
	}
	if err := r.pack(ctx, chunks, nydusblob.FeaturePrefetch); err != nil {
		return nil, err
	}
	return r.write(ctx, o.Output, prefetchPaths(paths))
}

// readPrefetchFiles reads the list.
func readPrefetchFiles(path string) ([]prefetchFile, error) {
	if path == "" {
		return nil, errors.New("missing parameter `prefetch-files`")
	}
	p, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("prefetch files: %w", err)
	}
	p = bytes.TrimSpace(p)
	if len(p) == 0 || p[0] != '{' {
		var files []prefetchFile
		for line := range strings.Lines(string(p)) {
			if line = strings.TrimSpace(line); line != "" {
				files = append(files, prefetchFile{Path: line})
			}
		}
		return files, nil
	}
	var list struct {
		Version string         `json:"version"`
		Files   []prefetchFile `json:"files"`
	}
	if err := json.Unmarshal(p, &list); err != nil {
		return nil, fmt.Errorf("prefetch files: %s: %w", path, err)
	}
	if list.Version != "v1" {
		return nil, fmt.Errorf("unsupported prefetch file version: %s", list.Version)
	}
	return list.Files, nil
}
