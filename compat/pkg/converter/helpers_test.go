package converter_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/goleak"

	"github.com/containerd/nydus-snapshotter/pkg/converter"
	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/flate"
	"github.com/lazuli-project/lazuli/nydusimage"
)

// Nothing that was started here may be left at the end.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// entry is a file of a layer.
type entry struct {
	tar.Header
	content string
}

func file(name, content string) entry {
	return entry{tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(content))}, content}
}

func special(name string, kind byte, link string) entry {
	return entry{Header: tar.Header{Name: name, Typeflag: kind, Linkname: link, Mode: 0o755}}
}

// noise does not compress, and has no chunk twice.
func noise(seed uint64, n int) string {
	r := rand.New(rand.NewPCG(seed, 1))
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(r.Uint32())
	}
	return string(p)
}

func makeTar(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		if err := w.WriteHeader(&e.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// layers returns the tars of an image, lowest first.
func layers(t testing.TB) [][]byte {
	t.Helper()
	attributes := file("etc/attributes", "x")
	attributes.PAXRecords = map[string]string{"SCHILY.xattr.user.a": "b"}
	owned := file("etc/owned", strings.Repeat("text ", 1000))
	owned.Uid, owned.Gid, owned.Mode = 1000, 100, 0o4755
	return [][]byte{
		makeTar(t, special("etc/", tar.TypeDir, ""), file("etc/large", noise(1, 2_500_000)), file("etc/removed", "gone soon"), owned, attributes,
			file("etc/empty", ""), special("etc/symlink", tar.TypeSymlink, "large"), special("etc/hardlink", tar.TypeLink, "etc/owned"), special("dir/", tar.TypeDir, ""),
			file("dir/below", "hidden by the opaque one")),
		makeTar(t, special("etc/", tar.TypeDir, ""), file("etc/.wh.removed", ""), file("dir/.wh..wh..opq", ""), file("dir/new", noise(2, 70_000)), special("pipe", tar.TypeFifo, "")),
		makeTar(t, special("bin/", tar.TypeDir, ""), special("bin/sh", tar.TypeSymlink, "../etc/large")), // nothing with data
	}
}

// merged are the names of what the layers are together.
var merged = []string{"bin", "bin/sh", "dir", "dir/new", "etc", "etc/attributes", "etc/empty", "etc/hardlink", "etc/large", "etc/owned", "etc/symlink", "pipe"}

// listing describes the entries of a tar, by name.
func listing(t testing.TB, p []byte) map[string]string {
	t.Helper()
	list := make(map[string]string)
	hard := make(map[string][]string) // names by name
	r := tar.NewReader(bytes.NewReader(p))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimSuffix(h.Name, "/")
		if h.Typeflag == tar.TypeLink {
			hard[h.Linkname] = append(hard[h.Linkname], name)
			continue
		}
		list[name] = fmt.Sprintf("%c %o %d:%d %q %d %x %v", h.Typeflag, h.Mode&0o7777, h.Uid, h.Gid, h.Linkname, h.Size, sha256.Sum256(text), h.PAXRecords["SCHILY.xattr.user.a"])
	}
	for target, names := range hard {
		for _, n := range names {
			list[n] = list[target]
		}
	}
	delete(list, ".")
	return list
}

func compress(t testing.TB, p []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(p); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// memory is a reader of bytes.
type memory struct{ *bytes.Reader }

func (memory) Close() error { return nil }

func reader(p []byte) content.ReaderAt { return memory{bytes.NewReader(p)} }

func pack(t testing.TB, layer []byte, o converter.PackOption) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := converter.Pack(t.Context(), &out, o)
	if err != nil {
		t.Fatal(err)
	}
	for rest := layer; len(rest) > 0; {
		n := min(len(rest), 100_000)
		if _, err := w.Write(rest[:n]); err != nil {
			t.Fatal(err)
		}
		rest = rest[n:]
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func unpack(t testing.TB, p []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := converter.Unpack(t.Context(), reader(p), &out, converter.UnpackOption{}); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func layerOf(p []byte) converter.Layer {
	return converter.Layer{Digest: digest.FromBytes(p), ReaderAt: reader(p)}
}

// packAll packs all layers and returns the blobs, too, by name.
func packAll(t testing.TB, o converter.PackOption) ([]converter.Layer, map[string][]byte) {
	t.Helper()
	var list []converter.Layer
	blobs := make(map[string][]byte)
	for _, l := range layers(t) {
		b := pack(t, l, o)
		list = append(list, layerOf(b))
		blobs[digest.FromBytes(b).Encoded()] = b
	}
	return list, blobs
}

func merge(t testing.TB, layers []converter.Layer, o converter.MergeOption) ([]byte, []digest.Digest) {
	t.Helper()
	var out bytes.Buffer
	blobs, err := converter.Merge(t.Context(), layers, &out, o)
	if err != nil {
		t.Fatal(err)
	}
	return out.Bytes(), blobs
}

// files lists the files of a bootstrap with what is in them.
func files(t testing.TB, boot []byte, blobs map[string][]byte) map[string]string {
	t.Helper()
	source := func(p []byte) blob.Source { return blob.ReaderAtSource{R: bytes.NewReader(p), N: int64(len(p))} }
	find := func(_ context.Context, id string) (blob.Source, error) {
		p, ok := blobs[id]
		if !ok {
			return nil, fmt.Errorf("no blob %s", id)
		}
		return source(p), nil
	}
	var out bytes.Buffer
	if _, err := nydusimage.Unpack(t.Context(), nydusimage.UnpackOptions{Layer: source(boot), Source: find, Writer: &out}); err != nil {
		t.Fatal(err)
	}
	return listing(t, out.Bytes())
}

// wantFiles are the files of layers, of which the last that has a name counts.
func wantFiles(t testing.TB) map[string]string {
	t.Helper()
	want := make(map[string]string)
	for _, l := range layers(t) {
		maps.Copy(want, listing(t, l))
	}
	maps.DeleteFunc(want, func(name, _ string) bool { return !slices.Contains(merged, name) })
	return want
}

func same(t testing.TB, what string, got, want map[string]string) {
	t.Helper()
	for name := range want {
		if got[name] != want[name] {
			t.Errorf("%s: %q is %q instead of %q", what, name, got[name], want[name])
		}
	}
	for name := range got {
		if _, ok := want[name]; !ok {
			t.Errorf("%s: %q is there", what, name)
		}
	}
}

// empty fails where a directory has files.
func empty(t testing.TB, dir string) {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil || len(list) > 0 {
		t.Errorf("left in %s: %v, %v", dir, list, err)
	}
}

func writeFile(t testing.TB, p []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, p, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// labelStore keeps the labels of a content store in memory.
type labelStore struct {
	mu  sync.Mutex // guards all
	all map[digest.Digest]map[string]string
}

func (l *labelStore) Get(d digest.Digest) (map[string]string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.all[d]), nil
}

func (l *labelStore) Set(d digest.Digest, labels map[string]string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all[d] = maps.Clone(labels)
	return nil
}

func (l *labelStore) Update(d digest.Digest, update map[string]string) (map[string]string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	labels := maps.Clone(l.all[d])
	if labels == nil {
		labels = make(map[string]string)
	}
	maps.Copy(labels, update)
	l.all[d] = labels
	return maps.Clone(labels), nil
}

func newStore(t testing.TB) content.Store {
	t.Helper()
	cs, err := local.NewLabeledStore(t.TempDir(), &labelStore{all: make(map[digest.Digest]map[string]string)})
	if err != nil {
		t.Fatal(err)
	}
	return cs
}

func put(t testing.TB, cs content.Store, mediaType string, p []byte) ocispec.Descriptor {
	t.Helper()
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(p), Size: int64(len(p))}
	if err := content.WriteBlob(t.Context(), cs, "put-"+desc.Digest.String(), bytes.NewReader(p), desc); err != nil {
		t.Fatal(err)
	}
	return desc
}

func putJSON(t testing.TB, cs content.Store, mediaType string, x any) ocispec.Descriptor {
	t.Helper()
	p, err := json.Marshal(x)
	if err != nil {
		t.Fatal(err)
	}
	return put(t, cs, mediaType, p)
}

func getJSON[T any](t testing.TB, cs content.Store, desc ocispec.Descriptor) T {
	t.Helper()
	var x T
	p, err := content.ReadBlob(t.Context(), cs, desc)
	if err == nil {
		err = json.Unmarshal(p, &x)
	}
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// putImage stores an image of gzip layers.
func putImage(t testing.TB, cs content.Store, tars [][]byte) ocispec.Descriptor {
	t.Helper()
	manifest := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	var diffIDs []digest.Digest
	var history []ocispec.History
	for i, l := range tars {
		manifest.Layers = append(manifest.Layers, put(t, cs, ocispec.MediaTypeImageLayerGzip, compress(t, l)))
		diffIDs = append(diffIDs, digest.FromBytes(l))
		history = append(history, ocispec.History{CreatedBy: fmt.Sprint("layer ", i)})
	}
	manifest.Config = putJSON(t, cs, ocispec.MediaTypeImageConfig, map[string]any{"architecture": "amd64", "os": "linux",
		"config": map[string]any{"Healthcheck": map[string]any{"Test": []string{"CMD", "true"}}},
		"rootfs": ocispec.RootFS{Type: "layers", DiffIDs: diffIDs}, "history": history})
	return putJSON(t, cs, ocispec.MediaTypeImageManifest, &manifest)
}

func decompress(t testing.TB, p []byte) []byte {
	t.Helper()
	r, err := flate.NewReader(bytes.NewReader(p))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }() // frees memory only
	var out []byte
	for {
		piece, err := r.Next()
		out = append(out, piece...)
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}
