package nydus

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/goleak"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/formats/nydus/nydusblob"
	"github.com/lazuli-project/lazuli/internal/imagetest"
	"github.com/lazuli-project/lazuli/tarfs"
	"github.com/lazuli-project/lazuli/tree"
)

func manifestOf(t testing.TB, img *imagetest.Image) *formats.Manifest {
	t.Helper()
	raw := img.Objects[img.Desc.Digest]
	m, err := formats.ParseManifest(img.Desc, raw, []byte("{}"))
	if err != nil {
		t.Fatal(err)
	}
	m, err = formats.ParseManifest(img.Desc, raw, img.Objects[m.Manifest.Config.Digest])
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func newWriter(t testing.TB, o Options) *Writer {
	t.Helper()
	w, err := NewWriter(o)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func TestConvertEdge(t *testing.T) {
	t.Parallel()
	img := imagetest.Edge(t)
	src := manifestOf(t, img)
	for _, o := range []Options{
		{}, {Compression: "lz4", Digest: "sha256"}, {Compression: "none"}, {ChunkSize: 4096}, {ChunkSize: 16 << 20, Level: 19},
	} {
		t.Run(newWriter(t, o).Version(), func(t *testing.T) {
			t.Parallel()
			m := newMemory()
			w := newWriter(t, o)
			out, layers := convert(t, w, m, src, img)
			opened, err := Reader{}.Open(t.Context(), out, m)
			if err != nil {
				t.Fatal(err)
			}
			got, err := list(t.Context(), opened)
			if err != nil {
				t.Fatal(err)
			}
			compare(t, got, imagetest.EdgeTree(t))
			verifyAll(t, opened)

			// Once more, with one core: the same bytes.
			o.CPU = formats.NewCPU(1)
			again, _ := convert(t, newWriter(t, o), newMemory(), src, img)
			if !bytes.Equal(again.Raw, out.Raw) {
				t.Errorf("one core makes another image:\n%s\n%s", again.Raw, out.Raw)
			}
			// And from the stored layers.
			for i := range layers {
				p, err := m.get(layers[i].Desc.Digest)
				if err != nil {
					t.Fatal(err)
				}
				desc := ocispec.Descriptor{Digest: layers[i].Desc.Digest, Size: layers[i].Desc.Size}
				if layers[i], err = w.Reopen(t.Context(), desc, blob.ReaderAtSource{R: bytes.NewReader(p), N: int64(len(p))}); err != nil {
					t.Fatal(err)
				}
			}
			if again := finish(t, w, newMemory(), src, layers); !bytes.Equal(again.Raw, out.Raw) {
				t.Errorf("reopened layers make another image:\n%s\n%s", again.Raw, out.Raw)
			}
		})
	}
}

func openSource(t testing.TB, digest string) *bytes.Reader {
	t.Helper()
	return bytes.NewReader(readTestdata(t, "source/"+digest))
}

const (
	sourceLayer1 = "311bfa0b61f6e6f7cb83b291f3f2e83932fb19e8a49da7f1db0aed922e688953"
	zstdLayer1   = "aca00e684df2859c69dc8ee4d30224837b12f64093438f9a64d60790bdc34e2f"
	noneLayer1   = "80e92eeb36b03754ed1b720d52db4bc14d4b0eb1ed77d7498470dfd0396bd3e5"
)

// Without compression there is one right answer: everything before the bootstrap is what the reference tool makes.
func TestSameBytesAsReference(t *testing.T) {
	t.Parallel()
	m := newMemory()
	l, err := convertLayer(t.Context(), newWriter(t, Options{Compression: "none", Digest: "sha256"}), m, openSource(t, sourceLayer1))
	if err != nil {
		t.Fatal(err)
	}
	got, err := m.get(l.Desc.Digest)
	if err != nil {
		t.Fatal(err)
	}
	want := readTestdata(t, "blobs/"+noneLayer1)
	s, err := nydusblob.FindSection(t.Context(), bytesSource(want), nydusblob.SectionBootstrap)
	if err != nil || s == nil {
		t.Fatal(s, err)
	}
	if n := s.Stored.Off; !bytes.Equal(got[:n], want[:n]) {
		t.Error("data, chunk table or digests differ from those of the reference tool")
	}
	const tocEnd, entries = nydusblob.TarHeaderSize, 4 * 128 // image.boot's is the fifth
	at := func(p []byte) []byte { return p[len(p)-tocEnd-5*128:][:entries] }
	if !bytes.Equal(at(got), at(want)) {
		t.Errorf("tables of contents:\n%x\n%x", at(got), at(want))
	}
	if !bytes.Equal(got[len(got)-tocEnd:], want[len(want)-tocEnd:]) {
		t.Error("last tar header differs")
	}
}

// With compression, all but the compressed bytes is the same.
func TestSameChunksAsReference(t *testing.T) {
	t.Parallel()
	m := newMemory()
	l, err := convertLayer(t.Context(), newWriter(t, Options{}), m, openSource(t, sourceLayer1))
	if err != nil {
		t.Fatal(err)
	}
	blobOf := func(p []byte, err error) formats.Blob {
		if err != nil {
			t.Fatal(err)
		}
		img, err := OpenBare(t.Context(), bytesSource(p), "id", findBlob)
		if err != nil {
			t.Fatal(err)
		}
		return img.Blobs[0]
	}
	chunks := func(b formats.Blob) (all []blob.Chunk) {
		b.Layout.(blob.Chunker).Chunks(func(c blob.Chunk) bool {
			c.Stored, c.Compressed = blob.Range{}, false // encoders differ
			all = append(all, c)
			return true
		})
		return all
	}
	got, want := chunks(blobOf(m.get(l.Desc.Digest))), chunks(blobOf(readTestdata(t, "blobs/"+zstdLayer1), nil))
	if !reflect.DeepEqual(got, want) {
		t.Errorf("chunks:\n%+v\n%+v", got, want)
	}
}

func TestManifestAndConfig(t *testing.T) {
	t.Parallel()
	text := strings.Repeat("shared ", 1000)
	img := imagetest.NewImage(t,
		imagetest.Gzip(t, imagetest.Tar(t, imagetest.File("a", text), imagetest.File("gone", "x"))),
		imagetest.Gzip(t, imagetest.Tar(t, imagetest.Dir("empty"))),
		imagetest.Gzip(t, imagetest.Tar(t, imagetest.File("b", text))),
		imagetest.Gzip(t, imagetest.Tar(t, imagetest.File("c", "own"), imagetest.File("d", text))))
	src := manifestOf(t, img)
	src.ConfigRaw = bytes.Replace(src.ConfigRaw, []byte("{"), []byte(`{"unknown":{"z":1.50,"a":[]},`), 1)
	src.Manifest.Annotations = map[string]string{"kept": "yes"}
	m := newMemory()
	out, layers := convert(t, newWriter(t, Options{SourceReference: "example.com/image:1"}), m, src, img)

	if n := len(out.Manifest.Layers); n != 5 || !(Reader{}).Recognize(out) {
		t.Fatalf("%d layers: %s", n, out.Raw)
	}
	boot := out.Manifest.Layers[4]
	if boot.MediaType != ocispec.MediaTypeImageLayerGzip || boot.Annotations[AnnotationFSVersion] != "6" {
		t.Errorf("bootstrap layer %+v", boot)
	}
	for i, l := range layers {
		if d := out.Manifest.Layers[i]; d.Digest != l.Desc.Digest || d.MediaType != MediaTypeBlob || d.Annotations[AnnotationBlob] != "true" ||
			out.Config.RootFS.DiffIDs[i] != l.Desc.Digest {
			t.Errorf("layer %d: %+v", i, d)
		}
	}
	if !bytes.Contains(out.ConfigRaw, []byte(`"unknown":{"z":1.50,"a":[]}`)) || len(out.Config.History) != 5 ||
		out.Config.History[4].Comment != "Nydus Bootstrap Layer" {
		t.Errorf("config %s", out.ConfigRaw)
	}
	for k, v := range map[string]string{"kept": "yes", AnnotationFSVersion: "6", AnnotationSourceRef: "example.com/image:1",
		AnnotationSourceDigest: src.Desc.Digest.String()} {
		if got := out.Manifest.Annotations[k]; got != v {
			t.Errorf("annotation %s is %q instead of %q", k, got, v)
		}
	}

	// The text of three layers is read from the first. The layer without data has no blob, and that of the third is not used.
	opened, err := Reader{}.Open(t.Context(), out, m)
	if err != nil {
		t.Fatal(err)
	}
	if len(opened.Blobs) != 2 || opened.Blobs[0].Desc.Digest != layers[0].Desc.Digest || opened.Blobs[1].Desc.Digest != layers[3].Desc.Digest {
		t.Errorf("blobs %+v", opened.Blobs)
	}
	a := opened.Tree.Lookup("a").Extents
	for _, name := range []string{"b", "d"} {
		if x := opened.Tree.Lookup(name).Extents; !reflect.DeepEqual(x, a) {
			t.Errorf("%s is at %+v, a at %+v", name, x, a)
		}
	}

	src.Manifest.MediaType, src.Manifest.Config.MediaType = formats.MediaTypeDockerManifest, formats.MediaTypeDockerConfig
	docker, _ := convert(t, newWriter(t, Options{}), m, src, img)
	if d := docker.Manifest; d.MediaType != formats.MediaTypeDockerManifest || d.Layers[4].MediaType != formats.MediaTypeDockerLayer+".gzip" || d.Config.MediaType != src.Manifest.Config.MediaType {
		t.Errorf("media types %s", docker.Raw)
	}
}

func TestOptions(t *testing.T) {
	t.Parallel()
	for _, o := range []Options{
		{Compression: "gzip"}, {Digest: "md5"}, {ChunkSize: 4095}, {ChunkSize: 32 << 20}, {ChunkSize: -4096}, {Level: -1}, {Level: 23},
		{FSVersion: 4}, {FSVersion: 5, BatchSize: 4096}, {FSVersion: 5, Builder: &BuilderOptions{}},
		{FSVersion: 5, Encrypt: true}, {BatchSize: 4096, Encrypt: true}, {ChunkSize: 16 << 20, Encrypt: true}, {EncryptionKey: &nydusblob.Key{}},
	} {
		if _, err := NewWriter(o); err == nil {
			t.Errorf("%+v is accepted", o)
		}
	}
	seen := make(map[string]Options)
	for _, o := range []Options{{}, {Level: 9}, {Compression: "lz4"}, {Compression: "none"}, {Digest: "sha256"}, {ChunkSize: 4096}, {FSVersion: 5}, {Encrypt: true}, {Encrypt: true}, {EncryptionKey: &nydusblob.Key{Key: [nydusblob.KeySize]byte{1}}}} {
		v := newWriter(t, o).Version()
		if other, ok := seen[v]; ok {
			t.Errorf("%+v and %+v have the version %s", o, other, v)
		}
		seen[v] = o
	}
	if newWriter(t, Options{}).Version() != newWriter(t, Options{PrefetchPaths: []string{"/bin"}}).Version() {
		t.Error("prefetch paths change the layers' version")
	}
}

func TestPrefetchPaths(t *testing.T) {
	t.Parallel()
	img := imagetest.NewImage(t, imagetest.Gzip(t, imagetest.Tar(t, imagetest.File("bin/tool", "x"), imagetest.File("etc/conf", "y"), imagetest.File("etc/more", "z"))))
	m := newMemory()
	out, _ := convert(t, newWriter(t, Options{PrefetchPaths: []string{"/etc/conf/", "bin", "/missing", "/bin/tool", "/etc/conf"}}), m, manifestOf(t, img), img)
	opened, err := Reader{}.Open(t.Context(), out, m)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := opened.Details.(*Details).Prefetch, []string{"/etc/conf", "/bin"}; !slices.Equal(got, want) {
		t.Errorf("%q instead of %q", got, want)
	}
}

// A layer that cannot be stored is refused with the name of what is wrong.
func TestRefusedTree(t *testing.T) {
	t.Parallel()
	tar := imagetest.Tar(t, imagetest.Dir("dir"), imagetest.File("dir/file", "x", imagetest.Xattr("system.other", "1")))
	_, err := convertLayer(t.Context(), newWriter(t, Options{}), newMemory(), bytes.NewReader(tar))
	if err == nil || !strings.Contains(err.Error(), `"dir/file"`) || !strings.Contains(err.Error(), "system.other") {
		t.Error(err)
	}
}

// failingSink fails after some bytes.
type failingSink struct {
	*memory
	left int
}

type failingObject struct {
	formats.ObjectWriter
	sink *failingSink
}

var errFull = errors.New("no space left")

func (s *failingSink) Create(ctx context.Context, mediaType string) (formats.ObjectWriter, error) {
	o, err := s.memory.Create(ctx, mediaType)
	return &failingObject{o, s}, err
}

func (o *failingObject) Write(p []byte) (int, error) {
	if o.sink.left -= len(p); o.sink.left < 0 {
		return 0, errFull
	}
	return o.ObjectWriter.Write(p)
}

func TestFailingSink(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	var items []imagetest.Item
	for i := range 40 {
		p := make([]byte, 300_000)
		_, _ = rand.NewChaCha8([32]byte{byte(i)}).Read(p)
		items = append(items, imagetest.File(fmt.Sprint(i), string(p)))
	}
	tar := imagetest.Tar(t, items...)
	for _, n := range []int{1, 10} {
		w := newWriter(t, Options{CPU: formats.NewCPU(n)})
		for _, left := range []int{0, 1, 5_000_000, 11_999_000, 12_003_000} {
			if _, err := convertLayer(t.Context(), w, &failingSink{newMemory(), left}, bytes.NewReader(tar)); !errors.Is(err, errFull) {
				t.Errorf("%d cores, %d bytes: %v", n, left, err)
			}
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		lw, err := w.Layer(ctx, formats.LayerSource{}, newMemory())
		if err != nil {
			t.Fatal(err)
		}
		cancel(errFull)
		node := &tree.Node{Mode: tree.TypeRegular, Size: 1 << 30}
		err = lw.Entry(&tarfs.Entry{Name: "a", Size: node.Size}, node)
		for i := 0; err == nil && i < 1000; i++ {
			err = lw.Data(tar[:1<<20])
		}
		if !errors.Is(err, errFull) {
			t.Errorf("cancelled: %v", err)
		}
		lw.Abort()
		lw.Abort()
	}
	w := newWriter(t, Options{})
	for _, p := range [][]byte{nil, []byte("12"), []byte("1234")} {
		lw, err := w.Layer(t.Context(), formats.LayerSource{}, newMemory())
		if err != nil {
			t.Fatal(err)
		}
		err = lw.Entry(&tarfs.Entry{Name: "a", Size: 3}, &tree.Node{Mode: tree.TypeRegular, Size: 3})
		if err == nil {
			err = lw.Data(p)
		}
		if err == nil {
			_, err = lw.Close(tree.New())
		}
		if err == nil {
			t.Errorf("a file of 3 bytes with %d is accepted", len(p))
		}
		lw.Abort()
	}
}

// Jobs are used again while others are on their way.
func TestManyJobs(t *testing.T) {
	t.Parallel()
	const n = 200_000
	w := newWriter(t, Options{Compression: "none", ChunkSize: 4096, CPU: formats.NewCPU(3)})
	lw, err := w.Layer(t.Context(), formats.LayerSource{}, newMemory())
	if err != nil {
		t.Fatal(err)
	}
	defer lw.Abort()
	top := tree.New()
	for i := range n {
		content := fmt.Appendf(nil, "%08d", i%(n/2))
		node := &tree.Node{Mode: tree.TypeRegular | 0o644, Size: int64(len(content))}
		top.Root.Put(fmt.Sprintf("%08d", i), node)
		if err := lw.Entry(&tarfs.Entry{Size: node.Size}, node); err != nil {
			t.Fatal(err)
		}
		if err := lw.Data(content); err != nil {
			t.Fatal(err)
		}
	}
	l, err := lw.Close(top)
	if err != nil {
		t.Fatal(err)
	}
	if s := l.Stats; s.Chunks != n || s.Deduped != n/2 || s.Entries != n {
		t.Errorf("%+v", s)
	}
	for i, e := range l.Tree.Root.Entries {
		if want := int64(i%(n/2)) * 4096; len(e.Node.Extents) != 1 || e.Node.Extents[0].Offset != want {
			t.Fatalf("file %d is at %+v instead of %d", i, e.Node.Extents, want)
		}
	}
}
