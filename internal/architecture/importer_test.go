package architecture

import (
	"debug/buildinfo"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// maxModules is how many modules a program that converts images has in it at the most, beside this one.
const maxModules = 39

// heavy are beginnings of modules that nobody gets who only converts.
var heavy = []string{
	"github.com/containerd/", "github.com/moby/", "k8s.io/", "google.golang.org/grpc", "modernc.org/", "github.com/go-sql-driver/", "github.com/spf13/",
	"github.com/minio/", "github.com/hanwen/",
}

// importer is a program of somebody else, in two files.
var importer = map[string]string{
	"main.go": `package main

import (
	"context"
	"fmt"
	"os"

	"github.com/lazuli-project/lazuli/convert"
	"github.com/lazuli-project/lazuli/store"
)

func main() {
	res, err := run(context.Background(), os.Args[1], os.Args[2])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(len(res.Images), "image of", len(res.Images[0].Layers), "layers")
}

func run(ctx context.Context, from, to string) (*convert.Result, error) {
	src, target, err := open(ctx, from, to)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	defer target.Close()
	writer, err := newWriter()
	if err != nil {
		return nil, err
	}
	return convert.Convert(ctx, src, []convert.Output{{Writer: writer, Target: target}}, convert.Options{})
}

func open(ctx context.Context, from, to string) (store.Source, store.Target, error) {
	a, err := store.Parse(from)
	if err != nil {
		return nil, nil, err
	}
	b, err := store.Parse(to)
	if err != nil {
		return nil, nil, err
	}
	src, err := store.OpenSource(ctx, a, store.Options{})
	if err != nil {
		return nil, nil, err
	}
	target, err := store.OpenTarget(ctx, b, store.Options{})
	return src, target, err
}
`,
	"writer.go": `package main

import (
	"github.com/lazuli-project/lazuli/catalog"
	"github.com/lazuli-project/lazuli/formats"
)

func newWriter() (formats.Writer, error) { return catalog.NewWriter("nydus", catalog.Options{}) }
`,
}

// TestImportersStayLight builds a program that imports the converter with every format, in a module of its own, looks at which modules
// are compiled in, and converts an image.
func TestImportersStayLight(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("builds a program")
	}
	root, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	files := map[string]string{
		"go.mod": "module importer\n\ngo 1.26.0\n\nrequire " + module + " v0.0.0\n\nreplace " + module + " => " + root + "\n",
	}
	for name, text := range importer {
		files[name] = text
	}
	sums, err := os.ReadFile(filepath.Join(root, "go.sum"))
	if err != nil {
		t.Fatal(err)
	}
	files["go.sum"] = string(sums)
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	build := exec.CommandContext(t.Context(), "go", "build", "-mod=mod", "-o", "importer", ".")
	build.Dir = dir
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOWORK=off")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	program := filepath.Join(dir, "importer")
	info, err := buildinfo.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	modules := 0
	for _, m := range info.Deps {
		if m.Path == module {
			continue
		}
		modules++
		for _, h := range heavy {
			if strings.HasPrefix(m.Path, h) {
				t.Errorf("who imports the converter gets %s", m.Path)
			}
		}
	}
	if modules > maxModules || modules == 0 {
		t.Errorf("%d modules are compiled in, the bound is %d", modules, maxModules)
	}
	t.Logf("%d modules beside this one", modules)
	edge := "oci:" + filepath.Join(root, "internal", "imagetest", "testdata", "edge", "oci") + ":edge"
	out, err := exec.CommandContext(t.Context(), program, edge, "oci:"+filepath.Join(dir, "made")+":v1").CombinedOutput()
	if want := "1 image of 3 layers\n"; err != nil || string(out) != want {
		t.Errorf("%v: %q, want %q", err, out, want)
	}
}
