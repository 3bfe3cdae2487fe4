package erofs_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/disk/erofs"
	"github.com/lazuli-project/lazuli/fetch"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/internal/imagetest"
	"github.com/lazuli-project/lazuli/internal/mounttest"
	mounterofs "github.com/lazuli-project/lazuli/mount/erofs"
	"github.com/lazuli-project/lazuli/tree"
)

// mountDevices mounts metadata with plain files as devices.
func mountDevices(t *testing.T, dir string, img []byte, blobs []io.ReaderAt, flags ...string) {
	t.Helper()
	fs, err := unix.Fsopen("erofs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fs)
	folder := t.TempDir()
	file := func(key, name string, p []byte) {
		name = filepath.Join(folder, name)
		if err := os.WriteFile(name, p, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := unix.FsconfigSetString(fs, key, name); err != nil {
			t.Fatal(err)
		}
	}
	file("source", "metadata", img)
	for i, b := range blobs {
		p, err := io.ReadAll(io.NewSectionReader(b, 0, 1<<40))
		if err != nil {
			t.Fatal(err)
		}
		file("device", fmt.Sprint(i), p)
	}
	for _, flag := range append(flags, "ro") {
		if err := unix.FsconfigSetFlag(fs, flag); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		log := make([]byte, 1024)
		n, _ := unix.Read(fs, log)
		t.Fatalf("mount: %v; %s", err, log[:max(n, 0)])
	}
	mnt, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_RDONLY)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(mnt)
	if err := unix.MoveMount(mnt, "", unix.AT_FDCWD, dir, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		t.Fatal(err)
	}
}

// plainLayout is a blob that is stored as it is.
type plainLayout struct{ size int64 }

const plainSpan = 16 << 10

func (l plainLayout) Size() int64          { return l.size }
func (l plainLayout) NumSpans() int        { return int((l.size + plainSpan - 1) / plainSpan) }
func (l plainLayout) SpanAt(off int64) int { return int(off / plainSpan) }
func (l plainLayout) Span(i int) blob.Span {
	r := blob.Range{Off: int64(i) * plainSpan, Len: min(plainSpan, l.size-int64(i)*plainSpan)}
	return blob.Span{Index: i, Plain: r, Stored: r}
}
func (plainLayout) Decode(plain, stored []byte, _ blob.Span) error { copy(plain, stored); return nil }
func (plainLayout) Verify([]byte, blob.Span) error                 { return nil }

func roundUp(size int64) int64 { return (size + 511) &^ 511 }

// mountServed mounts metadata by package mount/erofs, which serves the blobs by FUSE.
func mountServed(t *testing.T, dir string, tr *tree.Tree, img []byte, blobs []io.ReaderAt, sizes []int64) {
	t.Helper()
	im := &formats.Image{Format: "test", Tree: tr, EROFS: &formats.EROFS{ReaderAt: bytes.NewReader(img), Size: int64(len(img))}}
	for i, b := range blobs {
		size := roundUp(sizes[i])
		im.Blobs = append(im.Blobs, formats.Blob{
			Layout: plainLayout{size}, PlainSize: size,
			Open: func(context.Context) (blob.Source, error) { return blob.ReaderAtSource{R: b, N: size}, nil },
		})
	}
	f, err := fetch.NewImage(im, fetch.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := mounterofs.New(t.Context(), f, dir, mounterofs.Options{}); err != nil {
		t.Fatal(err)
	}
}

// TestMountBuilt mounts trees with their blobs as devices, in every way in which that can be done.
func TestMountBuilt(t *testing.T) {
	if !mounttest.Isolated(t, limit) {
		return
	}
	type image struct {
		t     *tree.Tree
		blobs []io.ReaderAt
		sizes []int64
	}
	cases := make(map[string]image)
	add := func(name string, l layers) {
		merged, err := l.merge()
		if err != nil {
			t.Fatal(err)
		}
		im := image{t: merged, blobs: l.blobs()}
		for _, tar := range l {
			im.sizes = append(im.sizes, int64(len(tar)))
		}
		cases[name] = im
	}
	add("edge", edgeLayers(t))
	for seed := range uint64(8) {
		add(fmt.Sprint("random ", seed), randomLayers(t, 200+seed, 4))
	}
	// Pieces of several blobs, and holes. Both blobs are longer than they say, as Linux reads whole blocks.
	content := strings.Repeat("0123456789abcdef", 1<<14)
	two := []io.ReaderAt{strings.NewReader(content), strings.NewReader(strings.ToUpper(content))}
	pieces := treeOf(tree.Extent{Offset: 1 << 16, Length: 1 << 13}, tree.Extent{Offset: 1<<16 + 1<<13, Length: 1 << 12}, tree.Extent{Blob: tree.Hole, Length: 3 << 12},
		tree.Extent{Blob: 1, Length: 1 << 14}, tree.Extent{Blob: 1, Offset: 1 << 12, Length: 1 << 14}, tree.Extent{Blob: tree.Hole, Length: 100})
	pieces.Root.Put("end", &tree.Node{Mode: tree.TypeRegular | 0o600, Size: 3796, Extents: []tree.Extent{{Blob: 1, Offset: 1<<18 - 4096, Length: 3796}}})
	pieces.CountLinks()
	cases["large blocks"] = image{pieces, two, []int64{1 << 18, 1 << 18}}
	cases["small blocks"] = image{pieces, two, []int64{1<<18 - 300, 1<<18 - 300}}
	cases["no devices"] = image{t: treeOf(tree.Extent{Blob: tree.Hole, Length: 12345})}

	for name, c := range cases {
		img, err := erofs.Build(c.t, c.sizes)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if large := img[1024+12] == 12; large != (name == "large blocks" || name == "no devices") {
			t.Errorf("%s: blocks of 2^%d bytes", name, img[1024+12])
		}
		want := list(t, c.t, c.blobs)
		for way, mount := range map[string]func(dir string){
			"files":    func(dir string) { mountDevices(t, dir, img, c.blobs) },
			"directio": func(dir string) { mountDevices(t, dir, img, c.blobs, "directio") },
			"served":   func(dir string) { mountServed(t, dir, c.t, img, c.blobs, c.sizes) },
		} {
			t.Run(name+"/"+way, func(t *testing.T) {
				dir := t.TempDir()
				mount(dir)
				if diff := imagetest.Diff(want, mounttest.List(t, dir)); diff != "" {
					t.Errorf("mounted:\n%s", diff)
				}
				if err := unix.Unmount(dir, 0); err != nil {
					t.Error(err)
				}
			})
		}
	}
}
