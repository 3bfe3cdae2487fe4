package nydusimage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"os"
	"path/filepath"

	"github.com/lazuli-project/lazuli/formats/nydus/nydusblob"
	"github.com/lazuli-project/lazuli/tree"
)

// StatOptions are the flags of "nydus-image stat".
type StatOptions struct {
	Bootstrap string // the base image
	BlobDir   string // or a directory of them: its files without extension
	Target    string // an image that could use the base's chunks
	JSON      string // file for the figures; "" prints them to Out
	Out       io.Writer
}

// Figures of an image. Sizes are in bytes.
type Figures struct {
	Dirs      uint32 `json:"dirs"`
	Files     uint32 `json:"files"` // paths
	Symlinks  uint32 `json:"symlinks"`
	Chunks    uint32 `json:"chunks"`
	FileSize  uint64 `json:"file_size"`
	CompSize  uint64 `json:"comp_size"`
	PlainSize uint64 `json:"uncomp_size"`
	Padding   uint64 `json:"padding_size"` // of files to blocks of 4096 bytes
	// ChunkSizes is how many chunks there would be with chunks of 2^12 to 2^20 bytes.
	ChunkSizes [9]uint32 `json:"chunk_sizes"`
	// FileSizes counts files by the number of bits of their size.
	FileSizes [45]uint64 `json:"file_sizes"`

	DedupChunks    uint64 `json:"dedup_chunks"` // different ones of all base images
	DedupCompSize  uint64 `json:"dedup_comp_size"`
	DedupPlainSize uint64 `json:"dedup_uncomp_size"`
	OwnChunks      uint64 `json:"own_chunks"` // different ones of each image; of the target: that no base image has
	OwnCompSize    uint64 `json:"own_comp_size"`
	OwnPlainSize   uint64 `json:"own_uncomp_size"`
	RefChunks      uint64 `json:"ref_chunks"` // of the target: that a base image has
	RefCompSize    uint64 `json:"ref_comp_size"`
	RefPlainSize   uint64 `json:"ref_uncomp_size"`
}

// Statistics are the figures of all base images together, and of a target.
type Statistics struct {
	DedupEnabled  bool    `json:"dedup_enabled"`
	TargetEnabled bool    `json:"target_enabled"`
	Base          Figures `json:"base_image"`
	Target        Figures `json:"target_image"`

	known map[chunkKey]*knownChunk
}

// chunkKey is what makes chunks equal.
type chunkKey struct {
	digest [nydusblob.DigestSize]byte
	size   int64
}

type knownChunk struct{ stored, images uint64 }

// dedupLevels is for how many thresholds deduplication is estimated.
const dedupLevels = 20

// Stat makes statistics of bootstraps.
func Stat(ctx context.Context, o StatOptions) (*Statistics, error) {
	s := &Statistics{known: make(map[chunkKey]*knownChunk)}
	switch {
	case o.Bootstrap != "":
		l, err := load(ctx, o.Bootstrap)
		if err != nil {
			return nil, err
		}
		s.addBase(l)
	case o.BlobDir != "":
		s.DedupEnabled = true
		if err := s.addDir(ctx, &o); err != nil {
			return nil, err
		}
	default:
		return nil, errors.New("one of `--bootstrap` and `--blob-dir` must be specified")
	}
	if o.Target != "" {
		l, err := load(ctx, o.Target)
		if err != nil {
			return nil, err
		}
		s.TargetEnabled = true
		s.addTarget(l)
		s.Target.PlainSize += s.Target.Padding
	}
	s.Base.PlainSize += s.Base.Padding
	if s.DedupEnabled {
		for k, c := range s.known {
			s.Base.DedupChunks++
			s.Base.DedupCompSize += c.stored
			s.Base.DedupPlainSize += uint64(k.size)
		}
	}
	if o.JSON == "" {
		return s, s.print(o.Out)
	}
	p, err := json.Marshal(s)
	if err == nil {
		err = os.WriteFile(o.JSON, p, 0o644)
	}
	if err != nil {
		return nil, fmt.Errorf("statistics: %w", err)
	}
	return s, nil
}

// addDir adds all bootstraps of a directory. Files that are none are passed over.
func (s *Statistics) addDir(ctx context.Context, o *StatOptions) error {
	entries, err := os.ReadDir(o.BlobDir)
	if err != nil {
		return fmt.Errorf("statistics: %w", err)
	}
	for _, e := range entries {
		path := filepath.Join(o.BlobDir, e.Name())
		if !e.Type().IsRegular() || filepath.Ext(path) != "" || filepath.Clean(o.Target) == path {
			continue
		}
		l, err := load(ctx, path)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err == nil {
			s.addBase(l)
		}
	}
	return nil
}

// add adds the files of an image, and returns its different chunks.
func (f *Figures) add(l *loaded) map[chunkKey]uint64 {
	chunks := make(map[chunkKey]uint64)
	_ = l.Tree.Walk(func(_ string, n *tree.Node) error {
		switch n.Type() {
		case tree.TypeDir:
			f.Dirs++
		case tree.TypeSymlink:
			f.Symlinks++
		case tree.TypeRegular:
			f.Files++
		}
		return nil
	})
	_ = l.Tree.Nodes(func(n *tree.Node) error {
		if !n.IsRegular() {
			return nil
		}
		size := uint64(n.Size)
		f.FileSizes[min(bits.Len64(size), len(f.FileSizes)-1)]++
		f.FileSize += size
		f.Padding += -size & (nydusblob.Align - 1)
		for i := range f.ChunkSizes {
			f.ChunkSizes[i] += uint32((size + 1<<(12+i) - 1) >> (12 + i))
		}
		for _, c := range l.chunks(n) {
			f.Chunks++
			f.CompSize += uint64(c.Stored.Len)
			f.PlainSize += uint64(c.Plain.Len)
			if c.digest != nil {
				chunks[chunkKey{[nydusblob.DigestSize]byte(c.digest), c.Plain.Len}] = uint64(c.Stored.Len)
			}
		}
		return nil
	})
	return chunks
}

func (s *Statistics) addBase(l *loaded) {
	for k, stored := range s.Base.add(l) {
		s.Base.OwnChunks++
		s.Base.OwnCompSize += stored
		s.Base.OwnPlainSize += uint64(k.size)
		if c := s.known[k]; c != nil {
			c.images++
			c.stored = min(c.stored, stored)
			continue
		}
		s.known[k] = &knownChunk{stored, 1}
	}
}

func (s *Statistics) addTarget(l *loaded) {
	for k, stored := range s.Target.add(l) {
		if s.known[k] != nil {
			s.Target.RefChunks++
			s.Target.RefCompSize += stored
			s.Target.RefPlainSize += uint64(k.size)
			continue
		}
		s.Target.OwnChunks++
		s.Target.OwnCompSize += stored
		s.Target.OwnPlainSize += uint64(k.size)
	}
}

// dedupLevel estimates what a dictionary would do of the chunks that at least so many images have.
type dedupLevel struct{ raw, dedup, comp, compBase, compImage, plain, plainBase, plainImage uint64 }

func (s *Statistics) levels() [dedupLevels]dedupLevel {
	var levels [dedupLevels]dedupLevel
	for k, c := range s.known {
		for i := range levels {
			l := &levels[i]
			l.raw += c.images
			l.comp += c.images * c.stored
			l.plain += c.images * uint64(k.size)
			if uint64(i) < c.images {
				l.dedup++
				l.compBase += c.stored
				l.plainBase += uint64(k.size)
				continue
			}
			l.dedup += c.images
			l.compImage += c.images * c.stored
			l.plainImage += c.images * uint64(k.size)
		}
	}
	return levels
}
