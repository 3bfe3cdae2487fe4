package formatstest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"testing"

	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"pgregory.net/rapid"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/tarfs"
	"github.com/lazuli-project/lazuli/tree"
)

// flat is a format for these tests: all layers merged into one tar. bug changes what is merged; nil for none.
type flat struct {
	bug func(t *tree.Tree, contents map[*tree.Node][]byte)
}

const flatType = "application/x-flat"

func (*flat) Name() string    { return "flat" }
func (*flat) Version() string { return "1" }

func (*flat) Layer(ctx context.Context, _ formats.LayerSource, _ formats.Sink) (formats.LayerWriter, error) {
	return &flatLayer{ctx: ctx}, nil
}

// flatLayer keeps the content of a layer in memory.
type flatLayer struct {
	ctx     context.Context
	content []byte
	left    int64
}

func (l *flatLayer) Entry(e *tarfs.Entry, n *tree.Node) error {
	if l.left != 0 {
		return io.ErrUnexpectedEOF
	}
	l.left = e.Size
	if e.Size > 0 {
		n.Extents = []tree.Extent{{Offset: int64(len(l.content)), Length: e.Size}}
	}
	return nil
}

func (l *flatLayer) Data(p []byte) error {
	if l.left -= int64(len(p)); l.left < 0 {
		return blob.ErrCorrupt
	}
	l.content = append(l.content, p...)
	return nil
}

func (l *flatLayer) Close(t *tree.Tree) (formats.Layer, error) {
	if l.left != 0 {
		return formats.Layer{}, io.ErrUnexpectedEOF
	}
	if l.ctx.Err() != nil {
		return formats.Layer{}, context.Cause(l.ctx)
	}
	return formats.Layer{Tree: t, Data: l.content}, nil
}

func (*flatLayer) Abort() {}

func (f *flat) Finish(ctx context.Context, layers []formats.Layer, src *formats.Manifest, sink formats.Sink) (*formats.Result, error) {
	var trees []*tree.Tree
	for _, l := range layers {
		trees = append(trees, l.Tree)
	}
	merged, err := tarfs.MergeBlobs(trees, func(layer int, _ uint32) uint32 { return uint32(layer) })
	if err != nil {
		return nil, err
	}
	contents := make(map[*tree.Node][]byte)
	err = merged.Nodes(func(n *tree.Node) error {
		for _, x := range n.Extents {
			contents[n] = append(contents[n], layers[x.Blob].Data.([]byte)[x.Offset:][:x.Length]...)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if f.bug != nil {
		f.bug(merged, contents)
	}
	merged.CountLinks()
	var tar bytes.Buffer
	err = tarfs.WriteTar(&tar, merged, func(_ string, n *tree.Node, w io.Writer) error {
		_, err := w.Write(contents[n])
		return err
	})
	if err != nil {
		return nil, err
	}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, Layers: []ocispec.Descriptor{formats.DigestOf(flatType, tar.Bytes())}}
	m.Config = formats.DigestOf(ocispec.MediaTypeImageConfig, src.ConfigRaw)
	raw, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	err = errors.Join(sink.Put(ctx, m.Layers[0], tar.Bytes()), sink.Put(ctx, m.Config, src.ConfigRaw))
	return &formats.Result{Desc: formats.DigestOf(ocispec.MediaTypeImageManifest, raw), Manifest: raw}, err
}

// flatReader reads what flat writes.
type flatReader struct{}

func (flatReader) Name() string { return "flat" }

func (flatReader) Recognize(m *formats.Manifest) bool {
	return len(m.Manifest.Layers) == 1 && m.Manifest.Layers[0].MediaType == flatType
}

func (flatReader) Open(ctx context.Context, m *formats.Manifest, s formats.Sources) (*formats.Image, error) {
	stream := func(ctx context.Context) (io.ReadCloser, error) { return s.Fetch(ctx, m.Manifest.Layers[0]) }
	rc, err := stream(ctx)
	if err != nil {
		return nil, err
	}
	tar, err := io.ReadAll(rc)
	if err = errors.Join(err, rc.Close()); err != nil {
		return nil, err
	}
	t, err := readTar(bytes.NewReader(tar), func(e *tarfs.Entry, n *tree.Node) error {
		if e.Hardlink == "" {
			n.Extents = e.Data
		}
		return nil
	}, func([]byte) error { return nil })
	if err != nil {
		return nil, err
	}
	t, err = tarfs.Merge([]*tree.Tree{t})
	return &formats.Image{Format: "flat", Tree: t, Blobs: []formats.Blob{{Stream: stream, PlainSize: int64(len(tar))}}}, err
}

func flatFormat(bug func(*tree.Tree, map[*tree.Node][]byte)) Format {
	f := Format{Writer: func(testing.TB, *formats.CPU) formats.Writer { return &flat{bug} }, Reader: flatReader{}}
	f.setDefaults()
	return f
}

// TestFlat runs everything on a format that has no chunks and streams.
func TestFlat(t *testing.T) { Run(t, flatFormat(nil)) }

// TestFindsBugs proves that the kit fails for writers with mistakes.
func TestFindsBugs(t *testing.T) {
	t.Parallel()
	for name, bug := range map[string]func(*tree.Tree, map[*tree.Node][]byte){
		"mode":       func(t *tree.Tree, _ map[*tree.Node][]byte) { t.Lookup("etc").Mode ^= 1 },
		"group":      func(t *tree.Tree, _ map[*tree.Node][]byte) { t.Lookup("etc/a").GID++ },
		"nanosecond": func(t *tree.Tree, _ map[*tree.Node][]byte) { t.Lookup("etc").MtimeNsec++ },
		"xattr":      func(t *tree.Tree, _ map[*tree.Node][]byte) { t.Lookup("etc/a").Xattrs = nil },
		"target":     func(t *tree.Tree, _ map[*tree.Node][]byte) { t.Lookup("link").Target += "x" },
		"device":     func(t *tree.Tree, _ map[*tree.Node][]byte) { t.Lookup("null").Rdev.Minor++ },
		"byte":       func(t *tree.Tree, c map[*tree.Node][]byte) { c[t.Lookup("etc/large")][5000]++ },
		"missing":    func(t *tree.Tree, _ map[*tree.Node][]byte) { t.Root.Remove("again") },
		"whiteout":   func(t *tree.Tree, _ map[*tree.Node][]byte) { t.Root.Put("etc2", &tree.Node{Mode: tree.TypeDir}) },
		"hard link": func(t *tree.Tree, c map[*tree.Node][]byte) {
			n := *t.Lookup("hard")
			c[&n] = c[t.Lookup("hard")]
			t.Root.Put("hard", &n)
		},
	} {
		f := flatFormat(bug)
		if err := f.roundTrip(t, f.Writer(t, nil), variedLayers(t, f.Chunk), manner{final: true}); err == nil {
			t.Errorf("%s: the mistake passes", name)
		}
	}
	f := flatFormat(nil)
	if err := f.roundTrip(t, f.Writer(t, nil), variedLayers(t, f.Chunk), manner{final: true}); err != nil {
		t.Error(err)
	}
}

// TestGenerates proves that what is generated is not trivial: most stacks are possible, and have what makes them hard.
func TestGenerates(t *testing.T) {
	t.Parallel()
	var stacks, refused, hidden, linked, entries int
	rapid.Check(t, func(rt *rapid.T) {
		layers := build(t, (&Format{Chunk: 4096}).drawLayers().Draw(rt, "layers"))
		lines, err := expected(layers)
		stacks++
		if err != nil {
			refused++
			return
		}
		entries += len(lines)
		sum := 0
		for _, l := range layers {
			alone, err := expected([][]byte{l})
			if err != nil {
				linked++ // to a lower layer
				break
			}
			sum += len(alone) - 1
		}
		if sum > len(lines)-1 {
			hidden++
		}
	})
	t.Logf("%d stacks: %d refused, %d with hidden entries, %d with links to lower layers, %d entries", stacks, refused, hidden, linked, entries)
	if refused > stacks/2 || hidden < stacks/10 || linked < stacks/50 || entries < 5*stacks {
		t.Error("too simple")
	}
}

func TestPlaces(t *testing.T) {
	t.Parallel()
	const wholeObject = 2 << 10
	for _, n := range []int{0, 1, 100, wholeObject, wholeObject + 1, 1 << 20} {
		list := places(n, wholeObject, 512)
		if n <= wholeObject && len(list) != n || len(list) > wholeObject || n > 0 && (list[0] != 0 || list[len(list)-1] != n-1) {
			t.Errorf("%d places of %d", len(list), n)
		}
	}
}
