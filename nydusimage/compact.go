package nydusimage

import (
	"context"
	"errors"
	"path/filepath"
	"strings"

	"github.com/lazuli-project/lazuli/formats/nydus/nydusblob"
	"github.com/lazuli-project/lazuli/tree"
)

// CompactOptions are the flags of "nydus-image compact". Zeros mean what they say; [DefaultCompact] has the defaults.
type CompactOptions struct {
	Bootstrap string
	BlobDir   string     // blobs by id, and where new ones go
	Source    BlobSource // or what finds the blobs
	ChunkDict string     // its blobs are left alone
	Output    string     // bootstrap; default: Bootstrap with the extension ".bootstrap.compact"

	MinUsedRatio    int   // percent of a blob's content that files must use; else it is made again. 0 is off
	CompactBlobSize int64 // blobs of less bytes are put together
	MaxCompactSize  int64 // until they have so many
	LayersToCompact int   // blobs that the image must have, for anything to be done. 0 is off
}

// DefaultCompact are the defaults of nydus-image.
func DefaultCompact() CompactOptions {
	return CompactOptions{MinUsedRatio: 5, CompactBlobSize: 10 << 20, MaxCompactSize: 100 << 20, LayersToCompact: 32}
}

// Compact makes blobs again of which files use little, and puts small blobs together. The result is nil where there is nothing to do:
// then nothing is written. Old blobs stay where they are.
func Compact(ctx context.Context, o CompactOptions) (_ *Result, err error) {
	if o.BlobDir == "" {
		return nil, errors.New("--blob-dir must be specified")
	}
	if err := needDir(o.BlobDir, "blobs"); err != nil {
		return nil, err
	}
	if o.Output == "" {
		o.Output = strings.TrimSuffix(o.Bootstrap, filepath.Ext(o.Bootstrap)) + ".bootstrap.compact"
	}
	finder := &blobFinder{dir: o.BlobDir, other: o.Source}
	defer finder.close()
	r, err := openRepacker(ctx, o.Bootstrap, o.BlobDir, finder)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.im.Close()) }()
	if len(r.l.blobs) < o.LayersToCompact {
		return nil, nil
	}
	keep := make(map[string]bool)
	if path := dictPath(o.ChunkDict); path != "" {
		d, err := load(ctx, path)
		if err != nil {
			return nil, err
		}
		for i := range d.blobs {
			keep[d.blobs[i].Info.ID] = true
		}
	}
	groups := r.groups(&o, keep)
	if len(groups) == 0 {
		return nil, nil
	}
	for _, g := range groups {
		if err := r.pack(ctx, g, 0); err != nil {
			return nil, err
		}
	}
	return r.write(ctx, o.Output, r.l.Prefetch)
}

// usedChunks lists the different chunks that files use, by blob, in the order of the files.
func (l *loaded) usedChunks() [][]chunkOf {
	used := make([][]chunkOf, len(l.blobs))
	seen := make(map[place]bool)
	_ = l.Tree.Nodes(func(n *tree.Node) error {
		for _, c := range l.chunks(n) {
			if at := (place{c.blob, c.Plain.Off}); !seen[at] {
				seen[at] = true
				used[c.blob] = append(used[c.blob], c)
			}
		}
		return nil
	})
	return used
}

// groups decides which chunks become new blobs. Sizes are those of the plain content, which chunks in batches have too.
func (r *repacker) groups(o *CompactOptions, keep map[string]bool) [][]chunkOf {
	var groups [][]chunkOf
	var open []chunkOf
	var size int64
	members, poor := 0, false
	end := func() {
		// One small blob alone gains nothing by being made again.
		if members > 1 || poor {
			groups = append(groups, open)
		}
		open, size, members, poor = nil, 0, 0, false
	}
	for i, chunks := range r.l.usedChunks() {
		info := &r.l.blobs[i].Info
		var used int64
		for _, c := range chunks {
			used += (c.Plain.Len + nydusblob.Align - 1) &^ (nydusblob.Align - 1)
		}
		wasted := used*100 < int64(o.MinUsedRatio)*int64(info.PlainSize)
		if keep[info.ID] || len(chunks) == 0 || !wasted && int64(info.StoredSize) >= o.CompactBlobSize {
			continue
		}
		if members > 0 && size+used > o.MaxCompactSize {
			end()
		}
		open, size = append(open, chunks...), size+used
		members, poor = members+1, poor || wasted
	}
	end()
	return groups
}
