package nydus

import (
	"bytes"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/formats/nydus/nydusblob"
	"github.com/lazuli-project/lazuli/formats/nydus/rafs6"
)

// refLayer converts a stored layer with the reference builder's spacing.
func refLayer(t *testing.T, stored []byte) formats.Layer {
	t.Helper()
	w, err := NewRefWriter(RefOptions{Spacing: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	src := formats.LayerSource{Desc: formats.DigestOf(ocispec.MediaTypeImageLayerGzip, stored)}
	l, err := convertSource(t.Context(), w, newMemory(), src, bytes.NewReader(stored))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// The index of a layer is the one that nydus-image makes: entries and contexts are the same, and the windows where anything
// refers to them.
func TestRefIndexOfReference(t *testing.T) {
	t.Parallel()
	decoder, err := nydusblob.NewDecoder()
	if err != nil {
		t.Fatal(err)
	}
	for original, meta := range map[string]string{
		"44313ef182486ee5b614996b651102b5c103857cde29e7079825d285b78109ad": "51c1d5bd40c0cc059d468f97391d70803dd8a1e2e737bdbbf11b196ac44146c7",
		"311bfa0b61f6e6f7cb83b291f3f2e83932fb19e8a49da7f1db0aed922e688953": "2b74f9172618f7a93bcbdf82ae68cd42abef67d09fb5dc7aeeaca3f5916b7c48",
		"8cda5ec2c2dd053021d5f72812b8d1a6ba8fa94fd8745b111a8daaa4fdb5c628": "8a6285fdd630d11134de9b8439b69312adbe83e80166670eef7c82b02e1acaa9",
	} {
		l := refLayer(t, readTestdata(t, "source/"+original))
		got := l.Data.(*layerData)
		src := bytesSource(readTestdata(t, "blobs/"+meta))
		boot, err := readLayerBootstrap(t.Context(), src)
		if err != nil {
			t.Fatal(err)
		}
		b, err := rafs6.Parse(boot)
		if err != nil {
			t.Fatal(err)
		}
		want, err := readTable(t.Context(), src, &b.Blobs[0], decoder)
		if err != nil {
			t.Fatal(err)
		}
		if got.table.Len() != want.Len() || got.table.Groups() != want.Groups() || got.info.PlainSize != b.Blobs[0].PlainSize {
			t.Fatalf("%s: %d chunks in %d contexts, expected %d in %d", original, got.table.Len(), got.table.Groups(), want.Len(), want.Groups())
		}
		for i := range want.Len() {
			if g, w := got.table.Entry(i), want.Entry(i); g != w {
				t.Errorf("%s: chunk %d is %+v, expected %+v", original, i, g, w)
			}
		}
		for i := range want.Groups() {
			g, w := got.table.Context(i), want.Context(i)
			for k, c := range g.Start.Window {
				if c != 0 && k < len(w.Start.Window) && c != w.Start.Window[k] {
					t.Fatalf("%s: context %d: the window differs at %d", original, i, k)
				}
			}
			if len(g.Start.Window) != len(w.Start.Window) {
				t.Errorf("%s: context %d: window of %d bytes, expected %d", original, i, len(g.Start.Window), len(w.Start.Window))
			}
			g.Start.Window, w.Start.Window = nil, nil
			if g.Stored != w.Stored || g.Plain != w.Plain || g.Start.Bits != w.Start.Bits || g.Start.Bits > 0 && g.Start.Byte != w.Start.Byte {
				t.Errorf("%s: context %d is %+v, expected %+v", original, i, g, w)
			}
		}
		if want := digest.NewDigestFromEncoded(digest.SHA256, original).String(); l.Desc.Annotations[AnnotationRef] != want {
			t.Errorf("%s: annotations %v", original, l.Desc.Annotations)
		}
		if !slices.Equal(got.digests.Sums, b.Digests(0, want.Len()).Sums) {
			t.Errorf("%s: other digests", original)
		}
	}
}

// A span of a context needs only the beginning of it: every span decodes from what it says it needs, alone and together with the
// others of its context.
func TestRefSpans(t *testing.T) {
	t.Parallel()
	stored := readTestdata(t, "source/44313ef182486ee5b614996b651102b5c103857cde29e7079825d285b78109ad")
	data := refLayer(t, stored).Data.(*layerData)
	decoder, err := nydusblob.NewDecoder()
	if err != nil {
		t.Fatal(err)
	}
	layout := nydusblob.NewLayout(&data.info, data.table, data.digests, decoder)
	var run []blob.Span
	var plain [][]byte
	for i := range layout.NumSpans() {
		s := layout.Span(i)
		alone := make([]byte, s.Plain.Len)
		if err := layout.Decode(alone, stored[s.Stored.Off:s.Stored.End()], s); err != nil {
			t.Fatalf("span %d: %v", i, err)
		}
		if err := layout.Verify(alone, s); err != nil {
			t.Fatalf("span %d: %v", i, err)
		}
		if len(run) > 0 && run[0].Stored.Off != s.Stored.Off {
			run, plain = nil, nil
		}
		run, plain = append(run, s), append(plain, bytes.Repeat([]byte{0xa5}, int(s.Plain.Len)))
		if err := layout.DecodeSpans(plain, stored[s.Stored.Off:s.Stored.End()], run); err != nil {
			t.Fatalf("spans up to %d: %v", i, err)
		}
		for k := range run {
			if err := layout.Verify(plain[k], run[k]); err != nil {
				t.Fatalf("span %d decoded with span %d: %v", run[k].Index, i, err)
			}
		}
		if !bytes.Equal(plain[len(plain)-1], alone) {
			t.Fatalf("span %d differs", i)
		}
	}
	if n := layout.NumSpans(); n <= data.table.Groups() {
		t.Errorf("%d spans of %d contexts", n, data.table.Groups())
	}
}
