package nydusimage_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/internal/imagetest"
	"github.com/lazuli-project/lazuli/nydusimage"
)

// The smallest image is the same as the reference tool's, byte for byte.
func TestCreateMinimal(t *testing.T) {
	t.Parallel()
	src, out := t.TempDir(), t.TempDir()
	writeFile(t, src, "a", []byte("hello"))
	if os.Geteuid() != 0 {
		t.Skip("needs root: the files of the reference image are root's")
	}
	for _, path := range []string{filepath.Join(src, "a"), src} {
		if err := errors.Join(os.Chtimes(path, time.Unix(0, 0), time.Unix(0, 0)), os.Chmod(path, map[bool]os.FileMode{true: 0o755, false: 0o644}[path == src])); err != nil {
			t.Fatal(err)
		}
	}
	res := create(t, nydusimage.CreateOptions{Source: src, Bootstrap: filepath.Join(out, "boot"), BlobDir: out})
	const id = "aa3b70cf2d0e8ac5d3a67e4d3177e9ad9b2a0a57690867ffc87de96158e875d1"
	if !slices.Equal(res.Blobs, []string{id}) || res.BlobSize != 4117 {
		t.Errorf("%+v", res)
	}
	if !bytes.Equal(readFile(t, filepath.Join(out, "boot")), readFile(t, filepath.Join(reference, "v6-minimal", "image.boot"))) {
		t.Error("the bootstrap differs")
	}
	leftovers(t, out, id, "boot")
}

// Layers in every form, merged, give the image that other tools unpack.
func TestCreateLayers(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]nydusimage.CreateOptions{
		"self-contained":  {InlineMeta: true, TOC: true, PrefetchPolicy: "fs", Prefetch: []string{"/"}},
		"inlined, no TOC": {InlineMeta: true},
		"apart":           {},
		"apart, TOC":      {TOC: true, Compressor: "lz4_block"},
		"batches":         {InlineMeta: true, TOC: true, BatchSize: 0x40000},
		"small batches":   {InlineMeta: true, TOC: true, BatchSize: 0x1000, ChunkSize: 0x1000},
		"small chunks":    {InlineMeta: true, TOC: true, ChunkSize: 0x1000, Compressor: "none", Digester: "sha256"},
		"large chunks":    {TOC: true, ChunkSize: 16 << 20},
		"eStargz":         {Type: "estargz-rafs", InlineMeta: true, TOC: true},
		"encrypted":       {InlineMeta: true, TOC: true, Encrypt: true},
		"v5":              {InlineMeta: true, FSVersion: "5", Compressor: "lz4_block", PrefetchPolicy: "fs", Prefetch: []string{"/"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			var sources []string
			for i, l := range imagetest.Edge(t).Layers {
				o := o
				o.Source = writeFile(t, dir, "layer", l.Stored)
				if i == 1 {
					o.Source = writeFile(t, dir, "layer", l.Tar)
				}
				if o.Type == "" {
					o.Type = nydusimage.TypeTar
				}
				o.BlobDir = dir
				if !o.InlineMeta {
					o.Bootstrap = filepath.Join(dir, fmt.Sprint(i)+".boot")
				}
				res := create(t, o)
				path := o.Bootstrap
				if o.InlineMeta {
					path = newest(t, dir, sources)
				} else {
					check(t, path, dir)
				}
				if res.Bootstrap != o.Bootstrap || len(res.Blobs) != 1 {
					t.Errorf("%+v", res)
				}
				sources = append(sources, path)
			}
			boot := filepath.Join(dir, "image.boot")
			res := merge(t, nydusimage.MergeOptions{Sources: sources, Bootstrap: boot, PrefetchPolicy: "fs", Prefetch: []string{"/"}})
			if len(res.Blobs) != 3 {
				t.Errorf("%+v", res)
			}
			if diff := imagetest.Diff(imagetest.EdgeTree(t), list(t, boot, dir)); diff != "" {
				t.Errorf("differs from what is expected:\n%s", diff)
			}
			if o.FSVersion != "5" {
				check(t, boot, dir)
			}
		})
	}
}

// newest returns the blob in dir that is not known yet. Blobs have names of 64 digits.
func newest(t *testing.T, dir string, known []string) string {
	t.Helper()
	list, err := filepath.Glob(filepath.Join(dir, strings.Repeat("?", 64)))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range list {
		if !slices.Contains(known, path) {
			return path
		}
	}
	t.Fatal("no new blob")
	return ""
}

// Batches save space, and chunks that are large or parts of larger files stand alone.
func TestCreateBatches(t *testing.T) {
	t.Parallel()
	var items []imagetest.Item
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 3000 {
		items = append(items, imagetest.File(fmt.Sprintf("f%04d", i), strings.Repeat(fmt.Sprintf("line %d of a small file\n", i%50), r.IntN(20))+fmt.Sprint(i)))
	}
	items = append(items, imagetest.File("large", strings.Repeat("x", 3<<20)))
	tar := imagetest.Tar(t, items...)
	sizes := map[int]int64{}
	var want []string
	for _, batch := range []int{0, 0x10000, 0x100000} {
		dir := t.TempDir()
		o := nydusimage.CreateOptions{Type: nydusimage.TypeTar, Source: "-", Stdin: bytes.NewReader(tar), BlobDir: dir, Bootstrap: filepath.Join(dir, "boot"), BatchSize: batch}
		sizes[batch] = create(t, o).BlobSize
		check(t, o.Bootstrap, dir)
		got := list(t, o.Bootstrap, dir)
		if want != nil && !slices.Equal(got, want) {
			t.Errorf("batch size %d: other files", batch)
		}
		want = got
	}
	if sizes[0x10000]*2 > sizes[0] || sizes[0x100000] > sizes[0x10000] {
		t.Errorf("%d", sizes)
	}
}

// Layers refer to chunks of a dictionary, and the image is the same.
func TestCreateDictionary(t *testing.T) {
	t.Parallel()
	layers, dir := sourceLayers(), t.TempDir()
	base := filepath.Join(dir, "base.boot")
	create(t, nydusimage.CreateOptions{Type: nydusimage.TypeTargz, Source: layers[0], Bootstrap: base, BlobDir: dir})
	var boots []string
	for i, l := range layers[1:] {
		boots = append(boots, filepath.Join(dir, fmt.Sprintf("layer%d.boot", i)))
		res := create(t, nydusimage.CreateOptions{Type: nydusimage.TypeTar, Source: l, Bootstrap: boots[i], BlobDir: dir, ChunkDict: "bootstrap=" + base})
		// As the reference tool does with the same layers: the own blob, and that of the dictionary.
		if len(res.Blobs) != 2 || res.Trace.RegisteredEvents["dedup_chunks"] == int64(0) {
			t.Errorf("layer %d: %+v", i, res)
		}
		check(t, boots[i], dir)
	}
	boot := filepath.Join(dir, "image.boot")
	res := merge(t, nydusimage.MergeOptions{Sources: append([]string{base}, boots...), ChunkDict: base, Bootstrap: boot})
	if len(res.Blobs) != 3 {
		t.Errorf("%+v", res)
	}
	if diff := imagetest.Diff(imagetest.EdgeTree(t), list(t, boot, dir)); diff != "" {
		t.Error(diff)
	}
	// Without the dictionary the blobs are two own ones of a layer.
	if _, err := nydusimage.Merge(t.Context(), nydusimage.MergeOptions{Sources: append([]string{base}, boots...), Bootstrap: boot}); err == nil || !strings.Contains(err.Error(), "multiple associated data blobs") {
		t.Errorf("%v", err)
	}
	_, err := nydusimage.Create(t.Context(), nydusimage.CreateOptions{Type: nydusimage.TypeTar, Source: layers[1], Bootstrap: boot, BlobDir: dir, ChunkDict: base, ChunkSize: 0x1000})
	if !errors.Is(err, nydusimage.ErrInconsistent) {
		t.Errorf("other chunk size: %v", err)
	}
	_, err = nydusimage.Create(t.Context(), nydusimage.CreateOptions{Type: nydusimage.TypeTar, Source: layers[1], Bootstrap: boot, BlobDir: dir, ChunkDict: base, Digester: "sha256"})
	if !errors.Is(err, blob.ErrUnsupported) {
		t.Errorf("other digest: %v", err)
	}
}

// Ready-made cache files: the plain space and the chunk table, and no blob.
func TestCreateCache(t *testing.T) {
	t.Parallel()
	cache, dir := t.TempDir(), t.TempDir()
	boot := filepath.Join(dir, "boot")
	res := create(t, nydusimage.CreateOptions{Type: nydusimage.TypeTar, Source: sourceLayers()[1], Bootstrap: boot, BlobCacheDir: cache})
	// The name is that of the blob with the same content and no compression.
	plain := create(t, nydusimage.CreateOptions{Type: nydusimage.TypeTar, Source: sourceLayers()[1], Bootstrap: filepath.Join(dir, "plain"), BlobDir: dir, Compressor: "none"})
	if !slices.Equal(res.Blobs, plain.Blobs) {
		t.Fatalf("%q, %q", res.Blobs, plain.Blobs)
	}
	leftovers(t, cache, res.Blobs[0]+".blob.data", res.Blobs[0]+".blob.meta")
	if !bytes.Equal(readFile(t, boot), readFile(t, filepath.Join(dir, "plain"))) {
		t.Error("bootstraps differ")
	}
	im := open(t, boot, dir)
	data := readFile(t, filepath.Join(cache, res.Blobs[0]+".blob.data"))
	if int64(len(data)) != im.Blobs[0].PlainSize {
		t.Fatalf("%d bytes instead of %d", len(data), im.Blobs[0].PlainSize)
	}
	got := make([]byte, len(data))
	if err := im.Plain(0).ReadAt(t.Context(), got, 0, blob.Demand); err != nil || !bytes.Equal(got, data) {
		t.Errorf("the data differ: %v", err)
	}
}

func TestCreateRepeatable(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	src := writeFile(t, dir, "src", imagetest.Tar(t, imagetest.Dir("."), imagetest.File("a", "1", imagetest.Owner(7, 8))))
	boots := []string{filepath.Join(dir, "with"), filepath.Join(dir, "without")}
	for i, boot := range boots {
		create(t, nydusimage.CreateOptions{Type: nydusimage.TypeTar, Source: src, Bootstrap: boot, BlobDir: dir, Repeatable: i == 1})
	}
	if n := open(t, boots[0], dir).Tree.Lookup("a"); n.UID != 7 || n.GID != 8 {
		t.Errorf("%+v", n)
	}
	if n := open(t, boots[1], dir).Tree.Lookup("a"); n.UID != 0 || n.GID != 0 {
		t.Errorf("%+v", n)
	}
	_, err := nydusimage.Merge(t.Context(), nydusimage.MergeOptions{Sources: boots, Bootstrap: filepath.Join(dir, "m")})
	if !errors.Is(err, nydusimage.ErrInconsistent) {
		t.Errorf("%v", err)
	}
}

// A blob has the name that it is given, in its file's name and in bootstraps.
func TestCreateBlobID(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	boot := filepath.Join(dir, "boot")
	res := create(t, nydusimage.CreateOptions{Type: nydusimage.TypeTar, Source: sourceLayers()[1], Bootstrap: boot, BlobDir: dir, BlobID: "mine"})
	if !slices.Equal(res.Blobs, []string{"mine"}) {
		t.Errorf("%+v", res)
	}
	leftovers(t, dir, "boot", "mine")
	if out := check(t, boot, dir); !strings.Contains(out, " 0: mine, ") {
		t.Error(out)
	}
	inlined := filepath.Join(dir, "inlined")
	create(t, nydusimage.CreateOptions{Type: nydusimage.TypeTar, Source: sourceLayers()[1], Blob: inlined, InlineMeta: true, TOC: true, BlobID: "other"})
	if out := check(t, inlined, ""); !strings.Contains(out, " 0: other, ") {
		t.Error(out)
	}
}

func TestCreateRefuses(t *testing.T) {
	t.Parallel()
	src := sourceLayers()[1]
	for name, c := range map[string]struct {
		change func(o *nydusimage.CreateOptions)
		want   string
		is     error
	}{
		"v5":                 {func(o *nydusimage.CreateOptions) { o.FSVersion = "5" }, "--fs-version 5", blob.ErrUnsupported},
		"version 7":          {func(o *nydusimage.CreateOptions) { o.FSVersion = "7" }, "invalid fs-version", nil},
		"ref, apart":         {func(o *nydusimage.CreateOptions) { o.Type = nydusimage.TypeTargzRef }, "--blob-inline-meta", blob.ErrUnsupported},
		"ref with id":        {func(o *nydusimage.CreateOptions) { *o = refOptions(o); o.BlobID = "x" }, "conflicts", nil},
		"ref, prefetch blob": {func(o *nydusimage.CreateOptions) { *o = refOptions(o); o.PrefetchPolicy = "blob" }, "conflicts", nil},
		"ref with batches":   {func(o *nydusimage.CreateOptions) { *o = refOptions(o); o.BatchSize = 4096 }, "conflicts", nil},
		"ref, no tar":        {func(o *nydusimage.CreateOptions) { *o = refOptions(o); o.Source = "create_test.go" }, "source", blob.ErrCorrupt},
		"ref, no source":     {func(o *nydusimage.CreateOptions) { *o = refOptions(o); o.Source += "x" }, "source", os.ErrNotExist},
		"eStargz index":      {func(o *nydusimage.CreateOptions) { o.Type = "stargz_index" }, "estargztoc-ref", blob.ErrUnsupported},
		"encryption":         {func(o *nydusimage.CreateOptions) { o.Encrypt = true }, "--encrypt", blob.ErrUnsupported},
		"attributes":         {func(o *nydusimage.CreateOptions) { o.Attributes = "x" }, "--attributes", blob.ErrUnsupported},
		"external blob":      {func(o *nydusimage.CreateOptions) { o.ExternalBlob = "x" }, "--external-blob", blob.ErrUnsupported},
		"offset":             {func(o *nydusimage.CreateOptions) { o.BlobOffset = 1 }, "--blob-offset", blob.ErrUnsupported},
		"type":               {func(o *nydusimage.CreateOptions) { o.Type = "zip-rafs" }, "conversion type", nil},
		"whiteouts":          {func(o *nydusimage.CreateOptions) { o.Whiteout = "aufs" }, "whiteout", nil},
		"policy":             {func(o *nydusimage.CreateOptions) { o.PrefetchPolicy = "all" }, "policy", nil},
		"compressor":         {func(o *nydusimage.CreateOptions) { o.Compressor = "gzip" }, "gzip", nil},
		"digester":           {func(o *nydusimage.CreateOptions) { o.Digester = "md5" }, "md5", nil},
		"chunk size":         {func(o *nydusimage.CreateOptions) { o.ChunkSize = 5000 }, "chunk size", nil},
		"batch size":         {func(o *nydusimage.CreateOptions) { o.BatchSize = 2 << 20 }, "batch size", nil},
		"blob id":            {func(o *nydusimage.CreateOptions) { o.BlobID = strings.Repeat("x", 65) }, "blob id", nil},
		"no output":          {func(o *nydusimage.CreateOptions) { o.BlobDir = "" }, "--blob", nil},
		"no directory":       {func(o *nydusimage.CreateOptions) { o.BlobDir = src + "x" }, "directory for blobs", os.ErrNotExist},
		"no source":          {func(o *nydusimage.CreateOptions) { o.Source += "x" }, "source", os.ErrNotExist},
		"directory as tar":   {func(o *nydusimage.CreateOptions) { o.Source = o.BlobDir }, "neither", nil},
		"file as directory":  {func(o *nydusimage.CreateOptions) { o.Type = nydusimage.TypeDir }, "no directory", nil},
		"no tar":             {func(o *nydusimage.CreateOptions) { o.Source = "create_test.go" }, "create_test.go", blob.ErrCorrupt},
		"no dictionary":      {func(o *nydusimage.CreateOptions) { o.ChunkDict = "bootstrap=nowhere" }, "nowhere", os.ErrNotExist},
		"v5 dictionary":      {func(o *nydusimage.CreateOptions) { o.ChunkDict = filepath.Join(reference, "v5-zstd", "image.boot") }, "v5", blob.ErrUnsupported},
		"cache and eStargz":  {func(o *nydusimage.CreateOptions) { o.Type, o.BlobCacheDir = nydusimage.TypeEStargz, o.BlobDir }, "--blob-cache-dir", nil},
		"cache and batches":  {func(o *nydusimage.CreateOptions) { o.BatchSize, o.BlobCacheDir = 4096, o.BlobDir }, "--blob-cache-dir", nil},
		"parent and inlined": {func(o *nydusimage.CreateOptions) { o.Parent, o.InlineMeta = "x", true }, "--parent-bootstrap", blob.ErrUnsupported},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			o := nydusimage.CreateOptions{Type: nydusimage.TypeTar, Source: src, Bootstrap: filepath.Join(dir, "boot"), BlobDir: dir}
			c.change(&o)
			_, err := nydusimage.Create(t.Context(), o)
			if err == nil || c.is != nil && !errors.Is(err, c.is) || name != "no tar" && !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v", err)
			}
			leftovers(t, dir)
		})
	}
}

// refOptions are those with which converters build an index of a layer.
func refOptions(o *nydusimage.CreateOptions) nydusimage.CreateOptions {
	return nydusimage.CreateOptions{Type: nydusimage.TypeTargzRef, Source: o.Source, Stdin: o.Stdin, BlobDir: o.BlobDir, InlineMeta: true, TOC: true}
}

// The layers stay the data: what is written beside them is small, and merged it gives the image.
func TestCreateRef(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]nydusimage.CreateOptions{"gzip": {Type: nydusimage.TypeTargzRef}, "eStargz": {Type: nydusimage.TypeStargzRef}, "plain": {Type: nydusimage.TypeTargzRef}} {
		dir := t.TempDir()
		m := nydusimage.MergeOptions{Bootstrap: filepath.Join(dir, "image.boot")}
		var originals []string
		for i, l := range imagetest.Edge(t).Layers {
			stored := l.Stored
			if name == "plain" {
				stored = l.Tar
			}
			o := o
			o.InlineMeta, o.TOC, o.BlobDir = true, true, dir
			o.Source = writeFile(t, dir, "layer", stored)
			if i == 1 { // what comes once
				o.Source, o.Stdin = "-", bytes.NewReader(stored)
			}
			res := create(t, o)
			path := newest(t, dir, append(m.Sources, originals...))
			m.Sources, m.BlobDigests, m.BlobSizes = append(m.Sources, path), append(m.BlobDigests, filepath.Base(path)), append(m.BlobSizes, uint64(res.BlobSize))
			if len(res.Blobs) != 1 || res.Compressor != "gzip" || i == 0 && res.BlobSize*10 > int64(len(stored)) {
				t.Errorf("%s: %+v", name, res)
			}
			originals = append(originals, writeFile(t, dir, res.Blobs[0], stored))
		}
		res := merge(t, m)
		if len(res.Blobs) != 3 {
			t.Errorf("%s: %+v", name, res)
		}
		if diff := imagetest.Diff(imagetest.EdgeTree(t), list(t, m.Bootstrap, dir)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		check(t, m.Bootstrap, dir)
	}
	for name, stored := range map[string][]byte{
		"zstd":   imagetest.Zstd(t, imagetest.Tar(t, imagetest.File("a", "1"))).Stored,
		"sparse": imagetest.Gzip(t, imagetest.Tar(t, imagetest.Sparse(t, "s", imagetest.Sparse10, 1<<20, imagetest.Piece{Off: 4096, Data: "x"}))).Stored,
	} {
		dir := t.TempDir()
		o := refOptions(&nydusimage.CreateOptions{Source: "-", Stdin: bytes.NewReader(stored), BlobDir: dir})
		if _, err := nydusimage.Create(t.Context(), o); !errors.Is(err, blob.ErrUnsupported) {
			t.Errorf("%s: %v", name, err)
		}
		leftovers(t, dir)
	}
}
