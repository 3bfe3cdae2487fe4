//go:build unix

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/lazuli-project/lazuli/internal/imagetest"
	"github.com/lazuli-project/lazuli/internal/registrytest"
)

// interrupted is a conversion by the real program that is ended in its middle: one layer is stored, another is on its way.
// The source never gives the last layer, so that a slow machine does not miss the moment.
type interrupted struct {
	t        *testing.T
	slow     string // the source, from a registry that is slow and stops
	fast     string // the same in a layout
	source   *registrytest.Registry
	state    string
	flags    []string               // of conversions that are ended
	registry *registrytest.Registry // for targets
	host     string
}

func newInterrupted(t *testing.T) *interrupted {
	t.Helper()
	i := &interrupted{t: t, state: t.TempDir()}
	var layers []imagetest.Layer
	for k := range 3 {
		p := make([]byte, 6<<20+k)
		_, _ = rand.NewChaCha8([32]byte{byte(k)}).Read(p)
		layers = append(layers, imagetest.Plain(imagetest.Tar(t, imagetest.File(fmt.Sprint(k), string(p)))))
	}
	dir := t.TempDir()
	imagetest.NewImage(t, layers...).WriteLayout(t, dir, "v1")
	i.fast = "oci:" + dir + ":v1"
	source, err := registrytest.New(registrytest.Options{BytesPerSecond: 6 << 20})
	if err != nil {
		t.Fatal(err)
	}
	i.slow = source.Listen(t) + "/image:v1"
	if out, err := i.command("copy", i.fast, i.slow).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	// The largest layers come first.
	i.source = source
	source.Inject(registrytest.Fault{Method: http.MethodGet, Path: digest.FromBytes(layers[0].Stored).String(), Stall: true})
	if i.registry, err = registrytest.New(registrytest.Options{}); err != nil {
		t.Fatal(err)
	}
	i.host = i.registry.Listen(t)
	return i
}

func (i *interrupted) command(args ...string) *exec.Cmd {
	cmd := exec.CommandContext(i.t.Context(), "lazuli", args...)
	cmd.Env = append(os.Environ(), "XDG_STATE_HOME="+i.state)
	return cmd
}

// result is what a test looks at in convert --json.
type result struct {
	Digest string
	Images []struct{ Layers []struct{ Reused bool } }
}

func (r *result) reused() (n int) {
	for _, l := range r.Images[0].Layers {
		if l.Reused {
			n++
		}
	}
	return n
}

// run converts to the end.
func (i *interrupted) run(args ...string) *result {
	i.t.Helper()
	var stderr bytes.Buffer
	cmd := i.command(append([]string{"convert", "--json", "--progress", "none"}, args...)...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		i.t.Fatalf("%v\n%s", err, stderr.Bytes())
	}
	res := &result{}
	if err := json.Unmarshal(out, res); err != nil {
		i.t.Fatal(err)
	}
	return res
}

// end begins a conversion to the target and sends the signal when halfway says so. It returns the exit code and standard error.
func (i *interrupted) end(target string, signal syscall.Signal, halfway func() bool) (int, string) {
	i.t.Helper()
	var stderr bytes.Buffer
	cmd := i.command(append([]string{"convert", "--jobs", "1", "--progress", "none", i.slow, target}, i.flags...)...)
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		i.t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	for tick := time.NewTicker(2 * time.Millisecond); ; {
		select {
		case err := <-done:
			i.t.Fatalf("ended by itself: %v\n%s", err, &stderr)
		case <-tick.C:
		}
		if halfway() {
			tick.Stop()
			break
		}
	}
	if err := cmd.Process.Signal(signal); err != nil {
		i.t.Fatal(err)
	}
	err := <-done
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		i.t.Fatalf("%v", err)
	}
	return exit.ExitCode(), stderr.String()
}

// layoutHalfway reports whether a layout that had some blobs before has a finished one more and an unfinished one, or two
// finished ones.
func layoutHalfway(dir string, before int) bool {
	finished, _ := filepath.Glob(filepath.Join(dir, "blobs", "sha256", "*"))
	finished = finished[min(before, len(finished)):]
	if len(finished) == 2 {
		return true
	}
	unfinished, _ := filepath.Glob(filepath.Join(dir, "blobs", ".*"))
	for _, f := range unfinished {
		if st, err := os.Stat(f); err == nil && st.Size() > 1<<20 && len(finished) > 0 {
			return true
		}
	}
	return false
}

// registryHalfway reports whether a registry has a blob and a part of another, or two.
func registryHalfway(r *registrytest.Registry) bool {
	s := r.Stats()
	return s.Uploads == 1 && s.OpenPushes > 0 && s.Uploaded > 9<<20 || s.Uploads == 2
}

func TestKilledLayout(t *testing.T) {
	t.Parallel()
	i := newInterrupted(t)
	want := i.run("--record", "none", i.fast, "oci:"+filepath.Join(t.TempDir(), "undisturbed")+":made").Digest
	dir := filepath.Join(t.TempDir(), "made")
	i.end("oci:"+dir+":made", syscall.SIGKILL, func() bool { return layoutHalfway(dir, 0) })
	if _, err := os.Stat(filepath.Join(dir, "index.json")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a half-made layout: %v", err)
	}
	if out, err := i.command("ls", "oci:"+dir+":made").CombinedOutput(); err == nil {
		t.Errorf("it can be read: %s", out)
	}
	res := i.run(i.fast, "oci:"+dir+":made")
	if res.Digest != want || res.reused() < 1 {
		t.Errorf("second run: %+v; undisturbed %s", res, want)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "blobs", ".*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if out, err := i.command("check", "--platform", "linux/amd64", "oci:"+dir+":made", "--source", i.fast).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// A layout with another image in it stays as it is.
func TestKilledLayoutInUse(t *testing.T) {
	t.Parallel()
	i := newInterrupted(t)
	dir := filepath.Join(t.TempDir(), "made")
	const blobs = 3 + 2 // layers, configuration, manifest
	if out, err := i.command("copy", i.fast, "oci:"+dir+":made").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	before, err := os.ReadFile(filepath.Join(dir, "index.json"))
	if err != nil {
		t.Fatal(err)
	}
	i.end("oci:"+dir+":made", syscall.SIGKILL, func() bool { return layoutHalfway(dir, blobs) })
	after, err := os.ReadFile(filepath.Join(dir, "index.json"))
	if err != nil || !bytes.Equal(before, after) {
		t.Errorf("index.json became %s, %v", after, err)
	}
	i.run(i.fast, "oci:"+dir+":made")
	if out, err := i.command("check", "--platform", "linux/amd64", "oci:"+dir+":made", "--source", i.fast).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestKilledRegistry(t *testing.T) {
	t.Parallel()
	i := newInterrupted(t)
	want := i.run("--record", "none", i.fast, i.host+"/undisturbed:made").Digest
	i.registry.ResetStats()
	target := i.host + "/image:made"
	i.end(target, syscall.SIGKILL, func() bool { return registryHalfway(i.registry) })
	i.notThere(target)
	i.registry.ResetStats()
	res := i.run(i.fast, target)
	if res.Digest != want || res.reused() < 1 {
		t.Errorf("second run: %+v; undisturbed %s", res, want)
	}
	// Two layers, and what belongs to the image.
	if n := i.registry.Stats().Uploaded; n > 13<<20 {
		t.Errorf("%d bytes were sent again", n)
	}
}

// notThere fails if something has the name.
func (i *interrupted) notThere(target string) {
	i.t.Helper()
	var exit *exec.ExitError
	if out, err := i.command("inspect", target).CombinedOutput(); !errors.As(err, &exit) || exit.ExitCode() != exitNotFound {
		i.t.Errorf("%v\n%s", err, out)
	}
}

func TestInterrupted(t *testing.T) {
	t.Parallel()
	i := newInterrupted(t)
	i.flags = []string{"--record", "none"} // layers of the target before would be taken from there
	dir := filepath.Join(t.TempDir(), "made")
	archive := filepath.Join(t.TempDir(), "made.tar")
	for _, c := range []struct {
		target  string
		halfway func() bool
	}{
		{"oci:" + dir + ":made", func() bool { return layoutHalfway(dir, 0) }},
		{i.host + "/image:made", func() bool { return registryHalfway(i.registry) }},
		// Nothing is seen of an archive in the making.
		{"oci-archive:" + archive + ":made", func() bool { return i.source.Stats().Bytes > 9<<20 }},
	} {
		i.source.ResetStats()
		code, stderr := i.end(c.target, syscall.SIGINT, c.halfway)
		if code != exitInterrupted || !strings.Contains(stderr, "lazuli: interrupted\nhint: ") {
			t.Errorf("%s: exit code %d\n%s", c.target, code, stderr)
		}
		i.notThere(c.target)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the layout stays: %v", err)
	}
	if left, err := os.ReadDir(filepath.Dir(archive)); err != nil || len(left) > 0 {
		t.Errorf("left beside the archive: %v, %v", left, err)
	}
	if n := i.registry.Stats().OpenPushes; n != 0 {
		t.Errorf("%d uploads were not cancelled", n)
	}
}
