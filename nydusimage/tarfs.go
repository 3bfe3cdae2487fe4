package nydusimage

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/flate"
	"github.com/lazuli-project/lazuli/formats/nydus/nydusblob"
	"github.com/lazuli-project/lazuli/formats/nydus/rafs6"
	"github.com/lazuli-project/lazuli/tarfs"
	"github.com/lazuli-project/lazuli/tree"
)

// createTarfs makes a bootstrap for a tar that stays as it is: its files are read where they lie in it. No blob is written.
func (c *creation) createTarfs(ctx context.Context) (*Result, error) {
	if c.ChunkDict != "" || c.Parent != "" || c.InlineMeta || c.TOC || c.Encrypt || c.BatchSize != 0 || c.BlobCacheDir != "" || c.FSVersion == "5" {
		return nil, fmt.Errorf("conversion type %s conflicts with --chunk-dict, --parent-bootstrap, --blob-inline-meta, --features blob-toc, --encrypt, --batch-size, --blob-cache-dir and --fs-version 5", TypeTarfs)
	}
	if c.ChunkSize == 0 {
		c.ChunkSize = 1 << 20
	}
	t, info, err := c.readTarfs(ctx)
	if err != nil {
		return nil, err
	}
	var blobs []rafs6.Blob
	if info.ChunkCount > 0 {
		if err := info.Validate(); err != nil {
			return nil, err
		}
		blobs = append(blobs, rafs6.Blob{Info: *info})
	}
	t.CountLinks()
	s := &rafs6.Spec{Tree: t, Blobs: blobs, ChunkSize: uint32(c.ChunkSize), Digester: nydusblob.DigesterSHA256, Tarfs: true, NoOwners: c.Repeatable}
	if c.PrefetchPolicy == PrefetchFS {
		s.Prefetch = prefetchPaths(c.Prefetch)
	}
	return writeTarfs(ctx, s, target{path: c.Bootstrap, dir: c.BlobDir})
}

// readTarfs reads the tar, and says what the bootstrap must say about it.
func (c *creation) readTarfs(ctx context.Context) (*tree.Tree, *nydusblob.Info, error) {
	src, err := openSource(ctx, c.Source, c.Stdin)
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = src.Close() }() // was read only
	all := &countedHash{r: src, h: sha256.New()}
	plain, err := flate.NewReader(all)
	if err != nil {
		return nil, nil, fmt.Errorf("source: %w", err)
	}
	defer func() { _ = plain.Close() }() // frees memory only
	if plain.Compression() != flate.None {
		return nil, nil, fmt.Errorf("source: conversion type %s is for tars that are not compressed: %w", TypeTarfs, blob.ErrUnsupported)
	}
	info := &nydusblob.Info{ChunkSize: uint32(c.ChunkSize), Digester: nydusblob.DigesterSHA256,
		Features: nydusblob.FeatureTarfs | nydusblob.FeatureCapTarTOC, CICompressor: nydusblob.CompressorLZ4}
	t, err := feedTar(ctx, plain, &tarPlaces{info: info})
	if err != nil {
		return nil, nil, err
	}
	// What follows the last entry belongs to the tar.
	if _, err := io.Copy(io.Discard, all); err != nil {
		return nil, nil, fmt.Errorf("source: %w", err)
	}
	info.ID = hex.EncodeToString(all.h.Sum(nil))
	if c.BlobID != "" {
		info.ID = c.BlobID
	}
	info.PlainSize, info.StoredSize = all.n, all.n
	return t, info, nil
}

// countedHash counts and digests what is read.
type countedHash struct {
	r io.Reader
	h hash.Hash
	n uint64
}

func (c *countedHash) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.h.Write(p[:n])
	c.n += uint64(n)
	return n, err
}

// tarPlaces gives files their places in the tar.
type tarPlaces struct{ info *nydusblob.Info }

func (p *tarPlaces) Entry(e *tarfs.Entry, n *tree.Node) error {
	if n == nil || e.Size == 0 {
		return nil
	}
	if len(e.Data) != 1 || e.Data[0].Blob == tree.Hole {
		return fmt.Errorf("sparse files: %w", blob.ErrUnsupported)
	}
	n.Extents = e.Data
	p.info.ChunkCount += uint32((e.Size + int64(p.info.ChunkSize) - 1) / int64(p.info.ChunkSize))
	return nil
}

func (*tarPlaces) Data([]byte) error { return nil }

// writeTarfs writes a bootstrap. Blobs that no file uses are left out.
func writeTarfs(ctx context.Context, s *rafs6.Spec, to target) (*Result, error) {
	used := make([]bool, len(s.Blobs))
	_ = s.Tree.Nodes(func(n *tree.Node) error {
		for _, x := range n.Extents {
			used[x.Blob] = true
		}
		return nil
	})
	blobs, ids, renumber := s.Blobs, []string{}, make([]uint32, len(s.Blobs))
	s.Blobs = nil
	for i, b := range blobs {
		if used[i] {
			renumber[i] = uint32(len(ids))
			s.Blobs, ids = append(s.Blobs, b), append(ids, b.Info.ID)
		}
	}
	s.Tree.MapBlobs(func(n uint32) uint32 { return renumber[n] })
	plan, err := rafs6.NewPlan(s)
	if err != nil {
		return nil, fmt.Errorf("bootstrap: %w", err)
	}
	path, err := writeFile(ctx, to, plan)
	if err != nil {
		return nil, err
	}
	return newResult(path, ids, nydusblob.CompressorNone), nil
}

// mergeTarfs merges bootstraps of tars.
func (m *merge) mergeTarfs(ctx context.Context) (*Result, error) {
	if m.Parent != "" || m.ChunkDict != "" || m.BlobDigests != nil || m.BlobSizes != nil || m.TOCDigests != nil || m.TOCSizes != nil {
		return nil, fmt.Errorf("merge of tarfs with --parent-bootstrap, --chunk-dict or lists about blobs: %w", blob.ErrUnsupported)
	}
	s := &rafs6.Spec{Digester: nydusblob.DigesterSHA256, Tarfs: true}
	number := make(map[string]uint32) // by id
	for i, path := range m.Sources {
		raw, err := readBootstrap(ctx, path)
		if err != nil {
			return nil, fmt.Errorf("load bootstrap %q: %w", path, err)
		}
		l, err := rafs6.Parse(raw)
		if err != nil {
			return nil, fmt.Errorf("load bootstrap %q: %w", path, err)
		}
		if l.Flags&rafs6.FlagTarfs == 0 {
			return nil, fmt.Errorf("%w: tarfs vs another mode of %s", ErrInconsistent, path)
		}
		c := config{l.ChunkSize, l.Flags&rafs6.FlagExplicitOwner != 0}
		if m.config == nil {
			m.config = &c
		}
		if err := m.config.check(c, path); err != nil {
			return nil, err
		}
		if len(l.Blobs) > 1 {
			return nil, errors.New(path + ": invalid per layer bootstrap, having multiple associated data blobs")
		}
		s.ChunkSize, s.NoOwners = l.ChunkSize, !c.owners
		var own uint32
		for k := range l.Blobs {
			info := l.Blobs[k]
			if m.OriginalBlobIDs != nil {
				info.ID = m.OriginalBlobIDs[i]
			}
			n, ok := number[info.ID]
			if !ok {
				n = uint32(len(s.Blobs))
				number[info.ID] = n
				s.Blobs = append(s.Blobs, rafs6.Blob{Info: info})
			}
			own = n
		}
		if err := m.merger.Take(l.Tree, func(uint32) uint32 { return own }); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
	}
	var err error
	if s.Tree, err = m.merger.Tree(); err != nil {
		return nil, err
	}
	if m.PrefetchPolicy == PrefetchFS {
		s.Prefetch = prefetchPaths(m.Prefetch)
	}
	return writeTarfs(ctx, s, target{path: m.Bootstrap, dir: m.BlobDir})
}
