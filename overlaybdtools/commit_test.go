package overlaybdtools

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"testing"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/formats/overlaybd/layerfile"
	"github.com/lazuli-project/lazuli/formats/overlaybd/lsmt"
	"github.com/lazuli-project/lazuli/formats/overlaybd/zfile"
	"github.com/lazuli-project/lazuli/internal/imagetest"
)

// stored opens a finished layer.
func (w workshop) stored(name string) *layerfile.File {
	w.Helper()
	p := w.read(name)
	f, err := layerfile.Open(w.Context(), blob.ReaderAtSource{R: bytes.NewReader(p), N: int64(len(p))})
	w.must(err)
	return f
}

const (
	someUUID    = "01bb4fce-3eb1-b56b-05ad-f99504dafd31"
	someParent  = "11bb4fce-3eb1-b56b-05ad-f99504dafd32"
	otherParent = "21BB4FCE-3EB1-B56B-05AD-F99504DAFD33"
)

func TestCommitOptions(t *testing.T) {
	t.Parallel()
	w := newWorkshop(t)
	u := w.upper("layer")
	w.must(Create(t.Context(), CreateOptions{Data: u.Data, Index: u.Index, SizeGB: 1, Sparse: true, Parent: otherParent}))
	layer := imagetest.Edge(t).Layers[0].Tar
	w.must(Apply(t.Context(), ApplyOptions{Input: w.write("tar", layer), Config: w.config("config", config{Upper: u}), MakeFS: true}))
	for i, c := range []struct {
		opt  CommitOptions
		want lsmt.Info
	}{
		{opt: CommitOptions{}},
		{opt: CommitOptions{Tar: true}},
		{opt: CommitOptions{Compress: true}},
		{opt: CommitOptions{Compress: true, Compression: Compression{Threads: 1}}},
		{opt: CommitOptions{Compress: true, Tar: true, Compression: Compression{Algorithm: "lz4", BlockKB: 32}}},
		{opt: CommitOptions{Compress: true, Compression: Compression{Algorithm: "zstd", BlockKB: 16, Threads: 7}}},
		{opt: CommitOptions{UUID: someUUID}, want: lsmt.Info{UUID: strings.ToUpper(someUUID)}},
		{opt: CommitOptions{Parent: someParent, Message: "a message"}, want: lsmt.Info{Parent: strings.ToUpper(someParent), UserTag: "a message"}},
	} {
		o := c.opt
		o.Data, o.Index, o.Output = u.Data, u.Index, w.path(fmt.Sprint("out-", i))
		w.must(Commit(t.Context(), o))
		f := w.stored(fmt.Sprint("out-", i))
		if f.Tar != o.Tar || f.Compressed != o.Compress {
			t.Errorf("commit %d: in a tar %t, compressed %t", i, f.Tar, f.Compressed)
		}
		if z, ok := f.Layout.(*zfile.Layout); ok && (z.BlockSize() != max(o.Compression.BlockKB, 4)<<10 || o.Compression.Algorithm == "zstd" != (z.Algorithm() == zfile.Zstd)) {
			t.Errorf("commit %d: %s in blocks of %d", i, z.Algorithm(), z.BlockSize())
		}
		want := c.want
		want.VirtualSize = 1 << 30
		if want.Parent == "" {
			want.Parent = otherParent
		}
		if f.Layer.Info != want {
			t.Errorf("commit %d: %+v, want %+v", i, f.Layer.Info, want)
		}
		w.same(imagetest.EdgeLayer0(t), w.tree(config{Lowers: []lower{{File: o.Output}}}, Ext4))
	}
	if !bytes.Equal(w.read("out-2"), w.read("out-3")) {
		t.Error("the number of threads changes the layer")
	}
}

func TestSeal(t *testing.T) {
	t.Parallel()
	for _, sparse := range []bool{true, false} {
		w := newWorkshop(t)
		u := w.upper("layer")
		w.must(Create(t.Context(), CreateOptions{Data: u.Data, Index: u.Index, SizeGB: 1, Sparse: sparse, MakeFS: true}))
		w.must(Apply(t.Context(), ApplyOptions{Input: w.edge("edge", plainTar)[0], Config: w.config("config", config{Upper: u})}))
		w.must(Commit(t.Context(), CommitOptions{Data: u.Data, Index: u.Index, Output: w.path("commit")}))
		w.must(Seal(u.Data, u.Index))
		w.must(os.MkdirAll(w.path("dir"), 0o755))
		w.must(os.Rename(u.Data, w.path("dir/overlaybd.sealed")))
		w.same(imagetest.EdgeLayer0(t), w.tree(config{Lowers: []lower{{Dir: w.path("dir")}}}, Ext4))
		// As the snapshotter calls it, the output stands in place of the index.
		w.must(Commit(t.Context(), CommitOptions{Data: w.path("dir/overlaybd.sealed"), Output: w.path("again"), Sealed: true}))
		if !bytes.Equal(w.read("commit"), w.read("again")) {
			t.Errorf("sparse %t: the sealed layer gives another one than the writable layer", sparse)
		}
	}
}

func TestCommitRefuses(t *testing.T) {
	t.Parallel()
	w := newWorkshop(t)
	u, turbo := w.upper("layer"), w.upper("turbo")
	w.must(Create(t.Context(), CreateOptions{Data: u.Data, Index: u.Index, SizeGB: 1, MakeFS: true}))
	w.must(Create(t.Context(), CreateOptions{Data: turbo.Data, Index: turbo.Index, SizeGB: 1, Turbo: true, MakeFS: true}))
	there := w.write("there", []byte("old"))
	out := w.path("out")
	for name, c := range map[string]struct {
		opt  CommitOptions
		want error
	}{
		"output is there":      {CommitOptions{Data: u.Data, Index: u.Index, Output: there}, fs.ErrExist},
		"output is a folder":   {CommitOptions{Data: u.Data, Index: u.Index, Output: w.dir, Replace: true}, nil},
		"no output":            {CommitOptions{Data: u.Data, Index: u.Index}, fs.ErrNotExist},
		"no data":              {CommitOptions{Data: w.path("none"), Index: u.Index, Output: out}, fs.ErrNotExist},
		"no index":             {CommitOptions{Data: u.Data, Index: w.path("none"), Output: out}, fs.ErrNotExist},
		"algorithm":            {CommitOptions{Data: u.Data, Index: u.Index, Output: out, Compression: Compression{Algorithm: "gzip"}}, nil},
		"block size":           {CommitOptions{Data: u.Data, Index: u.Index, Output: out, Compression: Compression{BlockKB: 5}}, nil},
		"large block size":     {CommitOptions{Data: u.Data, Index: u.Index, Output: out, Compression: Compression{BlockKB: 128}}, nil},
		"UUID":                 {CommitOptions{Data: u.Data, Index: u.Index, Output: out, UUID: "01bb4fce"}, nil},
		"parent":               {CommitOptions{Data: u.Data, Index: u.Index, Output: out, Parent: someParent + "0"}, nil},
		"long message":         {CommitOptions{Data: u.Data, Index: u.Index, Output: out, Message: strings.Repeat("m", 257)}, blob.ErrUnsupported},
		"turbo as native":      {CommitOptions{Data: turbo.Data, Index: turbo.Index, Output: out}, blob.ErrCorrupt},
		"native as turbo":      {CommitOptions{Data: u.Data, Index: u.Data, Output: out, Turbo: true}, blob.ErrCorrupt},
		"sealed, but is not":   {CommitOptions{Data: u.Data, Output: out, Sealed: true}, blob.ErrCorrupt},
		"data that is no disk": {CommitOptions{Data: there, Index: u.Index, Output: out}, nil},
	} {
		if err := Commit(t.Context(), c.opt); err == nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: error %v, want %v", name, err, c.want)
		}
		if _, err := os.Stat(out); err == nil {
			t.Errorf("%s: there is an output", name)
		}
	}
	if string(w.read("there")) != "old" {
		t.Error("the file that was there has changed")
	}
	w.must(Commit(t.Context(), CommitOptions{Data: u.Data, Index: u.Index, Output: there, Replace: true}))
	w.stored("there")
	if err := Seal(turbo.Data, turbo.Index); err == nil {
		t.Error("a layer of turboOCI was sealed")
	}
}

func TestCreateRefuses(t *testing.T) {
	t.Parallel()
	w := newWorkshop(t)
	there := w.write("there", nil)
	for name, o := range map[string]CreateOptions{
		"data is there":      {Data: there, Index: w.path("index"), SizeGB: 1},
		"index is there":     {Data: w.path("data"), Index: there, SizeGB: 1},
		"size":               {Data: w.path("data"), Index: w.path("index"), SizeGB: 1 << 60},
		"parent":             {Data: w.path("data"), Index: w.path("index"), SizeGB: 1, Parent: "x"},
		"mkfs without size":  {Data: w.path("data"), Index: w.path("index"), MakeFS: true},
		"mkfs on a large":    {Data: w.path("data"), Index: w.path("index"), SizeGB: 1 << 20, MakeFS: true},
		"mkfs without size,": {Data: w.path("data"), Index: w.path("index"), MakeFS: true, Raw: true},
	} {
		if err := Create(t.Context(), o); err == nil {
			t.Errorf("%s: no error", name)
		}
		files, err := os.ReadDir(w.dir)
		w.must(err)
		if len(files) != 1 {
			t.Errorf("%s: files are left: %v", name, files)
		}
	}
}

func TestMerge(t *testing.T) {
	t.Parallel()
	w := newWorkshop(t)
	inputs := w.edge("gzip", storedTar)
	native := w.native("native", false, inputs)
	top := config{Lowers: native[:2], Upper: w.upper("native-2"), ResultFile: w.path("result")}
	prefetch := config{Lowers: append(native[:3:3], lower{Dir: w.path("prefetch")}), AccelerationLayer: true}
	for name, c := range map[string]struct {
		config config
		opt    MergeOptions
		fsType string
	}{
		"plain":    {config{Lowers: native}, MergeOptions{}, Ext4},
		"tar":      {config{Lowers: native}, MergeOptions{Compress: true, Tar: true}, Ext4},
		"zstd":     {prefetch, MergeOptions{Compress: true, Compression: Compression{Algorithm: "zstd", BlockKB: 32}}, Ext4},
		"writable": {top, MergeOptions{Compress: true}, Ext4},
		"turbo":    {config{Lowers: w.turbo("turbo", Ext4, inputs, true)}, MergeOptions{Compress: true}, Ext4},
		"erofs":    {config{Lowers: w.turbo("erofs", EROFS, inputs, true)}, MergeOptions{Compress: true}, EROFS},
	} {
		o := c.opt
		o.Config, o.Output = w.config(name+".json", c.config), w.write("merged-"+name, []byte("replaced"))
		w.must(Merge(t.Context(), o))
		f := w.stored("merged-" + name)
		if f.Tar != o.Tar || f.Compressed != o.Compress || f.Layer.Remote || f.Layer.Info != (lsmt.Info{VirtualSize: 1 << 30}) {
			t.Errorf("%s: %+v, in a tar %t, compressed %t", name, f.Layer.Info, f.Tar, f.Compressed)
		}
		w.same(imagetest.EdgeTree(t), w.tree(config{Lowers: []lower{{File: o.Output}}}, c.fsType))
	}
	if got := string(w.read("result")); got != "success" {
		t.Errorf("result %q", got)
	}
	w.must(Merge(t.Context(), MergeOptions{Config: w.config("genuine", config{Lowers: genuine()}), Output: w.path("genuine-merged"), Compress: true}))
	w.same(w.tree(config{Lowers: genuine()}, Ext4), w.tree(config{Lowers: []lower{{File: w.path("genuine-merged")}}}, Ext4))
	for name, c := range map[string]config{
		"nothing":        {},
		"turbo on top":   {Lowers: native, Upper: upper{Data: top.Upper.Data, Index: top.Upper.Index, Target: inputs[0]}},
		"no content":     {Lowers: []lower{{File: w.path("turbo-0.fs.meta"), TargetDigest: "sha256:1"}}},
		"another target": {Lowers: []lower{{File: w.path("turbo-0.fs.meta"), TargetFile: inputs[1], GzipIndex: w.path("turbo-0.gz.meta")}}},
	} {
		if err := Merge(t.Context(), MergeOptions{Config: w.config("refused", c), Output: w.path("refused-out")}); err == nil {
			t.Errorf("%s: no error", name)
		}
		if _, err := os.Stat(w.path("refused-out")); err == nil {
			t.Errorf("%s: there is an output", name)
		}
	}
}
