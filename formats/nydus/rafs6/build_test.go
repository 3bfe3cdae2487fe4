package rafs6

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/lazuli-project/lazuli/formats/nydus/nydusblob"
	"github.com/lazuli-project/lazuli/tree"
)

const fixtures = "../testdata"

// specOf returns what a real bootstrap was made of.
func specOf(t testing.TB, b *Bootstrap) *Spec {
	t.Helper()
	d, err := nydusblob.NewDecoder()
	if err != nil {
		t.Fatal(err)
	}
	s := &Spec{Tree: b.Tree, ChunkSize: b.ChunkSize, Compressor: b.Compressor(), Digester: b.Digester(), Prefetch: b.Prefetch}
	for i, info := range b.Blobs {
		data, err := os.ReadFile(filepath.Join(fixtures, "blobs", info.ID))
		if err != nil {
			t.Fatal(err)
		}
		table, err := nydusblob.DecodeTable(d, &info, data[info.CIOffset:][:info.CIStoredSize+nydusblob.HeaderSize])
		if err != nil {
			t.Fatal(err)
		}
		s.Blobs = append(s.Blobs, Blob{Info: info, Table: table, Digests: b.Digests(i, table.Len())})
	}
	return s
}

// What the reference tool made is parsed, and made again from the parts: the same bytes must come out.
func TestRebuild(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"v6-minimal", "v6-zstd", "v6-zstd-c4k", "v6-batch", "v6-lz4-sha256", "v6-plain", "v6-plain-toc",
		"v6-chunk-dict", "v6-prefetch-list", "v6-inline-no-toc", "v6-encrypt", "v6-dir", "v6-parent-dir"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			boot, err := os.ReadFile(filepath.Join(fixtures, name, "image.boot"))
			if err != nil {
				t.Fatal(err)
			}
			b, err := Parse(boot)
			if err != nil {
				t.Fatal(err)
			}
			got, err := Build(specOf(t, b))
			if err != nil {
				t.Fatal(err)
			}
			if len(got) != len(boot) {
				t.Fatalf("%d bytes instead of %d", len(got), len(boot))
			}
			numbers := b.numberPlaces(t, boot)
			for i := range got {
				// Directory builds number inodes as they find them.
				number := strings.HasSuffix(name, "dir") && numbers[i&^3]
				if got[i] != boot[i] && !number {
					t.Fatalf("byte %#x is %#x instead of %#x", i, got[i], boot[i])
				}
			}
		})
	}
}

// numberPlaces returns where the numbers of inodes are.
func (b *Bootstrap) numberPlaces(t *testing.T, p []byte) map[int]bool {
	t.Helper()
	s, err := decodeSuperblock(p)
	if err != nil {
		t.Fatal(err)
	}
	places := make(map[int]bool)
	tp := &treeParser{b: b, p: p, block: blockSize, meta: uint64(s.metaBlock) * blockSize, seen: make([]uint64, len(p)/nidSize/64+1),
		linked: make(map[uint64]*tree.Node), budget: uint64(len(p))}
	if _, err := tp.parse(uint64(s.rootNid)); err != nil {
		t.Fatal(err)
	}
	for nid := range uint64(len(p) / nidSize) {
		if tp.seen[nid/64]>>(nid%64)&1 != 0 {
			places[int(tp.meta+nid*nidSize)+20] = true
		}
	}
	return places
}

// A bootstrap of tars is made again without the chunk table, in which the reference tool puts entries without a meaning. Chunks are
// numbered anew where layers hide files of lower ones.
func TestRebuildTarfs(t *testing.T) {
	t.Parallel()
	boot, err := os.ReadFile(filepath.Join(fixtures, "v6-tarfs", "image.boot"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := Parse(boot)
	if err != nil {
		t.Fatal(err)
	}
	s := &Spec{Tree: b.Tree, ChunkSize: b.ChunkSize, Compressor: b.Compressor(), Digester: b.Digester(), Tarfs: true}
	for _, info := range b.Blobs {
		s.Blobs = append(s.Blobs, Blob{Info: info})
	}
	got, err := Build(s)
	if err != nil {
		t.Fatal(err)
	}
	again, err := Parse(got)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(again.Tree, b.Tree) || !reflect.DeepEqual(again.Blobs, b.Blobs) || again.Flags != b.Flags {
		t.Error("reads as something else")
	}
}
