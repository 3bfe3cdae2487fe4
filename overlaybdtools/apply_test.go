package overlaybdtools

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/internal/imagetest"
	"github.com/lazuli-project/lazuli/tarfs"
)

// The same layers give the same bytes, whatever they are compressed by.
func TestNative(t *testing.T) {
	t.Parallel()
	w := newWorkshop(t)
	inputs := map[string][]string{
		"plain": w.edge("plain", plainTar),
		"gzip":  w.edge("gzip", storedTar),
		"zstd":  w.edge("zstd", func(l imagetest.Layer) []byte { return imagetest.Zstd(t, l.Tar).Stored }),
		"zfile": w.edge("zfile", func(l imagetest.Layer) []byte {
			path := w.write("zfile.tar", l.Tar)
			w.must(Compress(t.Context(), CompressOptions{Source: path, Output: path + ".z", Replace: true}))
			return w.read("zfile.tar.z")
		}),
	}
	for _, sparse := range []bool{true, false} {
		var first [][]byte
		for _, name := range []string{"plain", "gzip", "zstd", "zfile"} {
			kind := fmt.Sprintf("%s-sparse=%t", name, sparse)
			layers := w.native(kind, sparse, inputs[name])
			if first == nil {
				w.same(imagetest.EdgeTree(t), w.tree(config{Lowers: layers}, Ext4))
			}
			for i, l := range layers {
				got, err := os.ReadFile(l.File)
				w.must(err)
				if name == "plain" {
					first = append(first, got)
				} else if !bytes.Equal(first[i], got) {
					t.Errorf("%s: layer %d differs from that of a plain tar", kind, i)
				}
			}
		}
	}
	rest, err := fs.Glob(os.DirFS(w.dir), "*spool*")
	w.must(err)
	if len(rest) > 0 {
		t.Errorf("temporary files are left: %q", rest)
	}
}

// Content that does not lie in the tar as disks need it, and what is removed or overwritten in the same tar and above.
func layersOfAllKinds(t *testing.T) (layers []imagetest.Layer, want []string) {
	t.Helper()
	long := strings.Repeat("0123456789abcdef", 1000)
	items := []imagetest.Item{
		imagetest.Dir("d"), imagetest.File("d/twice", "first"), imagetest.File("d/twice", long), imagetest.Link("again", "d/twice"),
		imagetest.File("zeros", strings.Repeat("\x00", 20000)), imagetest.File("gone", long), imagetest.File("changed", long),
	}
	for i, format := range imagetest.SparseFormats {
		items = append(items, imagetest.Sparse(t, fmt.Sprintf("sparse-%d", i), format, 100_000, imagetest.Piece{Off: 0, Data: "begin"},
			imagetest.Piece{Off: 40_960, Data: long}, imagetest.Piece{Off: 90_001, Data: "odd"}))
	}
	first := imagetest.Gzip(t, imagetest.Tar(t, items...))
	second := imagetest.Gzip(t, imagetest.Tar(t, imagetest.Whiteout("gone"), imagetest.File("changed", "short"), imagetest.File("new", long[:5000])))
	layers = []imagetest.Layer{first, second}
	sizes := map[string]int{".": -1, "d": -1, "d/twice": 16000, "again": 16000, "zeros": 20000, "changed": 5, "new": 5000}
	for i := range imagetest.SparseFormats {
		sizes[fmt.Sprintf("sparse-%d", i)] = 100_000
	}
	for path, size := range sizes {
		text := ""
		if size >= 0 {
			text = fmt.Sprint(size)
		}
		want = append(want, path+" "+text)
	}
	slices.Sort(want)
	return layers, want
}

// pathsAndSizes takes these columns out of a listing.
func pathsAndSizes(lines []string) []string {
	var out []string
	for _, l := range lines {
		columns := strings.Split(l, "\t")
		out = append(out, columns[0]+" "+columns[5])
	}
	slices.Sort(out)
	return out
}

func TestAllWaysGiveTheSameTree(t *testing.T) {
	t.Parallel()
	w := newWorkshop(t)
	layers, want := layersOfAllKinds(t)
	var plain, stored []string
	for i, l := range layers {
		plain = append(plain, w.write(fmt.Sprintf("plain-%d", i), l.Tar))
		stored = append(stored, w.write(fmt.Sprintf("stored-%d", i), l.Stored))
	}
	first := w.tree(config{Lowers: w.native("first", true, plain)}, Ext4)
	if got := pathsAndSizes(first); !slices.Equal(want, got) {
		t.Errorf("got %q, want %q", got, want)
	}
	w.same(first, w.tree(config{Lowers: w.native("gzip", false, stored)}, Ext4))
	w.same(first, w.tree(config{Lowers: w.turbo("turbo", Ext4, stored, true)}, Ext4))
	w.same(first, w.tree(config{Lowers: w.turbo("turbo-plain", Ext4, plain, false)}, Ext4))
	w.same(first, w.tree(config{Lowers: w.turbo("erofs", EROFS, stored, true)}, EROFS))
}

func TestTurbo(t *testing.T) {
	t.Parallel()
	for _, fsType := range []string{Ext4, EROFS} {
		t.Run(fsType, func(t *testing.T) {
			t.Parallel()
			w := newWorkshop(t)
			w.same(imagetest.EdgeTree(t), w.tree(config{Lowers: w.turbo("gzip", fsType, w.edge("gzip", storedTar), true)}, fsType))
			w.same(imagetest.EdgeTree(t), w.tree(config{Lowers: w.turbo("plain", fsType, w.edge("plain", plainTar), false)}, fsType))
		})
	}
}

// overlaybd-apply with --gz_index_path is what turboOCI-apply is.
func TestApplyTurbo(t *testing.T) {
	t.Parallel()
	w := newWorkshop(t)
	input := w.edge("gzip", storedTar)[0]
	u := w.upper("layer")
	u.Target = input
	w.must(Create(t.Context(), CreateOptions{Data: u.Data, Index: u.Index, SizeGB: 1, Turbo: true}))
	w.must(Apply(t.Context(), ApplyOptions{Input: input, Config: w.config("config", config{Upper: u}), MakeFS: true, GzipIndex: w.path("gz")}))
	w.must(Commit(t.Context(), CommitOptions{Data: u.Data, Index: u.Index, Output: w.path("meta"), Turbo: true}))
	w.same(imagetest.EdgeLayer0(t), w.tree(config{Lowers: []lower{{File: w.path("meta"), TargetFile: input, GzipIndex: w.path("gz")}}}, Ext4))
}

func TestRaw(t *testing.T) {
	t.Parallel()
	w := newWorkshop(t)
	w.must(Create(t.Context(), CreateOptions{Data: w.path("made"), Index: w.path("index"), SizeGB: 1, Raw: true, MakeFS: true}))
	w.write("later", bytes.Repeat([]byte("dirt"), 10000)) // mkfs begins with zeros
	w.must(os.Truncate(w.path("later"), 1<<30))
	for _, l := range w.edge("edge", plainTar) {
		w.must(Apply(t.Context(), ApplyOptions{Input: l, Config: w.path("made"), Raw: true}))
	}
	for i, l := range w.edge("gzip", storedTar) {
		w.must(Apply(t.Context(), ApplyOptions{Input: l, Config: w.path("later"), Raw: true, MakeFS: i == 0}))
	}
	for _, name := range []string{"made", "later"} {
		f, err := os.Open(w.path(name))
		w.must(err)
		w.same(imagetest.EdgeTree(t), w.list(f, 1<<30, Ext4))
		w.must(f.Close())
	}
}

func TestChecksum(t *testing.T) {
	t.Parallel()
	w := newWorkshop(t)
	tar := imagetest.Tar(t, imagetest.File("a", "1"))
	tar = append(tar, make([]byte, 5000)...) // what is behind the end counts
	input := w.write("layer", imagetest.Gzip(t, tar).Stored)
	u := w.upper("layer")
	w.must(Create(t.Context(), CreateOptions{Data: u.Data, Index: u.Index, SizeGB: 1, Sparse: true, MakeFS: true}))
	before := w.read("layer.data")[:1<<20]
	c := w.config("config", config{Upper: u, ResultFile: w.path("result")})
	wrong := Apply(t.Context(), ApplyOptions{Input: input, Config: c, Checksum: digest.FromString("other")})
	if !errors.Is(wrong, blob.ErrDigest) {
		t.Errorf("error %v, want one of the digest", wrong)
	}
	if got := string(w.read("result")); got != "failed:"+wrong.Error() {
		t.Errorf("result %q", got)
	}
	if !bytes.Equal(before, w.read("layer.data")[:1<<20]) {
		t.Error("the layer was changed")
	}
	if err := Apply(t.Context(), ApplyOptions{Input: input, Config: c, Checksum: "sha256:1"}); err == nil {
		t.Error("a checksum that is none was taken")
	}
	w.must(Apply(t.Context(), ApplyOptions{Input: input, Config: c, Checksum: digest.FromBytes(tar)}))
	if got := string(w.read("result")); got != "success" {
		t.Errorf("result %q", got)
	}
}

func TestApplyRefuses(t *testing.T) {
	t.Parallel()
	w := newWorkshop(t)
	tar := imagetest.Tar(t, imagetest.File("a", strings.Repeat("1", 2000)))
	plain := w.write("plain", tar)
	made := w.native("made", true, []string{plain})
	u := w.upper("layer")
	w.must(Create(t.Context(), CreateOptions{Data: u.Data, Index: u.Index}))
	written := config{Upper: w.upper("made-0")}
	over := config{Lowers: made, Upper: u}
	turbo := over
	turbo.Upper.Target = plain
	for name, c := range map[string]struct {
		err  error
		want error
	}{
		"no configuration":    {Apply(t.Context(), ApplyOptions{Input: plain, Config: w.path("none")}), fs.ErrNotExist},
		"no JSON":             {Apply(t.Context(), ApplyOptions{Input: plain, Config: plain}), nil},
		"no writable layer":   {Apply(t.Context(), ApplyOptions{Input: plain, Config: w.config("1", config{Lowers: made})}), nil},
		"no lower layer":      {Apply(t.Context(), ApplyOptions{Input: plain, Config: w.config("2", config{Lowers: []lower{{File: w.path("none")}}, Upper: u})}), fs.ErrNotExist},
		"layer of a registry": {Apply(t.Context(), ApplyOptions{Input: plain, Config: w.config("3", config{Lowers: []lower{{Digest: "sha256:1"}}, Upper: u})}), blob.ErrUnsupported},
		"lower is no layer":   {Apply(t.Context(), ApplyOptions{Input: plain, Config: w.config("4", config{Lowers: []lower{{File: plain}}, Upper: u})}), blob.ErrCorrupt},
		"mkfs over layers":    {Apply(t.Context(), ApplyOptions{Input: plain, Config: w.config("5", over), MakeFS: true}), blob.ErrUnsupported},
		"mkfs over a file system": {
			Apply(t.Context(), ApplyOptions{Input: plain, Config: w.config("6", written), MakeFS: true}), blob.ErrUnsupported,
		},
		"input is cut off": {
			Apply(t.Context(), ApplyOptions{Input: w.write("cut", tar[:1500]), Config: w.config("7", over)}), blob.ErrCorrupt,
		},
		"input leaves the root": {
			Apply(t.Context(), ApplyOptions{Input: w.write("out", imagetest.Tar(t, imagetest.File("../a", "1"))), Config: w.config("8", over)}), tarfs.ErrPath,
		},
		"turboOCI without target": {ApplyTurbo(t.Context(), TurboOptions{Input: plain, Config: w.config("9", over)}), blob.ErrUnsupported},
		"turboOCI of zstd": {
			ApplyTurbo(t.Context(), TurboOptions{Input: w.write("zstd", imagetest.Zstd(t, tar).Stored), Config: w.turboConfig("10", made)}), blob.ErrUnsupported,
		},
		"turboOCI of gzip members": {
			ApplyTurbo(t.Context(), TurboOptions{
				Input: w.write("members", imagetest.GzipMembers(t, tar).Stored), Config: w.turboConfig("11", made), GzipIndex: w.path("members.meta"),
			}), blob.ErrUnsupported,
		},
		"file system":  {ApplyTurbo(t.Context(), TurboOptions{Input: plain, Config: w.config("12", turbo), FSType: "xfs"}), blob.ErrUnsupported},
		"raw turboOCI": {Apply(t.Context(), ApplyOptions{Input: plain, Config: plain, Raw: true, GzipIndex: w.path("gz")}), blob.ErrUnsupported},
		"raw nothing":  {Apply(t.Context(), ApplyOptions{Input: plain, Config: plain, Raw: true}), blob.ErrCorrupt},
	} {
		if c.err == nil || c.want != nil && !errors.Is(c.err, c.want) {
			t.Errorf("%s: error %v, want %v", name, c.err, c.want)
		}
	}
	if _, err := os.Stat(w.path("members.meta")); !errors.Is(err, fs.ErrNotExist) {
		t.Error("there is an index of several gzip members")
	}
}

// turboConfig makes an empty layer of turboOCI over others.
func (w workshop) turboConfig(name string, lowers []lower) string {
	w.Helper()
	u := w.upper("turbo-" + name)
	w.must(Create(w.Context(), CreateOptions{Data: u.Data, Index: u.Index, Turbo: true}))
	u.Target = w.path("target")
	return w.config(name, config{Lowers: lowers, Upper: u})
}

// Layers of the genuine tools are below ours.
func TestOnTopOfGenuineLayers(t *testing.T) {
	t.Parallel()
	w := newWorkshop(t)
	c := config{Upper: w.upper("top"), Lowers: genuine()}
	before := w.tree(config{Lowers: genuine()}, Ext4)
	w.must(Create(t.Context(), CreateOptions{Data: c.Upper.Data, Index: c.Upper.Index, Sparse: true}))
	input := w.write("layer", imagetest.Tar(t, imagetest.Dir("on"), imagetest.File("on/top", "content")))
	w.must(Apply(t.Context(), ApplyOptions{Input: input, Config: w.config("config", c)}))
	w.must(Commit(t.Context(), CommitOptions{Data: c.Upper.Data, Index: c.Upper.Index, Output: w.path("commit"), Compress: true}))
	after := w.tree(config{Lowers: append(genuine(), lower{File: w.path("commit")})}, Ext4)
	added := slices.DeleteFunc(slices.Clone(after), func(line string) bool { return slices.Contains(before, line) })
	if len(after) != len(before)+2 || len(added) != 2 || !strings.HasPrefix(added[0], "on\td") || !strings.HasPrefix(added[1], "on/top\tf") {
		t.Errorf("%d lines became %d, with %q", len(before), len(after), added)
	}
}

// genuine are the layers that the reference converter made of the edge image.
func genuine() []lower {
	var layers []lower
	for _, d := range []string{
		"7751d980654b289fece04d4f530b7230707b469a0e842a70002c80940b0b885d",
		"54d3c7c7853794c044416965903bdfa3cc096542e00bb7aba42a936e003829a7",
		"066be780023cb23ea33a9c7ae72f90a340dca419d5fd3b2d2b850236eb512b92",
	} {
		layers = append(layers, lower{File: "../formats/overlaybd/testdata/native/blobs/sha256/" + d})
	}
	return layers
}

func TestCancelled(t *testing.T) {
	t.Parallel()
	w := newWorkshop(t)
	made := w.native("made", true, []string{w.write("plain", imagetest.Tar(t, imagetest.File("a", "1")))})
	u := w.upper("made-0")
	before, err := os.ReadDir(w.dir)
	w.must(err)
	c := w.config("made-0.json", config{Lowers: made})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for name, err := range map[string]error{
		"create":   Create(ctx, CreateOptions{Data: w.path("new"), Index: w.path("new.index"), SizeGB: 1, MakeFS: true}),
		"commit":   Commit(ctx, CommitOptions{Data: u.Data, Index: u.Index, Output: w.path("new"), Compress: true}),
		"merge":    Merge(ctx, MergeOptions{Config: c, Output: w.path("new"), Compress: true}),
		"compress": Compress(ctx, CompressOptions{Source: w.path("plain"), Output: w.path("new")}),
		"export":   ExportTar(ctx, w.path("plain"), w.path("new"), ""),
	} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: error %v", name, err)
		}
	}
	after, err := os.ReadDir(w.dir)
	w.must(err)
	if len(before) != len(after) {
		t.Errorf("%d files became %d: %v", len(before), len(after), after)
	}
}
