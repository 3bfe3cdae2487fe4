package mount

import (
	"encoding/json"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/formats/nydus"
	"github.com/lazuli-project/lazuli/internal/imagetest"
	"github.com/lazuli-project/lazuli/internal/mounttest"
)

const fixtures = "../formats/nydus/testdata"

// What the reference tools made, mounted, is what other tools unpack.
func TestFixtures(t *testing.T) {
	if !mounttest.Isolated(t, limit) {
		return
	}
	edge := imagetest.EdgeTree(t)
	layout := nydusifyLayout(t)
	refs := map[string][]string{"oci:" + layout + ":6": edge, "oci:" + layout + ":5": edge}
	for _, name := range []string{
		"v6-zstd", "v6-lz4-sha256", "v6-zstd-c4k", "v6-batch", "v6-inline-no-toc", "v6-plain", "v6-plain-toc", "v6-prefetch-list", "v6-chunk-dict",
	} {
		refs["rafs:"+filepath.Join(fixtures, name, "image.boot")+","+filepath.Join(fixtures, "blobs")] = edge
	}
	for _, name := range []string{"v6-dir", "v6-parent-dir"} {
		refs["rafs:"+filepath.Join(fixtures, name, "image.boot")+","+filepath.Join(fixtures, "blobs")] = lines(t, filepath.Join(fixtures, name, "expected.tsv"))
	}
	for ref, want := range refs {
		for _, mode := range modes {
			t.Run(string(mode)+" "+strings.TrimPrefix(ref, "rafs:"+fixtures), func(t *testing.T) {
				m := mounted(t, ref, "", Options{Mode: mode})
				if m.Mode != mode {
					t.Errorf("mode %s", m.Mode)
				}
				compare(t, want, mounttest.List(t, m.Dir))
			})
		}
	}
}

// nydusifyLayout makes a layout directory of the images that nydusify converted, with the version of RAFS as their tags.
func nydusifyLayout(t *testing.T) string {
	dir := t.TempDir()
	blobs := filepath.Join(dir, "blobs", "sha256")
	if err := os.MkdirAll(blobs, 0o700); err != nil {
		t.Fatal(err)
	}
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	for _, folder := range []string{"blobs", "nydusify"} {
		list, err := os.ReadDir(filepath.Join(fixtures, folder))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range list {
			p, err := os.ReadFile(filepath.Join(fixtures, folder, e.Name()))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(blobs, e.Name()), p, 0o600); err != nil {
				t.Fatal(err)
			}
			var m ocispec.Manifest
			if folder == "nydusify" && json.Unmarshal(p, &m) == nil && len(m.Layers) > 0 {
				d := formats.DigestOf(ocispec.MediaTypeImageManifest, p)
				d.Annotations = map[string]string{ocispec.AnnotationRefName: m.Layers[len(m.Layers)-1].Annotations[nydus.AnnotationFSVersion]}
				index.Manifests = append(index.Manifests, d)
			}
		}
	}
	p, err := json.Marshal(index)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(filepath.Join(dir, "index.json"), p, 0o600),
		os.WriteFile(filepath.Join(dir, "oci-layout"), []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o600)); err != nil {
		t.Fatal(err)
	}
	return dir
}

// Our own image from a registry, with and without a cache. A second mount fetches nothing, and needs no server.
func TestRegistry(t *testing.T) {
	if !mounttest.Isolated(t, limit) {
		return
	}
	want := imagetest.EdgeTree(t)
	for _, mode := range modes {
		t.Run(string(mode), func(t *testing.T) {
			r := newRegistry(t)
			compare(t, want, mounttest.List(t, mounted(t, r.ref, "", Options{Mode: mode}).Dir))
			r.ranges = make(map[string][][2]int64)
			dir := t.TempDir()
			m := mounted(t, r.ref, dir, Options{Mode: mode})
			compare(t, want, mounttest.List(t, m.Dir))
			if !m.Served() {
				t.Error("a mount with an empty cache is not served")
			}
			asked := r.asked(t)
			if asked == 0 {
				t.Error("nothing was fetched")
			}
			again := mounted(t, r.ref, dir, Options{Mode: mode})
			compare(t, want, mounttest.List(t, again.Dir))
			if now := r.asked(t); now != asked {
				t.Errorf("%d ranges were fetched again", now-asked)
			}
			if again.Served() != (mode == FUSE) {
				t.Errorf("served: %v", again.Served())
			}
		})
	}
}

// A byte that was changed in the cache is fetched again and not shown.
func TestDamagedCache(t *testing.T) {
	if !mounttest.Isolated(t, limit) {
		return
	}
	r, dir := newRegistry(t), t.TempDir()
	want := imagetest.EdgeTree(t)
	list := func(served bool) {
		t.Helper()
		m := mounted(t, r.ref, dir, Options{Mode: EROFS})
		if m.Served() != served {
			t.Errorf("served: %v", m.Served())
		}
		compare(t, want, mounttest.List(t, m.Dir))
		if err := errors.Join(m.Unmount(), m.Wait()); err != nil {
			t.Error(err)
		}
	}
	list(true)
	list(false)
	files, err := filepath.Glob(filepath.Join(dir, "blobs", "*", "data"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, path := range files {
		p, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		p[len(p)/2] ^= 1
		if err := os.WriteFile(path, p, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	list(true)
	list(false)
}

func TestWritable(t *testing.T) {
	if !mounttest.Isolated(t, limit) {
		return
	}
	r := newRegistry(t)
	want := imagetest.EdgeTree(t)
	for _, mode := range modes {
		t.Run(string(mode), func(t *testing.T) {
			temp := t.TempDir()
			m := mounted(t, r.ref, "", Options{Mode: mode, Writable: true, TempDir: temp})
			got := mounttest.List(t, m.Dir)
			compare(t, want[:1], got[:1])
			if err := errors.Join(os.WriteFile(filepath.Join(m.Dir, "new"), nil, 0o600), os.RemoveAll(filepath.Join(m.Dir, "etc"))); err != nil {
				t.Error(err)
			}
			// Unmounting the overlay, by whoever, ends all of it.
			if err := errors.Join(unix.Unmount(m.Dir, 0), m.Wait()); err != nil {
				t.Fatal(err)
			}
			if left, _ := os.ReadDir(temp); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
			upper := filepath.Join(t.TempDir(), "up,per:")
			for range 2 {
				m := mounted(t, r.ref, "", Options{Mode: mode, UpperDir: upper, TempDir: temp})
				f, err := os.OpenFile(filepath.Join(m.Dir, "kept"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
				if err != nil {
					t.Fatal(err)
				}
				_, err = f.WriteString("x")
				if err := errors.Join(err, f.Close(), m.Unmount(), m.Wait()); err != nil {
					t.Fatal(err)
				}
			}
			if p, err := os.ReadFile(filepath.Join(upper, "kept")); err != nil || string(p) != "xx" {
				t.Errorf("%q, %v", p, err)
			}
		})
	}
}

func TestConcurrentReaders(t *testing.T) {
	if !mounttest.Isolated(t, limit) {
		return
	}
	want := imagetest.EdgeTree(t)
	for _, mode := range modes {
		t.Run(string(mode), func(t *testing.T) {
			r := newRegistry(t)
			m := mounted(t, r.ref, t.TempDir(), Options{Mode: mode})
			var files []string
			for _, line := range want {
				if c := strings.Split(line, "\t"); c[1] == "f" && !strings.Contains(c[0], `\`) {
					files = append(files, c[0])
				}
			}
			var readers sync.WaitGroup
			for g := range 8 {
				readers.Go(func() {
					rng := rand.New(rand.NewPCG(1, uint64(g)))
					for _, i := range rng.Perm(len(files)) {
						if _, err := mounttest.ReadFile(filepath.Join(m.Dir, files[i])); err != nil {
							t.Error(err)
						}
					}
				})
			}
			readers.Wait()
			compare(t, want, mounttest.List(t, m.Dir))
			r.asked(t)
		})
	}
}

// An unmount while files are open takes the mount away and leaves the files.
func TestUnmountWhileOpen(t *testing.T) {
	if !mounttest.Isolated(t, limit) {
		return
	}
	r := newRegistry(t)
	for _, mode := range modes {
		t.Run(string(mode), func(t *testing.T) {
			m := mounted(t, r.ref, "", Options{Mode: mode})
			fd, err := unix.Open(filepath.Join(m.Dir, "sizes/noise-300000"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			if err := m.Unmount(); err != nil {
				t.Error(err)
			}
			if _, there, err := At(m.Dir); err != nil || there {
				t.Errorf("still mounted: %v", err)
			}
			select {
			case <-m.Done():
				t.Error("over while a file is open")
			default:
			}
			if n, err := unix.Read(fd, make([]byte, 100)); n == 0 || err != nil {
				t.Errorf("read %d: %v", n, err)
			}
			if err := errors.Join(unix.Close(fd), m.Wait()); err != nil {
				t.Error(err)
			}
		})
	}
}

// Close does not wait for whoever has a file open: he gets errors.
func TestCloseWhileOpen(t *testing.T) {
	if !mounttest.Isolated(t, limit) {
		return
	}
	r := newRegistry(t)
	for _, mode := range modes {
		t.Run(string(mode), func(t *testing.T) {
			m := mounted(t, r.ref, "", Options{Mode: mode})
			fd, err := unix.Open(filepath.Join(m.Dir, "sizes/noise-300000"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(fd)
			if err := m.Close(); err != nil {
				t.Error(err)
			}
			if n, err := unix.Read(fd, make([]byte, 100)); !errors.Is(err, unix.EIO) && !errors.Is(err, unix.ENOTCONN) && !errors.Is(err, unix.ECONNABORTED) {
				t.Errorf("read %d: %v", n, err)
			}
		})
	}
}

func TestRefused(t *testing.T) {
	if !mounttest.Isolated(t, limit) {
		return
	}
	im, _ := openImage(t, "rafs:"+filepath.Join(fixtures, "v6-minimal", "image.boot")+","+filepath.Join(fixtures, "blobs"), "")
	defer im.Close()
	for _, mode := range []Mode{Disk, "x"} {
		if _, err := New(t.Context(), im.Image, t.TempDir(), Options{Mode: mode}); !errors.Is(err, ErrMode) {
			t.Errorf("mode %s: %v", mode, err)
		}
	}
	if _, err := New(t.Context(), im.Image, filepath.Join(t.TempDir(), "none"), Options{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
	im.EROFS = nil // as of a format without one
	if _, err := New(t.Context(), im.Image, t.TempDir(), Options{Mode: EROFS}); err == nil {
		t.Error("EROFS without metadata")
	}
	m, err := New(t.Context(), im.Image, t.TempDir(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if m.Mode != FUSE || m.Reason == nil {
		t.Errorf("%s because of %v", m.Mode, m.Reason)
	}
	if p, err := mounttest.ReadFile(filepath.Join(m.Dir, "a")); err != nil || string(p) != "hello" {
		t.Errorf("%q, %v", p, err)
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
}
