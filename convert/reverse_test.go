package convert_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/check"
	"github.com/lazuli-project/lazuli/convert"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/formats/nydus"
	"github.com/lazuli-project/lazuli/formats/oci"
	"github.com/lazuli-project/lazuli/internal/imagetest"
	"github.com/lazuli-project/lazuli/internal/registrytest"
	"github.com/lazuli-project/lazuli/store"
)

// reverse makes a plain image of a lazy one.
func reverse(t *testing.T, from, to string, opt convert.Options) (*convert.Result, error) {
	t.Helper()
	dest := openTarget(t, to)
	opt.Readers = []formats.Reader{nydus.Reader{}}
	opt.TempDir = t.TempDir()
	res, err := convert.Reverse(t.Context(), openSource(t, from), dest, opt)
	if left, dirErr := os.ReadDir(opt.TempDir); dirErr != nil || len(left) > 0 {
		t.Errorf("left in the temporary directory: %v, %v", left, dirErr)
	}
	return res, errors.Join(err, dest.Close())
}

func mustReverse(t *testing.T, from, to string) *convert.Result {
	t.Helper()
	res, err := reverse(t, from, to, convert.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// equalPlain compares two plain images.
func equalPlain(t *testing.T, source, made, platform string) {
	t.Helper()
	want, got := open(t, source, platform, oci.Reader{}), open(t, made, platform, oci.Reader{})
	err := check.Compare(t.Context(), want.Image, got.Image, func(d check.Difference) error {
		t.Error(d)
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if len(want.Manifest.Manifest.Layers) != len(got.Manifest.Manifest.Layers) || len(want.Manifest.Config.History) != len(got.Manifest.Config.History) {
		t.Errorf("%d layers and %d entries of the history became %d and %d", len(want.Manifest.Manifest.Layers), len(want.Manifest.Config.History),
			len(got.Manifest.Manifest.Layers), len(got.Manifest.Config.History))
	}
}

// refWriter converts to nydus-ref.
func runRef(t *testing.T, from, to string) {
	t.Helper()
	w, err := nydus.NewRefWriter(nydus.RefOptions{ChunkSize: 16 << 10})
	if err != nil {
		t.Fatal(err)
	}
	dest := openTarget(t, to)
	if _, err := convert.Convert(t.Context(), openSource(t, from), []convert.Output{{Writer: w, Target: dest}}, convert.Options{}); err != nil {
		t.Fatal(err)
	}
	if err := dest.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestReverse(t *testing.T) {
	t.Parallel()
	host := newRegistry(t, registrytest.Options{}).host
	for name, img := range map[string]*imagetest.Image{"edge": imagetest.Edge(t), "small": small(t, amd64, "x")} {
		from, lazy := layout(t, img), host+"/lazy:"+name
		mustRun(t, from, lazy, convert.Options{})
		to, again := host+"/plain:"+name, "oci:"+t.TempDir()+":again"
		res := mustReverse(t, lazy, to)
		equalPlain(t, from, to, "linux/amd64")
		// The same bytes once more, elsewhere.
		if res2 := mustReverse(t, lazy, again); res2.Tagged[0].Digest != res.Tagged[0].Digest {
			t.Errorf("%s: %s, and once more %s", name, res.Tagged[0].Digest, res2.Tagged[0].Digest)
		}
		if len(res.Images) != 1 || res.Images[0].Format != convert.FormatOCI || res.Images[0].Size == 0 {
			t.Errorf("%+v", res.Images)
		}
	}
}

// Where the source is at hand, it is what comes back.
func TestReverseToOriginal(t *testing.T) {
	t.Parallel()
	img := imagetest.Edge(t)
	host := newRegistry(t, registrytest.Options{}).host
	from := layout(t, img)

	// nydus-ref keeps the source beside its own manifest.
	runRef(t, from, host+"/ref:lazy")
	if res := mustReverse(t, host+"/ref:lazy", host+"/plain:a"); res.Tagged[0].Digest != img.Desc.Digest {
		t.Errorf("of nydus-ref: %s instead of %s", res.Tagged[0].Digest, img.Desc.Digest)
	}
	// So does a repository that has both, and an index.
	put(t, img, host+"/both:plain")
	mustRun(t, from, host+"/both:lazy", convert.Options{})
	if res := mustReverse(t, host+"/both:lazy", host+"/plain:b"); res.Tagged[0].Digest != img.Desc.Digest || !res.Images[0].Layers[0].Reused {
		t.Errorf("of a repository that has the source: %s", res.Tagged[0].Digest)
	}
	mustRun(t, from, host+"/index:lazy", convert.Options{Attach: convert.AttachIndex})
	if res := mustReverse(t, host+"/index:lazy", host+"/plain:c"); res.Tagged[0].Digest != img.Desc.Digest && len(res.Images) == 1 {
		t.Errorf("of an index: %s", res.Tagged[0].Digest)
	}
	equalPlain(t, from, host+"/plain:c", "linux/amd64")
}

// An index becomes an index, with what stands beside the images.
func TestReverseIndex(t *testing.T) {
	t.Parallel()
	r := newRich(t)
	from := layout(t, r.Image)
	lazy, to := "oci:"+t.TempDir()+":lazy", newRegistry(t, registrytest.Options{}).host+"/image:plain"
	mustRun(t, from, lazy, convert.Options{})
	mustReverse(t, lazy, to)
	x := index(t, to)
	if len(x.Manifests) != 5 || x.Annotations["org.example.kept"] != "yes" || x.Manifests[2].Annotations[referenceOf] != x.Manifests[0].Digest.String() {
		t.Fatalf("%+v", x)
	}
	equalPlain(t, from, to, "linux/amd64")
	equalPlain(t, from, to, "linux/arm64/v8")

	one := "oci:" + t.TempDir() + ":one"
	res, err := reverse(t, lazy, one, convert.Options{Platforms: []string{"linux/arm64"}})
	if err != nil || len(res.Images) != 1 || res.Images[0].Platform != "linux/arm64/v8" {
		t.Fatalf("%+v, %v", res, err)
	}
	for _, platforms := range [][]string{{"linux/s390x"}, nil} {
		source := lazy
		if platforms == nil {
			source = from // is plain
		}
		if _, err := reverse(t, source, one, convert.Options{Platforms: platforms}); !errors.Is(err, convert.ErrNothingToConvert) {
			t.Errorf("%v: %v", platforms, err)
		}
	}
}

// fixture is an image that the reference tool made, without the objects in lack.
func fixture(t *testing.T, manifest digest.Digest, mediaType string, lack ...digest.Digest) *imagetest.Image {
	t.Helper()
	img := &imagetest.Image{Objects: make(map[digest.Digest][]byte)}
	for _, dir := range []string{"testdata/nydusify", "../formats/nydus/testdata/nydusify", "../formats/nydus/testdata/blobs", "../formats/nydus/testdata/source"} {
		files, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			d := digest.NewDigestFromEncoded(digest.SHA256, f.Name())
			if d.Validate() != nil || slices.Contains(lack, d) {
				continue
			}
			if img.Objects[d], err = os.ReadFile(filepath.Join(dir, f.Name())); err != nil {
				t.Fatal(err)
			}
		}
	}
	img.Desc = ocispec.Descriptor{MediaType: mediaType, Digest: manifest, Size: int64(len(img.Objects[manifest]))}
	return img
}

// What the reference tool made of one source.
const (
	fixtureSource        = digest.Digest("sha256:480891244767ff74032b8b16b29c83a636cded1fb9e968c3fc9dec9a5e807899")
	fixtureV6            = digest.Digest("sha256:e1f30dd16c62419aec289199bcfd1b0fc8a53e77f143393c6ff6291509325525")
	fixtureZran          = digest.Digest("sha256:da4587c54a07c811fe55120d06893376abfc06b27312b918b57152afdd6df13c")
	fixtureReferrer      = digest.Digest("sha256:1f1ed5bb4c42afdba348eb9954fe6b3ed57b7104691f4fbb20933559717cc48b")
	fixtureMerged        = digest.Digest("sha256:f13cc150f04c5cdacfa5c63925568436ebf8776ca474ac807ce571a262a16e48")
	fixtureMergedOCI     = digest.Digest("sha256:c517f52621d5e1193438e40a042e66093377f5bca60c1040f9c9c5f141dadffa")
	fixtureMergedOCIConf = digest.Digest("sha256:c4fe7cf41816b0cb0fbe7abc677e1cea6533176d0aa796453ad9295e9fcfda4f")
)

func TestReverseReference(t *testing.T) {
	t.Parallel()
	source := layout(t, fixture(t, fixtureSource, ocispec.MediaTypeImageManifest))
	sourceLayers := open(t, source, "linux/amd64", oci.Reader{}).Manifest.Manifest.Layers
	for name, c := range map[string]struct {
		manifest digest.Digest
		index    bool
		lack     []digest.Digest
		want     digest.Digest // "" for a new manifest
		kept     bool          // layers are those of the source
	}{
		"v6":                                     {manifest: fixtureV6, want: fixtureSource},
		"v6 alone":                               {manifest: fixtureV6, lack: []digest.Digest{fixtureSource}},
		"v6, and the source lacks a layer":       {manifest: fixtureV6, lack: []digest.Digest{sourceLayers[1].Digest}},
		"zran":                                   {manifest: fixtureZran, want: fixtureSource, kept: true},
		"zran alone":                             {manifest: fixtureZran, lack: []digest.Digest{fixtureSource}, kept: true},
		"referrer":                               {manifest: fixtureReferrer, want: fixtureSource, kept: true},
		"merged":                                 {manifest: fixtureMerged, index: true, want: fixtureSource, kept: true},
		"merged, of whose source a copy is left": {manifest: fixtureMerged, index: true, lack: []digest.Digest{fixtureSource}, want: fixtureMergedOCI},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			mediaType := ocispec.MediaTypeImageManifest
			if c.index {
				mediaType = ocispec.MediaTypeImageIndex
			}
			from, to := layout(t, fixture(t, c.manifest, mediaType, c.lack...)), "oci:"+t.TempDir()+":made"
			res := mustReverse(t, from, to)
			if got := res.Tagged[0].Digest; c.want != "" && got != c.want {
				t.Errorf("%s instead of %s", got, c.want)
			}
			if c.want != fixtureMergedOCI {
				equalPlain(t, source, to, "linux/amd64")
			}
			m := open(t, to, "linux/amd64", oci.Reader{}).Manifest.Manifest
			for i, l := range sourceLayers {
				if c.kept && m.Layers[i].Digest != l.Digest {
					t.Errorf("layer %d is %s instead of %s", i, m.Layers[i].Digest, l.Digest)
				}
			}
			if len(m.Annotations) != 0 && c.want != fixtureMergedOCI {
				t.Errorf("annotations %v", m.Annotations)
			}
		})
	}
}

// Damage of a blob is found, also where no chunk's digest covers it, and nothing is tagged.
func TestReverseDamage(t *testing.T) {
	t.Parallel()
	img := fixture(t, fixtureV6, ocispec.MediaTypeImageManifest, fixtureSource)
	largest := digest.Digest("sha256:d54417f91da9b573e80c812bd64c13d156c6fe43a47738bdc46b06574dd7a189")
	good := img.Objects[largest]
	r := newRegistry(t, registrytest.Options{})
	for name, at := range map[string]int{"chunk": 5000, "end": len(good) - 600} {
		dir := t.TempDir()
		img.WriteLayout(t, dir, "v1")
		p := slices.Clone(good)
		p[at] ^= 1
		if err := os.WriteFile(filepath.Join(dir, "blobs", "sha256", largest.Encoded()), p, 0o600); err != nil {
			t.Fatal(err)
		}
		to := r.host + "/damaged:" + name
		if _, err := reverse(t, "oci:"+dir+":v1", to, convert.Options{}); !errors.Is(err, blob.ErrDigest) {
			t.Errorf("%s: %v", name, err)
		}
		untagged(t, to)
	}
	_, err := reverse(t, layout(t, img), r.host+"/image:x", convert.Options{Attach: convert.AttachIndex})
	if !errors.Is(err, blob.ErrUnsupported) {
		t.Errorf("attached: %v", err)
	}
	if _, err := reverse(t, layout(t, fixture(t, fixtureZran, ocispec.MediaTypeImageManifest, "sha256:44313ef182486ee5b614996b651102b5c103857cde29e7079825d285b78109ad")),
		r.host+"/image:x", convert.Options{}); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("without the data: %v", err)
	}
	untagged(t, r.host+"/image:x")
}
