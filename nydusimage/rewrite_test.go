package nydusimage_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/nydusimage"
	"github.com/lazuli-project/lazuli/tree"
)

// copyBlobs copies the blobs of an image into a directory for new ones.
func copyBlobs(t *testing.T, image string) string {
	t.Helper()
	dir := t.TempDir()
	for _, path := range layersOf(t, image) {
		writeFile(t, dir, filepath.Base(path), readFile(t, path))
	}
	return dir
}

// Files that are listed lie in a blob of their own, and the image is the same.
func TestOptimize(t *testing.T) {
	t.Parallel()
	for _, image := range []string{"v6-zstd", "v6-batch", "v6-zstd-c4k", "v6-plain"} {
		for _, form := range []string{
			"/etc/passwd\n/sizes/noise-300000\n/nowhere\n/etc\n",
			`{"version":"v1","files":[{"path":"/etc/passwd"},{"path":"/sizes/noise-300000","ranges":[[0,4096]]},{"path":"/nowhere"}]}`,
		} {
			dir := copyBlobs(t, image)
			boot := filepath.Join(dir, "new.boot")
			res, err := nydusimage.Optimize(t.Context(), nydusimage.OptimizeOptions{Bootstrap: filepath.Join(reference, image, "image.boot"), BlobDir: dir,
				PrefetchFiles: writeFile(t, dir, "list", []byte(form)), Output: boot, OutputBlobDir: dir})
			if err != nil || len(res.Blobs) != 4 {
				t.Fatalf("%s: %+v, %v", image, res, err)
			}
			im := open(t, boot, dir)
			for _, path := range []string{"etc/passwd", "sizes/noise-300000"} {
				if x := im.Tree.Lookup(path).Extents[0]; x.Blob != 3 {
					t.Errorf("%s: %s: %+v", image, path, x)
				}
			}
			if n := im.Tree.Lookup("sizes/noise-300000"); image == "v6-zstd-c4k" && form[0] == '{' && n.Extents[1].Blob == 3 {
				t.Errorf("%s: more than the range: %+v", image, n.Extents)
			}
			want := list(t, filepath.Join(reference, image, "image.boot"), filepath.Join(reference, "blobs"))
			if !slices.Equal(list(t, boot, dir), want) {
				t.Errorf("%s: other files", image)
			}
			check(t, boot, dir)
			var out strings.Builder
			err = nydusimage.Inspect(t.Context(), nydusimage.InspectOptions{Bootstrap: boot, Request: "prefetch", Out: &out})
			if err != nil || !strings.Contains(out.String(), `"path":["/etc/passwd"]},{`) {
				t.Errorf("%s, %v", out.String(), err)
			}
		}
	}
	dir := t.TempDir()
	o := nydusimage.OptimizeOptions{Bootstrap: filepath.Join(reference, "v6-zstd", "image.boot"), BlobDir: filepath.Join(reference, "blobs"), Output: filepath.Join(dir, "boot")}
	for name, change := range map[string]func(*nydusimage.OptimizeOptions){
		"no output directory": func(o *nydusimage.OptimizeOptions) { o.OutputBlobDir = "" },
		"no list":             func(o *nydusimage.OptimizeOptions) { o.PrefetchFiles = "" },
		"missing list":        func(o *nydusimage.OptimizeOptions) { o.PrefetchFiles = "nowhere" },
		"wrong version": func(o *nydusimage.OptimizeOptions) {
			o.PrefetchFiles = writeFile(t, t.TempDir(), "l", []byte(`{"version":"v2"}`))
		},
		"no JSON":  func(o *nydusimage.OptimizeOptions) { o.PrefetchFiles = writeFile(t, t.TempDir(), "l", []byte(`{`)) },
		"no blobs": func(o *nydusimage.OptimizeOptions) { o.BlobDir = dir },
	} {
		o := o
		o.OutputBlobDir, o.PrefetchFiles = dir, writeFile(t, t.TempDir(), "l", []byte("/etc/passwd"))
		change(&o)
		if _, err := nydusimage.Optimize(t.Context(), o); err == nil {
			t.Error(name)
		}
		leftovers(t, dir)
	}
}

func TestCompact(t *testing.T) {
	t.Parallel()
	image := filepath.Join(reference, "v6-zstd", "image.boot")
	want := list(t, image, filepath.Join(reference, "blobs"))
	layers := layersOf(t, "v6-zstd")
	for name, c := range map[string]struct {
		change func(*nydusimage.CompactOptions)
		blobs  int // 0: nothing to do
		kept   string
	}{
		"too few layers":   {func(o *nydusimage.CompactOptions) { o.LayersToCompact = 32 }, 0, ""},
		"all together":     {func(*nydusimage.CompactOptions) {}, 1, ""},
		"only poor ones":   {func(o *nydusimage.CompactOptions) { o.CompactBlobSize, o.MinUsedRatio = 0, 99 }, 2, filepath.Base(layers[2])},
		"none is poor":     {func(o *nydusimage.CompactOptions) { o.CompactBlobSize, o.MinUsedRatio = 0, 0 }, 0, ""},
		"small ones":       {func(o *nydusimage.CompactOptions) { o.CompactBlobSize, o.MinUsedRatio = 150_000, 0 }, 2, filepath.Base(layers[0])},
		"bounded":          {func(o *nydusimage.CompactOptions) { o.MaxCompactSize, o.MinUsedRatio = 5_400_000, 0 }, 2, ""},
		"dictionary stays": {func(o *nydusimage.CompactOptions) { o.ChunkDict = layers[0] }, 2, filepath.Base(layers[0])},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := copyBlobs(t, "v6-zstd")
			o := nydusimage.DefaultCompact()
			o.LayersToCompact, o.Bootstrap, o.BlobDir, o.Output = 0, image, dir, filepath.Join(dir, "new.boot")
			c.change(&o)
			res, err := nydusimage.Compact(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			if c.blobs == 0 {
				if _, err := os.Stat(o.Output); res != nil || !errors.Is(err, os.ErrNotExist) {
					t.Errorf("%+v, %v", res, err)
				}
				return
			}
			if len(res.Blobs) != c.blobs || c.kept != "" && !slices.Contains(res.Blobs, c.kept) {
				t.Errorf("%q", res.Blobs)
			}
			if !slices.Equal(list(t, o.Output, dir), want) {
				t.Error("other files")
			}
			check(t, o.Output, dir)
		})
	}
}

func TestChunkDict(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	dict := filepath.Join(dir, "dict")
	plain := filepath.Join(reference, "v6-plain", "image.boot")
	res, err := nydusimage.GenerateChunkDict(t.Context(), nydusimage.ChunkDictOptions{Bootstrap: dict,
		Sources: []string{plain, filepath.Join(reference, "v6-dir", "image.boot"), filepath.Join(reference, "v6-parent-dir", "image.boot")}})
	if err != nil || len(res.Blobs) == 0 || len(res.Blobs) > 3 {
		t.Fatalf("%+v, %v", res, err)
	}
	// Every file has what its name says, and two images have it.
	im := open(t, dict, filepath.Join(reference, "blobs"))
	check(t, dict, filepath.Join(reference, "blobs"))
	files := len(im.Tree.Lookup("chunks").Entries)
	if files < 5 {
		t.Errorf("%d chunks", files)
	}
	// A layer uses it.
	o := nydusimage.CreateOptions{Type: nydusimage.TypeTar, Source: sourceLayers()[1], Bootstrap: filepath.Join(dir, "boot"), BlobDir: dir, ChunkDict: dict}
	if res := create(t, o); res.Trace.RegisteredEvents["dedup_chunks"] == int64(0) {
		t.Errorf("%+v", res)
	}
	for name, second := range map[string]string{
		"other chunk size": filepath.Join(reference, "v6-zstd-c4k", "image.boot"), "other digest": filepath.Join(reference, "v6-lz4-sha256", "image.boot"),
	} {
		_, err := nydusimage.GenerateChunkDict(t.Context(), nydusimage.ChunkDictOptions{Bootstrap: dict, Sources: []string{plain, second}})
		if !errors.Is(err, nydusimage.ErrInconsistent) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := nydusimage.GenerateChunkDict(t.Context(), nydusimage.ChunkDictOptions{Sources: []string{plain}}); err == nil {
		t.Error("no output")
	}
	if _, err := nydusimage.GenerateChunkDict(t.Context(), nydusimage.ChunkDictOptions{Bootstrap: dict}); err == nil {
		t.Error("no sources")
	}
}

// The disk has the bootstrap at its beginning and every file where a flat EROFS has it; the tree is dm-verity's.
func TestExport(t *testing.T) {
	t.Parallel()
	const block = 4096
	for _, image := range []string{"v6-zstd", "v6-batch", "v6-minimal"} {
		out := filepath.Join(t.TempDir(), "disk")
		boot := filepath.Join(reference, image, "image.boot")
		v, err := nydusimage.Export(t.Context(), nydusimage.ExportOptions{Bootstrap: boot, BlobDir: filepath.Join(reference, "blobs"), Output: out, Verity: true})
		if err != nil {
			t.Fatal(err)
		}
		disk := readFile(t, out)
		raw := readFile(t, boot)
		if !bytes.HasPrefix(disk, raw) {
			t.Errorf("%s: no bootstrap at the beginning", image)
		}
		im := open(t, boot, filepath.Join(reference, "blobs"))
		mapped := func(i uint32) int64 { // from the device slots
			p := raw[1408+128*i+68:]
			return int64(p[0]) | int64(p[1])<<8 | int64(p[2])<<16 | int64(p[3])<<24
		}
		err = im.Tree.Walk(func(path string, n *tree.Node) error {
			var want bytes.Buffer
			if err := im.WriteContent(t.Context(), n, &want, make([]byte, 1<<20), blob.Demand); err != nil {
				return err
			}
			for _, x := range n.Extents {
				at := mapped(x.Blob)*block + x.Offset
				if !bytes.Equal(disk[at:][:x.Length], want.Next(int(x.Length))) {
					t.Errorf("%s: %s", image, path)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		// Level by level from the data to the root.
		level := disk[:v.HashOffset]
		if v.DataBlocks*block != v.HashOffset {
			t.Errorf("%+v", v)
		}
		rest := disk[v.HashOffset:]
		for len(level) > block {
			var sums []byte
			for ; len(level) > 0; level = level[block:] {
				sum := sha256.Sum256(level[:block])
				sums = append(sums, sum[:]...)
			}
			sums = append(sums, make([]byte, -len(sums)&(block-1))...)
			if !bytes.Equal(rest[len(rest)-len(sums):], sums) {
				t.Fatalf("%s: a level of the tree is wrong", image)
			}
			rest = rest[:len(rest)-len(sums)]
			level = sums
		}
		if sum := sha256.Sum256(level); sum != v.Root || len(rest) != 0 {
			t.Errorf("%s: root %x instead of %x, %d bytes more", image, v.Root, sum, len(rest))
		}
		if !strings.HasPrefix(v.Options(), `dm-verity options: --no-superblock --format=1 -s "" --hash=sha256 --data-block-size=4096 --hash-block-size=4096 --data-blocks `) {
			t.Error(v.Options())
		}
		// Without the tree the data are the same.
		if _, err := nydusimage.Export(t.Context(), nydusimage.ExportOptions{Bootstrap: boot, BlobDir: filepath.Join(reference, "blobs"), Output: out}); err != nil || !bytes.Equal(readFile(t, out), disk[:v.HashOffset]) {
			t.Errorf("%s: %v", image, err)
		}
	}
	if _, err := nydusimage.Export(t.Context(), nydusimage.ExportOptions{Bootstrap: filepath.Join(reference, "v6-zstd", "image.boot"), BlobDir: t.TempDir(), Output: filepath.Join(t.TempDir(), "d")}); err == nil {
		t.Error("exported without blobs")
	}
}
