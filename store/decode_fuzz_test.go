package store

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/formats"
)

func FuzzManifest(f *testing.F) {
	d := `{"mediaType":"application/json","digest":"` + someDigest + `","size":7}`
	for _, s := range []string{
		`{}`, `[]`, `null`, `{"config":` + d + `,"layers":[` + d + `]}`, `{"manifests":[` + d + `],"subject":` + d + `}`,
		`{"mediaType":"` + ocispec.MediaTypeImageIndex + `","manifests":[{"digest":"sha256:../x","size":-1}]}`,
		`{"artifactType":"x","blobs":[` + d + `],"annotations":{"a":"b"}}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		desc := formats.DigestOf("", raw)
		g, err := parseGraph(desc, raw)
		if err == nil {
			for _, l := range append(g.Layers, g.Manifests...) {
				if l.Digest.Validate() != nil || l.Size < 0 {
					t.Fatalf("accepted the descriptor %+v", l)
				}
			}
		}
		if x, err := ParseIndex(desc, raw); err == nil {
			if _, err := encodeIndex(&x.Index); err != nil {
				t.Fatal(err)
			}
			_, _ = choose(x.Index.Manifests, "")
			_, _ = choose(x.Index.Manifests, "v1")
		}
		if s, err := Sniff(desc, raw); err == nil && !isManifest(s.MediaType) {
			t.Fatalf("sniffed %q", s.MediaType)
		}
	})
}

func FuzzDockerManifest(f *testing.F) {
	f.Add([]byte(`[{"Config":"a.json","RepoTags":["node:19"],"Layers":["a/layer.tar"]}]`), []byte(`{"rootfs":{"diff_ids":["`+someDigest+`"]}}`))
	f.Add([]byte(`[{"Config":"a.json","Layers":["../../x"]}]`), []byte(`{"rootfs":{"diff_ids":["sha256:/etc"]}}`))
	f.Add([]byte(`[]`), []byte(`{}`))
	f.Fuzz(func(t *testing.T, manifest, config []byte) {
		images, err := parseDockerManifest(manifest)
		if err != nil {
			return
		}
		all := bytes.NewReader(append(bytes.Clone(config), "layer"...))
		size := int64(len(config))
		members := map[string]member{"a/layer.tar": {off: size, size: 5}}
		for _, img := range images {
			members[cleanName(img.Config)] = member{size: size}
		}
		d := &dockerArchive{archive: &archive{content: all, members: members}, blobs: map[string]string{}, made: map[string][]byte{}}
		for _, img := range images {
			desc, err := d.add(img)
			if err != nil {
				continue
			}
			var m ocispec.Manifest
			if err := json.Unmarshal(d.made[blobName(desc.Digest)], &m); err != nil {
				t.Fatal(err)
			}
			for _, l := range m.Layers {
				if l.Digest.Validate() != nil {
					t.Fatalf("layer %+v", l)
				}
			}
		}
	})
}

func FuzzArchiveIndex(f *testing.F) {
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	for _, h := range []tar.Header{
		{Name: "./index.json", Typeflag: tar.TypeReg, Size: 2}, {Name: "a", Typeflag: tar.TypeSymlink, Linkname: "../b"},
		{Name: "b", Typeflag: tar.TypeSymlink, Linkname: "a"}, {Name: "c/", Typeflag: tar.TypeDir},
	} {
		h.Mode = 0o644
		if err := tw.WriteHeader(&h); err != nil {
			f.Fatal(err)
		}
		if h.Size > 0 {
			_, _ = tw.Write([]byte("{}"))
		}
	}
	_ = tw.Close()
	f.Add(b.Bytes())
	f.Add(b.Bytes()[:700])
	f.Add([]byte("no tar"))
	f.Fuzz(func(t *testing.T, p []byte) {
		r := bytes.NewReader(p)
		members, err := indexTar(r)
		if err != nil {
			return
		}
		a := &archive{content: r, members: members}
		for name := range members {
			o, err := a.open(name)
			if err != nil {
				continue // a link to nowhere, or in a circle
			}
			if o.size < 0 || o.size > int64(len(p)) {
				t.Fatalf("%q has %d bytes of %d", name, o.size, len(p))
			}
			_, _ = digest.FromReader(&contextReader{t.Context(), o.section()})
		}
	})
}
