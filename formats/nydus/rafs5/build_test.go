package rafs5

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"os"
	"path/filepath"
	"testing"

	"github.com/lazuli-project/lazuli/tree"
)

func readFixture(t testing.TB, name string) []byte {
	t.Helper()
	p, err := os.ReadFile(filepath.Join("..", "testdata", name, "image.boot"))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// spec is what makes a parsed bootstrap again.
func spec(b *Bootstrap) *Spec {
	return &Spec{Tree: b.Tree, Blobs: b.Blobs, ChunkSize: b.ChunkSize, Compressor: b.Compressor, Digester: b.Digester, Prefetch: b.Prefetch}
}

// The minimal image of the reference, with and without CRCs.
func TestGolden(t *testing.T) {
	t.Parallel()
	want := readFixture(t, "v5-minimal")
	b, err := Parse(want)
	if err != nil {
		t.Fatal(err)
	}
	// The blob's table has all of its chunks, so that they are numbered and placed anew.
	b.Blobs[0].Places = nil
	got, err := Build(spec(b))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("differs from what the reference tool made")
	}
	b.Blobs[0].Digests.CRC32C = nil
	if got, err = Build(spec(b)); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(got)
	if hex.EncodeToString(sum[:]) != "e984a4dff9e8ffca87f1ab2a6f7c77a6c887a6cdcb1d7987203d4c9bb2779407" {
		t.Errorf("%x", sum)
	}
}

// What the reference wrote is written again. It counts attributes into blocks, sets a flag on hard links, leaves all bits of devices
// set that are none, and keeps sizes of directories that are merged.
func TestRewrite(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"v5-lz4", "v5-zstd", "v5-none-aligned-c4k", "v5-dir"} {
		want := readFixture(t, name)
		b, err := Parse(want)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Build(spec(b))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(masked(t, got), masked(t, want)) {
			t.Errorf("%s: differs from what the reference tool made", name)
		}
		again, err := Parse(got)
		if err != nil {
			t.Fatal(err)
		}
		if x, err := Build(spec(again)); err != nil || !bytes.Equal(x, got) {
			t.Errorf("%s: %v, or not the same bytes again", name, err)
		}
	}
}

// masked clears what differs on purpose: blocks, the flag of hard links, numbers of what is no device, sizes of directories.
func masked(t *testing.T, p []byte) []byte {
	t.Helper()
	s, err := decodeSuperblock(p)
	if err != nil {
		t.Fatal(err)
	}
	p = bytes.Clone(p)
	le := binary.LittleEndian
	for i := range s.entries {
		r := p[uint64(le.Uint32(s.table.of(p)[i*4:]))*unit:]
		clear(r[72:80])
		r[80] &^= inodeHardlink
		mode := le.Uint32(r[60:]) & tree.TypeMask
		if mode == tree.TypeDir {
			clear(r[64:72])
		}
		if mode != tree.TypeChar && mode != tree.TypeBlock {
			clear(r[104:108])
		}
	}
	return p
}
