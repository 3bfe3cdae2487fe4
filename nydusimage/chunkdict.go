package nydusimage

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	"github.com/lazuli-project/lazuli/formats/nydus/nydusblob"
	"github.com/lazuli-project/lazuli/tree"
)

// ChunkDictOptions are the flags of "nydus-image chunkdict generate".
type ChunkDictOptions struct {
	// Sources are bootstraps of images.
	Sources   []string
	Bootstrap string // output file
	BlobDir   string // output directory, where Bootstrap is ""
}

// GenerateChunkDict makes a dictionary of the chunks that images have in common: a bootstrap with a file for each such chunk, which
// refers to a blob of one of the images. Chunks that at least two bootstraps have are in it. Of the blobs that have a chunk the one is taken
// that has most of such chunks, so that the dictionary names few blobs.
func GenerateChunkDict(ctx context.Context, o ChunkDictOptions) (*Result, error) {
	if len(o.Sources) == 0 {
		return nil, errors.New("source bootstrap list is empty , at least one bootstrap is required")
	}
	if o.Bootstrap == "" && o.BlobDir == "" {
		return nil, errors.New("both --bootstrap and --blob-dir are missing, please specify one to store the generated metadata blob file")
	}
	var table blobTable
	var first *loaded
	shared := make(map[chunkKey]*sharedChunk)
	for i, path := range o.Sources {
		l, err := load(ctx, path)
		if err != nil {
			return nil, err
		}
		if first == nil {
			first = l
		}
		if err := first.config().check(l.config(), path); err != nil {
			return nil, err
		}
		if l.Digester() != first.Digester() {
			return nil, fmt.Errorf("%w: digest: %s vs %s of %s", ErrInconsistent, first.Digester(), l.Digester(), path)
		}
		numbers, err := table.addAll(l.blobs)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		for _, chunks := range l.usedChunks() {
			for _, c := range chunks {
				key := chunkKey{[nydusblob.DigestSize]byte(c.digest), c.Plain.Len}
				s := shared[key]
				if s == nil {
					s = &sharedChunk{last: -1}
					shared[key] = s
				}
				s.add(i, place{numbers(c.blob), c.Plain.Off})
			}
		}
	}
	plan, ids, err := newPlan(dictTree(shared), table.blobs, &spec{chunkSize: first.ChunkSize, compressor: first.Compressor(),
		digester: first.Digester(), noOwners: !first.explicitOwner()})
	if err != nil {
		return nil, err
	}
	path, err := writeFile(ctx, target{path: o.Bootstrap, dir: o.BlobDir}, plan)
	if err != nil {
		return nil, err
	}
	return newResult(path, ids, first.Compressor()), nil
}

// sharedChunk is a chunk and where it lies.
type sharedChunk struct {
	images int
	last   int // the last image that had it
	places []place
}

func (s *sharedChunk) add(image int, at place) {
	if s.last != image {
		s.images++
		s.last = image
	}
	if !slices.Contains(s.places, at) {
		s.places = append(s.places, at)
	}
}

// dictTree makes a tree with a file for each chunk that is shared, named by its digest.
func dictTree(shared map[chunkKey]*sharedChunk) *tree.Tree {
	var keys []chunkKey
	count := make(map[uint32]int) // shared chunks by blob
	for k, s := range shared {
		if s.images < 2 {
			continue
		}
		keys = append(keys, k)
		for _, p := range s.places {
			count[p.blob]++
		}
	}
	slices.SortFunc(keys, func(a, b chunkKey) int {
		return cmp.Or(slices.Compare(a.digest[:], b.digest[:]), cmp.Compare(a.size, b.size))
	})
	t := tree.New()
	dir := &tree.Node{Mode: tree.TypeDir | 0o755}
	t.Root.Put("chunks", dir)
	for _, k := range keys {
		best := slices.MinFunc(shared[k].places, func(a, b place) int {
			return cmp.Or(cmp.Compare(count[b.blob], count[a.blob]), cmp.Compare(a.blob, b.blob), cmp.Compare(a.off, b.off))
		})
		n := &tree.Node{Mode: tree.TypeRegular | 0o444, Size: k.size}
		n.AppendExtent(tree.Extent{Blob: best.blob, Offset: best.off, Length: k.size})
		dir.Put(hex.EncodeToString(k.digest[:]), n)
	}
	t.CountLinks()
	return t
}
