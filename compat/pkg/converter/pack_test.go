package converter_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/containerd/nydus-snapshotter/pkg/converter"
	"github.com/lazuli-project/lazuli/blob"
)

// Every option gives layers that become their tars again, and an image of all files.
func TestRoundTrip(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]converter.PackOption{
		"default":      {},
		"none":         {Compressor: "none"},
		"lz4_block":    {Compressor: "lz4_block"},
		"zstd":         {Compressor: "zstd", FsVersion: "6", BuilderPath: "nowhere"},
		"small chunks": {ChunkSize: "0x1000"},
		"large chunks": {ChunkSize: "16777216"},
		"batches":      {BatchSize: "0x20000"},
		"no batches":   {BatchSize: "0"},
		"prefetch":     {PrefetchPatterns: "/etc/large\n/bin"},
		"encrypted":    {Encrypt: true},
		"v5":           {FsVersion: "5", AlignedChunk: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			list, blobs := packAll(t, o)
			for i, l := range layers(t) {
				same(t, "layer", listing(t, unpack(t, blobs[list[i].Digest.Encoded()])), listing(t, l))
			}
			boot, used := merge(t, list, converter.MergeOption{FsVersion: o.FsVersion, PrefetchPatterns: o.PrefetchPatterns})
			if want := []digest.Digest{list[0].Digest, list[1].Digest}; !slices.Equal(used, want) {
				t.Errorf("blobs %v instead of %v", used, want)
			}
			same(t, "image", files(t, boot, blobs), wantFiles(t))
			again, _ := packAll(t, o)
			if (again[0].Digest == list[0].Digest) == o.Encrypt {
				t.Error("packed again: encryption must, and nothing else may, make a difference")
			}
		})
	}
}

// Chunk size, compressor and batches are really those of the options.
func TestPackOptionsCount(t *testing.T) {
	t.Parallel()
	var text []entry
	for i := range 500 {
		text = append(text, file("f"+strings.Repeat("x", i%7)+string(rune('a'+i%26))+string(rune('0'+i/26%10)), strings.Repeat("some text\n", i)))
	}
	layer := makeTar(t, text...)
	size := func(o converter.PackOption) int { return len(pack(t, layer, o)) }
	zstd, lz4, none := size(converter.PackOption{}), size(converter.PackOption{Compressor: "lz4_block"}), size(converter.PackOption{Compressor: "none"})
	batch, small := size(converter.PackOption{BatchSize: "0x100000"}), size(converter.PackOption{ChunkSize: "0x1000"})
	if batch >= zstd || zstd >= lz4 || lz4 >= none || small <= zstd {
		t.Errorf("batches %d, zstd %d, lz4 %d, none %d; small chunks %d", batch, zstd, lz4, none, small)
	}
}

// A blob's parts follow each other as nydus-image has them.
func TestLayout(t *testing.T) {
	t.Parallel()
	for version, want := range map[string][]string{
		"6": {converter.EntryBlob, converter.EntryBlobMeta, "blob.digest", converter.EntryBootstrap, converter.EntryTOC},
		"5": {converter.EntryBlob, converter.EntryBootstrap},
	} {
		p := pack(t, layers(t)[0], converter.PackOption{FsVersion: version})
		var got []string
		for end := len(p); end > 0; {
			h, err := tar.NewReader(bytes.NewReader(p[end-512 : end])).Next()
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, h.Name)
			end -= 512 + int(h.Size)
		}
		slices.Reverse(got)
		if !slices.Equal(got, want) {
			t.Errorf("version %s: %q instead of %q", version, got, want)
		}
	}
}

// Layers that stay the data: blobs are indexes of them.
func TestOCIRef(t *testing.T) {
	t.Parallel()
	var list []converter.Layer
	blobs := make(map[string][]byte)
	work := t.TempDir()
	for i, l := range layers(t) {
		stored := compress(t, l)
		if i == 1 {
			stored = l
		}
		origin := digest.FromBytes(stored)
		index := pack(t, stored, converter.PackOption{OCIRef: true, WorkDir: work + "/made"})
		blobs[origin.Encoded()], blobs[digest.FromBytes(index).Encoded()] = stored, index
		list = append(list, converter.Layer{Digest: digest.FromBytes(index), OriginalDigest: &origin, ReaderAt: reader(index)})
		if i == 0 && len(index) > len(stored)/10 {
			t.Errorf("the index has %d bytes, the layer %d", len(index), len(stored))
		}
	}
	empty(t, work+"/made")
	boot, used := merge(t, list, converter.MergeOption{OCIRef: true, FsVersion: "6"})
	same(t, "image", files(t, boot, blobs), wantFiles(t))
	if len(used) != 2 || used[0] != *list[0].OriginalDigest {
		t.Errorf("%v", used)
	}
	list[1].OriginalDigest = nil
	if _, err := converter.Merge(t.Context(), list, io.Discard, converter.MergeOption{}); err == nil {
		t.Error("merged layers of two kinds")
	}
	err := converter.Unpack(t.Context(), list[0].ReaderAt, io.Discard, converter.UnpackOption{})
	if err == nil || !strings.Contains(err.Error(), list[0].OriginalDigest.Encoded()) {
		t.Errorf("unpacked without the data: %v", err)
	}
}

// Chunks of a dictionary are referred to.
func TestChunkDict(t *testing.T) {
	t.Parallel()
	list, blobs := packAll(t, converter.PackOption{})
	boot, _ := merge(t, list, converter.MergeOption{})
	dict := writeFile(t, boot)
	layer := makeTar(t, special("etc/", tar.TypeDir, ""), file("etc/same", noise(1, 2_500_000)), file("etc/own", noise(9, 5000)))
	p := pack(t, layer, converter.PackOption{ChunkDictPath: dict})
	if len(p) > 100_000 {
		t.Errorf("%d bytes with the dictionary", len(p))
	}
	l := layerOf(p)
	blobs[l.Digest.Encoded()] = p
	boot, used := merge(t, []converter.Layer{l}, converter.MergeOption{ChunkDictPath: dict})
	same(t, "image", files(t, boot, blobs), listing(t, layer))
	if len(used) != 2 || !slices.Contains(used, l.Digest) || !slices.Contains(used, list[0].Digest) {
		t.Errorf("%v", used)
	}
	if err := converter.Unpack(t.Context(), reader(p), io.Discard, converter.UnpackOption{}); err == nil {
		t.Error("unpacked without the dictionary's blobs")
	}
}

func TestParentBootstrap(t *testing.T) {
	t.Parallel()
	list, blobs := packAll(t, converter.PackOption{})
	parent, _ := merge(t, list[:1], converter.MergeOption{})
	boot, used := merge(t, list[1:], converter.MergeOption{ParentBootstrapPath: writeFile(t, parent)})
	same(t, "image", files(t, boot, blobs), wantFiles(t))
	if len(used) != 2 {
		t.Errorf("%v", used)
	}
}

// The tar of a bootstrap layer: directory, bootstrap, chunk tables, further files.
func TestMergeTar(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]converter.PackOption{"zstd": {}, "lz4": {Compressor: "lz4_block"}, "encrypted": {Encrypt: true}} {
		list, blobs := packAll(t, o)
		list = append(list, list[0]) // a layer may be there twice
		plain, _ := merge(t, list, converter.MergeOption{})
		got, _ := merge(t, list, converter.MergeOption{WithTar: true, FsVersion: "6", AppendFiles: []converter.File{
			{Name: "backend.json", Reader: strings.NewReader("{}"), Size: 2}, {Name: "sub/x", Reader: io.LimitReader(strings.NewReader("abc"), 1), Size: 1}}})
		want := []string{"image", converter.BootstrapFileNameInLayer}
		if !o.Encrypt {
			for _, l := range list[:2] {
				want = append(want, "image/"+l.Digest.Encoded()+".blob.meta")
			}
		}
		want = append(want, "image/backend.json", "image/sub/x")
		var names []string
		r := tar.NewReader(bytes.NewReader(got))
		for {
			h, err := r.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			names = append(names, h.Name)
			text, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			if dir := h.Typeflag == tar.TypeDir; dir != (h.Name == "image") || h.Mode != map[bool]int64{true: 0o755, false: 0o444}[dir] || h.ModTime.Unix() != 0 || h.Uid+h.Gid != 0 {
				t.Errorf("%s: %+v", name, h)
			}
			switch {
			case h.Name == converter.BootstrapFileNameInLayer && !bytes.Equal(text, plain):
				t.Errorf("%s: other bootstrap than without a tar", name)
			case strings.HasSuffix(h.Name, ".blob.meta"):
				var meta, header bytes.Buffer
				layer := reader(blobs[strings.TrimSuffix(strings.TrimPrefix(h.Name, "image/"), ".blob.meta")])
				_, err := converter.UnpackEntry(layer, converter.EntryBlobMeta, &meta)
				_, err2 := converter.UnpackEntry(layer, converter.EntryBlobMetaHeader, &header)
				if err = errors.Join(err, err2); err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(text, append(append(meta.Bytes(), make([]byte, -meta.Len()&4095)...), header.Bytes()...)) {
					t.Errorf("%s: %s is not table and header", name, h.Name)
				}
			case h.Name == "image/backend.json" && string(text) != "{}":
				t.Errorf("%s: %q", name, text)
			}
		}
		if !slices.Equal(names, want) {
			t.Errorf("%s: %q instead of %q", name, names, want)
		}
		without, _ := merge(t, list, converter.MergeOption{WithTar: true})
		if n := len(listing(t, without)); n != 2 {
			t.Errorf("%s: %d entries without FsVersion", name, n)
		}
	}
}

func TestMergeRefuses(t *testing.T) {
	t.Parallel()
	list, _ := packAll(t, converter.PackOption{})
	v5, _ := packAll(t, converter.PackOption{FsVersion: "5"})
	small, _ := packAll(t, converter.PackOption{ChunkSize: "0x1000"})
	with := func(f ...converter.File) converter.MergeOption {
		return converter.MergeOption{WithTar: true, AppendFiles: f}
	}
	for name, c := range map[string]struct {
		layers []converter.Layer
		o      converter.MergeOption
	}{
		"no layers":       {},
		"no digest":       {layers: []converter.Layer{{ReaderAt: list[0].ReaderAt}}},
		"no blob":         {layers: []converter.Layer{layerOf([]byte("nothing"))}},
		"two versions":    {layers: []converter.Layer{list[0], v5[1]}},
		"two chunk sizes": {layers: []converter.Layer{list[0], small[1]}},
		"no parent":       {layers: list, o: converter.MergeOption{ParentBootstrapPath: "/nowhere"}},
		"no dictionary":   {layers: list, o: converter.MergeOption{ChunkDictPath: "/nowhere"}},
		"file outside":    {layers: list, o: with(converter.File{Name: "../x", Reader: strings.NewReader("")})},
		"short file":      {layers: list, o: with(converter.File{Name: "x", Reader: strings.NewReader("a"), Size: 2})},
		"long file":       {layers: list, o: with(converter.File{Name: "x", Reader: io.LimitReader(strings.NewReader("abc"), 3), Size: 2})},
	} {
		if _, err := converter.Merge(t.Context(), c.layers, io.Discard, c.o); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestPackRefuses(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]converter.PackOption{
		"version":        {FsVersion: "7"},
		"batches in v5":  {FsVersion: "5", BatchSize: "0x1000"},
		"OCIRef in v5":   {FsVersion: "5", OCIRef: true},
		"chunk size":     {ChunkSize: "1M"},
		"batch size":     {BatchSize: "-1"},
		"work directory": {OCIRef: true, WorkDir: writeFile(t, nil) + "/sub"},
	} {
		if w, err := converter.Pack(t.Context(), io.Discard, o); err == nil || w != nil {
			t.Errorf("%s: %v, %v", name, w, err)
		}
	}
	// What the engine finds out comes with Close.
	for name, c := range map[string]struct {
		o    converter.PackOption
		want error
	}{
		"compressor":         {converter.PackOption{Compressor: "gzip"}, nil},
		"size of chunks":     {converter.PackOption{ChunkSize: "5000"}, nil},
		"dictionary":         {converter.PackOption{ChunkDictPath: "/nowhere"}, os.ErrNotExist},
		"encrypted v5":       {converter.PackOption{FsVersion: "5", Encrypt: true}, blob.ErrUnsupported},
		"encrypted batches":  {converter.PackOption{BatchSize: "0x1000", Encrypt: true}, blob.ErrUnsupported},
		"dictionary in v5":   {converter.PackOption{FsVersion: "5", ChunkDictPath: writeFile(t, nil)}, nil},
		"reference to a tar": {converter.PackOption{OCIRef: true}, blob.ErrCorrupt},
	} {
		w, err := converter.Pack(t.Context(), io.Discard, c.o)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = w.Write([]byte("no tar at all, and too long for the end of one" + strings.Repeat("x", 1000)))
		if err := w.Close(); err == nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Bytes behind the end of a tar are taken, and do not count.
func TestPackTakesPadding(t *testing.T) {
	t.Parallel()
	layer := layers(t)[2]
	want := pack(t, layer, converter.PackOption{})
	if got := pack(t, append(slices.Clone(layer), make([]byte, 1<<20)...), converter.PackOption{}); !bytes.Equal(got, want) {
		t.Error("zeros behind the end make a difference")
	}
}

// Blobs in an old form without a table of contents: their entries are found by their headers.
func TestUnpackEntry(t *testing.T) {
	t.Parallel()
	layer := layers(t)[0]
	p := pack(t, layer, converter.PackOption{})
	var toc bytes.Buffer
	if e, err := converter.UnpackEntry(reader(p), converter.EntryTOC, &toc); err != nil || e != nil || toc.Len()%128 != 0 || toc.Len() == 0 {
		t.Fatalf("%v, %v, %d bytes", e, err, toc.Len())
	}
	bare := p[:len(p)-512-toc.Len()]
	contents := make(map[string]string)
	for _, name := range []string{converter.EntryBlob, converter.EntryBlobMeta, converter.EntryBlobMetaHeader, converter.EntryBootstrap} {
		var out, raw bytes.Buffer
		e, err := converter.UnpackEntry(reader(p), name, &out)
		if err != nil || e == nil || e.GetName() != name {
			t.Fatalf("%s: %v, %v", name, e, err)
		}
		if name != converter.EntryBlob && (uint64(out.Len()) != e.GetUncompressedSize() || e.GetUncompressedDigest() != digest.FromBytes(out.Bytes()).Encoded()) {
			t.Errorf("%s: %d bytes, %+v", name, out.Len(), e)
		}
		codec, err := e.GetCompressor()
		if err != nil || codec&^(converter.CompressorNone|converter.CompressorZstd) != 0 {
			t.Errorf("%s: %x, %v", name, codec, err)
		}
		contents[name] = out.String()
		if name == converter.EntryBlobMetaHeader {
			continue // the table of contents alone tells it from what is before
		}
		none, err := converter.UnpackEntry(reader(bare), name, &raw)
		if err != nil || none != nil {
			t.Errorf("%s by its header: %v, %v", name, none, err)
		}
		stored := raw.Bytes()
		if name == converter.EntryBlobMeta {
			stored = stored[:len(stored)-4096]
		}
		if uint64(len(stored)) != e.GetCompressedSize() || !bytes.Equal(stored, p[e.GetCompressedOffset():][:e.GetCompressedSize()]) {
			t.Errorf("%s by its header: %d bytes", name, raw.Len())
		}
	}
	if !strings.HasPrefix(string(p), contents[converter.EntryBlob]) {
		t.Error("the data are not at the front")
	}
	for _, blob := range [][]byte{p, bare, {}} {
		if e, err := converter.UnpackEntry(reader(blob), "nothing", io.Discard); !errors.Is(err, converter.ErrNotFound) || e != nil {
			t.Errorf("nothing: %v, %v", e, err)
		}
	}
}
