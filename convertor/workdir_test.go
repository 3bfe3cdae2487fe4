package convertor_test

import (
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/convert"
	"github.com/lazuli-project/lazuli/convertor"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/formats/overlaybd"
	"github.com/lazuli-project/lazuli/formats/turbooci"
	"github.com/lazuli-project/lazuli/store"
)

// files lists the files and empty directories below a directory.
func files(t *testing.T, dir string) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		entries, _ := os.ReadDir(path)
		if !d.IsDir() || len(entries) == 0 {
			rel, err := filepath.Rel(dir, path)
			all = append(all, filepath.ToSlash(rel))
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// fakeImage stores an image of two layers, of which one is streamed, and returns what a conversion says of it.
func fakeImage(t *testing.T, dst store.Target, output int, format, platform string) convert.Image {
	t.Helper()
	im := convert.Image{Format: format, Output: output, Platform: platform, Source: formats.DigestOf("", []byte("source "+platform))}
	w, err := dst.Create(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	streamed := []byte("streamed, in all images")
	if _, err := w.Write(streamed); err != nil {
		t.Fatal(err)
	}
	if _, _, err := w.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.Abort()
	put := func(mediaType string, content []byte) ocispec.Descriptor {
		d := formats.DigestOf(mediaType, content)
		if err := dst.Put(t.Context(), d, content); err != nil {
			t.Fatal(err)
		}
		return d
	}
	layers := []ocispec.Descriptor{formats.DigestOf("", streamed), put(ocispec.MediaTypeImageLayer, []byte(format+platform)), formats.DigestOf("", []byte("known before"))}
	for i, l := range layers {
		im.Layers = append(im.Layers, convert.LayerResult{Source: formats.DigestOf("", []byte{byte(i)}), Desc: l})
	}
	m, err := json.Marshal(ocispec.Manifest{Config: put(ocispec.MediaTypeImageConfig, []byte("config of "+format+platform))})
	if err != nil {
		t.Fatal(err)
	}
	im.Desc = put(ocispec.MediaTypeImageManifest, m)
	return im
}

func TestWorkDirIndex(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	dir := filepath.Join(root, "a", "b")
	w, err := convertor.OpenWorkDir(dir, true, true)
	if err != nil {
		t.Fatal(err)
	}
	var res convert.Result
	for output, format := range []string{overlaybd.Name, turbooci.Name} {
		dst := w.Watch(nowhere(t))
		for _, platform := range []string{"linux/amd64", "linux/arm64/v8"} {
			res.Images = append(res.Images, fakeImage(t, dst, output, format, platform))
		}
		index := formats.DigestOf(ocispec.MediaTypeImageIndex, []byte("index of "+format))
		if err := dst.Put(t.Context(), index, []byte("index of "+format)); err != nil {
			t.Fatal(err)
		}
		res.Tagged = append(res.Tagged, index)
	}
	if err := errors.Join(w.Keep(t.Context(), &res), w.Close()); err != nil {
		t.Fatal(err)
	}
	var want []string
	for i, platform := range []string{"1-linux_amd64-", "2-linux_arm64_v8-"} {
		image := platform + res.Images[i].Source.Digest.Encoded() + "/"
		for j, l := range res.Images[0].Layers[:2] {
			own := image + "000" + string(rune('0'+j)) + "_" + l.Source.Digest.String() + "/"
			want = append(want, own+"overlaybd.commit", own+"turboOCIv1.tar.gz")
		}
		want = append(want, image+"config.json", image+"config.overlaybd.json", image+"manifest.json", image+"manifest.overlaybd.json")
	}
	want = append(want, "index.json", "index.overlaybd.json")
	if got := files(t, dir); !slices.Equal(got, want) {
		t.Errorf("%q\nexpected %q", got, want)
	}
	for name, want := range map[string]string{
		want[1]: "streamed, in all images", want[2]: "overlaybdlinux/amd64", want[4]: "config of turbo-ocilinux/amd64", want[5]: "config of overlaybdlinux/amd64", "index.overlaybd.json": "index of overlaybd",
	} {
		if got, err := os.ReadFile(filepath.Join(dir, name)); string(got) != want || err != nil {
			t.Errorf("%s: %q, %v; expected %q", name, got, err, want)
		}
	}
}

func TestWorkDirLeavesNothing(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	for name, c := range map[string]struct {
		dump, reserve, keep bool
		want                []string
	}{
		"nothing":          {},
		"kept nothing":     {keep: true},
		"reserved, failed": {reserve: true, want: []string{"a/b"}},
		"dumped, failed":   {dump: true},
		"dumped":           {dump: true, keep: true, want: []string{"config.json", "manifest.json"}},
		"reserved":         {reserve: true, keep: true, want: []string{"overlaybd.commit", "overlaybd.commit"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			own := filepath.Join(root, name)
			if err := os.Mkdir(own, 0o755); err != nil {
				t.Fatal(err)
			}
			w, err := convertor.OpenWorkDir(filepath.Join(own, "a", "b"), c.dump, c.reserve)
			if err != nil {
				t.Fatal(err)
			}
			dst := w.Watch(nowhere(t))
			im := fakeImage(t, dst, 0, overlaybd.Name, "linux/amd64")
			given, err := dst.Create(t.Context(), "")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.WriteString(given, "given up"); err != nil {
				t.Fatal(err)
			}
			given.Abort()
			if c.keep {
				if err := w.Keep(t.Context(), &convert.Result{Images: []convert.Image{im}, Tagged: []ocispec.Descriptor{im.Desc}}); err != nil {
					t.Fatal(err)
				}
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			got := files(t, own)
			for i, name := range got {
				if c.keep {
					got[i] = filepath.Base(name)
				}
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("%q, expected %q", got, c.want)
			}
		})
	}
}

func TestWorkDirThatIsThere(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	w, err := convertor.OpenWorkDir(dir, false, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); err != nil {
		t.Error(err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := convertor.OpenWorkDir(file, false, false); err == nil {
		t.Error("a file was taken for a directory")
	}
}

// A layer's target may tell the digest so far, also where the layer is kept.
func TestWatchKeepsAbilities(t *testing.T) {
	t.Parallel()
	w, err := convertor.OpenWorkDir(t.TempDir(), true, true)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	dst := w.Watch(nowhere(t))
	o, err := dst.Create(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer o.Abort()
	sum, ok := o.(formats.RunningDigest).RunningSHA256()
	if want := digest.FromString(""); !ok || digest.NewDigestFromBytes(digest.SHA256, sum[:]) != want {
		t.Errorf("%x, %v", sum, ok)
	}
	raw := []byte("{}")
	if err := dst.(store.ManifestPusher).PushManifest(t.Context(), formats.DigestOf("application/x", raw), raw); err != nil {
		t.Error(err)
	}
}
