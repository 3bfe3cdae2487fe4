package ext4

import (
	"fmt"
	"slices"
	"testing"

	"github.com/lazuli-project/lazuli/disk"
	"github.com/lazuli-project/lazuli/tarfs"
	"github.com/lazuli-project/lazuli/tree"
)

// numbered makes a directory of empty files with numbers from first to end.
func numbered(format string, first, end int) *tree.Node {
	n := &tree.Node{Mode: tree.TypeDir | 0o755}
	for i := first; i < end; i++ {
		n.Entries = append(n.Entries, tree.Entry{Name: fmt.Sprintf(format, i), Node: &tree.Node{Mode: tree.TypeRegular | 0o644}})
	}
	return n
}

// A directory grows from one block to an index of two levels, whose nodes are split.
func TestIndexGrows(t *testing.T) {
	t.Parallel()
	s := newStack(t, Options{Size: 4 << 30})
	levels := func() uint8 {
		d, err := s.kept.openDir(s.kept.dirs[s.kept.tree.Root.Child("d")].ino)
		if err != nil {
			t.Fatal(err)
		}
		p, err := s.kept.block(d.blocks[0])
		if err != nil || !d.indexed {
			t.Fatalf("no index: %v", err)
		}
		return p[indexRootInfo+6]
	}
	const format = "%06d is a name that is quite a bit longer than most are"
	for _, step := range []struct {
		first, end int
		levels     uint8
	}{{0, 24_000, 0}, {24_000, 30_000, 1}, {30_000, 46_000, 1}, {46_000, 46_001, 1}} {
		l := tree.New()
		l.Root.Put("d", numbered(format, step.first, step.end))
		l.Root.SetXattr(tarfs.XattrImplied, nil)
		l.CountLinks()
		s.applyTree(t, l)
		if got := levels(); got != step.levels {
			t.Errorf("%d levels with %d entries", got, step.end)
		}
	}
	if n := len(s.changes[3].Blocks); n > 7 {
		t.Errorf("one more entry changes %d blocks", n)
	}
	// What is taken away changes blocks where it was, and no others.
	l := tree.New()
	l.Root.Put("d", numbered(".wh."+format, 10_000, 45_000))
	l.Root.SetXattr(tarfs.XattrImplied, nil)
	l.CountLinks()
	s.applyTree(t, l)
	s.dev.fsck(t)
}

// A directory that is made large at once has what is needed in its index.
func TestLargeDirectory(t *testing.T) {
	t.Parallel()
	s := newStack(t, Options{})
	l := tree.New()
	l.Root.Put("d", numbered("%06d", 0, 100_000))
	l.CountLinks()
	s.applyTree(t, l)
	s.dev.fsck(t)
}

// Files of all sizes up to the largest, of several blobs, with holes and without.
func TestLargeFiles(t *testing.T) {
	t.Parallel()
	const largest = maxFileBlocks * disk.BlockSize
	file := func(size int64, x ...tree.Extent) *tree.Node {
		return &tree.Node{Mode: tree.TypeRegular | 0o600, Size: size, Extents: x}
	}
	hole := func(n int64) tree.Extent { return tree.Extent{Blob: tree.Hole, Length: n} }
	l := tree.New()
	l.Root.Put("dense", file(5<<30+1, tree.Extent{Blob: 2, Offset: 1 << 40, Length: 5<<30 + 1}))
	l.Root.Put("hole", file(largest, hole(largest)))
	l.Root.Put("end", file(largest, hole(largest-10*disk.SectorSize), tree.Extent{Offset: 4096, Length: 10 * disk.SectorSize}))
	l.Root.Put("two", file(20<<30, tree.Extent{Blob: 1, Length: 1 << 30}, hole(18<<30), tree.Extent{Blob: 2, Length: 1 << 30}))
	l.Root.Put("mixed", file(3*disk.SectorSize+5, tree.Extent{Blob: 1, Length: disk.SectorSize}, hole(disk.SectorSize),
		tree.Extent{Blob: 0, Offset: 8 * disk.SectorSize, Length: disk.SectorSize + 5}))
	l.CountLinks()
	f, err := Create(Options{})
	if err != nil {
		t.Fatal(err)
	}
	c, err := f.Apply(l)
	if err != nil {
		t.Fatal(err)
	}
	d := newDevice(f.Size())
	for _, b := range c.Blocks {
		d.write(b.Data, b.Number*disk.BlockSize)
	}
	d.fsck(t)
	got, err := Read(d, d.size)
	if err != nil {
		t.Fatal(err)
	}
	if err := got.Validate([]int64{d.size}); err != nil {
		t.Fatal(err)
	}
	for name, holes := range map[string]int64{"dense": 0, "hole": largest, "end": largest - 2*disk.BlockSize, "two": 18 << 30, "mixed": 0} {
		n := got.Root.Child(name)
		for _, x := range n.Extents {
			if x.Blob == tree.Hole {
				holes -= x.Length
			}
		}
		if holes != 0 {
			t.Errorf("%s: %d bytes of holes are missing", name, holes)
		}
	}
	// Of the mixed file, each sector comes from where it belongs.
	at := got.Root.Child("mixed").Extents[0].Offset
	want := []disk.Extent{
		{Device: at, Blob: 1, Length: disk.SectorSize},
		{Device: at + disk.SectorSize, Blob: disk.Zero, Length: disk.SectorSize},
		{Device: at + 2*disk.SectorSize, Blob: 0, Source: 8 * disk.SectorSize, Length: 2 * disk.SectorSize},
		{Device: at + 4*disk.SectorSize, Blob: disk.Zero, Length: 4 * disk.SectorSize},
	}
	i := slices.IndexFunc(c.Data, func(e disk.Extent) bool { return e.Device == at })
	if i < 0 || len(c.Data) < i+4 || !slices.Equal(c.Data[i:i+4], want) {
		t.Errorf("%+v, want %+v", c.Data, want)
	}
}

// The sizes that changes have.
func TestSmallChanges(t *testing.T) {
	t.Parallel()
	f, err := Create(Options{})
	if err != nil {
		t.Fatal(err)
	}
	apply := func(most int, put func(l *tree.Tree)) {
		t.Helper()
		l := tree.New()
		l.Root.SetXattr(tarfs.XattrImplied, nil)
		put(l)
		l.CountLinks()
		c, err := f.Apply(l)
		if err != nil {
			t.Fatal(err)
		}
		if len(c.Blocks) > most {
			t.Errorf("%d blocks change, not %d", len(c.Blocks), most)
		}
	}
	one := func(name string) func(*tree.Tree) {
		return func(l *tree.Tree) { l.Root.Put(name, &tree.Node{Mode: tree.TypeRegular}) }
	}
	apply(15, func(*tree.Tree) {}) // superblock, 8 of descriptors, 2 and 1 bitmaps, inodes, 2 directories
	apply(0, func(*tree.Tree) {})  // nothing
	apply(5, one("a"))             // superblock, descriptor, bitmap, inode, directory
	apply(5, one("a"))             // the same again
	apply(5, one(".wh.a"))         // what takes away is no more
	apply(0, one(".wh.none"))
}

func TestTimes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		sec  int64
		nsec uint32
		want int64
	}{
		{0, 0, 0}, {-1, 999_999_999, -1}, {1<<31 - 1, 1, 1<<31 - 1}, {1 << 31, 2, 1 << 31}, {1<<32 - 1, 3, 1<<32 - 1}, {1 << 32, 4, 1 << 32},
		{minTime, 5, minTime}, {maxTime, 6, maxTime}, {minTime - 1, 7, minTime}, {maxTime + 1, 8, maxTime}, {1 << 62, 0, maxTime}, {-1 << 62, 0, minTime},
	} {
		p := make(inode, 256)
		p.set16(0x80, extraSize)
		p.setTimes(&tree.Node{Mtime: c.sec, MtimeNsec: c.nsec})
		sec, nsec := p.modTime()
		wantNsec := c.nsec
		if c.want != c.sec {
			wantNsec = 0
		}
		if sec != c.want || nsec != wantNsec {
			t.Errorf("%d.%d became %d.%d", c.sec, c.nsec, sec, nsec)
		}
	}
}

func TestLinksOfDirectories(t *testing.T) {
	t.Parallel()
	f := new(FS)
	for subdirs, want := range map[uint32]uint32{0: 2, 1: 3, maxLinks - 2: maxLinks, maxLinks - 1: 1, 1 << 20: 1} {
		p := make(inode, 256)
		if f.setDirLinks(p, subdirs); p.links() != want {
			t.Errorf("%d links with %d directories, want %d", p.links(), subdirs, want)
		}
	}
	if !f.sb.roCompat(roDirNlink) {
		t.Error("the superblock does not say dir_nlink")
	}
}
