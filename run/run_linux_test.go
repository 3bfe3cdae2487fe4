package run

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/convert"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/formats/nydus"
	"github.com/lazuli-project/lazuli/formats/overlaybd"
	"github.com/lazuli-project/lazuli/formats/turbooci"
	"github.com/lazuli-project/lazuli/image"
	"github.com/lazuli-project/lazuli/internal/imagetest"
	"github.com/lazuli-project/lazuli/internal/mounttest"
	"github.com/lazuli-project/lazuli/mount"
	"github.com/lazuli-project/lazuli/store"
)

// probeImages makes an image with the program of testdata/probe, converts it by each writer and opens the results.
func probeImages(t *testing.T, writers map[string]formats.Writer) map[string]*image.Image {
	t.Helper()
	exe := filepath.Join(t.TempDir(), "probe")
	build := exec.Command("go", "build", "-o", exe, "./testdata/probe")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the probe: %v\n%s", err, out)
	}
	program, err := os.ReadFile(exe)
	if err != nil {
		t.Fatal(err)
	}
	img := imagetest.NewImage(t, imagetest.Gzip(t, imagetest.Tar(t,
		imagetest.Dir("bin"), imagetest.File("bin/probe", string(program), imagetest.Mode(0o755)),
		imagetest.Dir("etc"), imagetest.Symlink("etc/passwd", "../usr/passwd"), imagetest.File("etc/group", group),
		imagetest.Dir("usr"), imagetest.File("usr/passwd", passwd), imagetest.Dir("srv"), imagetest.Dir("srv/web", imagetest.Owner(1000, 100)),
	)))
	layout := t.TempDir()
	img.WriteLayout(t, layout, "source")
	parse := func(tag string) store.Ref {
		ref, err := store.Parse("oci:" + layout + ":" + tag)
		if err != nil {
			t.Fatal(err)
		}
		return ref
	}
	src, err := store.OpenSource(t.Context(), parse("source"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	images := make(map[string]*image.Image)
	for name, w := range writers {
		dest, err := store.OpenTarget(t.Context(), parse(name), store.Options{})
		if err != nil {
			t.Fatal(err)
		}
		_, err = convert.Convert(t.Context(), src, []convert.Output{{Writer: w, Target: dest}}, convert.Options{})
		if err := errors.Join(err, dest.Close()); err != nil {
			t.Fatal(err)
		}
		im, err := image.Open(t.Context(), parse(name), image.Options{Readers: []formats.Reader{nydus.Reader{}, overlaybd.Reader{}, turbooci.Reader{}}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = im.Close() })
		images[name] = im
	}
	return images
}

func probeWriters(t *testing.T) map[string]formats.Writer {
	t.Helper()
	w, err1 := nydus.NewWriter(nydus.Options{})
	native, err2 := overlaybd.NewWriter(overlaybd.Options{})
	turbo, err3 := turbooci.NewWriter(turbooci.Options{FileSystems: []overlaybd.FS{overlaybd.Ext4}})
	erofs, err4 := turbooci.NewWriter(turbooci.Options{})
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		t.Fatal(err)
	}
	return map[string]formats.Writer{"nydus": w, "overlaybd": native, "turbo-ext4": turbo, "turbo-erofs": erofs}
}

func TestRun(t *testing.T) {
	if !mounttest.Isolated(t, 2*time.Minute) {
		return
	}
	if _, err := exec.LookPath("runc"); err != nil {
		t.Skip("needs runc")
	}
	images := probeImages(t, probeWriters(t))
	im := images["nydus"]
	temp := t.TempDir()
	run := func(t *testing.T, config ocispec.ImageConfig, opt Options) (*Result, string) {
		t.Helper()
		var out, errOut bytes.Buffer
		if opt.Stdout == nil {
			opt.Stdout = &out
		}
		opt.Stderr, opt.Mount.TempDir = &errOut, temp
		res, err := Run(t.Context(), im.Image, config, opt)
		if err != nil {
			t.Fatalf("%v\n%s", err, errOut.String())
		}
		if left, _ := os.ReadDir(temp); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
		return res, out.String() + errOut.String()
	}
	for _, mode := range []mount.Mode{mount.EROFS, mount.FUSE} {
		t.Run(string(mode), func(t *testing.T) {
			config := ocispec.ImageConfig{User: "web", WorkingDir: "/srv/web", Env: []string{"A=1"}, Entrypoint: []string{"probe"}, Cmd: []string{"tell"}}
			opt := Options{Mount: mount.Options{Mode: mode}, FirstOutput: true}
			res, out := run(t, config, opt)
			if out != "1000 100 [4 100] /srv/web /srv/web 1 1 \n" || res.Mode != mode || res.FirstOutput.Before(res.Mounted) || res.Ended.Before(res.FirstOutput) {
				t.Errorf("%q, %+v", out, res)
			}
			opt = Options{Mount: mount.Options{Mode: mode}, Env: []string{"A=2"}, Command: []string{"tell", "b c"}}
			if _, out := run(t, ocispec.ImageConfig{Entrypoint: []string{"/bin/probe"}, Cmd: []string{"x"}}, opt); out != "0 0 [9] / /root 2 1 b c\n" {
				t.Errorf("%q", out)
			}
			opt = Options{Mount: mount.Options{Mode: mode}, Command: []string{"probe", "write", "/new", "/etc/group", "/dev/shm/x"}}
			if _, out := run(t, ocispec.ImageConfig{}, opt); out != "" {
				t.Errorf("%q", out)
			}
			opt.Command = []string{"probe", "exit", "7"}
			if res, _ := run(t, ocispec.ImageConfig{}, opt); res.ExitCode != 7 {
				t.Errorf("exit code %d", res.ExitCode)
			}
		})
	}
	for name, im := range images {
		if name == "nydus" {
			continue
		}
		for _, mode := range []mount.Mode{mount.EROFS, mount.FUSE, mount.Disk} {
			t.Run(name+" "+string(mode), func(t *testing.T) {
				opt := Options{Mount: mount.Options{Mode: mode, TempDir: temp}, Stdout: new(bytes.Buffer), Stderr: new(bytes.Buffer)}
				config := ocispec.ImageConfig{User: "web", WorkingDir: "/srv/web", Env: []string{"A=1"}, Entrypoint: []string{"probe"}, Cmd: []string{"tell"}}
				res, err := Run(t.Context(), im.Image, config, opt)
				if err != nil || res.Mode != mode || fmt.Sprint(opt.Stdout, opt.Stderr) != "1000 100 [4 100] /srv/web /srv/web 1 1 \n " {
					t.Errorf("%v, %q, %+v", err, fmt.Sprint(opt.Stdout, opt.Stderr), res)
				}
				if left, _ := os.ReadDir(temp); len(left) > 0 {
					t.Errorf("left behind: %v", left)
				}
			})
		}
	}
	t.Run("signal", func(t *testing.T) {
		signals := make(chan os.Signal, 1)
		w := &waiter{signals: signals}
		run(t, ocispec.ImageConfig{}, Options{Command: []string{"probe", "signal"}, Stdout: w, Signals: signals})
		if got := w.text.String(); got != "waiting\nterminated\n" {
			t.Errorf("%q", got)
		}
	})
	t.Run("refused", func(t *testing.T) {
		for want, opt := range map[error]Options{
			ErrNoCommand: {}, ErrNoRuntime: {Runtime: "no-such-runtime", Command: []string{"probe"}}, mount.ErrMode: {Mount: mount.Options{Mode: mount.Disk}, Command: []string{"probe"}},
		} {
			opt.Mount.TempDir = temp
			if _, err := Run(t.Context(), im.Image, ocispec.ImageConfig{}, opt); !errors.Is(err, want) {
				t.Errorf("%v instead of %v", err, want)
			}
		}
		if left, _ := os.ReadDir(temp); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	})
}

// waiter sends a signal when the program says that it is waiting.
type waiter struct {
	text    strings.Builder
	signals chan<- os.Signal
}

func (w *waiter) Write(p []byte) (int, error) {
	if w.text.Len() == 0 {
		w.signals <- syscall.SIGTERM
	}
	return w.text.Write(p)
}
