package ext4

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/lazuli-project/lazuli/tarfs"
	"github.com/lazuli-project/lazuli/tree"
)

// The hashes are those of debugfs 1.47.0 (dx_hash).
func TestNameHash(t *testing.T) {
	t.Parallel()
	names := [4]string{"a", "hello.txt", "a name that is longer than thirty-two bytes, by far", "\xe4\xff\x80x"}
	seed := [4]uint32{0x04030201, 0x08070605, 0x0C0B0A09, 0x100F0E0D}
	for _, c := range []struct {
		version uint8
		seed    [4]uint32
		want    [4]uint32
	}{
		{hashLegacy, [4]uint32{}, [4]uint32{0xE74B53E2, 0x65A05776, 0x7C9F5104, 0xB992A694}},
		{hashLegacy, seed, [4]uint32{0xE74B53E2, 0x65A05776, 0x7C9F5104, 0xB992A694}},
		{hashHalfMD4, [4]uint32{}, [4]uint32{0xD5FA7D7A, 0xA26E1D86, 0xAB1BF068, 0x30811B28}},
		{hashHalfMD4, seed, [4]uint32{0x8D08EC4C, 0xAC15D19C, 0x089D0286, 0xFFC0250C}},
		{hashTEA, [4]uint32{}, [4]uint32{0x6D0EA4C0, 0x5107C3F2, 0xFE24FBA0, 0x2A048086}},
		{hashTEA, seed, [4]uint32{0xF53528F0, 0x8912606C, 0x5257E9B8, 0x71696F2A}},
	} {
		for i, name := range names {
			if got := nameHash(name, c.version, c.seed); got != c.want[i] {
				t.Errorf("version %d, seed %x: hash of %q is %#x, want %#x", c.version, c.seed, name, got, c.want[i])
			}
			// ASCII is the same, signed or not.
			if got := nameHash(name, c.version+hashUnsigned, c.seed); (got == c.want[i]) != (i < 3) {
				t.Errorf("version %d, unsigned: hash of %q is %#x", c.version, name, got)
			}
		}
	}
}

// Names with one hash that are in two blocks are found in both.
func TestSameHash(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("n", 240) // 14 names fill a block
	seen := make(map[uint32]string)
	var pair []string
	var hash uint32
	for i := 0; pair == nil; i++ {
		name := fmt.Sprintf("%08d%s", i, long)
		h := nameHash(name, hashHalfMD4, [4]uint32{})
		if other, ok := seen[h]; ok && h > 1<<28 && h < 3<<30 {
			pair, hash = []string{other, name}, h
		}
		seen[h] = name
	}
	below, above := 13, 30
	dir := &tree.Node{Mode: tree.TypeDir | 0o755}
	for _, h := range slices.Sorted(maps.Keys(seen)) {
		if h < hash && below > 0 {
			below--
		} else if h > hash && above > 0 {
			above--
		} else {
			continue
		}
		dir.Put(seen[h], &tree.Node{Mode: tree.TypeRegular | 0o644})
	}
	for _, name := range pair {
		dir.Put(name, &tree.Node{Mode: tree.TypeRegular | 0o644})
	}
	s := newStack(t, Options{Size: 64 << 20})
	l := tree.New()
	l.Root.Put("d", dir)
	l.CountLinks()
	s.applyTree(t, l)
	s.dev.fsck(t)
	d, err := s.kept.openDir(s.kept.dirs[s.kept.tree.Root.Child("d")].ino)
	if err != nil {
		t.Fatal(err)
	}
	blocks := make([]int, len(pair))
	for i, name := range pair {
		if blocks[i], _, _, err = d.find(name); err != nil {
			t.Fatal(err)
		}
	}
	if slices.Sort(blocks); blocks[0] < 1 || blocks[0] == blocks[1] {
		t.Fatalf("the two names are in blocks %d", blocks)
	}
	slices.SortFunc(pair, func(a, b string) int { return cmp.Compare(b, a) })
	for _, name := range pair {
		l := tree.New()
		l.Root.SetXattr(tarfs.XattrImplied, nil)
		dir := &tree.Node{Mode: tree.TypeDir | 0o755}
		dir.Put(tarfs.WhiteoutPrefix+name, &tree.Node{Mode: tree.TypeRegular})
		l.Root.Put("d", dir)
		l.CountLinks()
		s.applyTree(t, l)
	}
	s.dev.fsck(t)
}
