package store_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/store"
)

// list returns the paths below a directory.
func list(t *testing.T, dir string) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
		if err == nil && p != dir {
			rel, _ := filepath.Rel(dir, p)
			names = append(names, rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func TestLayoutTakesBack(t *testing.T) {
	t.Parallel()
	parent := t.TempDir()
	ref := mustParse(t, "oci:"+filepath.Join(parent, "a", "b")+":v1")
	untouched := openTarget(t, ref)
	if err := untouched.Close(); err != nil {
		t.Fatal(err)
	}
	if got := list(t, parent); len(got) > 0 {
		t.Errorf("opening made %v", got)
	}
	dst := openTarget(t, ref)
	image(t, dst, nil, content(1, 100))
	w, err := dst.Create(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte("half")); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(parent, "a", "b", "index.json")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("index.json before commit: %v", err)
	}
	w.Abort()
	if err := dst.Close(); err != nil {
		t.Fatal(err)
	}
	if got := list(t, parent); len(got) > 0 {
		t.Errorf("left behind: %v", got)
	}
}

func TestLayoutAfterKill(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ref := mustParse(t, "oci:"+dir+":v1")
	p := content(1, 1000)
	desc := formats.DigestOf("", p)
	// What kill -9 leaves: a finished blob, a temporary file that nobody holds, a blob that was cut by a crash.
	blobs := filepath.Join(dir, "blobs", "sha256")
	if err := os.MkdirAll(blobs, 0o755); err != nil {
		t.Fatal(err)
	}
	cut := content(2, 1000)
	for name, b := range map[string][]byte{
		filepath.Join(blobs, desc.Digest.Encoded()):           p,
		filepath.Join(blobs, digest.FromBytes(cut).Encoded()): cut[:500],
		filepath.Join(dir, "blobs", ".lazuli-123"):            []byte("stale"),
	} {
		if err := os.WriteFile(name, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	dst := openTarget(t, ref)
	if ok, err := dst.Exists(t.Context(), desc); !ok || err != nil {
		t.Errorf("finished blob: %v, %v", ok, err)
	}
	if ok, err := dst.Exists(t.Context(), formats.DigestOf("", cut)); ok || err != nil {
		t.Errorf("cut blob: %v, %v", ok, err)
	}
	// The other target's temporary file is held, and stays.
	other := openTarget(t, ref)
	w, err := other.Create(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	m := image(t, dst, nil, p, cut)
	if err := errors.Join(dst.Tag(t.Context(), m, ""), dst.Commit(t.Context()), dst.Close()); err != nil {
		t.Fatal(err)
	}
	var temps int
	for _, name := range list(t, dir) {
		if strings.Contains(name, ".lazuli-") {
			temps++
		}
	}
	if temps != 1 {
		t.Errorf("%d temporary files, expected that of the other target: %v", temps, list(t, dir))
	}
	if _, err := w.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := w.Commit(t.Context()); err != nil {
		t.Errorf("other target: %v", err)
	}
	src := openSource(t, ref)
	if got := fetchAll(t, src, formats.DigestOf("", cut)); !bytes.Equal(got, cut) {
		t.Error("cut blob was not replaced")
	}
}

func TestLayoutKeepsOthers(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "layout")
	var want []ocispec.Descriptor
	for i, tag := range []string{"a", "b", "a"} {
		dst := openTarget(t, mustParse(t, "oci:"+dir+":"+tag))
		d := image(t, dst, nil, content(uint64(i), 10))
		want = append(want, d)
		if err := errors.Join(dst.Tag(t.Context(), d, ""), dst.Commit(t.Context()), dst.Close()); err != nil {
			t.Fatal(err)
		}
	}
	for tag, d := range map[string]ocispec.Descriptor{"a": want[2], "b": want[1]} {
		if got, err := openSource(t, mustParse(t, "oci:"+dir+":"+tag)).Resolve(t.Context()); err != nil || got.Digest != d.Digest {
			t.Errorf("%s: %v, %v", tag, got, err)
		}
	}
	if _, err := openSource(t, mustParse(t, "oci:"+dir)).Resolve(t.Context()); !errors.Is(err, store.ErrReference) {
		t.Errorf("two images and no name: %v", err)
	}
	old := mustParse(t, "oci:"+dir+"@"+want[0].Digest.String())
	if got, err := openSource(t, old).Resolve(t.Context()); err != nil || got.MediaType != ocispec.MediaTypeImageManifest {
		t.Errorf("by digest, untagged: %+v, %v", got, err)
	}
}

func TestLayoutDamage(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "layout")
	ref := mustParse(t, "oci:"+dir)
	dst := openTarget(t, ref)
	p := content(1, 3000)
	m := image(t, dst, nil, p)
	if err := errors.Join(dst.Tag(t.Context(), m, ""), dst.Commit(t.Context())); err != nil {
		t.Fatal(err)
	}
	desc := formats.DigestOf("", p)
	name := filepath.Join(dir, "blobs", "sha256", desc.Digest.Encoded())
	for what, change := range map[string]func([]byte) []byte{
		"bit":  func(b []byte) []byte { b[7] ^= 4; return b },
		"cut":  func(b []byte) []byte { return b[:2999] },
		"more": func(b []byte) []byte { return append(b, 0) },
	} {
		if err := os.WriteFile(name, change(bytes.Clone(p)), 0o644); err != nil {
			t.Fatal(err)
		}
		rc, err := openSource(t, ref).Fetch(t.Context(), desc)
		if err == nil {
			_, err = io.ReadAll(rc)
			_ = rc.Close()
		}
		if !errors.Is(err, blob.ErrCorrupt) && !errors.Is(err, blob.ErrDigest) {
			t.Errorf("%s: %v", what, err)
		}
		// A damaged blob is not linked into another layout.
		ok, err := openTarget(t, mustParse(t, "oci:"+t.TempDir()+"/new")).Mount(t.Context(), desc, openSource(t, ref))
		if ok || err == nil {
			t.Errorf("%s: mounted: %v, %v", what, ok, err)
		}
	}
	if _, err := store.OpenTarget(t.Context(), mustParse(t, "oci:"+filepath.Dir(name)), store.Options{}); !errors.Is(err, blob.ErrUnsupported) {
		t.Errorf("a directory with other things in it: %v", err)
	}
	if _, err := store.OpenSource(t.Context(), mustParse(t, "oci:"+t.TempDir()), store.Options{}); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("an empty directory: %v", err)
	}
}

func TestLayoutMount(t *testing.T) {
	t.Parallel()
	from, to := mustParse(t, "oci:"+t.TempDir()+"/a"), mustParse(t, "oci:"+t.TempDir()+"/b")
	p := content(1, 3000)
	a := openTarget(t, from)
	m := image(t, a, nil, p)
	if err := errors.Join(a.Tag(t.Context(), m, ""), a.Commit(t.Context())); err != nil {
		t.Fatal(err)
	}
	b := openTarget(t, to)
	desc := formats.DigestOf("", p)
	if ok, err := b.Mount(t.Context(), desc, openSource(t, from)); !ok || err != nil {
		t.Fatalf("%v, %v", ok, err)
	}
	if !bytes.Equal(fetchAll(t, b, desc), p) {
		t.Error("mounted blob differs")
	}
}

// archiveBytes makes an archive of one image through standard output.
func archiveBytes(t *testing.T, layers ...[]byte) ([]byte, ocispec.Descriptor) {
	t.Helper()
	var out bytes.Buffer
	dst, err := store.OpenTarget(t.Context(), mustParse(t, "oci-archive:-:v1"), store.Options{Stdout: &out, TempDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer dst.Close()
	d := image(t, dst, nil, layers...)
	if err := errors.Join(dst.Tag(t.Context(), d, ""), dst.Commit(t.Context())); err != nil {
		t.Fatal(err)
	}
	return out.Bytes(), d
}

func TestArchiveStreams(t *testing.T) {
	t.Parallel()
	a, b, c := content(1, 100_000), content(2, 10), content(3, 0)
	first, desc := archiveBytes(t, a, b, c)
	second, _ := archiveBytes(t, a, b, c)
	if !bytes.Equal(first, second) {
		t.Error("two archives of one image differ")
	}
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	_, _ = z.Write(first)
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, in := range map[string][]byte{"plain": first, "gzip": zipped.Bytes()} {
		src, err := store.OpenSource(t.Context(), mustParse(t, "oci-archive:-"), store.Options{Stdin: onlyReader{bytes.NewReader(in)}, TempDir: dir})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		got, err := src.Resolve(t.Context())
		if err != nil || got.Digest != desc.Digest {
			t.Errorf("%s: %v, %v", name, got, err)
		}
		if !bytes.Equal(fetchAll(t, src, formats.DigestOf("", a)), a) {
			t.Errorf("%s: layer differs", name)
		}
		if err := src.Close(); err != nil {
			t.Error(err)
		}
	}
	if got := list(t, dir); len(got) > 0 {
		t.Errorf("spooled files stay: %v", got)
	}
	for n := 0; n < len(first); n += 1 + len(first)/40 {
		src, err := store.OpenSource(t.Context(), mustParse(t, "oci-archive:-"), store.Options{Stdin: bytes.NewReader(first[:n]), TempDir: dir})
		if err == nil {
			err = pull(t.Context(), src, a)
			_ = src.Close()
		}
		if !errors.Is(err, blob.ErrCorrupt) && !errors.Is(err, store.ErrNotFound) && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("cut at %d: %v", n, err)
		}
	}
}

type onlyReader struct{ io.Reader }

func TestArchiveFailure(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	name := filepath.Join(dir, "a.tar")
	if err := os.WriteFile(name, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	dst := openTarget(t, mustParse(t, "oci-archive:"+name))
	image(t, dst, nil, content(1, 1000))
	if err := dst.Close(); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(name); err != nil || string(got) != "old" {
		t.Errorf("without commit: %q, %v", got, err)
	}
	if got := list(t, dir); len(got) != 1 {
		t.Errorf("left behind: %v", got)
	}
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip("this system has no /dev/full")
	}
	defer full.Close()
	out, err := store.OpenTarget(t.Context(), mustParse(t, "oci-archive:-"), store.Options{Stdout: full})
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	image(t, out, nil, content(1, 1000))
	if err := out.Commit(t.Context()); !errors.Is(err, store.ErrNoSpace) {
		t.Errorf("full disk: %v", err)
	}
	if _, err := store.OpenTarget(t.Context(), mustParse(t, "oci-archive:"+dir+"/absent/a.tar"), store.Options{}); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("no directory: %v", err)
	}
}

// saved is what docker save wrote before version 25, with a layer that is a link to another image's.
func saved(t *testing.T, layers ...[]byte) []byte {
	t.Helper()
	config := ocispec.Image{Platform: ocispec.Platform{Architecture: "arm64", OS: "linux"}}
	type entry struct {
		Config           string
		RepoTags, Layers []string
	}
	e := entry{Config: "abc.json", RepoTags: []string{"node:19", "example.org/node:x"}}
	var out bytes.Buffer
	tw := tar.NewWriter(&out)
	add := func(h tar.Header, p []byte) {
		h.Mode, h.Size = 0o644, int64(len(p))
		if err := tw.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := tw.Write(p); err != nil {
			t.Fatal(err)
		}
	}
	for i, l := range layers {
		name := string(rune('a'+i)) + "/layer.tar"
		add(tar.Header{Name: name, Typeflag: tar.TypeReg}, l)
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, digest.FromBytes(l))
		e.Layers = append(e.Layers, name)
	}
	add(tar.Header{Name: "link/layer.tar", Typeflag: tar.TypeSymlink, Linkname: "../a/layer.tar"}, nil)
	config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, digest.FromBytes(layers[0]))
	e.Layers = append(e.Layers, "link/layer.tar")
	add(tar.Header{Name: "abc.json", Typeflag: tar.TypeReg}, mustJSON(t, config))
	add(tar.Header{Name: "manifest.json", Typeflag: tar.TypeReg}, mustJSON(t, []entry{e}))
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestDockerArchive(t *testing.T) {
	t.Parallel()
	a, b := content(1, 2000), content(2, 300)
	archive := saved(t, a, b)
	open := func(ref string) (store.Source, error) {
		return store.OpenSource(t.Context(), mustParse(t, ref), store.Options{Stdin: bytes.NewReader(archive), TempDir: t.TempDir()})
	}
	for _, ref := range []string{"docker-archive:-", "docker-archive:-:node:19", "docker-archive:-:example.org/node:x"} {
		src, err := open(ref)
		if err != nil {
			t.Fatal(err)
		}
		desc, err := src.Resolve(t.Context())
		if err != nil {
			t.Fatalf("%s: %v", ref, err)
		}
		m, err := store.LoadManifest(t.Context(), src, desc)
		if err != nil {
			t.Fatalf("%s: %v", ref, err)
		}
		if m.Config.Architecture != "arm64" || len(m.Manifest.Layers) != 3 || desc.Platform.Architecture != "arm64" {
			t.Errorf("%s: %+v", ref, m)
		}
		for i, want := range [][]byte{a, b, a} {
			if !bytes.Equal(fetchAll(t, src, m.Manifest.Layers[i]), want) {
				t.Errorf("%s: layer %d differs", ref, i)
			}
		}
		_ = src.Close()
	}
	src, err := open("docker-archive:-:other")
	if err == nil {
		_, err = src.Resolve(t.Context())
		_ = src.Close()
	}
	if !errors.Is(err, store.ErrNotFound) {
		t.Errorf("absent image: %v", err)
	}
	// Newer ones have a layout in them.
	archive, desc := archiveBytes(t, a)
	src, err = open("docker-archive:-")
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	if got, err := src.Resolve(t.Context()); err != nil || got.Digest != desc.Digest {
		t.Errorf("layout inside: %v, %v", got, err)
	}
	archive = []byte("no archive at all")
	if _, err := open("docker-archive:-"); !errors.Is(err, blob.ErrCorrupt) {
		t.Errorf("no archive: %v", err)
	}
}
