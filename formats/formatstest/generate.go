package formatstest

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/lazuli-project/lazuli/internal/imagetest"
	"github.com/lazuli-project/lazuli/tarfs"
	"github.com/lazuli-project/lazuli/tree"
)

// op is an entry of a layer before the names that are there at its time are known, so that a failing example can shrink:
// leaving an op out leaves the others what they are.
type op struct {
	kind    opKind
	path    string
	attrs   attributes
	content content
	// other chooses among what is there: the target of a hard link, what a whiteout hides.
	other int
}

type opKind int

const (
	opFile opKind = iota
	opDir
	opSymlink
	opLink
	opWhiteout
	opOpaque
	opSparse
	opFIFO
	opChar
	opBlock
)

type attributes struct {
	mode, sec, nsec int64
	uid, gid        int
	xattrs          []tree.Xattr
}

func (a *attributes) options() []imagetest.Option {
	list := []imagetest.Option{imagetest.Mode(a.mode), imagetest.Owner(a.uid, a.gid), imagetest.At(a.sec, a.nsec)}
	for _, x := range a.xattrs {
		list = append(list, imagetest.Xattr(x.Name, string(x.Value)))
	}
	return list
}

// content is what a file holds.
type content struct {
	size    int
	pattern int
}

// bytes makes the content: zeros, one byte, text that repeats, or what does not compress.
func (c content) bytes() []byte {
	switch c.pattern {
	case 0:
		return make([]byte, c.size)
	case 1:
		return bytes.Repeat([]byte{0x77}, c.size)
	case 2:
		text := "The quick brown fox jumps over the lazy dog.\n"
		return []byte(strings.Repeat(text, c.size/len(text)+1)[:c.size])
	}
	return noise(c.size, uint64(c.pattern))
}

// noise returns bytes that do not compress (xorshift64).
func noise(n int, seed uint64) []byte {
	p := make([]byte, n)
	x := seed*0x9e3779b97f4a7c15 + 1
	for i := range p {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		p[i] = byte(x >> 32)
	}
	return p
}

// names are few, so that entries meet.
var names = []string{"a", "b", "c", "dir", "a.b", "Z", "\xff\xfe", "é", " ", strings.Repeat("n", 255)}

func (f *Format) drawAttributes() *rapid.Generator[attributes] {
	values := []string{"", "v", "\x00\xff=\n", strings.Repeat("w", 300)}
	if !f.SmallXattrs {
		values = append(values, string(noise(4000, 9)))
	}
	return rapid.Custom(func(t *rapid.T) attributes {
		a := attributes{
			mode: rapid.SampledFrom([]int64{0o644, 0o755, 0, 0o7777, 0o4755, 0o2755, 0o1777, 0o111}).Draw(t, "mode"),
			sec:  rapid.SampledFrom([]int64{imagetest.Time, 0, -1, -2208988800, 1 << 31, 1 << 32, 253402300799}).Draw(t, "sec"),
			nsec: rapid.SampledFrom([]int64{0, 1, 500_000_000, 999_999_999}).Draw(t, "nsec"),
			uid:  rapid.SampledFrom([]int{0, 1000, 65535, 65536, 1 << 21, 1<<32 - 1}).Draw(t, "uid"),
			gid:  rapid.SampledFrom([]int{0, 1000, 65535, 65536, 1<<21 + 1, 1<<32 - 1}).Draw(t, "gid"),
		}
		prefixes := []string{"user.", "trusted.", "security."}
		for range rapid.SampledFrom([]int{0, 0, 0, 1, 2, 5}).Draw(t, "xattrs") {
			name := rapid.SampledFrom(prefixes).Draw(t, "prefix") + rapid.SampledFrom([]string{"x", "y", "overlay.z", "0", strings.Repeat("l", 200)}).Draw(t, "attribute")
			value := rapid.SampledFrom(values).Draw(t, "value")
			a.xattrs = append(a.xattrs, tree.Xattr{Name: name, Value: []byte(value)})
		}
		if rapid.IntRange(0, 9).Draw(t, "acl") == 0 {
			a.xattrs = append(a.xattrs,
				tree.Xattr{Name: "system.posix_acl_access", Value: []byte("\x02\x00\x00\x00\x01\x00\x06\x00\xff\xff\xff\xff")},
				tree.Xattr{Name: "system.posix_acl_default", Value: []byte("\x02\x00\x00\x00")})
		}
		return a
	})
}

// drawLayers generates layers for a writer that cuts content at multiples of Chunk.
func (f *Format) drawLayers() *rapid.Generator[[][]op] {
	chunk := f.Chunk
	sizes := []int{0, 1, 100, 511, 512, 513, chunk - 1, chunk, chunk + 1, 2 * chunk, 3*chunk + 5}
	attrs := f.drawAttributes()
	one := rapid.Custom(func(t *rapid.T) op {
		depth := rapid.SampledFrom([]int{1, 1, 2, 2, 3}).Draw(t, "depth")
		parts := make([]string, depth)
		for i := range parts {
			parts[i] = rapid.SampledFrom(names).Draw(t, "name")
		}
		return op{
			kind:    opKind(rapid.SampledFrom([]int{0, 0, 0, 0, 1, 1, 2, 3, 3, 4, 4, 5, 6, 7, 8, 9}).Draw(t, "kind")),
			path:    strings.Join(parts, "/"),
			attrs:   attrs.Draw(t, "attributes"),
			content: content{rapid.SampledFrom(sizes).Draw(t, "size"), rapid.IntRange(0, 5).Draw(t, "pattern")},
			other:   rapid.IntRange(0, 1<<16).Draw(t, "other"),
		}
	})
	return rapid.SliceOfN(rapid.SliceOfN(one, 0, 14), 1, 4)
}

// build makes tars of generated layers. What no layer could hold is left out.
func build(tb testing.TB, generated [][]op) [][]byte {
	tb.Helper()
	var below []string // names of the layers below that are no directories
	var layers [][]byte
	for _, ops := range generated {
		var items []imagetest.Item
		var here []string
		b := tarfs.NewBuilder() // finds out what is possible
		for _, o := range ops {
			one := o.item(tb, here, below)
			e, err := tarfs.NewReader(bytes.NewReader(imagetest.Tar(tb, one))).Next()
			if err != nil {
				tb.Fatalf("generated entry: %v", err)
			}
			if _, err := b.Add(e); err != nil {
				continue
			}
			items = append(items, one)
			if o.kind != opDir && o.kind != opWhiteout && o.kind != opOpaque {
				here = append(here, o.path)
			}
		}
		layers = append(layers, imagetest.Tar(tb, items...))
		below = append(below, here...)
	}
	return layers
}

// item makes the entry. here and below are the names that it can refer to.
func (o *op) item(tb testing.TB, here, below []string) imagetest.Item {
	tb.Helper()
	options := o.attrs.options()
	targets := slices.Concat(here, below)
	kind := o.kind
	if len(targets) == 0 && (kind == opLink || kind == opWhiteout) {
		kind = opFile
	}
	switch kind {
	case opDir:
		return imagetest.Dir(o.path, options...)
	case opSymlink:
		target := []string{"a", "/b", "../c", "nowhere", o.path, strings.Repeat("t", 4095), "\xff"}[o.other%7]
		return imagetest.Symlink(o.path, target, options...)
	case opLink:
		return imagetest.Link(o.path, targets[o.other%len(targets)])
	case opWhiteout:
		hidden := targets[o.other%len(targets)]
		if i := strings.IndexByte(hidden, '/'); i > 0 && o.content.pattern == 0 {
			hidden = hidden[:i]
		}
		if base := hidden[strings.LastIndexByte(hidden, '/')+1:]; len(base) > tree.MaxName-len(tarfs.WhiteoutPrefix) {
			return imagetest.Whiteout("a")
		}
		return imagetest.Whiteout(hidden)
	case opOpaque:
		return imagetest.Opaque(o.path)
	case opSparse:
		return o.sparse(tb)
	case opFIFO:
		return imagetest.FIFO(o.path, options...)
	case opChar:
		return imagetest.Char(o.path, int64(o.other&0xff), int64(o.other), options...)
	case opBlock:
		return imagetest.Block(o.path, int64(o.other&0xfff), int64(o.other>>4), options...)
	case opFile:
	}
	return imagetest.File(o.path, string(o.content.bytes()), options...)
}

// sparse makes a file with a piece of its content at a border, between holes.
func (o *op) sparse(tb testing.TB) imagetest.Item {
	tb.Helper()
	if len(o.path) > 100 { // these headers are laid out by hand
		return imagetest.File(o.path, "")
	}
	p := o.content.bytes()
	p = p[:min(len(p), 700)]
	off := int64(o.content.size) &^ 511
	size := off + int64(len(p)) + int64(o.other%3)*5000
	format := imagetest.SparseFormats[o.other%len(imagetest.SparseFormats)]
	if len(p) == 0 {
		return imagetest.Sparse(tb, o.path, format, size)
	}
	return imagetest.Sparse(tb, o.path, format, size, imagetest.Piece{Off: off, Data: string(p)})
}

// String shows an op in a failing example.
func (o op) String() string {
	return fmt.Sprintf("{%d %q mode %o owner %d:%d time %d.%09d, %d xattrs, content %d of kind %d, other %d}", o.kind, o.path, o.attrs.mode,
		o.attrs.uid, o.attrs.gid, o.attrs.sec, o.attrs.nsec, len(o.attrs.xattrs), o.content.size, o.content.pattern, o.other)
}
