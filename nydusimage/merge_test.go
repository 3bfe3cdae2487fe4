package nydusimage_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/nydusimage"
)

// layersOf returns the blobs of an image of the reference tool, bottom first.
func layersOf(t *testing.T, image string) []string {
	t.Helper()
	var paths []string
	for _, id := range strings.Fields(string(readFile(t, filepath.Join(reference, image, "layers.txt")))) {
		paths = append(paths, filepath.Join(reference, "blobs", id))
	}
	return paths
}

// Merging the reference tool's layers gives the reference tool's image, byte for byte.
func TestMergeLikeReference(t *testing.T) {
	t.Parallel()
	for _, image := range []string{"v6-zstd", "v6-lz4-sha256", "v6-zstd-c4k", "v6-batch", "v6-inline-no-toc", "v6-encrypt"} {
		t.Run(image, func(t *testing.T) {
			t.Parallel()
			boot := filepath.Join(t.TempDir(), "boot")
			sources := layersOf(t, image)
			res := merge(t, nydusimage.MergeOptions{Sources: sources, Bootstrap: boot, PrefetchPolicy: "fs", Prefetch: []string{"/"}})
			if !bytes.Equal(readFile(t, boot), readFile(t, filepath.Join(reference, image, "image.boot"))) {
				t.Error("the bootstrap differs")
			}
			want := make([]string, len(sources))
			for i, s := range sources {
				want[i] = filepath.Base(s)
			}
			if !slices.Equal(res.Blobs, want) || res.Bootstrap != boot {
				t.Errorf("%+v", res)
			}
		})
	}
}

// The same of layers that stay the data, with the flags that containerd's converter gives.
func TestMergeRefLikeReference(t *testing.T) {
	t.Parallel()
	boot := filepath.Join(t.TempDir(), "boot")
	o := nydusimage.MergeOptions{Sources: layersOf(t, "v6-zran"), Bootstrap: boot, PrefetchPolicy: "fs", Prefetch: []string{"/"}, BlobSizes: []uint64{86155, 8551, 7621},
		TOCDigests: []string{"685cb1490f6c90e18e5c2bd84909d8c8c54a0b7626998020d62318137e49d20f", "86b5b4bbb468ef5a9ee9e2b3feb058005df203bc0a8da6f7bc0ccff6140372b5", "62072f7303ba4666dcfe4a000461d6cdb00ef51451aa9b42be6bd8fc9f9d66e0"}}
	for _, path := range o.Sources {
		o.BlobDigests = append(o.BlobDigests, filepath.Base(path))
	}
	merge(t, o)
	if !bytes.Equal(readFile(t, boot), readFile(t, filepath.Join(reference, "v6-zran", "image.boot"))) {
		t.Error("the bootstrap differs")
	}
}

func TestMergeLists(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	boot := filepath.Join(dir, "boot")
	sources := layersOf(t, "v6-zstd")
	sum := strings.Repeat("ab", 32)
	ids := []string{"one", "two", "three"}
	o := nydusimage.MergeOptions{Sources: sources, Bootstrap: boot, OriginalBlobIDs: ids, BlobSizes: []uint64{1 << 20, 2 << 20, 3 << 20},
		TOCDigests: []string{sum, sum, sum}, TOCSizes: []uint64{1152, 1152, 1152}}
	if res := merge(t, o); !slices.Equal(res.Blobs, ids) {
		t.Errorf("%+v", res)
	}
	var out bytes.Buffer
	if err := nydusimage.Inspect(t.Context(), nydusimage.InspectOptions{Bootstrap: boot, In: strings.NewReader("blobs\n"), Out: &out}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Blob ID:                three\n", "Blob Size:              2097152\n", "ToC Digest:             " + sum + "\n", "ToC Size:               1152\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is missing in\n%s", want, out.String())
		}
	}
	o.OriginalBlobIDs, o.BlobDigests = nil, []string{strings.Repeat("01", 32), strings.Repeat("02", 32), strings.Repeat("03", 32)}
	if res := merge(t, o); !slices.Equal(res.Blobs, o.BlobDigests) {
		t.Errorf("%+v", res)
	}
	// Into a directory the bootstrap is named by its digest.
	o.Bootstrap, o.BlobDir = "", dir
	if res := merge(t, o); filepath.Dir(res.Bootstrap) != dir || len(filepath.Base(res.Bootstrap)) != 64 {
		t.Errorf("%+v", res)
	}
	for name, change := range map[string]func(o *nydusimage.MergeOptions){
		"digests":      func(o *nydusimage.MergeOptions) { o.BlobDigests = o.BlobDigests[:2] },
		"ids":          func(o *nydusimage.MergeOptions) { o.OriginalBlobIDs = ids[:1] },
		"sizes":        func(o *nydusimage.MergeOptions) { o.BlobSizes = []uint64{1} },
		"toc digests":  func(o *nydusimage.MergeOptions) { o.TOCDigests = []string{sum} },
		"toc sizes":    func(o *nydusimage.MergeOptions) { o.TOCSizes = []uint64{1} },
		"no sources":   func(o *nydusimage.MergeOptions) { *o = nydusimage.MergeOptions{Bootstrap: boot} },
		"no output":    func(o *nydusimage.MergeOptions) { o.BlobDir = "" },
		"no digest":    func(o *nydusimage.MergeOptions) { o.BlobDigests = []string{"x", "y", "z"} },
		"no id":        func(o *nydusimage.MergeOptions) { o.BlobDigests, o.OriginalBlobIDs = nil, []string{"", "b", "c"} },
		"equal ids":    func(o *nydusimage.MergeOptions) { o.BlobDigests, o.OriginalBlobIDs = nil, []string{"a", "a", "a"} },
		"no bootstrap": func(o *nydusimage.MergeOptions) { o.Parent = "merge_test.go" },
	} {
		t.Run(name, func(t *testing.T) {
			o := o
			change(&o)
			if _, err := nydusimage.Merge(t.Context(), o); err == nil || errors.Is(err, nydusimage.ErrInconsistent) {
				t.Errorf("%v", err)
			}
		})
	}
}

// A parent lies below all sources.
func TestMergeParent(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	lower, all := filepath.Join(dir, "lower"), filepath.Join(dir, "all")
	sources := layersOf(t, "v6-zstd")
	merge(t, nydusimage.MergeOptions{Sources: sources[:2], Bootstrap: lower})
	merge(t, nydusimage.MergeOptions{Sources: sources[2:], Parent: lower, Bootstrap: all, PrefetchPolicy: "fs", Prefetch: []string{"/"}})
	want := list(t, filepath.Join(reference, "v6-zstd", "image.boot"), filepath.Join(reference, "blobs"))
	if got := list(t, all, filepath.Join(reference, "blobs")); !slices.Equal(got, want) {
		t.Error("other files")
	}
}

func TestMergeRefuses(t *testing.T) {
	t.Parallel()
	boot := filepath.Join(t.TempDir(), "boot")
	zstd := layersOf(t, "v6-zstd")[0]
	for name, c := range map[string]struct {
		second string
		want   error
	}{
		"other chunk size": {layersOf(t, "v6-zstd-c4k")[1], nydusimage.ErrInconsistent},
		"v5":               {layersOf(t, "v5-zstd")[1], blob.ErrUnsupported},
		"missing":          {"nowhere", os.ErrNotExist},
		"no bootstrap":     {"merge_test.go", blob.ErrCorrupt},
	} {
		if _, err := nydusimage.Merge(t.Context(), nydusimage.MergeOptions{Sources: []string{zstd, c.second}, Bootstrap: boot}); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	v5 := layersOf(t, "v5-zstd")
	for name, c := range map[string]struct {
		o    nydusimage.MergeOptions
		want error
	}{
		"v6 on v5":        {nydusimage.MergeOptions{Sources: []string{v5[0], zstd}}, nydusimage.ErrInconsistent},
		"v5 and a parent": {nydusimage.MergeOptions{Sources: v5, Parent: zstd}, blob.ErrUnsupported},
		"an image":        {nydusimage.MergeOptions{Sources: []string{filepath.Join(reference, "v5-zstd", "image.boot")}}, nil},
		"missing":         {nydusimage.MergeOptions{Sources: []string{v5[0], "nowhere"}}, os.ErrNotExist},
	} {
		c.o.Bootstrap = boot
		if _, err := nydusimage.Merge(t.Context(), c.o); err == nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := os.Stat(boot); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

// Layers of RAFS v5 give the files of the reference tool's image, and nearly its bytes: rafs5 says what differs on purpose.
func TestMergeVersion5(t *testing.T) {
	t.Parallel()
	boot := filepath.Join(t.TempDir(), "boot")
	sources := layersOf(t, "v5-zstd")
	res := merge(t, nydusimage.MergeOptions{Sources: sources, Bootstrap: boot, PrefetchPolicy: "fs", Prefetch: []string{"/"}})
	want := make([]string, len(sources))
	for i, s := range sources {
		want[i] = filepath.Base(s)
	}
	ref := filepath.Join(reference, "v5-zstd", "image.boot")
	if res.FSVersion != "5" || !slices.Equal(res.Blobs, want) || len(readFile(t, boot)) != len(readFile(t, ref)) {
		t.Errorf("%+v", res)
	}
	if !slices.Equal(list(t, boot, filepath.Join(reference, "blobs")), list(t, ref, filepath.Join(reference, "blobs"))) {
		t.Error("other files")
	}
}

// The result as JSON has all fields that converters read, and no null lists.
func TestResultJSON(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	res := merge(t, nydusimage.MergeOptions{Sources: layersOf(t, "v6-zstd")[:1], Bootstrap: filepath.Join(dir, "boot")})
	if err := res.WriteJSON(filepath.Join(dir, "json")); err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(readFile(t, filepath.Join(dir, "json")), &got); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"version", "bootstrap", "blobs", "external_bootstrap", "external_blobs", "trace", "fs_version", "compressor"} {
		if v, ok := got[key]; !ok || v == nil {
			t.Errorf("%s: %v", key, v)
		}
	}
	if got["compressor"] != "zstd" || got["fs_version"] != "6" {
		t.Errorf("%v", got)
	}
}
