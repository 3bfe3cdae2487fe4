package overlaybdtools

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/lazuli-project/lazuli/disk/erofs"
	"github.com/lazuli-project/lazuli/disk/ext4"
	"github.com/lazuli-project/lazuli/internal/imagetest"
	"github.com/lazuli-project/lazuli/tree"
)

// workshop is a directory with the files of a test.
type workshop struct {
	*testing.T

	dir string
}

func newWorkshop(t *testing.T) workshop {
	t.Helper()
	return workshop{t, t.TempDir()}
}

// path returns where a file of the test lies.
func (w workshop) path(name string) string { return filepath.Join(w.dir, name) }

// write writes a file and returns its path.
func (w workshop) write(name string, content []byte) string {
	w.Helper()
	w.must(os.MkdirAll(filepath.Dir(w.path(name)), 0o755))
	w.must(os.WriteFile(w.path(name), content, 0o644))
	return w.path(name)
}

func (w workshop) read(name string) []byte {
	w.Helper()
	p, err := os.ReadFile(w.path(name))
	w.must(err)
	return p
}

func (w workshop) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// config writes a configuration.
func (w workshop) config(name string, c config) string {
	w.Helper()
	raw, err := json.Marshal(c)
	w.must(err)
	return w.write(name, raw)
}

// upper returns the files of a writable layer.
func (w workshop) upper(name string) upper {
	return upper{Data: w.path(name + ".data"), Index: w.path(name + ".index")}
}

// tree lists what is on the disk of a configuration.
func (w workshop) tree(c config, fsType string) []string {
	w.Helper()
	s, err := openStack(w.Context(), &c, true)
	w.must(err)
	defer func() { w.must(s.close()) }()
	w.must(s.addUpper())
	d, err := s.device()
	w.must(err)
	return w.list(d, d.Size(), fsType)
}

// list lists what is on a disk.
func (w workshop) list(d io.ReaderAt, size int64, fsType string) []string {
	w.Helper()
	read := ext4.Read
	if fsType == EROFS {
		read = erofs.Read
	}
	t, err := read(d, size)
	w.must(err)
	lines, err := imagetest.List(t, func(n *tree.Node) ([]byte, error) {
		var content bytes.Buffer
		for _, x := range n.Extents {
			p := make([]byte, x.Length)
			if x.Blob != tree.Hole {
				if m, err := d.ReadAt(p, x.Offset); m < len(p) {
					return nil, err
				}
			}
			content.Write(p)
		}
		return content.Bytes(), nil
	})
	w.must(err)
	return lines
}

// same compares listings.
func (w workshop) same(want, got []string) {
	w.Helper()
	if d := imagetest.Diff(want, got); d != "" {
		w.Error(d)
	}
}

// native converts layers as the converter does, and returns the finished ones.
func (w workshop) native(name string, sparse bool, inputs []string) []lower {
	w.Helper()
	var c config
	for i, input := range inputs {
		layer := fmt.Sprintf("%s-%d", name, i)
		u := w.upper(layer)
		size := uint64(0)
		if i == 0 {
			size = 1
		}
		w.must(Create(w.Context(), CreateOptions{Data: u.Data, Index: u.Index, SizeGB: size, Sparse: sparse, MakeFS: i == 0}))
		c.Upper = u
		w.must(Apply(w.Context(), ApplyOptions{Input: input, Config: w.config(layer+".json", c)}))
		out := w.path(layer + ".commit")
		w.must(Commit(w.Context(), CommitOptions{Data: u.Data, Index: u.Index, Output: out, Compress: true, Tar: true}))
		c.Lowers = append(c.Lowers, lower{File: out})
	}
	return c.Lowers
}

// turbo converts layers to turboOCI as the converter does, and returns the finished ones.
func (w workshop) turbo(name, fsType string, inputs []string, indexed bool) []lower {
	w.Helper()
	var c config
	for i, input := range inputs {
		layer := fmt.Sprintf("%s-%d", name, i)
		c.Upper = w.upper(layer)
		c.Upper.Target = input
		w.must(Create(w.Context(), CreateOptions{Data: c.Upper.Data, Index: c.Upper.Index, SizeGB: 1, Turbo: true, MakeFS: i == 0 && fsType == Ext4}))
		o := TurboOptions{Input: input, Config: w.config(layer+".json", c), FSType: fsType, GzipIndex: w.path(layer + ".gz.meta")}
		w.must(ApplyTurbo(w.Context(), o))
		out := w.path(layer + ".fs.meta")
		w.must(Commit(w.Context(), CommitOptions{Data: c.Upper.Data, Index: c.Upper.Index, Output: out, Compress: true, Turbo: true}))
		l := lower{File: out, TargetFile: input, TargetDigest: "sha256:" + layer}
		if indexed {
			l.GzipIndex = o.GzipIndex
		} else if _, err := os.Stat(o.GzipIndex); err == nil {
			w.Errorf("layer %d: an index of a layer that is not compressed", i)
		}
		c.Lowers = append(c.Lowers, l)
	}
	return c.Lowers
}

// edge writes the layers of the edge image.
func (w workshop) edge(name string, stored func(imagetest.Layer) []byte) []string {
	w.Helper()
	var paths []string
	for i, l := range imagetest.Edge(w.T).Layers {
		paths = append(paths, w.write(fmt.Sprintf("%s-%d.tar", name, i), stored(l)))
	}
	return paths
}

func plainTar(l imagetest.Layer) []byte  { return l.Tar }
func storedTar(l imagetest.Layer) []byte { return l.Stored }
