package unpack_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/fetch"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/formats/oci"
	"github.com/lazuli-project/lazuli/image"
	"github.com/lazuli-project/lazuli/internal/imagetest"
	"github.com/lazuli-project/lazuli/internal/mounttest"
	"github.com/lazuli-project/lazuli/unpack"
)

// open opens a plain image.
func open(t *testing.T, img *imagetest.Image) *fetch.Image {
	t.Helper()
	im, err := image.OpenManifest(t.Context(), img, nil, img.Desc, image.Options{Platform: "linux/amd64", Readers: []formats.Reader{oci.Reader{}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = im.Close() })
	return im.Image
}

// Root gets everything as other tools unpack it.
func TestRoot(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("needs root: owners and devices")
	}
	dir := filepath.Join(t.TempDir(), "new", "root")
	skipped, err := unpack.Dir(t.Context(), open(t, imagetest.Edge(t)), dir)
	if err != nil || skipped.Any() {
		t.Fatalf("%+v, %v", skipped, err)
	}
	if diff := imagetest.Diff(imagetest.EdgeTree(t), mounttest.List(t, dir)); diff != "" {
		t.Errorf("differs from what is expected:\n%s", diff)
	}
}

// userDir is set in the process of another user.
const userDir = "LAZULI_TEST_USER_DIR"

// Other users get what they may have: contents, permissions, times, links.
func TestOrdinaryUser(t *testing.T) {
	t.Parallel()
	if dir := os.Getenv(userDir); dir != "" {
		asUser(t, dir)
		return
	}
	if os.Geteuid() != 0 {
		asUser(t, filepath.Join(t.TempDir(), "root"))
		return
	}
	// Another user must be able to come here.
	dir, err := os.MkdirTemp("", "lazuli-test-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	const nobody = 65534
	if err := errors.Join(os.Chown(dir, nobody, nobody), copyFile(os.Args[0], filepath.Join(dir, "test"))); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), filepath.Join(dir, "test"), "-test.run", "^TestOrdinaryUser$", "-test.count=1")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), userDir+"="+filepath.Join(dir, "root"), "TMPDIR="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func copyFile(from, to string) error {
	p, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, p, 0o755)
}

func asUser(t *testing.T, dir string) {
	skipped, err := unpack.Dir(t.Context(), open(t, imagetest.Edge(t)), dir)
	if err != nil || skipped.Owners == 0 || skipped.Devices == 0 {
		t.Fatalf("%+v, %v", skipped, err)
	}
	// Without the columns that need root, and without devices.
	plain := func(lines []string) []string {
		var out []string
		for _, l := range lines {
			c := strings.Split(l, "\t")
			if c[1] == "c" || c[1] == "b" {
				continue
			}
			c[2], c[3], c[4], c[8], c[10] = "", "", "", "", ""
			out = append(out, strings.Join(c, "\t"))
		}
		return out
	}
	if diff := imagetest.Diff(plain(imagetest.EdgeTree(t)), plain(mounttest.List(t, dir))); diff != "" {
		t.Errorf("differs from what is expected:\n%s", diff)
	}
}

// What is there is not touched, and what does not succeed leaves nothing.
func TestLeavesNothing(t *testing.T) {
	t.Parallel()
	full := t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "mine"), []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := unpack.Dir(t.Context(), open(t, imagetest.Edge(t)), full); !errors.Is(err, unpack.ErrNotEmpty) {
		t.Errorf("%v", err)
	}
	if left, err := os.ReadDir(full); err != nil || len(left) != 1 {
		t.Errorf("%v, %v", left, err)
	}

	l := imagetest.Plain(imagetest.Tar(t, imagetest.File("a", "1"), imagetest.File("d/b", "content")))
	img := imagetest.NewImage(t, l)
	im := open(t, img)
	changed := append([]byte(nil), l.Stored...)
	changed[len(changed)-2048+3] ^= 1 // in the content of the last file
	for d, p := range img.Objects {
		if len(p) == len(l.Stored) {
			img.Objects[d] = changed
		}
	}
	dir := t.TempDir()
	if _, err := unpack.Dir(t.Context(), im, dir); !errors.Is(err, blob.ErrDigest) {
		t.Errorf("damaged layer: %v", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := unpack.Dir(ctx, open(t, imagetest.Edge(t)), dir); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// Files are not written through links that lead outside.
func TestStaysInside(t *testing.T) {
	t.Parallel()
	outside := t.TempDir()
	img := imagetest.NewImage(t,
		imagetest.Plain(imagetest.Tar(t, imagetest.Symlink("out", outside), imagetest.Symlink("up", "../../../../../../../.."+outside))),
		imagetest.Plain(imagetest.Tar(t, imagetest.File("out/x", "1"), imagetest.File("up/y", "2"), imagetest.Link("z", "out/x"))))
	m, err := image.OpenManifest(t.Context(), img, nil, img.Desc, image.Options{Platform: "linux/amd64", Readers: []formats.Reader{oci.Reader{}}})
	if err == nil {
		_, err = unpack.Dir(t.Context(), m.Image, filepath.Join(t.TempDir(), "root"))
	}
	if left, readErr := os.ReadDir(outside); readErr != nil || len(left) != 0 {
		t.Errorf("written outside: %v, %v", left, readErr)
	}
	if err != nil {
		t.Error(err)
	}
}
