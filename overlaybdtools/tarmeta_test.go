package overlaybdtools

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/internal/imagetest"
	"github.com/lazuli-project/lazuli/tarfs"
)

// Metadata from a tar's headers alone is the same as from the whole tar.
func TestExportImport(t *testing.T) {
	t.Parallel()
	for _, fsType := range []string{Ext4, EROFS} {
		w := newWorkshop(t)
		// Without the sparse files of the edge image, of which the headers do not tell enough.
		long := strings.Repeat("long/", 60) + "name"
		tar := imagetest.Tar(t, imagetest.Dir("d"), imagetest.File("d/a", "content", imagetest.Xattr("user.a", "b")), imagetest.Link("d/b", "d/a"),
			imagetest.File(long, strings.Repeat("x", 10_000), imagetest.GNU()), imagetest.Symlink("link", long, imagetest.GNU()),
			imagetest.Char("null", 1, 3), imagetest.File("empty", ""), imagetest.File("z", strings.Repeat("y", 512), imagetest.PAX("mtime", "1.5")))
		for kind, stored := range map[string][]byte{"plain": tar, "gzip": imagetest.Gzip(t, tar).Stored} {
			input := w.write(kind, stored)
			w.must(ExportTar(t.Context(), input, w.path(kind+"-headers"), w.path(kind+"-export-index")))
			meta := w.read(kind + "-headers")
			if bytes.Contains(meta, []byte("xxx")) || len(meta)%tarBlock != 0 {
				t.Errorf("%s: %d bytes of headers, or with content", kind, len(meta))
			}
			want := w.turbo(kind+"-direct", fsType, []string{input}, kind == "gzip")[0]
			if kind == "gzip" && !bytes.Equal(w.read(kind+"-export-index"), w.read(kind+"-direct-0.gz.meta")) {
				t.Error("the exported index differs")
			}
			u := w.upper(kind + "-import")
			u.Target = input
			w.must(Create(t.Context(), CreateOptions{Data: u.Data, Index: u.Index, SizeGB: 1, Turbo: true}))
			w.must(ApplyTurbo(t.Context(), TurboOptions{
				Input: w.path(kind + "-headers"), Config: w.config("config", config{Upper: u}), FSType: fsType, Import: true, MakeFS: true,
			}))
			w.must(Commit(t.Context(), CommitOptions{Data: u.Data, Index: u.Index, Output: w.path(kind + "-meta"), Compress: true, Turbo: true}))
			got := want
			got.File = w.path(kind + "-meta")
			w.same(w.tree(config{Lowers: []lower{want}}, fsType), w.tree(config{Lowers: []lower{got}}, fsType))
		}
	}
}

// One entry, byte for byte.
func TestExportBytes(t *testing.T) {
	t.Parallel()
	w := newWorkshop(t)
	tar := imagetest.Tar(t, imagetest.Dir("d", imagetest.USTAR()), imagetest.File("d/a", strings.Repeat("1", 600), imagetest.USTAR()), imagetest.File("b", "2", imagetest.USTAR()))
	w.must(ExportTar(t.Context(), w.write("tar", tar), w.path("headers"), ""))
	want := bytes.Clone(tar[:1024])
	want = append(want, tar[2048:2560]...)
	binary.LittleEndian.PutUint64(want[512+329:], 1024)
	binary.LittleEndian.PutUint64(want[1024+329:], 2560)
	if got := w.read("headers"); !bytes.Equal(want, got) {
		t.Errorf("headers of %d bytes differ, want %d", len(got), len(want))
	}
}

func TestExportRefuses(t *testing.T) {
	t.Parallel()
	w := newWorkshop(t)
	good := imagetest.Tar(t, imagetest.File("a", strings.Repeat("1", 2000)))
	broken := bytes.Clone(good)
	broken[0] ^= 1
	cases := map[string]struct {
		tar  []byte
		want error
	}{
		"cut off in content": {good[:1000], blob.ErrCorrupt},
		"cut off in header":  {good[:300], blob.ErrCorrupt},
		"checksum":           {broken, blob.ErrCorrupt},
		"extension": {
			imagetest.Header{Name: "x", Type: 'x', Size: 2 << 20, Magic: imagetest.MagicPOSIX}.Block(), tarfs.ErrTooLarge,
		},
		"size": {imagetest.Header{Name: "x", Type: '0', Size: -1, Magic: imagetest.MagicPOSIX}.Block(), nil},
		"type": {imagetest.Header{Name: "x", Type: 'D', Magic: imagetest.MagicGNU}.Block(), blob.ErrUnsupported},
	}
	for i, format := range imagetest.SparseFormats {
		tar := imagetest.Tar(t, imagetest.Sparse(t, "s", format, 100_000, imagetest.Piece{Off: 40_960, Data: "x"}))
		cases[fmt.Sprintf("sparse %d", i)] = struct {
			tar  []byte
			want error
		}{tar, blob.ErrUnsupported}
	}
	for name, c := range cases {
		if err := ExportTar(t.Context(), w.write("tar", c.tar), w.path("out"), ""); err == nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: error %v, want %v", name, err, c.want)
		}
		if _, err := os.Stat(w.path("out")); err == nil {
			t.Errorf("%s: there is an output", name)
		}
	}
}

// Headers from outside give a tree or an error, and content that lies at sectors.
func FuzzImport(f *testing.F) {
	for _, l := range imagetest.Edge(f).Layers {
		var meta bytes.Buffer
		if err := exportTar(&meta, bytes.NewReader(l.Tar)); err == nil {
			f.Add(meta.Bytes()[:min(meta.Len(), 64<<10)])
		}
	}
	var meta bytes.Buffer
	if err := exportTar(&meta, bytes.NewReader(imagetest.Tar(f, imagetest.Dir("d"), imagetest.File("d/a", "x", imagetest.Xattr("user.a", "b"))))); err != nil {
		f.Fatal(err)
	}
	f.Add(meta.Bytes())
	f.Fuzz(func(t *testing.T, p []byte) {
		if len(p) > 64<<10 {
			return
		}
		m := newMetaReader(io.LimitReader(bytes.NewReader(p), int64(len(p))))
		for {
			_, err := m.Next()
			if err != nil {
				break
			}
			if m.at > 1<<30 { // zeros in place of content cost time
				return
			}
		}
		m = newMetaReader(bytes.NewReader(p))
		layer, err := (&layerReader{meta: m}).read(m)
		if err == nil && layer == nil {
			t.Error("neither a tree nor an error")
		}
	})
}
