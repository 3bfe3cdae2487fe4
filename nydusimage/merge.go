package nydusimage

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/formats/nydus"
	"github.com/lazuli-project/lazuli/formats/nydus/nydusblob"
	"github.com/lazuli-project/lazuli/formats/nydus/rafs5"
	"github.com/lazuli-project/lazuli/formats/nydus/rafs6"
	"github.com/lazuli-project/lazuli/tarfs"
)

// MergeOptions are the flags of "nydus-image merge". Lists are empty or have an entry for each source.
type MergeOptions struct {
	Sources   []string      // bootstraps, or blobs that have theirs inside, lowest first
	Layers    []blob.Source // what Sources only name, where these are no files
	Parent    string        // bootstrap below them
	Bootstrap string        // output file
	Writer    io.Writer     // gets the bootstrap in place of Bootstrap and BlobDir
	BlobDir   string        // output directory, where Bootstrap is ""
	ChunkDict string        // bootstrap, or "bootstrap=" and its path

	// What replaces the bootstraps' words about the layers' own blobs.
	BlobDigests     []string // SHA-256 in hex: the blob's id; where data and chunk table are apart, the latter's
	OriginalBlobIDs []string
	BlobSizes       []uint64
	TOCDigests      []string
	TOCSizes        []uint64

	PrefetchPolicy string // PrefetchNone (default), PrefetchFS, PrefetchBlob
	Prefetch       []string
}

// Merge lays bootstraps over each other. Bootstraps that do not fit together give [ErrInconsistent]. Blobs of which no file is left
// are not in the result.
func Merge(ctx context.Context, o MergeOptions) (*Result, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	m := newMerge(&o)
	raw, err := m.read(ctx, 0)
	switch {
	case err != nil:
		return nil, fmt.Errorf("load bootstrap %q: %w", o.Sources[0], err)
	case rafs5.IsBootstrap(raw):
		return m.merge5(ctx)
	case rafs6.IsTarfs(raw):
		return m.mergeTarfs(ctx)
	}
	if err := m.below(ctx); err != nil {
		return nil, err
	}
	for i, path := range o.Sources {
		if err := m.layer(ctx, i, path); err != nil {
			return nil, err
		}
	}
	t, err := m.merger.Tree()
	if err != nil {
		return nil, err
	}
	s := &spec{chunkSize: m.top.ChunkSize, compressor: m.top.Compressor(), digester: m.top.Digester(), noOwners: !m.top.explicitOwner()}
	if o.PrefetchPolicy == PrefetchFS {
		s.prefetch = prefetchPaths(o.Prefetch)
	}
	plan, ids, err := newPlan(t, m.table.blobs, s)
	if err != nil {
		return nil, err
	}
	path, err := writeFile(ctx, m.target(), plan)
	if err != nil {
		return nil, err
	}
	return newResult(path, ids, m.first.Compressor()), nil
}

func (o *MergeOptions) check() error {
	n := len(o.Sources)
	if n == 0 {
		return errors.New("source bootstrap list is empty , at least one bootstrap is required")
	}
	for _, l := range []struct {
		what string
		n    int
	}{
		{"blob digest", len(o.BlobDigests)}, {"original blob id", len(o.OriginalBlobIDs)}, {"blob size", len(o.BlobSizes)},
		{"toc digest", len(o.TOCDigests)}, {"toc size", len(o.TOCSizes)}, {"layer", len(o.Layers)},
	} {
		if l.n != 0 && l.n != n {
			return fmt.Errorf("number of %s entries %d doesn't match number of sources %d", l.what, l.n, n)
		}
	}
	if o.Writer == nil && o.Bootstrap == "" && o.BlobDir == "" {
		return errors.New("both --bootstrap and --blob-dir are missing, please specify one to store the generated metadata blob file")
	}
	return nil
}

func (o *MergeOptions) target() target {
	return target{writer: o.Writer, path: o.Bootstrap, dir: o.BlobDir}
}

// read reads the bootstrap of source i.
func (o *MergeOptions) read(ctx context.Context, i int) ([]byte, error) {
	if o.Layers != nil {
		return nydus.ReadBootstrap(ctx, o.Layers[i])
	}
	return readBootstrap(ctx, o.Sources[i])
}

// merge is a run of Merge.
type merge struct {
	*MergeOptions
	merger     *tarfs.Merger
	table      blobTable
	dict       map[string]bool // ids of the dictionary's blobs
	config     *config         // that everything must have
	first, top *loaded
}

// fit checks that a bootstrap goes with those before.
func (m *merge) fit(l *loaded) error {
	c := l.config()
	if m.config == nil {
		m.config = &c
	}
	return m.config.check(c, l.path)
}

// below loads dictionary and parent.
func (m *merge) below(ctx context.Context) error {
	if path := dictPath(m.ChunkDict); path != "" {
		l, err := load(ctx, path)
		if err != nil {
			return err
		}
		if err := m.fit(l); err != nil {
			return err
		}
		for i := range l.blobs {
			m.dict[l.blobs[i].Info.ID] = true
		}
	}
	if m.Parent == "" {
		return nil
	}
	l, err := load(ctx, m.Parent)
	if err != nil {
		return err
	}
	if err := m.fit(l); err != nil {
		return err
	}
	return m.add(l)
}

func (m *merge) add(l *loaded) error {
	numbers, err := m.table.addAll(l.blobs)
	if err == nil {
		err = m.merger.Take(l.Tree, numbers)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", l.path, err)
	}
	return nil
}

// layer lays a source over what is there.
func (m *merge) layer(ctx context.Context, i int, path string) error {
	raw, err := m.read(ctx, i)
	if err != nil {
		return fmt.Errorf("load bootstrap %q: %w", path, err)
	}
	l, err := parse(raw, path)
	if err != nil {
		return err
	}
	if err := m.fit(l); err != nil {
		return err
	}
	own := false
	for k := range l.blobs {
		info := &l.blobs[k].Info
		if m.dict[info.ID] {
			continue
		}
		if own {
			return fmt.Errorf("%s: invalid per layer bootstrap, having multiple associated data blobs", path)
		}
		own = true
		err := m.rename(info, &l.Blobs[k], i)
		if err == nil {
			err = info.Validate()
		}
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	if m.first == nil {
		m.first = l
	}
	m.top = l
	return m.add(l)
}

// rename puts in what the flags say about the own blob of source i. was is what its bootstrap says.
func (m *merge) rename(info, was *nydusblob.Info, i int) error {
	separate := info.Features&nydusblob.FeatureSeparate != 0
	switch {
	case m.OriginalBlobIDs != nil:
		info.ID = m.OriginalBlobIDs[i]
	case was.ID == nydusblob.InlinedID || was.Features&nydusblob.FeatureInlinedMeta != 0 && !separate:
		info.ID = idOfPath(m.Sources[i])
	}
	if m.BlobDigests != nil {
		sum, err := decodeDigest(m.BlobDigests[i])
		if err != nil {
			return err
		}
		if separate {
			info.MetaDigest = sum
		} else {
			info.ID = hex.EncodeToString(sum[:])
		}
	}
	if m.BlobSizes != nil {
		if separate {
			info.MetaSize = m.BlobSizes[i]
		} else {
			info.StoredSize = m.BlobSizes[i]
		}
	}
	if m.TOCDigests != nil {
		sum, err := decodeDigest(m.TOCDigests[i])
		if err != nil {
			return err
		}
		info.TOCDigest = sum
	}
	if m.TOCSizes != nil {
		info.TOCSize = uint32(min(m.TOCSizes[i], 1<<32-1))
	}
	if id := info.ID; id == "" || len(id) > maxBlobID {
		return fmt.Errorf("blob id %q: 1 to %d bytes are possible", id, maxBlobID)
	}
	return nil
}

func decodeDigest(s string) (sum [nydusblob.DigestSize]byte, err error) {
	p, err := hex.DecodeString(s)
	if err != nil || len(p) != len(sum) {
		return sum, fmt.Errorf("digest %q is no SHA-256 in hex", s)
	}
	return [nydusblob.DigestSize]byte(p), nil
}
