package overlaybdtools

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"strings"
	"testing"

	"github.com/lazuli-project/lazuli/blob"
)

func TestCompress(t *testing.T) {
	t.Parallel()
	w := newWorkshop(t)
	for name, content := range map[string]string{"empty": "", "short": "abc", "long": strings.Repeat("some content ", 100_000)} {
		source := w.write(name, []byte(content))
		for kind, o := range map[string]CompressOptions{
			"lz4":   {Source: source},
			"zstd":  {Source: source, Compression: Compression{Algorithm: "zstd", BlockKB: 64}},
			"tar":   {Source: source, Tar: true},
			"stdin": {Stdin: strings.NewReader(content)},
		} {
			o.Output = w.path(name + "-" + kind)
			w.must(Compress(t.Context(), o))
			w.must(Verify(t.Context(), o.Output))
			w.must(Extract(t.Context(), o.Output, o.Output+"-plain", false))
			if got := w.read(name + "-" + kind + "-plain"); string(got) != content {
				t.Errorf("%s %s: %d bytes, want %d", name, kind, len(got), len(content))
			}
		}
		if !bytes.Equal(w.read(name+"-lz4"), w.read(name+"-stdin")) {
			t.Errorf("%s: standard input gives other bytes than a file", name)
		}
	}
}

func TestCompressRefuses(t *testing.T) {
	t.Parallel()
	w := newWorkshop(t)
	source := w.write("source", bytes.Repeat([]byte("content"), 10_000))
	w.must(Compress(t.Context(), CompressOptions{Source: source, Output: w.path("z")}))
	z := w.read("z")
	z[600] ^= 1
	damaged := w.write("damaged", z)
	for name, c := range map[string]struct{ err, want error }{
		"output is there": {Compress(t.Context(), CompressOptions{Source: source, Output: w.path("z")}), fs.ErrExist},
		"no source":       {Compress(t.Context(), CompressOptions{Source: w.path("none"), Output: w.path("out")}), fs.ErrNotExist},
		"source is a folder": {
			Compress(t.Context(), CompressOptions{Source: w.dir, Output: w.path("out")}), nil,
		},
		"block size":         {Compress(t.Context(), CompressOptions{Source: source, Output: w.path("out"), Compression: Compression{BlockKB: 3}}), nil},
		"verify damage":      {Verify(t.Context(), damaged), blob.ErrDigest},
		"verify no ZFile":    {Verify(t.Context(), source), blob.ErrCorrupt},
		"extract damage":     {Extract(t.Context(), damaged, w.path("out"), false), blob.ErrDigest},
		"extract no ZFile":   {Extract(t.Context(), source, w.path("out"), false), blob.ErrCorrupt},
		"extract over files": {Extract(t.Context(), w.path("z"), source, false), fs.ErrExist},
	} {
		if c.err == nil || c.want != nil && !errors.Is(c.err, c.want) {
			t.Errorf("%s: error %v, want %v", name, c.err, c.want)
		}
	}
	if _, err := os.Stat(w.path("out")); err == nil {
		t.Error("there is an output")
	}
	w.must(Extract(t.Context(), w.path("z"), source, true))
	w.must(Verify(t.Context(), genuine()[0].File))
}
