package nydusify_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/check"
	"github.com/lazuli-project/lazuli/convert"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/formats/nydus"
	"github.com/lazuli-project/lazuli/formats/oci"
	"github.com/lazuli-project/lazuli/image"
	"github.com/lazuli-project/lazuli/internal/imagetest"
	"github.com/lazuli-project/lazuli/nydusify"
	"github.com/lazuli-project/lazuli/store"
)

func parse(t *testing.T, s string) store.Ref {
	t.Helper()
	r, err := store.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func source(t *testing.T, ref string) store.Source {
	t.Helper()
	s, err := store.OpenSource(t.Context(), parse(t, ref), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// write opens a target for an action.
func write(t *testing.T, ref string, do func(ctx context.Context, dest store.Target) error) error {
	t.Helper()
	dest, err := store.OpenTarget(t.Context(), parse(t, ref), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return errors.Join(do(t.Context(), dest), dest.Close())
}

func layout(t *testing.T, img *imagetest.Image) string {
	t.Helper()
	dir := t.TempDir()
	img.WriteLayout(t, dir, "v1")
	return "oci:" + dir + ":v1"
}

// converted converts an image and returns its reference.
func converted(t *testing.T, from string) string {
	t.Helper()
	w, err := nydus.NewWriter(nydus.Options{ChunkSize: 4096})
	if err != nil {
		t.Fatal(err)
	}
	to := "oci:" + t.TempDir() + ":made"
	err = write(t, to, func(ctx context.Context, dest store.Target) error {
		_, err := convert.Convert(ctx, source(t, from), []convert.Output{{Writer: w, Target: dest}}, convert.Options{})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return to
}

// options open images of both formats, the first ones preferred.
func options(readers ...formats.Reader) image.Options {
	return image.Options{Platform: "linux/amd64", Readers: readers}
}

// rules checks an image against its source, and returns how many differences break a rule and how many are minor.
func rules(t *testing.T, from, made string) (broken, minor int, err error) {
	t.Helper()
	err = nydusify.Check(t.Context(), nydusify.CheckOptions{
		Target: parse(t, made), Image: options(nydus.Reader{}, oci.Reader{}), Source: parse(t, from), SourceImage: options(oci.Reader{}, nydus.Reader{}),
		OnRule: func(string) {}, OnDifference: func(_ check.Difference, m bool) {
			if m {
				minor++
			} else {
				broken++
			}
		},
	})
	return broken, minor, err
}

func app(t *testing.T, content string, sec int64) *imagetest.Image {
	t.Helper()
	return imagetest.NewImage(t, imagetest.Gzip(t, imagetest.Tar(t, imagetest.Dir("bin", imagetest.At(0, 0)), imagetest.File("bin/app", content, imagetest.At(sec, 0)))))
}

func TestCheckRules(t *testing.T) {
	t.Parallel()
	from := layout(t, app(t, "one", 5))
	made := converted(t, from)
	if broken, minor, err := rules(t, from, made); err != nil || broken+minor > 0 {
		t.Errorf("%d, %d, %v", broken, minor, err)
	}
	if broken, minor, err := rules(t, layout(t, app(t, "one", 6)), made); err != nil || broken != 0 || minor != 1 {
		t.Errorf("another time: %d, %d, %v", broken, minor, err)
	}
	if broken, _, err := rules(t, layout(t, app(t, "two", 5)), made); !errors.Is(err, nydusify.ErrRule) || broken != 1 {
		t.Errorf("another content: %d, %v", broken, err)
	}
}

// A manifest that is changed breaks its rule.
func TestCheckManifest(t *testing.T) {
	t.Parallel()
	from := layout(t, app(t, "one", 5))
	made := converted(t, from)
	for name, change := range map[string]func(m *ocispec.Manifest, c *ocispec.Image){
		"diff IDs":      func(_ *ocispec.Manifest, c *ocispec.Image) { c.RootFS.DiffIDs = c.RootFS.DiffIDs[:1] },
		"configuration": func(_ *ocispec.Manifest, c *ocispec.Image) { c.Config.Cmd = []string{"other"} },
		"media type":    func(m *ocispec.Manifest, _ *ocispec.Image) { m.Layers[0].MediaType = ocispec.MediaTypeImageLayerGzip },
		"blob mark":     func(m *ocispec.Manifest, _ *ocispec.Image) { m.Layers[0].Annotations = nil },
	} {
		ref := parse(t, made)
		src := source(t, made)
		desc, err := src.Resolve(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		m, err := store.LoadManifest(t.Context(), src, desc)
		if err != nil {
			t.Fatal(err)
		}
		change(&m.Manifest, &m.Config)
		config, err := json.Marshal(m.Config)
		if err != nil {
			t.Fatal(err)
		}
		m.Manifest.Config = formats.DigestOf(m.Manifest.Config.MediaType, config)
		raw, err := json.Marshal(m.Manifest)
		if err != nil {
			t.Fatal(err)
		}
		changed := formats.DigestOf(desc.MediaType, raw)
		ref.Tag = "changed"
		err = write(t, ref.String(), func(ctx context.Context, dest store.Target) error {
			return errors.Join(dest.Put(ctx, m.Manifest.Config, config), dest.Put(ctx, changed, raw), dest.Tag(ctx, changed, ""), dest.Commit(ctx))
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := rules(t, from, ref.String()); !errors.Is(err, nydusify.ErrRule) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Prefetch blobs and dictionaries are of Nydus images.
func TestRefusals(t *testing.T) {
	t.Parallel()
	from := layout(t, app(t, "one", 5))
	to := "oci:" + t.TempDir() + ":made"
	list := filepath.Join(t.TempDir(), "list")
	if err := os.WriteFile(list, []byte("/bin/app\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	temp := t.TempDir()
	err := write(t, to, func(ctx context.Context, dest store.Target) error {
		_, err := nydusify.Optimize(ctx, nydusify.OptimizeOptions{Source: source(t, from), Target: dest, PrefetchFiles: list, TempDir: temp})
		return err
	})
	if !errors.Is(err, blob.ErrUnsupported) {
		t.Errorf("optimize: %v", err)
	}
	err = write(t, to, func(ctx context.Context, dest store.Target) error {
		_, err := nydusify.GenerateChunkDict(ctx, nydusify.ChunkDictOptions{Sources: []store.Source{source(t, from)}, Target: dest, TempDir: temp})
		return err
	})
	if !errors.Is(err, blob.ErrUnsupported) {
		t.Errorf("chunkdict: %v", err)
	}
	if left, err := os.ReadDir(temp); err != nil || len(left) > 0 {
		t.Errorf("left in the temporary directory: %v, %v", left, err)
	}
	err = write(t, to, func(ctx context.Context, dest store.Target) error {
		return nydusify.Copy(ctx, nydusify.CopyOptions{Source: source(t, layout(t, imagetest.NewIndex(t, app(t, "x", 1)))), Target: dest, Platforms: []string{"linux/s390x"}})
	})
	if !errors.Is(err, store.ErrNotFound) {
		t.Errorf("copy: %v", err)
	}
}
