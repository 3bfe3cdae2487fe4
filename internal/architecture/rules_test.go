package architecture

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/lazuli-project/lazuli"

// rooms are the packages from the top of the house to its bottom, as folders. Imports go down this list only, and inside a room
// freely. A package stands in the room whose name is the longest beginning of its folder.
var rooms = []string{
	"internal/tools", "cmd", "registryproxy", "nydusify", "convertor", "run", "mount", "containerd", "record", "convert", "catalog", "nydusimage", "overlaybdtools", "unpack", "check", "image", "backend", "store", "fetch", "cache", "encrypt",
	"formats/turbooci", "formats/overlaybd", "formats/nydus", "formats/oci", "formats/nydus/rafs5", "formats/nydus/rafs6", "formats/nydus/nydusblob",
	"formats/turbooci/gzindex", "formats/overlaybd/lsmt", "formats/overlaybd/zfile", "formats", "disk", "tarfs", "recompress", "flate", "tree", "blob",
}

// testRooms serve tests and may be imported by tests and tools only.
var testRooms = []string{"internal/imagetest", "internal/registrytest", "internal/mounttest", "internal/mysqltest", "internal/containerdtest", "formats/formatstest"}

// formatRooms import nothing but these from outside of the house: no network, no log, no containerd.
var formatRooms = []string{"formats", "disk", "tarfs", "recompress", "flate", "tree", "blob"}

var formatDependencies = []string{
	"github.com/klauspost/compress", "github.com/pierrec/lz4/v4", "github.com/zeebo/blake3",
	"github.com/opencontainers/go-digest", "github.com/opencontainers/image-spec",
}

var formatForbidden = []string{"net", "net/http", "log", "log/slog", "os/exec"}

// file is a source file of the project.
type file struct {
	path, room string
	test       bool
	ast        *ast.File
	imports    []string
	fset       *token.FileSet
}

func sources(t *testing.T) []file {
	t.Helper()
	root := filepath.Join("..", "..")
	var files []file
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() && (name == "testdata" || name == "build" || path != root && strings.HasPrefix(name, ".")) {
			return filepath.SkipDir
		}
		// Modules of their own stand on the house, and are no part of it.
		if _, err := os.Stat(filepath.Join(path, "go.mod")); err == nil && path != root {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(name, ".go") {
			return nil
		}
		f := file{fset: token.NewFileSet(), test: strings.HasSuffix(name, "_test.go")}
		if f.ast, err = parser.ParseFile(f.fset, path, nil, parser.ParseComments); err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		f.path = filepath.ToSlash(rel)
		f.room = strings.TrimSuffix(f.path, "/"+name)
		for _, i := range f.ast.Imports {
			p, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				return err
			}
			f.imports = append(f.imports, p)
		}
		files = append(files, f)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 50 {
		t.Fatalf("only %d files found: this test looks in the wrong place", len(files))
	}
	return files
}

// under reports whether a folder or import path is one of those or below one.
func under(path string, list []string) bool {
	return slices.ContainsFunc(list, func(l string) bool { return path == l || strings.HasPrefix(path, l+"/") })
}

// level is how deep a room lies; -1 if it is no room.
func level(folder string) int {
	found := -1
	for i, r := range rooms {
		if under(folder, []string{r}) && (found < 0 || len(r) > len(rooms[found])) {
			found = i
		}
	}
	return found
}

func TestImportsGoDown(t *testing.T) {
	t.Parallel()
	for _, f := range sources(t) {
		if f.test || under(f.room, testRooms) || f.room == "internal/architecture" {
			continue
		}
		from := level(f.room)
		if from < 0 {
			t.Errorf("%s: no room of the house; put it into the list and into docs/architecture.md", f.path)
			continue
		}
		for _, i := range f.imports {
			folder, ok := strings.CutPrefix(i, module+"/")
			if !ok {
				continue
			}
			if under(folder, testRooms) {
				if !under(f.room, []string{"internal/tools"}) {
					t.Errorf("%s imports %s, which is for tests", f.path, folder)
				}
				continue
			}
			if level(folder) < from {
				t.Errorf("%s imports %s, which lies above it", f.path, folder)
			}
		}
	}
}

func TestFormatsStayLight(t *testing.T) {
	t.Parallel()
	for _, f := range sources(t) {
		if f.test || !under(f.room, formatRooms) || under(f.room, testRooms) {
			continue
		}
		for _, i := range f.imports {
			host, _, _ := strings.Cut(i, "/")
			outside := strings.Contains(host, ".") && !strings.HasPrefix(i, module)
			if outside && !under(i, formatDependencies) || slices.Contains(formatForbidden, i) {
				t.Errorf("%s imports %s", f.path, i)
			}
		}
	}
}

// What only some rooms may call, with the rooms.
var restricted = map[string][]string{
	"os.Exit":             {"cmd", "internal/tools"},
	"log.Fatal":           {},
	"os.Getenv":           {"cmd", "internal/tools"},
	"exec.Command":        {"run", "cmd", "internal/tools"},
	"exec.CommandContext": {"run", "cmd", "internal/tools"},
	"context.Background":  {"cmd", "internal/tools", "fetch", "mount", "store"},
}

func TestRestrictedCalls(t *testing.T) {
	t.Parallel()
	for _, f := range sources(t) {
		if f.test || under(f.room, testRooms) {
			continue
		}
		ast.Inspect(f.ast, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			sel, ok := call.Fun.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			pkg, ok := sel.X.(*ast.Ident)
			if !ok {
				return true
			}
			if allowed, known := restricted[pkg.Name+"."+sel.Sel.Name]; known && !under(f.room, allowed) {
				t.Errorf("%s: %s.%s is not for this room", f.fset.Position(call.Pos()), pkg.Name, sel.Sel.Name)
			}
			return true
		})
	}
}

// Every package says in one place what it is.
func TestPackagesHaveADoc(t *testing.T) {
	t.Parallel()
	documented := map[string]bool{}
	for _, f := range sources(t) {
		if !f.test {
			documented[f.room] = documented[f.room] || f.ast.Doc != nil
		}
	}
	for room, ok := range documented {
		if !ok {
			t.Errorf("%s has no package comment", room)
		}
	}
}

// A reader holds about five hundred lines in mind.
func TestFilesAreShort(t *testing.T) {
	t.Parallel()
	const most = 600
	for _, f := range sources(t) {
		if lines := f.fset.Position(f.ast.End()).Line; lines > most {
			t.Errorf("%s has %d lines, at most %d are possible", f.path, lines, most)
		}
	}
}
