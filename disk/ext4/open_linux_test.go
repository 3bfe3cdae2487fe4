package ext4

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/internal/imagetest"
	"github.com/lazuli-project/lazuli/internal/mounttest"
	"github.com/lazuli-project/lazuli/tarfs"
	"github.com/lazuli-project/lazuli/tree"
)

// folder makes a folder with files of all sizes, links and directories large and small.
func folder(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	r := rand.New(rand.NewPCG(3, 3))
	must := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"small", "large", "large/sub"} {
		must(os.MkdirAll(filepath.Join(dir, name), 0o755))
	}
	for i := range 1500 {
		must(os.WriteFile(filepath.Join(dir, "large", fmt.Sprint("name of a file ", i)), nil, 0o640))
	}
	for i := range 20 {
		p := make([]byte, 3<<i)
		for j := range p {
			p[j] = byte(r.Uint32()) | 1
		}
		must(os.WriteFile(filepath.Join(dir, "small", fmt.Sprint(i)), p, 0o600))
	}
	must(os.Link(filepath.Join(dir, "small", "3"), filepath.Join(dir, "hard")))
	must(os.Symlink("short", filepath.Join(dir, "fast")))
	must(os.Symlink(strings.Repeat("long/", 50), filepath.Join(dir, "slow")))
	w, err := os.Create(filepath.Join(dir, "holes"))
	must(err)
	for i := range 40 {
		_, err := w.WriteAt([]byte("data"), int64(i)*100_000)
		must(err)
	}
	must(w.Truncate(5_000_000))
	must(w.Close())
	// mke2fs keeps whole seconds.
	at := unix.Timespec{Sec: 1_600_000_000}
	must(filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{at, at}, unix.AT_SYMLINK_NOFOLLOW)
	}))
	return dir
}

// mke2fs makes a file system of a folder, which may be "".
func mke2fs(t *testing.T, from, size string, args ...string) string {
	t.Helper()
	image := filepath.Join(t.TempDir(), "image")
	args = append([]string{"-q", "-F", "-E", "lazy_itable_init=1,nodiscard"}, args...)
	if from != "" {
		args = append(args, "-d", from)
	}
	if out, err := tool(t, "mke2fs", append(args, image, size)...); err != nil {
		t.Fatalf("mke2fs: %v\n%s", err, out)
	}
	return image
}

const common = "none,ext_attr,dir_index,filetype,sparse_super,large_file,"

// profiles are what mke2fs is told.
var profiles = map[string][]string{
	"base layer":  {"-b", "4096", "-I", "256", "-O", common + "has_journal,resize_inode,extent,64bit,flex_bg,huge_file,uninit_bg,dir_nlink,extra_isize"},
	"converter":   {"-b", "4096", "-I", "256", "-G", "1", "-O", common + "resize_inode,sparse_super2,extent,64bit,flex_bg,huge_file,dir_nlink,extra_isize"},
	"recommended": {"-b", "4096", "-I", "256", "-O", common + "resize_inode,extent,64bit,flex_bg,huge_file,uninit_bg,dir_nlink,extra_isize"},
	"plain":       {"-b", "4096", "-I", "512", "-O", common + "extent"},
	"no index":    {"-b", "4096", "-I", "256", "-O", "none,filetype,sparse_super,large_file,extent,uninit_bg"},
}

// What mke2fs makes is read, and extended.
func TestForeign(t *testing.T) {
	t.Parallel()
	from := folder(t)
	want := mounttest.List(t, from)
	want[0] = strings.Replace(want[0], "\t1600000000000000000\t", "\t-\t", 1) // the root is mke2fs's
	for name, args := range profiles {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			extend(t, loadDevice(t, mke2fs(t, from, "600M", args...)), want)
		})
	}
	t.Run("optimized", func(t *testing.T) {
		t.Parallel()
		image := mke2fs(t, from, "600M", profiles["base layer"]...)
		_, _ = tool(t, "e2fsck", "-fyD", image) // it says that it has changed something
		extend(t, loadDevice(t, image), want)
	})
	t.Run("other hash", func(t *testing.T) {
		t.Parallel()
		image := mke2fs(t, from, "600M", profiles["base layer"]...)
		for _, request := range []string{"ssv flags 2", "ssv def_hash_version tea", "ssv hash_seed 01020304-0506-0708-090a-0b0c0d0e0f10"} {
			if out, err := tool(t, "debugfs", "-w", "-R", request, image); err != nil {
				t.Fatalf("debugfs: %v\n%s", err, out)
			}
		}
		_, _ = tool(t, "e2fsck", "-fyD", image) // it says that it has changed something
		extend(t, loadDevice(t, image), want)
	})
	t.Run("block maps", func(t *testing.T) {
		t.Parallel()
		image := mke2fs(t, from, "600M", "-b", "4096", "-I", "256", "-O", common+"resize_inode")
		if out, err := tool(t, "tune2fs", "-O", "extent", image); err != nil {
			t.Fatalf("tune2fs: %v\n%s", err, out)
		}
		extend(t, loadDevice(t, image), want)
	})
}

// extend compares a disk with a listing, and goes on with it.
func extend(t *testing.T, d *device, want []string) {
	t.Helper()
	if diff := imagetest.Diff(want, d.listing(t)); diff != "" {
		t.Fatalf("\n%s", diff)
	}
	goOn(t, d)
}

// goOn applies layers to a disk.
func goOn(t *testing.T, d *device) {
	t.Helper()
	below, err := Read(d, d.size)
	if err != nil {
		t.Fatal(err)
	}
	base := newDevice(d.size)
	for number, p := range d.blocks {
		base.blocks[number] = slices.Clone(p)
	}
	kept, err := Open(base, base.size)
	if err != nil {
		t.Fatal(err)
	}
	g := &generator{r: rand.New(rand.NewPCG(9, 9)), names: []string{"large/sub", "small/3", "small/15", "slow", "hard", "holes"}}
	for i := range 700 {
		g.names = append(g.names, fmt.Sprint("large/name of a file ", i*2))
	}
	var c content
	const first = 1 << 20 // number of the blob that is the disk as it was
	layers := []*tree.Tree{below}
	for i := range 4 {
		layer := c.layer(t, g.layer(t, 400))
		if i == 1 {
			for j := range 500 { // so that directories of one block get an index
				layer.Root.Child("big").Put(fmt.Sprint("added ", j), &tree.Node{Mode: tree.TypeRegular})
			}
		}
		layer.CountLinks()
		layers = append(layers, tarfs.Clone(layer))
		again, err := Open(d, d.size)
		if err != nil {
			t.Fatal(err)
		}
		other, err := again.Apply(tarfs.Clone(layer))
		if err != nil {
			t.Fatal(err)
		}
		change, err := kept.Apply(layer)
		if err != nil {
			t.Fatal(err)
		}
		sameChange(t, change, other)
		d.apply(t, change, c.blobs)
		if !d.genuine || i == 3 { // which takes e2fsck seconds, without uninitialised groups
			d.fsck(t)
		}
		merged, err := tarfs.MergeBlobs(layers, func(layer int, blob uint32) uint32 {
			if layer == 0 {
				return first
			}
			return blob
		})
		if err != nil {
			t.Fatal(err)
		}
		want := list(t, merged, func(e tree.Extent) []byte {
			if e.Blob < first {
				return c.blobs[e.Blob][e.Offset : e.Offset+e.Length]
			}
			p := make([]byte, e.Length)
			if _, err := base.ReadAt(p, e.Offset); err != nil {
				t.Fatal(err)
			}
			return p
		})
		if diff := imagetest.Diff(want, d.listing(t)); diff != "" {
			t.Fatalf("after layer %d:\n%s", i, diff)
		}
	}
}

// Blocks of 1 and 2 KiB, small inodes and old mappings are read.
func TestReadForeign(t *testing.T) {
	t.Parallel()
	from := folder(t)
	want := mounttest.List(t, from)
	want[0] = strings.Replace(want[0], "\t1600000000000000000\t", "\t-\t", 1) // the root is mke2fs's
	for name, args := range map[string][]string{
		"ext2, 1 KiB": {"-b", "1024", "-I", "128", "-O", "none,filetype"},
		"ext3, 2 KiB": {"-b", "2048", "-I", "256", "-O", common + "has_journal,resize_inode"},
		"ext4, 1 KiB": {"-b", "1024", "-I", "256", "-O", common + "extent,64bit,flex_bg,metadata_csum,has_journal,orphan_file"},
		"revision 0":  {"-r", "0", "-b", "1024", "-O", "none"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := loadDevice(t, mke2fs(t, from, "64M", args...))
			if diff := imagetest.Diff(want, d.listing(t)); diff != "" {
				t.Errorf("\n%s", diff)
			}
		})
	}
}

// What cannot be extended is named.
func TestRefused(t *testing.T) {
	t.Parallel()
	const all = common + "extent,64bit,flex_bg,"
	for want, args := range map[string][]string{
		"metadata_csum":         {"-O", all + "metadata_csum"},
		"inline_data":           {"-O", all + "inline_data,ext_attr"},
		"encrypt":               {"-O", all + "encrypt"},
		"casefold":              {"-O", all + "casefold"},
		"bigalloc":              {"-O", all + "bigalloc"},
		"quota":                 {"-O", all + "quota"},
		"mmp":                   {"-O", all + "mmp"},
		"meta_bg":               {"-O", all + "meta_bg"},
		"ea_inode":              {"-O", all + "ea_inode"},
		"large_dir":             {"-O", all + "large_dir"},
		"orphan_file":           {"-O", all + "has_journal,orphan_file"},
		"extents":               {"-O", common},
		"blocks of 1024 bytes":  {"-O", all, "-b", "1024"},
		"inodes of 128 bytes":   {"-O", all, "-I", "128"},
		"needs_recovery":        {"-O", all + "has_journal"},
		"not unmounted cleanly": {"-O", all},
		"blocks of 2^4 KiB":     {"-O", all, "-b", "16384"},
	} {
		t.Run(want, func(t *testing.T) {
			t.Parallel()
			if !slices.Contains(args, "-b") {
				args = append(args, "-b", "4096")
			}
			if !slices.Contains(args, "-I") {
				args = append(args, "-I", "256")
			}
			image := mke2fs(t, "", "64M", args...)
			for state, request := range map[string]string{"needs_recovery": "feature needs_recovery", "not unmounted cleanly": "ssv state 0"} {
				if state == want {
					if out, err := tool(t, "debugfs", "-w", "-R", request, image); err != nil {
						t.Fatalf("debugfs: %v\n%s", err, out)
					}
				}
			}
			d := loadDevice(t, image)
			_, err := Open(d, d.size)
			if !errors.Is(err, blob.ErrUnsupported) || !strings.Contains(err.Error(), want) {
				t.Errorf("%v", err)
			}
		})
	}
}
