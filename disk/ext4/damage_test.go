package ext4

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/disk"
	"github.com/lazuli-project/lazuli/internal/imagetest"
	"github.com/lazuli-project/lazuli/tarfs"
	"github.com/lazuli-project/lazuli/tree"
)

// richImage is a disk with something of everything, its blocks of metadata, and a layer to put on top.
var richImage = sync.OnceValues(func() (*device, []int64) {
	var c content
	f, err := Create(Options{Size: 64 << 20})
	if err != nil {
		panic(err)
	}
	root := tree.New()
	big := &tree.Node{Mode: tree.TypeDir | 0o755}
	root.Root.Put("big", big)
	for i := range 400 {
		big.Put(fmt.Sprint("a name of some length ", i), &tree.Node{Mode: tree.TypeRegular | 0o644, Mtime: int64(i)})
	}
	holes := &tree.Node{Mode: tree.TypeRegular | 0o600}
	for range 2000 {
		holes.AppendExtent(tree.Extent{Length: 4096})
		holes.AppendExtent(tree.Extent{Blob: tree.Hole, Length: 4096})
		holes.Size += 8192
	}
	root.Root.Put("holes", holes)
	x := &tree.Node{Mode: tree.TypeRegular | 0o600}
	x.SetXattr("user.small", []byte("1"))
	x.SetXattr("user.large", make([]byte, 1000))
	x.SetXattr(aclAccess, acl(1, 7, 2, 5, 4, 4, 16, 7, 32, 0))
	root.Root.Put("x", x)
	root.Root.Put("y", x)
	root.Root.Put("slow", &tree.Node{Mode: tree.TypeSymlink | 0o777, Target: strings.Repeat("t/", 100)})
	root.Root.Put("fast", &tree.Node{Mode: tree.TypeSymlink | 0o777, Target: "big"})
	root.Root.Put("null", &tree.Node{Mode: tree.TypeChar | 0o666, Rdev: tree.Device{Major: 1, Minor: 3}})
	root.CountLinks()
	c.blobs = [][]byte{make([]byte, 4096*2001)}
	change, err := f.Apply(root)
	if err != nil {
		panic(err)
	}
	d := newDevice(f.Size())
	numbers := make([]int64, 0, len(change.Blocks))
	for _, b := range change.Blocks {
		d.write(b.Data, b.Number*disk.BlockSize)
		numbers = append(numbers, b.Number)
	}
	return d, numbers
})

// acl makes an access control list of tags and permissions, in the form of system calls. Named users and groups have the number 70000.
func acl(tagsAndPermissions ...uint16) []byte {
	p := binary.LittleEndian.AppendUint32(nil, aclVersion)
	for i := 0; i < len(tagsAndPermissions); i += 2 {
		p = binary.LittleEndian.AppendUint16(p, tagsAndPermissions[i])
		p = binary.LittleEndian.AppendUint16(p, tagsAndPermissions[i+1])
		id := aclNoID
		if named, _ := aclTag(tagsAndPermissions[i]); named {
			id = 70000
		}
		p = binary.LittleEndian.AppendUint32(p, id)
	}
	return p
}

// survive reads and extends a disk that may be damaged. Errors are of the kinds that are documented, and what is read is a valid tree.
func survive(tb testing.TB, d *device) {
	tb.Helper()
	known := func(err error) bool {
		return errors.Is(err, blob.ErrCorrupt) || errors.Is(err, blob.ErrUnsupported) || errors.Is(err, io.ErrUnexpectedEOF)
	}
	t, err := Read(d, d.size)
	if err != nil && !known(err) {
		tb.Fatalf("Read: %v", err)
	}
	if err == nil {
		if err := t.Validate([]int64{d.size}); err != nil {
			tb.Fatalf("Read: %v", err)
		}
	}
	f, err := Open(d, d.size)
	if err != nil {
		if !known(err) {
			tb.Fatalf("Open: %v", err)
		}
		return
	}
	var space *SpaceError
	if _, err := f.Apply(smallLayer()); err != nil && !known(err) && !errors.As(err, &space) &&
		!errors.Is(err, tarfs.ErrPath) && !errors.Is(err, tarfs.ErrLink) && !errors.Is(err, tarfs.ErrName) {
		tb.Fatalf("Apply: %v", err)
	}
}

// smallLayer takes away, changes and adds a little.
func smallLayer() *tree.Tree {
	t := tree.New()
	big := &tree.Node{Mode: tree.TypeDir | 0o700}
	t.Root.Put("big", big)
	for i := range 100 {
		big.Put(fmt.Sprint("added ", i), &tree.Node{Mode: tree.TypeRegular})
		big.Put(fmt.Sprint(".wh.a name of some length ", i), &tree.Node{Mode: tree.TypeRegular})
	}
	t.Root.Put(".wh.holes", &tree.Node{Mode: tree.TypeRegular})
	t.Root.Put(".wh.y", &tree.Node{Mode: tree.TypeRegular})
	t.Root.Put("new", &tree.Node{Mode: tree.TypeRegular, Size: 10, Extents: []tree.Extent{{Length: 10}}})
	t.Root.Put("lost+found", &tree.Node{Mode: tree.TypeDir})
	t.CountLinks()
	return t
}

// Bytes of the metadata are changed one by one and in numbers.
func TestDamage(t *testing.T) {
	t.Parallel()
	whole, numbers := richImage()
	survive(t, whole)
	r := rand.New(rand.NewPCG(5, 5))
	for range 1000 {
		d := &device{blocks: maps.Clone(whole.blocks), size: whole.size}
		for range 1 + r.IntN(3) {
			number := numbers[r.IntN(len(numbers))]
			p := slices.Clone(d.blocks[number])
			at := r.IntN(len(p))
			if r.IntN(2) == 0 { // where there is something
				for range 200 {
					if p[at] != 0 {
						break
					}
					at = r.IntN(len(p))
				}
			}
			p[at] = []byte{0, 1, 0xFF, 0x80, byte(r.Uint32())}[r.IntN(5)]
			d.blocks[number] = p
		}
		survive(t, d)
	}
}

// A disk that is shorter than it says is refused.
func TestShort(t *testing.T) {
	t.Parallel()
	whole, _ := richImage()
	for _, size := range []int64{0, 1, 1024, 2047, 2048, 4096, 8192, 1 << 20, whole.size - disk.BlockSize} {
		if _, err := Read(&device{blocks: whole.blocks, size: size}, size); !errors.Is(err, blob.ErrCorrupt) {
			t.Errorf("%d bytes: %v", size, err)
		}
		if _, err := Open(&device{blocks: whole.blocks}, size); err == nil {
			t.Errorf("%d bytes that cannot be read", size)
		}
	}
}

func FuzzRead(f *testing.F) {
	whole, numbers := richImage()
	f.Add([]byte{}, false)
	for i := range numbers {
		f.Add([]byte{byte(i), 0, 24, 0, 0xFF, 0, 0, 0, byte(i), 0, 100, 4, 1, 2, 3, 4}, i%2 == 0)
	}
	// Each 8 bytes are a block of metadata, an offset, and what stands there.
	f.Fuzz(func(t *testing.T, patches []byte, add bool) {
		le := binary.LittleEndian
		d := &device{blocks: maps.Clone(whole.blocks), size: whole.size}
		for ; len(patches) >= 8; patches = patches[8:] {
			number := numbers[int(le.Uint16(patches))%len(numbers)]
			p := slices.Clone(d.blocks[number])
			at := int(le.Uint16(patches[2:])) % (len(p) - 3)
			v := le.Uint32(patches[4:])
			if add {
				v += le.Uint32(p[at:])
			}
			le.PutUint32(p[at:], v)
			d.blocks[number] = p
		}
		survive(t, d)
	})
}

// Layers with what ext4 cannot hold are refused, by the file's name.
func TestImpossible(t *testing.T) {
	t.Parallel()
	file := func(size int64, x ...tree.Extent) *tree.Node {
		return &tree.Node{Mode: tree.TypeRegular, Size: size, Extents: x}
	}
	for name, c := range map[string]struct {
		node *tree.Node
		want string
	}{
		"attribute":  {&tree.Node{Mode: tree.TypeRegular, Xattrs: []tree.Xattr{{Name: "user.large", Value: make([]byte, 4096)}}}, `"user.large"`},
		"list":       {&tree.Node{Mode: tree.TypeDir, Xattrs: []tree.Xattr{{Name: aclDefault, Value: []byte("none")}}}, aclDefault},
		"device":     {&tree.Node{Mode: tree.TypeChar, Rdev: tree.Device{Major: 1 << 12}}, "4096:0"},
		"type":       {&tree.Node{Mode: 0o644}, "type 0"},
		"target":     {&tree.Node{Mode: tree.TypeSymlink}, "target of 0 bytes"},
		"extents":    {file(100, tree.Extent{Length: 99}), "100 bytes with extents of 99"},
		"too many":   {file(100, tree.Extent{Length: 101}), "extent"},
		"sector":     {file(5000, tree.Extent{Length: 100}, tree.Extent{Blob: 1, Length: 4900}), "sectors"},
		"source":     {file(5000, tree.Extent{Offset: 1, Length: 5000}), "sectors"},
		"size":       {file(16<<40, tree.Extent{Blob: tree.Hole, Length: 16 << 40}), "file of 17592186044416 bytes"},
		"directory":  {&tree.Node{Mode: tree.TypeDir, Entries: []tree.Entry{{Name: "x", Node: file(1)}}}, `/bad/x"`},
		"attributes": {&tree.Node{Mode: tree.TypeDir, Xattrs: []tree.Xattr{{Name: "", Value: nil}}}, "name of 0 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, err := Create(Options{Size: MinSize})
			if err != nil {
				t.Fatal(err)
			}
			layer := tree.New()
			layer.Root.Put("bad", c.node)
			_, err = f.Apply(layer)
			if !errors.Is(err, blob.ErrUnsupported) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "/bad") {
				t.Errorf("%v", err)
			}
		})
	}
	t.Run("names", func(t *testing.T) {
		t.Parallel()
		f, err := Create(Options{})
		if err != nil {
			t.Fatal(err)
		}
		layer, n := tree.New(), file(0)
		for i := range maxLinks + 1 {
			layer.Root.Entries = append(layer.Root.Entries, tree.Entry{Name: fmt.Sprintf("%05d", i), Node: n})
		}
		if _, err := f.Apply(layer); !errors.Is(err, blob.ErrUnsupported) || !strings.Contains(err.Error(), "65001 names") {
			t.Errorf("%v", err)
		}
	})
	for _, size := range []int64{-1, 1, MinSize - 1, MaxSize + 1} {
		if _, err := Create(Options{Size: size}); !errors.Is(err, blob.ErrUnsupported) {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
}

// What does not fit says how large the disk has to be, and then it fits.
func TestSpace(t *testing.T) {
	t.Parallel()
	layer := func(files int, size int64) *tree.Tree {
		l := tree.New()
		for i := range files {
			l.Root.Put(fmt.Sprintf("%06d", i), &tree.Node{Mode: tree.TypeRegular, Size: size, Extents: []tree.Extent{{Length: size}}[:min(size, 1)]})
		}
		l.CountLinks()
		return l
	}
	for name, c := range map[string]struct {
		files int
		size  int64
	}{"blocks": {10, 100 << 20}, "inodes": {20_000, 0}, "small files": {30_000, 1}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, err := Create(Options{Size: 100 << 20})
			if err != nil {
				t.Fatal(err)
			}
			_, err = f.Apply(layer(c.files, c.size))
			var space *SpaceError
			if !errors.As(err, &space) || !strings.Contains(err.Error(), "virtual size to") {
				t.Fatalf("%v", err)
			}
			if f, err = Create(Options{Size: space.Needed}); err != nil {
				t.Fatal(err)
			}
			if _, err := f.Apply(layer(c.files, c.size)); err != nil {
				t.Errorf("of %d bytes needed: %v", space.Needed, err)
			}
		})
	}
}

// Where there is no room behind the last block, freed ones are used.
func TestReuse(t *testing.T) {
	t.Parallel()
	s := newStack(t, Options{Size: 32 << 20})
	r := rand.New(rand.NewPCG(1, 1))
	for i := range 12 {
		p := make([]byte, 5<<20)
		for j := range p {
			p[j] = byte(r.Uint32()) | 1
		}
		items := []imagetest.Item{imagetest.File(fmt.Sprintf("f%d", i), string(p[:len(p)/2])), imagetest.File(fmt.Sprintf("d/g%d", i), string(p[len(p)/2:]))}
		if i >= 2 {
			items = append(items, imagetest.Whiteout(fmt.Sprintf("f%d", i-2)), imagetest.Whiteout(fmt.Sprintf("d/g%d", i-2)))
		}
		for j := range 500 { // inodes too
			items = append(items, imagetest.File(fmt.Sprintf("many%d/%d", i%2, j), ""))
		}
		items = append(items, imagetest.Opaque(fmt.Sprintf("many%d", i%2)))
		s.apply(t, imagetest.Tar(t, items...))
		s.dev.fsck(t)
	}
}
