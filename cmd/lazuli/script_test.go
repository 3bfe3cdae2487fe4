package main

import (
	"encoding/json"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/lazuli-project/lazuli/internal/containerdtest"
	"github.com/lazuli-project/lazuli/internal/imagetest"
	"github.com/lazuli-project/lazuli/internal/registrytest"
)

func TestMain(m *testing.M) {
	programs := map[string]func(){"lazuli": main}
	for _, d := range dropIns() {
		programs[d.name] = main
	}
	testscript.Main(m, programs)
}

// TestScripts runs the scripts of testdata/script. Beside testscript's own commands they have:
//
//	image KIND DIR [TAG]          writes an OCI layout; see images
//	exits CODE COMMAND...         runs a command, which must end with this exit code
//	fault METHOD PATH STATUS      makes the script's registry, $REGISTRY, answer with a status from now on
//	flip LAYOUT                   turns a bit in the middle of the layout's largest blob
func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:                 filepath.Join("testdata", "script"),
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(e *testscript.Env) error {
			r, err := registrytest.New(registrytest.Options{})
			if err != nil {
				return err
			}
			e.Setenv("REGISTRY", r.Listen(cleaner{e, t}))
			e.Setenv("CONTAINERD_ADDRESS", containerdtest.New(cleaner{e, t}).Listen(cleaner{e, t}))
			// Neither records nor credentials of who runs the tests.
			e.Setenv("XDG_STATE_HOME", filepath.Join(e.WorkDir, ".state"))
			e.Setenv("XDG_CACHE_HOME", filepath.Join(e.WorkDir, ".cache"))
			e.Values[registryKey{}] = r
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"image": func(ts *testscript.TestScript, _ bool, args []string) { writeImage(t, ts, args) },
			"exits": exits,
			"fault": fault,
			"flip":  flip,
		},
	})
}

// cleaner ends a registry with its script.
type cleaner struct {
	e *testscript.Env
	t *testing.T
}

func (c cleaner) Cleanup(f func())  { c.e.Defer(f) }
func (c cleaner) Fatal(args ...any) { c.t.Fatal(args...) }

type registryKey struct{}

func writeImage(t *testing.T, ts *testscript.TestScript, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: image KIND DIR [TAG]")
	}
	tag := ""
	if len(args) > 2 {
		tag = args[2]
	}
	var img *imagetest.Image
	switch args[0] {
	case "edge":
		img = imagetest.Edge(t)
	case "app":
		img = appImage(t, ocispec.Platform{OS: "linux", Architecture: "amd64"})
	case "index":
		amd := appImage(t, ocispec.Platform{OS: "linux", Architecture: "amd64"})
		img = imagetest.NewIndex(t, amd, appImage(t, ocispec.Platform{OS: "linux", Architecture: "arm64"}), imagetest.Attestation(t, amd))
	case "zstd":
		img = imagetest.NewImage(t, imagetest.Zstd(t, imagetest.Tar(t, imagetest.File("bin/app", program()))))
	case "members":
		img = imagetest.NewImage(t, imagetest.GzipMembers(t, imagetest.Tar(t, imagetest.File("bin/app", program()), imagetest.File("etc/os", "x"))))
	case "few-diff-ids":
		img = fewDiffIDs(t)
	case "escaping":
		img = imagetest.NewImage(t, imagetest.Plain(imagetest.Tar(t, imagetest.File("../x", ""))))
	case "wrong-diff-id":
		l := imagetest.Gzip(t, imagetest.Tar(t, imagetest.File("a", "1")))
		l.Tar = []byte("something else")
		img = imagetest.NewImage(t, l)
	case "encrypted":
		l := imagetest.Plain(imagetest.Tar(t))
		l.MediaType += "+encrypted"
		img = imagetest.NewImage(t, l)
	default:
		ts.Fatalf("no image %q", args[0])
	}
	img.WriteLayout(t, ts.MkAbs(args[1]), tag)
}

// appImage is an image of two small layers.
func appImage(t *testing.T, platform ocispec.Platform) *imagetest.Image {
	t.Helper()
	return imagetest.NewImageFor(t, platform,
		imagetest.Gzip(t, imagetest.Tar(t, imagetest.Dir("etc"), imagetest.File("etc/os-release", "NAME=test\n", imagetest.Mode(0o4755), imagetest.Owner(1000, 100)),
			imagetest.File("etc/arch", platform.Architecture+"\n"), imagetest.File("etc/gone", "x"), imagetest.Symlink("link", "etc/os-release"))),
		imagetest.Gzip(t, imagetest.Tar(t, imagetest.Whiteout("etc/gone"), imagetest.File("bin/app", program()), imagetest.Link("bin/same", "etc/arch"))))
}

// fewDiffIDs is an image whose configuration does not know its last layer.
func fewDiffIDs(t *testing.T) *imagetest.Image {
	t.Helper()
	img := appImage(t, ocispec.Platform{OS: "linux", Architecture: "amd64"})
	var m ocispec.Manifest
	var config ocispec.Image
	err := json.Unmarshal(img.Objects[img.Desc.Digest], &m)
	if err == nil {
		err = json.Unmarshal(img.Objects[m.Config.Digest], &config)
	}
	if err != nil {
		t.Fatal(err)
	}
	config.RootFS.DiffIDs = config.RootFS.DiffIDs[:1]
	m.Config = img.AddJSON(t, m.Config.MediaType, config)
	img.Desc = img.AddJSON(t, m.MediaType, m)
	return img
}

// program is content that does not compress.
func program() string {
	p := make([]byte, 300_000)
	_, _ = rand.NewChaCha8([32]byte{}).Read(p)
	return string(p)
}

func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit code %d instead of %d", got, want)
	}
}

func fault(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 3 {
		ts.Fatalf("usage: fault METHOD PATH STATUS")
	}
	status, err := strconv.Atoi(args[2])
	ts.Check(err)
	ts.Value(registryKey{}).(*registrytest.Registry).Inject(registrytest.Fault{Method: args[0], Path: args[1], Status: status})
}

// flip turns a bit in the middle of the largest blob of a layout.
func flip(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: flip LAYOUT")
	}
	blobs, err := filepath.Glob(filepath.Join(ts.MkAbs(args[0]), "blobs", "sha256", "*"))
	ts.Check(err)
	var name string
	var content []byte
	for _, b := range blobs {
		p, err := os.ReadFile(b)
		ts.Check(err)
		if len(p) > len(content) {
			name, content = b, p
		}
	}
	if name == "" {
		ts.Fatalf("%s has no blobs", args[0])
	}
	content[len(content)/2] ^= 1
	ts.Check(os.WriteFile(name, content, 0o600))
}
