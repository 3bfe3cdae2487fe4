package nydusimage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/lazuli-project/lazuli/formats/nydus/nydusblob"
	"github.com/lazuli-project/lazuli/formats/nydus/rafs6"
	"github.com/lazuli-project/lazuli/tree"
)

// ErrInconsistent means that bootstraps do not fit together: chunk size, owners or version differ. nydus-image merge
// ends with status 2 then, at which converters try again without what they had in a cache.
var ErrInconsistent = errors.New("inconsistent RAFS file systems")

// loaded is a bootstrap from a file.
type loaded struct {
	*rafs6.Bootstrap
	*rafs6.Details
	path  string
	raw   []byte
	blobs []rafs6.Blob // as far as the bootstrap knows them
}

// load reads a bootstrap, which may lie in a layer's blob.
func load(ctx context.Context, path string) (*loaded, error) {
	raw, err := readBootstrap(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("load bootstrap %q: %w", path, err)
	}
	return parse(raw, path)
}

// parse takes the bytes of a bootstrap. A blob that holds its own bootstrap has the name of that file up to the first dot.
func parse(raw []byte, path string) (_ *loaded, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("load bootstrap %q: %w", path, err)
		}
	}()
	l := &loaded{path: path, raw: raw}
	if l.Bootstrap, l.Details, err = rafs6.Inspect(l.raw); err != nil {
		return nil, err
	}
	if l.blobs, err = l.KnownBlobs(); err != nil {
		return nil, err
	}
	for i := range l.blobs {
		info := &l.blobs[i].Info
		if info.ID == nydusblob.InlinedID {
			info.ID = idOfPath(path)
		}
	}
	return l, nil
}

// chunkOf is a chunk of a file.
type chunkOf struct {
	nydusblob.Entry
	blob, index uint32
	digest      []byte
	crc         uint32
}

// chunks lists the chunks of a file in their order.
func (l *loaded) chunks(n *tree.Node) []chunkOf {
	unit := int64(l.ChunkSize)
	var list []chunkOf
	for _, x := range n.Extents {
		b := &l.blobs[x.Blob]
		for at := x.Offset; at < x.Offset+x.Length; {
			k := b.Table.Find(at)
			c := chunkOf{Entry: b.Table.Entry(k), blob: x.Blob, index: uint32(k), digest: b.Digests.Sum(k)}
			if b.Digests.CRC32C != nil {
				c.crc = b.Digests.CRC32C[k]
			}
			list = append(list, c)
			at += min(unit, x.Offset+x.Length-at)
		}
	}
	return list
}

// idOfPath is the id of a blob that a file is named after.
func idOfPath(path string) string {
	id, _, _ := strings.Cut(filepath.Base(path), ".")
	return id
}

func openFile(path string) (*os.File, int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, 0, err
	}
	i, err := f.Stat()
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	if !i.Mode().IsRegular() {
		return nil, 0, errors.Join(fmt.Errorf("%s is no regular file", path), f.Close())
	}
	return f, i.Size(), nil
}

// explicitOwner reports whether the bootstrap has owners and groups.
func (l *loaded) explicitOwner() bool { return l.Flags&rafs6.FlagExplicitOwner != 0 }

// config is what bootstraps that share chunks must have in common.
type config struct {
	chunkSize uint32
	owners    bool
}

func (l *loaded) config() config { return config{l.ChunkSize, l.explicitOwner()} }

// check compares with that of another bootstrap.
func (c config) check(o config, path string) error {
	switch {
	case c.chunkSize != o.chunkSize:
		return fmt.Errorf("%w: chunk size: %d vs %d of %s", ErrInconsistent, c.chunkSize, o.chunkSize, path)
	case c.owners != o.owners:
		return fmt.Errorf("%w: explicit uid and gid: %v vs %v of %s", ErrInconsistent, c.owners, o.owners, path)
	}
	return nil
}

// dictPath returns the path in the argument of --chunk-dict: "bootstrap=PATH" or PATH.
func dictPath(arg string) string { return strings.TrimPrefix(arg, "bootstrap=") }

// blobTable collects blobs of several bootstraps under one numbering.
type blobTable struct {
	blobs  []rafs6.Blob
	number map[string]uint32 // by id
}

// add returns the number of a blob. A blob that is there already gets what it did not know of its chunks.
func (t *blobTable) add(b *rafs6.Blob) (uint32, error) {
	if n, ok := t.number[b.Info.ID]; ok {
		joined, err := rafs6.JoinKnown(t.blobs[n], *b)
		if err != nil {
			return 0, err
		}
		t.blobs[n] = joined
		return n, nil
	}
	if t.number == nil {
		t.number = make(map[string]uint32)
	}
	n := uint32(len(t.blobs))
	t.number[b.Info.ID] = n
	t.blobs = append(t.blobs, *b)
	return n, nil
}

// addAll returns what maps the numbers of a bootstrap's blobs to those of the table.
func (t *blobTable) addAll(blobs []rafs6.Blob) (func(uint32) uint32, error) {
	numbers := make([]uint32, len(blobs))
	for i := range blobs {
		var err error
		if numbers[i], err = t.add(&blobs[i]); err != nil {
			return nil, err
		}
	}
	return func(n uint32) uint32 { return numbers[n] }, nil
}

// spec is what newPlan needs beside tree and blobs.
type spec struct {
	chunkSize  uint32
	compressor nydusblob.Compressor
	digester   nydusblob.Digester
	noOwners   bool
	prefetch   []string
	keep       func(*rafs6.Blob) bool // blobs that stay though no file uses them; may be nil
}

// newPlan plans a bootstrap and returns the ids of its blobs, in their order. Blobs that no file uses are left out, so that the
// tree's extents get new numbers. Links must be counted.
func newPlan(t *tree.Tree, blobs []rafs6.Blob, s *spec) (*rafs6.Plan, []string, error) {
	used := usedBlobs(t, len(blobs))
	out := &rafs6.Spec{Tree: t, ChunkSize: s.chunkSize, Compressor: s.compressor, Digester: s.digester, NoOwners: s.noOwners, Prefetch: s.prefetch}
	ids := []string{}
	renumber := make([]uint32, len(blobs))
	for i := range blobs {
		if !used[i] && (s.keep == nil || !s.keep(&blobs[i])) {
			continue
		}
		renumber[i] = uint32(len(out.Blobs))
		b := blobs[i]
		b.Info.Features &^= nydusblob.FeatureInlinedMeta
		out.Blobs = append(out.Blobs, b)
		ids = append(ids, b.Info.ID)
	}
	if len(ids) < len(blobs) {
		t.MapBlobs(func(n uint32) uint32 { return renumber[n] })
	}
	p, err := rafs6.NewPlan(out)
	if err != nil {
		return nil, nil, fmt.Errorf("bootstrap: %w", err)
	}
	return p, ids, nil
}

// prefetchPaths are the paths of a prefetch list as nydus-image takes them: absolute, those below an earlier one left out.
func prefetchPaths(lines []string) []string {
	var out []string
	for _, l := range lines {
		l = strings.TrimSpace(l)
		if !strings.HasPrefix(l, "/") {
			continue
		}
		covered := slices.ContainsFunc(out, func(o string) bool {
			return o == l || o == "/" || strings.HasPrefix(l, strings.TrimSuffix(o, "/")+"/")
		})
		if !covered {
			out = append(out, l)
		}
	}
	return out
}
