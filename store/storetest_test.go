package store_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/fetch"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/internal/registrytest"
	"github.com/lazuli-project/lazuli/store"
)

// quick makes failures cheap: tests of retries must not wait.
var quick = fetch.Retry{Wait: time.Millisecond, MaxWait: 5 * time.Second}

// kinds are the stores that are both source and target. Each makes a new reference on every call.
var kinds = []struct {
	name string
	make func(t *testing.T) store.Ref
}{
	{"registry", func(t *testing.T) store.Ref {
		return mustParse(t, newRegistry(t, registrytest.Options{}).host+"/some/image:v1")
	}},
	{"registry without referrers", func(t *testing.T) store.Ref {
		return mustParse(t, newRegistry(t, registrytest.Options{NoReferrers: true, NoMount: true}).host+"/some/image:v1")
	}},
	{"registry with tokens", func(t *testing.T) store.Ref {
		return mustParse(t, newRegistry(t, registrytest.Options{Token: true, TokenUses: 30}).host+"/some/image:v1")
	}},
	{"registry without HEAD", func(t *testing.T) store.Ref {
		return mustParse(t, newRegistry(t, registrytest.Options{NoHead: true}).host+"/some/image:v1")
	}},
	{"layout", func(t *testing.T) store.Ref {
		return mustParse(t, "oci:"+filepath.Join(t.TempDir(), "new", "layout")+":v1")
	}},
	{"archive", func(t *testing.T) store.Ref {
		return mustParse(t, "oci-archive:"+filepath.Join(t.TempDir(), "image.tar")+":v1")
	}},
}

type testRegistry struct {
	*registrytest.Registry
	host string
}

func newRegistry(t *testing.T, opts registrytest.Options) testRegistry {
	t.Helper()
	r, err := registrytest.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	return testRegistry{r, r.Listen(t)}
}

func mustParse(t *testing.T, s string) store.Ref {
	t.Helper()
	r, err := store.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func openSource(t *testing.T, ref store.Ref) store.Source {
	t.Helper()
	s, err := store.OpenSource(t.Context(), ref, store.Options{Retry: quick})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func openTarget(t *testing.T, ref store.Ref) store.Target {
	t.Helper()
	s, err := store.OpenTarget(t.Context(), ref, store.Options{Retry: quick})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// content is n random bytes that are the same for the same seed.
func content(seed uint64, n int) []byte {
	p := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	_, _ = r.Read(p)
	return p
}

// image puts an image with the given layers into the target and returns its manifest's descriptor.
func image(t *testing.T, dst store.Target, subject *ocispec.Descriptor, layers ...[]byte) ocispec.Descriptor {
	t.Helper()
	desc, raw := manifest(t, dst, subject, layers...)
	if err := dst.Put(t.Context(), desc, raw); err != nil {
		t.Fatal(err)
	}
	return desc
}

// manifest stores all of an image but the manifest.
func manifest(t *testing.T, dst store.Target, subject *ocispec.Descriptor, layers ...[]byte) (ocispec.Descriptor, []byte) {
	t.Helper()
	config := []byte(`{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}`)
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: formats.DigestOf(ocispec.MediaTypeImageConfig, config), Subject: subject}
	m.SchemaVersion = 2
	if err := dst.Put(t.Context(), m.Config, config); err != nil {
		t.Fatal(err)
	}
	for _, l := range layers {
		d := formats.DigestOf(ocispec.MediaTypeImageLayerGzip, l)
		if err := dst.Push(t.Context(), d, bytes.NewReader(l)); err != nil {
			t.Fatal(err)
		}
		m.Layers = append(m.Layers, d)
	}
	raw := mustJSON(t, m)
	return formats.DigestOf(m.MediaType, raw), raw
}

func mustJSON(t *testing.T, v any) []byte {
	t.Helper()
	p, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func fetchAll(t *testing.T, s formats.Sources, d ocispec.Descriptor) []byte {
	t.Helper()
	rc, err := s.Fetch(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	p, err := io.ReadAll(rc)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestStores runs the same expectations over every store.
func TestStores(t *testing.T) {
	t.Parallel()
	cases := []struct {
		name string
		test func(t *testing.T, ref store.Ref)
	}{
		{"round trip", testRoundTrip},
		{"create", testCreate},
		{"abort", testAbort},
		{"damage", testDamage},
		{"referrers", testReferrers},
		{"tags", testTags},
		{"nothing before commit", testNothing},
		{"concurrent", testConcurrent},
	}
	for _, k := range kinds {
		for _, c := range cases {
			t.Run(k.name+"/"+c.name, func(t *testing.T) {
				t.Parallel()
				c.test(t, k.make(t))
			})
		}
	}
}

func testRoundTrip(t *testing.T, ref store.Ref) {
	dst := openTarget(t, ref)
	if _, err := dst.Resolve(t.Context()); !errors.Is(err, store.ErrNotFound) {
		t.Fatalf("resolved in an empty target: %v", err)
	}
	layer := content(1, 5<<20+123)
	desc := image(t, dst, nil, layer, content(2, 100))
	if err := dst.Tag(t.Context(), desc, ""); err != nil {
		t.Fatal(err)
	}
	if got, err := dst.Resolve(t.Context()); err != nil || got.Digest != desc.Digest {
		t.Fatalf("target resolves to %v, %v", got, err)
	}
	if err := dst.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := dst.Close(); err != nil {
		t.Fatal(err)
	}

	src := openSource(t, ref)
	got, err := src.Resolve(t.Context())
	if err != nil || got.Digest != desc.Digest || got.Size != desc.Size || got.MediaType != desc.MediaType {
		t.Fatalf("resolves to %+v, %v, expected %+v", got, err, desc)
	}
	m, err := store.LoadManifest(t.Context(), src, got)
	if err != nil {
		t.Fatal(err)
	}
	if m.Config.Architecture != "amd64" || len(m.Manifest.Layers) != 2 {
		t.Errorf("manifest %+v", m)
	}
	if !bytes.Equal(fetchAll(t, src, m.Manifest.Layers[0]), layer) {
		t.Error("fetched layer differs")
	}
	b, err := src.Open(t.Context(), m.Manifest.Layers[0])
	if err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 1000)
	if err := b.ReadRange(t.Context(), p, 4<<20-500, blob.Demand); err != nil || !bytes.Equal(p, layer[4<<20-500:4<<20+500]) {
		t.Errorf("range differs, %v", err)
	}
	if err := b.ReadRange(t.Context(), p, int64(len(layer))-999, blob.Demand); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("range beyond the end: %v", err)
	}
	byDigest := ref
	byDigest.Tag, byDigest.Digest = "", desc.Digest
	if got, err := openSource(t, byDigest).Resolve(t.Context()); err != nil || got.Digest != desc.Digest {
		t.Errorf("by digest: %v, %v", got, err)
	}
	absent := formats.DigestOf("application/x", []byte("absent"))
	if _, err := src.Fetch(t.Context(), absent); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("absent blob: %v", err)
	}
	other := ref
	other.Tag = "other"
	if _, err := openSource(t, other).Resolve(t.Context()); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("absent tag: %v", err)
	}
}

func testCreate(t *testing.T, ref store.Ref) {
	dst := openTarget(t, ref)
	for _, n := range []int{0, 1, 70 << 10, 4<<20 - 1, 4 << 20, 4<<20 + 1, 13<<20 + 7} {
		p := content(uint64(n), n)
		for range 2 { // the second time the target has it
			w, err := dst.Create(t.Context(), ocispec.MediaTypeImageLayer)
			if err != nil {
				t.Fatal(err)
			}
			for piece := range slices.Chunk(p, 100_000) {
				if _, err := w.Write(piece); err != nil {
					t.Fatal(err)
				}
			}
			d, size, err := w.Commit(t.Context())
			if err != nil || d != digest.FromBytes(p) || size != int64(n) {
				t.Fatalf("%d bytes: %s, %d, %v", n, d, size, err)
			}
			w.Abort() // does nothing
			desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: d, Size: size}
			if ok, err := dst.Exists(t.Context(), desc); !ok || err != nil {
				t.Fatalf("%d bytes do not exist: %v", n, err)
			}
			if !bytes.Equal(fetchAll(t, dst, desc), p) {
				t.Fatalf("%d bytes differ", n)
			}
		}
	}
}

func testAbort(t *testing.T, ref store.Ref) {
	dst := openTarget(t, ref)
	p := content(3, 9<<20)
	w, err := dst.Create(t.Context(), ocispec.MediaTypeImageLayer)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(p); err != nil {
		t.Fatal(err)
	}
	w.Abort()
	w.Abort()
	if _, err := w.Write(p); err == nil {
		t.Error("write after abort")
	}
	if ok, err := dst.Exists(t.Context(), formats.DigestOf("", p)); ok || err != nil {
		t.Errorf("exists after abort: %v, %v", ok, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	w, err = dst.Create(ctx, ocispec.MediaTypeImageLayer)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	_, err = w.Write(p)
	if err == nil {
		_, _, err = w.Commit(ctx)
	}
	if !errors.Is(err, context.Canceled) {
		t.Errorf("after cancelling: %v", err)
	}
	w.Abort()
}

func testDamage(t *testing.T, ref store.Ref) {
	dst := openTarget(t, ref)
	for _, n := range []int{100, 6 << 20} {
		p := content(4, n)
		good := formats.DigestOf("application/octet-stream", p)
		flipped := bytes.Clone(p)
		flipped[n/2] ^= 1
		short, long := good, good
		short.Size--
		long.Size++
		for _, c := range []struct {
			name string
			desc ocispec.Descriptor
			p    []byte
		}{{"digest", good, flipped}, {"too long", short, p}, {"too short", long, p}, {"no digest", ocispec.Descriptor{Size: int64(n)}, p}} {
			err := dst.Push(t.Context(), c.desc, bytes.NewReader(c.p))
			if !errors.Is(err, blob.ErrDigest) && !errors.Is(err, blob.ErrCorrupt) {
				t.Errorf("%s of %d bytes: %v", c.name, n, err)
			}
		}
		if ok, err := dst.Exists(t.Context(), good); ok || err != nil {
			t.Errorf("damaged blob exists: %v, %v", ok, err)
		}
	}
	bad := formats.DigestOf(ocispec.MediaTypeImageManifest, []byte("{}"))
	if err := dst.Put(t.Context(), bad, []byte("[]")); !errors.Is(err, blob.ErrDigest) {
		t.Errorf("manifest: %v", err)
	}
}

func testReferrers(t *testing.T, ref store.Ref) {
	dst := openTarget(t, ref)
	subject := image(t, dst, nil, content(5, 10))
	var want []digest.Digest
	for i := range 3 {
		want = append(want, image(t, dst, &subject, content(uint64(6+i), 10)).Digest)
	}
	if err := dst.Tag(t.Context(), subject, ""); err != nil {
		t.Fatal(err)
	}
	if err := dst.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	src := openSource(t, ref)
	for _, filter := range []string{"", ocispec.MediaTypeImageConfig} {
		refs, err := src.Referrers(t.Context(), subject, filter)
		if err != nil {
			t.Fatal(err)
		}
		var got []digest.Digest
		for _, r := range refs {
			got = append(got, r.Digest)
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("filter %q: %v, expected %v", filter, got, want)
		}
	}
	if refs, err := src.Referrers(t.Context(), subject, "application/other"); err != nil || len(refs) > 0 {
		t.Errorf("of another type: %v, %v", refs, err)
	}
	if refs, err := src.Referrers(t.Context(), formats.DigestOf("", []byte("x")), ""); err != nil || len(refs) > 0 {
		t.Errorf("of another subject: %v, %v", refs, err)
	}
	if got, err := src.Resolve(t.Context()); err != nil || got.Digest != subject.Digest {
		t.Errorf("with referrers, resolves to %v, %v", got, err)
	}
}

func testTags(t *testing.T, ref store.Ref) {
	dst := openTarget(t, ref)
	first, second := image(t, dst, nil, content(7, 10)), image(t, dst, nil, content(8, 10))
	for _, c := range []struct {
		desc ocispec.Descriptor
		tag  string
	}{{first, ""}, {first, "old"}, {second, "new"}, {second, ""}} {
		if err := dst.Tag(t.Context(), c.desc, c.tag); err != nil {
			t.Fatal(err)
		}
	}
	absent := formats.DigestOf(ocispec.MediaTypeImageManifest, []byte("{}"))
	if err := dst.Tag(t.Context(), absent, "absent"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("tag of what is not there: %v", err)
	}
	if err := dst.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	for tag, want := range map[string]digest.Digest{"v1": second.Digest, "old": first.Digest, "new": second.Digest} {
		r := ref
		r.Tag = tag
		if got, err := openSource(t, r).Resolve(t.Context()); err != nil || got.Digest != want {
			t.Errorf("%s: %v, %v", tag, got.Digest, err)
		}
	}
}

func testNothing(t *testing.T, ref store.Ref) {
	dst := openTarget(t, ref)
	image(t, dst, nil, content(9, 10))
	if err := dst.Close(); err != nil {
		t.Fatal(err)
	}
	src, err := store.OpenSource(t.Context(), ref, store.Options{})
	if err == nil {
		_, err = src.Resolve(t.Context())
		_ = src.Close()
	}
	if !errors.Is(err, store.ErrNotFound) {
		t.Errorf("without tag and commit: %v", err)
	}
}

func testConcurrent(t *testing.T, ref store.Ref) {
	dst := openTarget(t, ref)
	var wg sync.WaitGroup
	for i := range 12 {
		wg.Go(func() {
			p := content(uint64(20+i%4), 5<<20) // several make the same
			w, err := dst.Create(t.Context(), "")
			if err != nil {
				t.Error(err)
				return
			}
			defer w.Abort()
			if _, err := w.Write(p); err != nil {
				t.Error(err)
			}
			d, n, err := w.Commit(t.Context())
			if err != nil || d != digest.FromBytes(p) {
				t.Errorf("%s, %v", d, err)
				return
			}
			rc, err := dst.Fetch(t.Context(), ocispec.Descriptor{Digest: d, Size: n})
			if err != nil {
				t.Error(err)
				return
			}
			got, err := io.ReadAll(rc)
			if err := errors.Join(err, rc.Close()); err != nil || !bytes.Equal(got, p) {
				t.Errorf("read back: %v", err)
			}
		})
	}
	wg.Wait()
}
