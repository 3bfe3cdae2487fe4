package converter_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	ctrd "github.com/containerd/containerd/v2/core/images/converter"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/containerd/nydus-snapshotter/pkg/converter"
	"github.com/containerd/nydus-snapshotter/pkg/label"
)

// convert converts an image by containerd's converter, as all callers do it.
func convert(t testing.TB, cs content.Store, desc ocispec.Descriptor, p converter.PackOption, m converter.MergeOption) ocispec.Descriptor {
	t.Helper()
	f := ctrd.IndexConvertFuncWithHook(converter.LayerConvertFunc(p), true, platforms.All, ctrd.ConvertHooks{PostConvertHook: converter.ConvertHookFunc(m)})
	got, err := f(t.Context(), cs, desc)
	if err != nil {
		t.Fatal(err)
	}
	return *got
}

// filesOf lists the files of a Nydus image in a store.
func filesOf(t testing.TB, cs content.Store, desc ocispec.Descriptor) map[string]string {
	t.Helper()
	manifest := getJSON[ocispec.Manifest](t, cs, desc)
	blobs := make(map[string][]byte)
	var boot []byte
	for _, l := range manifest.Layers {
		p, err := content.ReadBlob(t.Context(), cs, l)
		if err != nil {
			t.Fatal(err)
		}
		blobs[l.Digest.Encoded()] = p
		if origin := digest.Digest(l.Annotations[label.NydusRefLayer]); origin != "" {
			if blobs[origin.Encoded()], err = content.ReadBlob(t.Context(), cs, ocispec.Descriptor{Digest: origin}); err != nil {
				t.Fatal(err)
			}
		}
		if converter.IsNydusBootstrap(l) {
			boot = layerFile(t, p, converter.BootstrapFileNameInLayer)
		}
	}
	return files(t, boot, blobs)
}

// layerFile returns a file of a gzip layer.
func layerFile(t testing.TB, p []byte, name string) []byte {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(p))
	if err != nil {
		t.Fatal(err)
	}
	r := tar.NewReader(z)
	for {
		h, err := r.Next()
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if h.Name == name {
			text, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			return text
		}
	}
}

// checkImage checks what every Nydus image must have: a diff ID and a label for each layer, and the whole config of the source.
func checkImage(t testing.TB, cs content.Store, desc ocispec.Descriptor, layers int) ocispec.Manifest {
	t.Helper()
	m := getJSON[ocispec.Manifest](t, cs, desc)
	config := getJSON[ocispec.Image](t, cs, m.Config)
	info, err := cs.Info(t.Context(), desc.Digest)
	if err != nil {
		t.Fatal(err)
	}
	if len(m.Layers) != layers || len(config.RootFS.DiffIDs) != layers || len(config.History) != layers {
		t.Fatalf("%d layers, %d diff IDs, %d lines of history; expected %d", len(m.Layers), len(config.RootFS.DiffIDs), len(config.History), layers)
	}
	refs := 0
	for k := range info.Labels {
		if strings.HasPrefix(k, "containerd.io/gc.ref.content.") {
			refs++
		}
	}
	if refs != layers+1 || info.Labels["containerd.io/gc.ref.content.config"] != m.Config.Digest.String() {
		t.Errorf("labels: %v", info.Labels)
	}
	for i, l := range m.Layers {
		last := i == layers-1
		if info.Labels["containerd.io/gc.ref.content.l."+string(rune('0'+i))] != l.Digest.String() {
			t.Errorf("layer %d has no label in %v", i, info.Labels)
		}
		if converter.IsNydusBlob(l) == last || converter.IsNydusBootstrap(l) != last || !last && (l.MediaType != converter.MediaTypeNydusBlob || config.RootFS.DiffIDs[i] != l.Digest) {
			t.Errorf("layer %d: %+v", i, l)
		}
		if _, ok := l.Annotations[converter.LayerAnnotationUncompressed]; ok {
			t.Errorf("layer %d: %v", i, l.Annotations)
		}
		blob, err := cs.Info(t.Context(), l.Digest)
		if err != nil || blob.Labels[converter.LayerAnnotationUncompressed] != config.RootFS.DiffIDs[i].String() || blob.Size != l.Size {
			t.Errorf("layer %d in the store: %+v, %v", i, blob, err)
		}
	}
	raw, err := content.ReadBlob(t.Context(), cs, m.Config)
	if err != nil || !bytes.Contains(raw, []byte("Healthcheck")) {
		t.Errorf("config %s: %v", raw, err)
	}
	return m
}

func TestConvertImage(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		p converter.PackOption
		m converter.MergeOption
	}{
		"default":        {},
		"version 6":      {converter.PackOption{FsVersion: "6"}, converter.MergeOption{FsVersion: "6"}},
		"version 5":      {converter.PackOption{FsVersion: "5"}, converter.MergeOption{FsVersion: "5"}},
		"references":     {converter.PackOption{OCIRef: true}, converter.MergeOption{OCIRef: true, FsVersion: "6"}},
		"encrypted data": {converter.PackOption{Encrypt: true}, converter.MergeOption{FsVersion: "6"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cs := newStore(t)
			source := putImage(t, cs, layers(t))
			desc := convert(t, cs, source, c.p, c.m)
			m := checkImage(t, cs, desc, 4)
			same(t, "image", filesOf(t, cs, desc), wantFiles(t))
			boot := m.Layers[3]
			version := c.m.FsVersion
			if version == "" {
				version = "6"
			}
			if boot.MediaType != ocispec.MediaTypeImageLayerGzip || boot.Annotations[converter.LayerAnnotationFSVersion] != version || m.Subject != nil || m.Config.MediaType != ocispec.MediaTypeImageConfig {
				t.Errorf("%+v", m)
			}
			for i, l := range getJSON[ocispec.Manifest](t, cs, source).Layers {
				if ref := m.Layers[i].Annotations[label.NydusRefLayer]; (ref != "") != c.p.OCIRef || ref != "" && ref != l.Digest.String() {
					t.Errorf("layer %d refers to %q", i, ref)
				}
			}
			// What is converted stays as it is.
			if again := convert(t, cs, desc, c.p, c.m); again.Digest != desc.Digest {
				t.Error("converted twice")
			}
			noIngests(t, cs)
		})
	}
}

func TestConvertManifestOptions(t *testing.T) {
	t.Parallel()
	cs := newStore(t)
	tars := layers(t)
	source := putImage(t, cs, append(tars, tars[1])) // a layer twice
	source.Platform = &ocispec.Platform{OS: "linux", Architecture: "amd64"}
	desc := convert(t, cs, source, converter.PackOption{}, converter.MergeOption{FsVersion: "6", WithReferrer: true, MergeManifest: true,
		AppendFiles: []converter.File{{Name: "backend.json", Reader: strings.NewReader("{}"), Size: 2}}})
	m := checkImage(t, cs, desc, 5)
	if m.Subject == nil || m.Subject.Digest != source.Digest || m.Subject.Size != source.Size || m.Subject.Platform != nil || source.Platform == nil {
		t.Errorf("subject %+v", m.Subject)
	}
	if m.Config.MediaType != converter.ManifestConfigNydus || m.Layers[1].Digest != m.Layers[3].Digest {
		t.Errorf("%+v", m)
	}
	boot, err := content.ReadBlob(t.Context(), cs, m.Layers[4])
	if err != nil || string(layerFile(t, boot, "image/backend.json")) != "{}" {
		t.Errorf("%v", err)
	}
}

// kept is a backend in memory.
type kept struct {
	pushed []digest.Digest
	err    error
}

func (k *kept) Push(_ context.Context, _ content.Store, desc ocispec.Descriptor) error {
	k.pushed = append(k.pushed, desc.Digest)
	return k.err
}
func (k *kept) Check(digest.Digest) (string, error) { return "", errors.New("not asked for") }
func (k *kept) Type() string                        { return "memory" }

// With a backend the manifest has the bootstrap layer alone.
func TestConvertToBackend(t *testing.T) {
	t.Parallel()
	cs := newStore(t)
	source := putImage(t, cs, layers(t)[:1])
	k := &kept{}
	desc := convert(t, cs, source, converter.PackOption{Backend: k}, converter.MergeOption{Backend: k, FsVersion: "6"})
	checkImage(t, cs, desc, 1)
	if len(k.pushed) != 1 || k.pushed[0] != digest.FromBytes(pack(t, layers(t)[0], converter.PackOption{})) {
		t.Errorf("%v", k.pushed)
	}
	k.err = errFull
	layer := getJSON[ocispec.Manifest](t, cs, source).Layers[0]
	if _, err := converter.LayerConvertFunc(converter.PackOption{Backend: k})(t.Context(), cs, layer); !errors.Is(err, errFull) {
		t.Errorf("%v", err)
	}
}

// A layer that was converted elsewhere is taken up; and what is no layer to convert stays.
func TestConvertNothing(t *testing.T) {
	t.Parallel()
	cs := newStore(t)
	layer := put(t, cs, ocispec.MediaTypeImageLayerGzip, []byte("not looked into"))
	blob := put(t, cs, converter.MediaTypeNydusBlob, []byte("not looked into, too"))
	if _, err := cs.Update(t.Context(), content.Info{Digest: layer.Digest, Labels: map[string]string{converter.LayerAnnotationNydusTargetDigest: blob.Digest.String()}}); err != nil {
		t.Fatal(err)
	}
	f := converter.LayerConvertFunc(converter.PackOption{OCIRef: true, Encrypt: true})
	got, err := f(t.Context(), cs, layer)
	if err != nil || got.Digest != blob.Digest || got.Size != blob.Size || !converter.IsNydusBlobAndExists(t.Context(), cs, *got) ||
		got.Annotations[label.NydusRefLayer] != layer.Digest.String() || got.Annotations[converter.LayerAnnotationNydusEncryptedBlob] != "true" {
		t.Errorf("%+v, %v", got, err)
	}
	if info, err := cs.Info(t.Context(), blob.Digest); err != nil || info.Labels[converter.LayerAnnotationUncompressed] != blob.Digest.String() {
		t.Errorf("%+v, %v", info, err)
	}
	boot := layer
	boot.Annotations = map[string]string{converter.LayerAnnotationNydusBootstrap: ""}
	for _, desc := range []ocispec.Descriptor{*got, boot, {MediaType: ocispec.MediaTypeImageConfig}, {MediaType: "application/vnd.in-toto+json"}} {
		if got, err := f(t.Context(), cs, desc); got != nil || err != nil {
			t.Errorf("%s: %v, %v", desc.MediaType, got, err)
		}
	}
	gone := ocispec.Descriptor{Digest: digest.FromString("gone"), MediaType: ocispec.MediaTypeImageLayer, Annotations: got.Annotations}
	if converter.IsNydusBlobAndExists(t.Context(), cs, gone) || converter.IsNydusBlobAndExists(t.Context(), cs, layer) || converter.IsNydusBlob(layer) || !converter.IsNydusBootstrap(boot) {
		t.Error("told apart wrongly")
	}
	gone.Annotations = nil
	if _, err := f(t.Context(), cs, gone); err == nil {
		t.Error("converted what is not there")
	}
}

func putIndex(t testing.TB, cs content.Store, annotations map[string]string, manifests ...ocispec.Descriptor) ocispec.Descriptor {
	t.Helper()
	return putJSON(t, cs, ocispec.MediaTypeImageIndex, &ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: manifests, Annotations: annotations})
}

// An index of one image becomes the image, and what it says about it stays.
func TestIndexOfOne(t *testing.T) {
	t.Parallel()
	cs := newStore(t)
	source := putImage(t, cs, layers(t)[:1])
	source.Platform = &ocispec.Platform{OS: "linux", Architecture: "amd64"}
	plain := convert(t, cs, putIndex(t, cs, nil, source), converter.PackOption{}, converter.MergeOption{})
	if !images.IsManifestType(plain.MediaType) || plain.Platform == nil || plain.Digest != convert(t, cs, source, converter.PackOption{}, converter.MergeOption{}).Digest {
		t.Errorf("%+v", plain)
	}
	desc := convert(t, cs, putIndex(t, cs, map[string]string{"org.example.a": "of the index"}, source), converter.PackOption{}, converter.MergeOption{})
	if m := checkImage(t, cs, desc, 2); m.Annotations["org.example.a"] != "of the index" {
		t.Errorf("%v", m.Annotations)
	}
	same(t, "image", filesOf(t, cs, desc), listing(t, layers(t)[0]))
}

// Images of two platforms, an attestation, and an image without layers.
func TestIndexOfMore(t *testing.T) {
	t.Parallel()
	cs := newStore(t)
	tars := layers(t)
	a, b := putImage(t, cs, tars[:1]), putImage(t, cs, tars[1:])
	a.Platform, b.Platform = &ocispec.Platform{OS: "linux", Architecture: "amd64"}, &ocispec.Platform{OS: "linux", Architecture: "arm64"}
	statement := put(t, cs, "application/vnd.in-toto+json", []byte("{}"))
	attestation := putJSON(t, cs, ocispec.MediaTypeImageManifest, &ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest,
		Config: putJSON(t, cs, ocispec.MediaTypeImageConfig, map[string]any{"rootfs": ocispec.RootFS{DiffIDs: []digest.Digest{statement.Digest}}}), Layers: []ocispec.Descriptor{statement}})
	attestation.Platform = &ocispec.Platform{OS: "unknown", Architecture: "unknown"}
	void := putImage(t, cs, nil)
	void.Platform = &ocispec.Platform{OS: "linux", Architecture: "riscv64"}
	index := putIndex(t, cs, map[string]string{"x": "y"}, a, b, attestation, void)
	// A reader for both.
	m := converter.MergeOption{AppendFiles: []converter.File{{Name: "x", Reader: strings.NewReader("both"), Size: 4}}}
	desc := convert(t, cs, index, converter.PackOption{}, m)
	got := getJSON[ocispec.Index](t, cs, desc)
	if len(got.Manifests) != 4 || got.Manifests[2].Digest != attestation.Digest || got.Manifests[3].Digest != void.Digest || got.Annotations["x"] != "y" {
		t.Fatalf("%+v", got)
	}
	for i, want := range [][]byte{tars[0], nil} {
		manifest := checkImage(t, cs, got.Manifests[i], 2+i)
		boot, err := content.ReadBlob(t.Context(), cs, manifest.Layers[1+i])
		if err != nil || string(layerFile(t, boot, "image/x")) != "both" {
			t.Errorf("image %d: %v", i, err)
		}
		if want != nil {
			same(t, "image", filesOf(t, cs, got.Manifests[i]), listing(t, want))
		}
	}
}

// There and back again: the layers' files, and a config with their diff IDs, in every compression.
func TestReconvert(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		p converter.PackOption
		m converter.MergeOption
		u converter.UnpackOption
		t string
	}{
		"default":      {u: converter.UnpackOption{Stream: true}, t: ocispec.MediaTypeImageLayerGzip},
		"gzip":         {u: converter.UnpackOption{Compressor: "gzip"}, t: ocispec.MediaTypeImageLayerGzip},
		"zstd":         {u: converter.UnpackOption{Compressor: "zstd"}, t: ocispec.MediaTypeImageLayerZstd},
		"uncompressed": {u: converter.UnpackOption{Compressor: "uncompressed"}, t: ocispec.MediaTypeImageLayer},
		"references":   {converter.PackOption{OCIRef: true}, converter.MergeOption{OCIRef: true}, converter.UnpackOption{}, ocispec.MediaTypeImageLayerGzip},
		"merged index": {m: converter.MergeOption{MergeManifest: true}, t: ocispec.MediaTypeImageLayerGzip},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cs := newStore(t)
			tars := layers(t)
			k := &kept{}
			c.u.Backend = k
			source := putImage(t, cs, tars)
			nydus := convert(t, cs, source, c.p, c.m)
			back, err := converter.DefaultIndexConvertFunc(converter.LayerReconvertFunc(c.u), true, platforms.All)(t.Context(), cs, nydus)
			if err != nil {
				t.Fatal(err)
			}
			m := getJSON[ocispec.Manifest](t, cs, *back)
			config := getJSON[ocispec.Image](t, cs, m.Config)
			if len(m.Layers) != 3 || len(config.RootFS.DiffIDs) != 3 || len(config.History) != 3 || m.Config.MediaType != ocispec.MediaTypeImageConfig || len(k.pushed) != 3 {
				t.Fatalf("%+v %+v", m, config)
			}
			info, err := cs.Info(t.Context(), back.Digest)
			if _, ok := info.Labels["containerd.io/gc.ref.content.l.3"]; ok || err != nil || info.Labels["containerd.io/gc.ref.content.l.2"] != m.Layers[2].Digest.String() {
				t.Errorf("%v, %v", info.Labels, err)
			}
			for i, l := range m.Layers {
				if l.MediaType != c.t || len(l.Annotations) != 0 || !slices.Contains(k.pushed, l.Digest) {
					t.Errorf("layer %d: %+v", i, l)
				}
				p, err := content.ReadBlob(t.Context(), cs, l)
				if err != nil {
					t.Fatal(err)
				}
				p = decompress(t, p)
				if digest.FromBytes(p) != config.RootFS.DiffIDs[i] {
					t.Errorf("layer %d has another diff ID", i)
				}
				same(t, "layer", listing(t, p), listing(t, tars[i]))
			}
			noIngests(t, cs)
		})
	}
	if _, err := converter.LayerReconvertFunc(converter.UnpackOption{Compressor: "lzma"})(t.Context(), newStore(t), ocispec.Descriptor{MediaType: converter.MediaTypeNydusBlob}); err == nil {
		t.Error("an unknown compressor")
	}
}

// Layers that refer to blobs of a dictionary find them in the store.
func TestReconvertWithDictionary(t *testing.T) {
	t.Parallel()
	cs := newStore(t)
	first := convert(t, cs, putImage(t, cs, layers(t)), converter.PackOption{}, converter.MergeOption{})
	boot, err := content.ReadBlob(t.Context(), cs, getJSON[ocispec.Manifest](t, cs, first).Layers[3])
	if err != nil {
		t.Fatal(err)
	}
	dict := writeFile(t, layerFile(t, boot, converter.BootstrapFileNameInLayer))
	layer := makeTar(t, file("same", noise(1, 2_500_000)), file("own", noise(9, 5000)))
	nydus := convert(t, cs, putImage(t, cs, [][]byte{layer}), converter.PackOption{ChunkDictPath: dict}, converter.MergeOption{ChunkDictPath: dict})
	m := getJSON[ocispec.Manifest](t, cs, nydus)
	if len(m.Layers) != 3 { // its own, that of the dictionary, the bootstrap
		t.Fatalf("%+v", m.Layers)
	}
	same(t, "image", filesOf(t, cs, nydus), listing(t, layer))
	back, err := converter.LayerReconvertFunc(converter.UnpackOption{})(t.Context(), cs, m.Layers[0])
	if err != nil {
		t.Fatal(err)
	}
	p, err := content.ReadBlob(t.Context(), cs, *back)
	if err != nil {
		t.Fatal(err)
	}
	same(t, "layer", listing(t, decompress(t, p)), listing(t, layer))
}

// What is not Nydus' is left alone on the way back, too.
func TestReconvertNothing(t *testing.T) {
	t.Parallel()
	cs := newStore(t)
	source := putImage(t, cs, layers(t)[:1])
	missing := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("missing"), Platform: &ocispec.Platform{OS: "plan9", Architecture: "mips"}}
	source.Platform = &ocispec.Platform{OS: "linux", Architecture: "amd64"}
	f := converter.DefaultIndexConvertFunc(converter.LayerReconvertFunc(converter.UnpackOption{}), true, platforms.OnlyStrict(*source.Platform))
	if got, err := f(t.Context(), cs, source); err != nil || got != nil && got.Digest != source.Digest {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := f(t.Context(), cs, putIndex(t, cs, nil, source, missing)); err != nil {
		t.Error(err)
	}
	wrong := put(t, cs, ocispec.MediaTypeImageManifest, []byte("no JSON"))
	if _, err := f(t.Context(), cs, wrong); err == nil {
		t.Error("a manifest that is none")
	}
	hook := converter.ReconvertHookFunc()
	if got, err := hook(t.Context(), cs, source, nil); got != nil || err != nil {
		t.Errorf("%v, %v", got, err)
	}
	if got, err := converter.ConvertHookFunc(converter.MergeOption{})(t.Context(), cs, source, nil); err != nil || got.Digest != source.Digest {
		t.Errorf("%v, %v", got, err)
	}
}

func TestMergeLayersRefuses(t *testing.T) {
	t.Parallel()
	cs := newStore(t)
	layer := getJSON[ocispec.Manifest](t, cs, putImage(t, cs, layers(t)[:1])).Layers[0]
	blob, err := converter.LayerConvertFunc(converter.PackOption{})(t.Context(), cs, layer)
	if err != nil {
		t.Fatal(err)
	}
	encrypter := func(context.Context, content.Store, ocispec.Descriptor) (ocispec.Descriptor, error) {
		return ocispec.Descriptor{}, errFull
	}
	for name, c := range map[string]struct {
		o     converter.MergeOption
		descs []ocispec.Descriptor
	}{
		"nothing":       {},
		"no reference":  {converter.MergeOption{OCIRef: true}, []ocispec.Descriptor{*blob}},
		"not converted": {converter.MergeOption{}, []ocispec.Descriptor{*blob, layer}},
		"missing":       {converter.MergeOption{}, []ocispec.Descriptor{{Digest: digest.FromString("missing")}}},
		"encrypter":     {converter.MergeOption{Encrypt: encrypter}, []ocispec.Descriptor{*blob}},
	} {
		if _, _, err := converter.MergeLayers(t.Context(), cs, c.descs, c.o); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	boot, blobs, err := converter.MergeLayers(t.Context(), cs, []ocispec.Descriptor{*blob}, converter.MergeOption{})
	if err != nil || len(blobs) != 1 || boot.MediaType != images.MediaTypeDockerSchema2LayerGzip || blobs[0].Annotations[converter.LayerAnnotationUncompressed] != blob.Digest.String() {
		t.Errorf("%+v, %+v, %v", boot, blobs, err)
	}
	noIngests(t, cs)
}
