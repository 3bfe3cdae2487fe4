package differ_test

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	diffapi "github.com/containerd/containerd/api/services/diff/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/containerd/contentstore"
	"github.com/lazuli-project/lazuli/containerd/differ"
	"github.com/lazuli-project/lazuli/convert"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/formats/nydus"
	"github.com/lazuli-project/lazuli/formats/overlaybd"
	"github.com/lazuli-project/lazuli/formats/turbooci"
	"github.com/lazuli-project/lazuli/internal/containerdtest"
	"github.com/lazuli-project/lazuli/internal/imagetest"
	"github.com/lazuli-project/lazuli/store"
)

var readers = []formats.Reader{nydus.Reader{}, overlaybd.Reader{}, turbooci.Reader{}}

// needRoot skips where overlayfs' marks cannot be made.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("devices and trusted attributes are made by root only")
	}
}

// layout writes an image as an OCI layout and opens it.
func layout(t *testing.T, img *imagetest.Image) store.Source {
	t.Helper()
	dir := t.TempDir()
	img.WriteLayout(t, dir, "v1")
	return open(t, "oci:"+dir+":v1")
}

func open(t *testing.T, ref string) store.Source {
	t.Helper()
	r, err := store.Parse(ref)
	if err != nil {
		t.Fatal(err)
	}
	src, err := store.OpenSource(t.Context(), r, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = src.Close() })
	return src
}

// convertTo converts an image into a layout and opens that.
func convertTo(t *testing.T, src store.Source, w formats.Writer) store.Source {
	t.Helper()
	ref := "oci:" + filepath.Join(t.TempDir(), "made") + ":v1"
	r, err := store.Parse(ref)
	if err != nil {
		t.Fatal(err)
	}
	target, err := store.OpenTarget(t.Context(), r, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = convert.Convert(t.Context(), src, []convert.Output{{Writer: w, Target: target}}, convert.Options{TempDir: t.TempDir()})
	if err = errors.Join(err, target.Close()); err != nil {
		t.Fatal(err)
	}
	return open(t, ref)
}

// pull copies an image into a content store without what its manifest does not list, as containerd pulls it.
func pull(ctx context.Context, t *testing.T, cs content.Store, src store.Source) *formats.Manifest {
	t.Helper()
	desc, err := src.Resolve(ctx)
	if err != nil {
		t.Fatal(err)
	}
	target := contentstore.NewTarget(ctx, cs, store.Ref{Transport: store.Containerd}, contentstore.Options{})
	if err := store.Copy(ctx, target, src, desc, store.CopyOptions{}); err != nil {
		t.Fatal(err)
	}
	m, err := store.LoadManifest(ctx, target, desc)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// label gives the manifest's blob a label.
func label(ctx context.Context, t *testing.T, cs content.Store, d digest.Digest, key, value string) {
	t.Helper()
	if _, err := cs.Update(ctx, content.Info{Digest: d, Labels: map[string]string{key: value}}, "labels."+key); err != nil {
		t.Fatal(err)
	}
}

// request asks for a layer in an overlay's upper directory.
func request(l ocispec.Descriptor, upper string) *diffapi.ApplyRequest {
	return &diffapi.ApplyRequest{
		Diff:   &types.Descriptor{MediaType: l.MediaType, Digest: l.Digest.String(), Size: l.Size, Annotations: l.Annotations},
		Mounts: []*types.Mount{{Type: "overlay", Source: "overlay", Options: []string{"upperdir=" + upper, "workdir=" + upper + "-work", "lowerdir=/nonexistent"}}},
	}
}

// files lists a directory: "/" behind directories, "!" behind whiteouts, "*" behind opaque directories, content behind "=".
func files(t *testing.T, dir string) string {
	t.Helper()
	var list []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		switch {
		case d.IsDir():
			name += "/"
			if n, _ := unix.Lgetxattr(path, "trusted.overlay.opaque", make([]byte, 1)); n == 1 {
				name += "*"
			}
		case d.Type()&fs.ModeCharDevice != 0:
			name += "!"
		case d.Type().IsRegular():
			p, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			name += "=" + string(p)
		}
		list = append(list, name)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(list, " ")
}

// source is an image with whiteouts.
func source(t *testing.T) *imagetest.Image {
	t.Helper()
	return imagetest.NewImage(t,
		imagetest.Gzip(t, imagetest.Tar(t, imagetest.Dir("d"), imagetest.File("d/a", "1"), imagetest.Dir("e"), imagetest.File("e/b", "2"), imagetest.File("f", "3"))),
		imagetest.Gzip(t, imagetest.Tar(t, imagetest.Dir("d"), imagetest.Whiteout("d/a"), imagetest.File("d/c", "4"), imagetest.Whiteout("e"), imagetest.Dir("e"), imagetest.File("e/g", "5"))),
		imagetest.Gzip(t, imagetest.Tar(t, imagetest.Whiteout("f"), imagetest.File("h", "6"))),
	)
}

// Layers of every format become what plain layers become; the answers are what the configuration has.
func TestApply(t *testing.T) {
	t.Parallel()
	needRoot(t)
	n, err := nydus.NewWriter(nydus.Options{})
	if err != nil {
		t.Fatal(err)
	}
	ref, err := nydus.NewRefWriter(nydus.RefOptions{})
	if err != nil {
		t.Fatal(err)
	}
	o, err := overlaybd.NewWriter(overlaybd.Options{})
	if err != nil {
		t.Fatal(err)
	}
	u, err := turbooci.NewWriter(turbooci.Options{})
	if err != nil {
		t.Fatal(err)
	}
	src := layout(t, source(t))
	first, last := "d/ d/a=1 e/ e/b=2 f=3", "f! h=6"
	for name, c := range map[string]struct {
		w    formats.Writer
		want []string
	}{
		"plain":     {nil, []string{first, "d/ d/a! d/c=4 e/ e/g=5", last}}, // containerd loses the whiteout of e
		"nydus":     {n, []string{first, "d/ d/a! d/c=4 e/* e/g=5", last, ""}},
		"nydus-ref": {ref, []string{first, "d/ d/a! d/c=4 e/ e/g=5", last, ""}},
		"overlaybd": {o, []string{first, "d/ d/a! d/c=4 e/ e/b! e/g=5", last}},
		"turbo-oci": {u, []string{first, "d/ d/a! d/c=4 e/ e/b! e/g=5", last}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c1 := containerdtest.New(t)
			ctx, cs := containerdtest.Context(t, containerdtest.Namespace), c1.Content()
			image := src
			if c.w != nil {
				image = convertTo(t, src, c.w)
			}
			m := pull(ctx, t, cs, image)
			label(ctx, t, cs, m.Desc.Digest, "containerd.io/distribution.source.example.com", "other,team/app")
			var mu sync.Mutex // guards asked, told
			var asked []string
			var told []differ.Applied
			server := differ.NewServer(cs, differ.Options{
				Readers: readers, TempDir: t.TempDir(), Registries: []string{"example.com:5000", "example.org:5000"},
				OpenRemote: func(_ context.Context, ref store.Ref) (store.Source, error) {
					mu.Lock()
					defer mu.Unlock()
					asked = append(asked, ref.Host+"/"+ref.Repo)
					if ref.Repo == "other" {
						return nil, store.ErrDenied
					}
					return image, nil
				},
				OnApply: func(a differ.Applied) {
					mu.Lock()
					defer mu.Unlock()
					told = append(told, a)
				},
			})
			if len(m.Manifest.Layers) != len(c.want) {
				t.Fatalf("%d layers", len(m.Manifest.Layers))
			}
			for i, l := range m.Manifest.Layers {
				dir := t.TempDir()
				resp, err := server.Apply(ctx, request(l, dir))
				if err != nil {
					t.Fatalf("layer %d: %v", i, err)
				}
				if got := files(t, dir); got != c.want[i] {
					t.Errorf("layer %d: %s, expected %s", i, got, c.want[i])
				}
				if a := resp.GetApplied(); a.GetDigest() != m.Config.RootFS.DiffIDs[i].String() || a.GetMediaType() != ocispec.MediaTypeImageLayer || a.GetSize() < 1024 {
					t.Errorf("layer %d: %v, expected %s", i, a, m.Config.RootFS.DiffIDs[i])
				}
			}
			for _, a := range told {
				if known := a.Format != "" && strings.HasPrefix(name, a.Format); known != (c.w != nil) || a.Namespace != containerdtest.Namespace || a.Err != nil || a.Size < 1024 {
					t.Errorf("told of %+v", a)
				}
			}
			fetches := c.w != nil && (c.w.Name() == "nydus-ref" || c.w.Name() == "turbo-oci")
			if fetched := slices.Contains(asked, "example.com:5000/team/app"); fetched != fetches || len(told) != len(c.want) {
				t.Errorf("told of %d layers, asked %q", len(told), asked)
			}
		})
	}
}

// Layers that containerd is still fetching are looked at where they are, once, and not fetched.
func TestLayersToCome(t *testing.T) {
	t.Parallel()
	needRoot(t)
	c := containerdtest.New(t)
	ctx, cs := containerdtest.Context(t, containerdtest.Namespace), c.Content()
	n, err := nydus.NewWriter(nydus.Options{})
	if err != nil {
		t.Fatal(err)
	}
	image := convertTo(t, layout(t, source(t)), n)
	m := pull(ctx, t, cs, image)
	label(ctx, t, cs, m.Desc.Digest, "containerd.io/distribution.source.example.com", "app")
	for _, l := range m.Manifest.Layers[1:3] {
		if err := cs.Delete(ctx, l.Digest); err != nil {
			t.Fatal(err)
		}
	}
	remote := &countingSource{Source: image}
	server := differ.NewServer(cs, differ.Options{
		Readers: readers, TempDir: t.TempDir(), OpenRemote: func(context.Context, store.Ref) (store.Source, error) { return remote, nil },
	})
	for _, c := range []struct {
		layer               int
		want                string
		opens, fetches, end int
	}{
		{0, "d/ d/a=1 e/ e/b=2 f=3", 2, 0, 2},
		{1, "d/ d/a! d/c=4 e/* e/g=5", 2, 1, 3},
		{0, "d/ d/a=1 e/ e/b=2 f=3", 2, 1, 3},
	} {
		upper := t.TempDir()
		if _, err := server.Apply(ctx, request(m.Manifest.Layers[c.layer], upper)); err != nil {
			t.Fatal(err)
		}
		if got := files(t, upper); got != c.want || remote.opens != c.opens || remote.fetches != c.fetches || remote.closes != c.end {
			t.Errorf("layer %d: %s, %d opened, %d fetched, %d closed", c.layer, got, remote.opens, remote.fetches, remote.closes)
		}
	}
}

// countingSource counts what is done with an image.
type countingSource struct {
	store.Source
	opens, fetches, closes int
}

func (s *countingSource) Open(ctx context.Context, desc ocispec.Descriptor) (blob.Source, error) {
	s.opens++
	return s.Source.Open(ctx, desc)
}

func (s *countingSource) Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	s.fetches++
	return s.Source.Fetch(ctx, desc)
}

func (s *countingSource) Close() error {
	s.closes++
	return nil
}

// What cannot be unpacked gives an error of a class, and containerd's other services are not ours.
func TestErrors(t *testing.T) {
	t.Parallel()
	needRoot(t)
	c := containerdtest.New(t)
	ctx, cs := containerdtest.Context(t, containerdtest.Namespace), c.Content()
	ref, err := nydus.NewRefWriter(nydus.RefOptions{})
	if err != nil {
		t.Fatal(err)
	}
	m := pull(ctx, t, cs, convertTo(t, layout(t, source(t)), ref))
	label(ctx, t, cs, m.Desc.Digest, "containerd.io/distribution.source.example.com", "app")
	server := differ.NewServer(cs, differ.Options{Readers: readers, OpenRemote: func(context.Context, store.Ref) (store.Source, error) { return nil, store.ErrDenied }})
	absent := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromString("absent"), Size: 6}
	for name, c := range map[string]struct {
		ctx  context.Context
		req  *diffapi.ApplyRequest
		code codes.Code
	}{
		"nothing":           {ctx, &diffapi.ApplyRequest{}, codes.DataLoss},
		"bad digest":        {ctx, request(ocispec.Descriptor{Digest: "sha256:../../x"}, t.TempDir()), codes.DataLoss},
		"bad size":          {ctx, request(ocispec.Descriptor{Digest: absent.Digest, Size: -1}, t.TempDir()), codes.DataLoss},
		"no namespace":      {t.Context(), request(m.Manifest.Layers[0], t.TempDir()), codes.Unknown},
		"no such layer":     {ctx, request(absent, t.TempDir()), codes.NotFound},
		"another namespace": {containerdtest.Context(t, "other"), request(m.Manifest.Layers[0], t.TempDir()), codes.NotFound},
		"source is denied":  {ctx, request(m.Manifest.Layers[0], t.TempDir()), codes.NotFound},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := server.Apply(c.ctx, c.req)
			if got := status.Code(err); got != c.code || err == nil || strings.Contains(err.Error(), "\n") {
				t.Errorf("%v: %v", got, err)
			}
		})
	}
	if _, err := server.Diff(ctx, &diffapi.DiffRequest{}); status.Code(err) != codes.Unimplemented {
		t.Errorf("diff: %v", err)
	}
}

// Damage in a layer is found while it is unpacked.
func TestDamage(t *testing.T) {
	t.Parallel()
	needRoot(t)
	c := containerdtest.New(t)
	ctx, cs := containerdtest.Context(t, containerdtest.Namespace), c.Content()
	n, err := nydus.NewWriter(nydus.Options{})
	if err != nil {
		t.Fatal(err)
	}
	made := convertTo(t, layout(t, imagetest.NewImage(t, imagetest.Plain(imagetest.Tar(t, imagetest.File("f", strings.Repeat("content\n", 100_000)))))), n)
	m := pull(ctx, t, cs, made)
	l := m.Manifest.Layers[0]
	server := differ.NewServer(&flipping{cs, l.Digest}, differ.Options{Readers: readers})
	_, err = server.Apply(ctx, request(l, t.TempDir()))
	if code := status.Code(err); code != codes.DataLoss {
		t.Errorf("%v: %v", code, err)
	}
}

// flipping is a content store with a blob of which one byte is wrong.
type flipping struct {
	content.Store
	digest digest.Digest
}

type flippedReader struct{ content.ReaderAt }

func (f *flipping) ReaderAt(ctx context.Context, desc ocispec.Descriptor) (content.ReaderAt, error) {
	r, err := f.Store.ReaderAt(ctx, desc)
	if err == nil && desc.Digest == f.digest {
		return flippedReader{r}, nil
	}
	return r, err
}

func (f flippedReader) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.ReaderAt.ReadAt(p, off)
	if at := 20 - off; at >= 0 && at < int64(n) {
		p[at] ^= 1
	}
	return n, err
}

// Whatever containerd asks for, and whatever is in its content store as a manifest, is answered without a panic.
func FuzzApply(f *testing.F) {
	for _, seed := range []struct{ manifest, config, digest, mediaType string }{
		{`{"layers":[]}`, `{}`, "sha256:x", "x"},
		{`{"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"CONFIG","size":2},"layers":[{"mediaType":"application/vnd.oci.image.layer.nydus.blob.v1","digest":"LAYER","size":5,"annotations":{"containerd.io/snapshot/nydus-blob":"true"}}]}`,
			`{}`, "LAYER", "application/vnd.oci.image.layer.nydus.blob.v1"},
		{`{"schemaVersion":2,"config":{"digest":"CONFIG","size":48},"layers":[{"digest":"LAYER","size":5,"annotations":{"containerd.io/snapshot/overlaybd/blob-digest":"LAYER"}}]}`,
			`{"rootfs":{"type":"layers","diff_ids":["LAYER"]}}`, "LAYER", ""},
		{`{"schemaVersion":2,"config":{"digest":"CONFIG","size":2},"layers":[{"digest":"LAYER","size":5,"annotations":{"containerd.io/snapshot/nydus-bootstrap":"true"}}]}`, `{}`, "LAYER", ""},
	} {
		f.Add(seed.manifest, seed.config, seed.digest, seed.mediaType, []byte("layer"))
	}
	f.Fuzz(func(t *testing.T, manifest, config, dgst, mediaType string, layer []byte) {
		c := containerdtest.New(t)
		ctx, cs := containerdtest.Context(t, containerdtest.Namespace), c.Content()
		put := func(p []byte, labels map[string]string) digest.Digest {
			desc := formats.DigestOf("", p)
			err := content.WriteBlob(ctx, cs, desc.Digest.String(), strings.NewReader(string(p)), desc, content.WithLabels(labels))
			if err != nil {
				t.Fatal(err)
			}
			return desc.Digest
		}
		l := put(layer, nil).String()
		fill := strings.NewReplacer("LAYER", l, "CONFIG", put([]byte(strings.ReplaceAll(config, "LAYER", l)), nil).String())
		put([]byte(fill.Replace(manifest)), map[string]string{"containerd.io/gc.ref.content.config": "x", "containerd.io/distribution.source.x": "y,/"})
		server := differ.NewServer(cs, differ.Options{Readers: readers})
		req := request(ocispec.Descriptor{MediaType: mediaType, Digest: digest.Digest(fill.Replace(dgst)), Size: int64(len(layer))}, t.TempDir())
		_, _ = server.Apply(ctx, req)
	})
}
