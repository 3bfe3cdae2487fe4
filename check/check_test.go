package check_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/check"
	"github.com/lazuli-project/lazuli/fetch"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/tree"
)

// sum is a layout with spans of 1000 bytes, stored as they are, and their digests.
type sum struct {
	plain []byte
	sums  []digest.Digest // "" has none
}

const spanSize = 1000

func (s *sum) Size() int64          { return int64(len(s.plain)) }
func (s *sum) NumSpans() int        { return (len(s.plain) + spanSize - 1) / spanSize }
func (s *sum) SpanAt(off int64) int { return int(off / spanSize) }

func (s *sum) Span(i int) blob.Span {
	r := blob.Range{Off: int64(i) * spanSize, Len: min(spanSize, s.Size()-int64(i)*spanSize)}
	return blob.Span{Index: i, Plain: r, Stored: r}
}

func (s *sum) Decode(plain, stored []byte, _ blob.Span) error {
	copy(plain, stored)
	return nil
}

func (s *sum) Verify(plain []byte, span blob.Span) error {
	switch s.sums[span.Index] {
	case "":
		return blob.ErrUnverified
	case digest.FromBytes(plain):
		return nil
	}
	return blob.ErrDigest
}

// contents is what the files of the test trees hold.
func contents() []byte {
	p := make([]byte, 5500)
	for i := range p {
		p[i] = byte(i * 7 >> 3)
	}
	return p
}

// files makes the tree that is compared: every type, attributes, hard links, a hole.
func files() *tree.Tree {
	t := tree.New()
	t.Root.Mtime = 5
	put := func(dir *tree.Node, name string, n *tree.Node) *tree.Node {
		n.Mtime, n.MtimeNsec, n.UID, n.GID = 1700000000, 123, 1000, 100
		dir.Put(name, n)
		return n
	}
	dir := put(t.Root, "dir", &tree.Node{Mode: tree.TypeDir | 0o755})
	put(t.Root, "file", &tree.Node{Mode: tree.TypeRegular | 0o644, Size: 3000, Extents: []tree.Extent{{Length: 3000}}})
	hard := put(dir, "hard", &tree.Node{Mode: tree.TypeRegular | 0o600, Size: 10, Extents: []tree.Extent{{Offset: 3000, Length: 10}}})
	dir.Put("hard2", hard)
	pair := put(dir, "pair", &tree.Node{Mode: tree.TypeRegular | 0o600, Size: 10, Extents: []tree.Extent{{Offset: 3000, Length: 10}}})
	dir.Put("pair2", pair)
	sparse := put(dir, "sparse", &tree.Node{Mode: tree.TypeRegular | 0o600, Size: 100, Extents: []tree.Extent{{Blob: tree.Hole, Length: 90}, {Offset: 5000, Length: 10}}})
	sparse.SetXattr("user.a", []byte("1"))
	sparse.SetXattr("user.b", []byte("2"))
	put(t.Root, "link", &tree.Node{Mode: tree.TypeSymlink | 0o777, Target: "file"})
	put(t.Root, "null", &tree.Node{Mode: tree.TypeChar | 0o666, Rdev: tree.Device{Major: 1, Minor: 3}})
	put(t.Root, "disk", &tree.Node{Mode: tree.TypeBlock | 0o660, Rdev: tree.Device{Major: 8}})
	put(t.Root, "fifo", &tree.Node{Mode: tree.TypeFIFO | 0o600})
	put(t.Root, "empty", &tree.Node{Mode: tree.TypeRegular | 0o600})
	t.CountLinks()
	return t
}

// open makes an image of a tree. stored is what the blob holds, plain what it should.
func open(tb testing.TB, t *tree.Tree, plain, stored []byte) *fetch.Image {
	tb.Helper()
	l := &sum{plain: plain}
	for off := 0; off < len(plain); off += spanSize {
		l.sums = append(l.sums, digest.FromBytes(plain[off:min(off+spanSize, len(plain))]))
	}
	return openBlob(tb, t, formats.Blob{
		Desc: ocispec.Descriptor{Digest: digest.FromBytes(plain), Size: int64(len(plain))}, Layout: l, PlainSize: int64(len(plain)),
		Open: func(context.Context) (blob.Source, error) {
			return blob.ReaderAtSource{R: bytes.NewReader(stored), N: int64(len(stored))}, nil
		},
	})
}

func openBlob(tb testing.TB, t *tree.Tree, b formats.Blob) *fetch.Image {
	tb.Helper()
	im, err := fetch.NewImage(&formats.Image{Format: "test", Tree: t, Blobs: []formats.Blob{b}}, fetch.Options{})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = im.Close() })
	return im
}

func TestCompare(t *testing.T) {
	t.Parallel()
	at := func(path string, change func(n *tree.Node)) func(*tree.Tree, []byte) {
		return func(t *tree.Tree, _ []byte) { change(t.Lookup(path)) }
	}
	for name, c := range map[string]struct {
		change func(t *tree.Tree, content []byte)
		want   []string // path and attribute of each difference
	}{
		"nothing":            {func(*tree.Tree, []byte) {}, nil},
		"mode":               {at("file", func(n *tree.Node) { n.Mode ^= 0o4000 }), []string{"file mode"}},
		"mode of a link":     {at("link", func(n *tree.Node) { n.Mode ^= 1 }), []string{"link mode"}},
		"mode of root":       {at("", func(n *tree.Node) { n.Mode ^= 1 }), []string{" mode"}},
		"user":               {at("dir", func(n *tree.Node) { n.UID++ }), []string{"dir owner"}},
		"group":              {at("fifo", func(n *tree.Node) { n.GID++ }), []string{"fifo owner"}},
		"second":             {at("link", func(n *tree.Node) { n.Mtime++ }), []string{"link time"}},
		"nanosecond":         {at("dir", func(n *tree.Node) { n.MtimeNsec++ }), []string{"dir time"}},
		"time of root":       {at("", func(n *tree.Node) { n.Mtime-- }), []string{" time"}},
		"target":             {at("link", func(n *tree.Node) { n.Target = "dir" }), []string{"link link target"}},
		"major":              {at("null", func(n *tree.Node) { n.Rdev.Major++ }), []string{"null device"}},
		"minor":              {at("disk", func(n *tree.Node) { n.Rdev.Minor++ }), []string{"disk device"}},
		"value of xattr":     {at("dir/sparse", func(n *tree.Node) { n.SetXattr("user.a", []byte("2")) }), []string{"dir/sparse xattr user.a"}},
		"missing xattr":      {at("dir/sparse", func(n *tree.Node) { n.RemoveXattr("user.b") }), []string{"dir/sparse xattr user.b"}},
		"other xattr":        {at("dir/sparse", func(n *tree.Node) { n.RemoveXattr("user.b"); n.SetXattr("user.c", []byte("2")) }), []string{"dir/sparse xattr user.b", "dir/sparse xattr user.c"}},
		"empty xattr":        {at("link", func(n *tree.Node) { n.SetXattr("user.e", nil) }), []string{"link xattr user.e"}},
		"type":               {at("fifo", func(n *tree.Node) { n.Mode = tree.TypeSocket | 0o600 }), []string{"fifo type"}},
		"block for char":     {at("null", func(n *tree.Node) { n.Mode = tree.TypeBlock | 0o666 }), []string{"null type"}},
		"file for a link":    {at("link", func(n *tree.Node) { n.Mode, n.Target = tree.TypeRegular|0o777, "" }), []string{"link type"}},
		"size":               {at("file", func(n *tree.Node) { n.Size, n.Extents = 2999, []tree.Extent{{Length: 2999}} }), []string{"file size"}},
		"missing":            {at("", func(n *tree.Node) { n.Remove("fifo") }), []string{"fifo entry"}},
		"missing last":       {at("", func(n *tree.Node) { n.Remove("null") }), []string{"null entry"}},
		"missing directory":  {at("", func(n *tree.Node) { n.Remove("dir") }), []string{"dir entry"}},
		"extra":              {at("dir", func(n *tree.Node) { n.Put("z", &tree.Node{Mode: tree.TypeFIFO}) }), []string{"dir/z entry"}},
		"extra first":        {at("dir", func(n *tree.Node) { n.Put("a", &tree.Node{Mode: tree.TypeDir}) }), []string{"dir/a entry"}},
		"first byte":         {func(_ *tree.Tree, p []byte) { p[0]++ }, []string{"file content"}},
		"a byte":             {func(_ *tree.Tree, p []byte) { p[2999]++ }, []string{"file content"}},
		"byte behind a hole": {func(_ *tree.Tree, p []byte) { p[5009]++ }, []string{"dir/sparse content"}},
		"shared bytes":       {func(_ *tree.Tree, p []byte) { p[3000]++ }, []string{"dir/hard content", "dir/pair content"}},
		"unused byte":        {func(_ *tree.Tree, p []byte) { p[5400]++ }, nil},
		"no hole":            {at("dir/sparse", func(n *tree.Node) { n.Extents = []tree.Extent{{Offset: 4910, Length: 100}} }), []string{"dir/sparse content"}},
		"hard link apart": {at("dir", func(n *tree.Node) {
			own := *n.Child("hard")
			n.Put("hard2", &own)
		}), []string{"dir/hard link count", "dir/hard2 link count", "dir/hard2 hard link"}},
		"one hard link more": {at("", func(n *tree.Node) { n.Put("more", n.Child("dir").Child("hard")) }), []string{"dir/hard link count", "dir/hard2 link count", "more entry"}},
		// Link counts and contents stay the same.
		"other names of hard links": {at("dir", func(n *tree.Node) {
			hard, pair := n.Child("hard2"), n.Child("pair2")
			n.Put("hard2", pair)
			n.Put("pair2", hard)
		}), []string{"dir/hard2 hard link", "dir/pair2 hard link"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tr, p := files(), contents()
			c.change(tr, p)
			tr.CountLinks()
			var got []string
			err := check.Compare(t.Context(), open(t, files(), contents(), contents()), open(t, tr, p, p), func(d check.Difference) error {
				if d.Want == d.Got || !strings.Contains(d.String(), d.Path) {
					t.Errorf("%s", d)
				}
				got = append(got, d.Path+" "+d.What)
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(slices.Sorted(slices.Values(got)), slices.Sorted(slices.Values(c.want))) {
				t.Errorf("%q instead of %q", got, c.want)
			}
		})
	}
}

// The offset of a difference is told, also behind the window in which files are compared.
func TestCompareOffset(t *testing.T) {
	t.Parallel()
	large := func() *tree.Tree {
		tr := tree.New()
		tr.Root.Put("large", &tree.Node{Mode: tree.TypeRegular, Size: 3 << 20, Extents: []tree.Extent{{Length: 3 << 20}}})
		tr.CountLinks()
		return tr
	}
	p, q := make([]byte, 3<<20), make([]byte, 3<<20)
	q[2<<20+77], q[2<<20+99] = 1, 1
	var got []check.Difference
	err := check.Compare(t.Context(), open(t, large(), p, p), open(t, large(), q, q), func(d check.Difference) error {
		got = append(got, d)
		return nil
	})
	if err != nil || len(got) != 1 || !strings.Contains(got[0].Got, "2097229") {
		t.Errorf("%v, %v", got, err)
	}
}

func TestCompareEnds(t *testing.T) {
	t.Parallel()
	tr := files()
	tr.Lookup("file").Mode ^= 1
	tr.Lookup("link").Target = "x"
	errEnough := errors.New("enough")
	calls := 0
	p := contents()
	err := check.Compare(t.Context(), open(t, files(), p, p), open(t, tr, p, p), func(check.Difference) error {
		calls++
		return errEnough
	})
	if !errors.Is(err, errEnough) || calls != 1 {
		t.Errorf("%v after %d calls", err, calls)
	}
	bad := contents()
	bad[2500] ^= 4
	for name, im := range map[string][2]*fetch.Image{
		"image":  {open(t, files(), p, p), open(t, files(), p, bad)},
		"source": {open(t, files(), p, bad), open(t, files(), p, p)},
	} {
		err := check.Compare(t.Context(), im[0], im[1], func(d check.Difference) error { return errors.New(d.String()) })
		if !errors.Is(err, blob.ErrDigest) || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "file") {
			t.Errorf("damaged %s: %v", name, err)
		}
	}
}

func TestVerify(t *testing.T) {
	t.Parallel()
	p := contents()
	f, err := check.Verify(t.Context(), open(t, files(), p, p))
	if err != nil || f != (check.Figures{Blobs: 1, Spans: 6, Plain: 5500, Stored: 5500}) {
		t.Errorf("%+v, %v", f, err)
	}
	// Every byte counts, whether a file uses it or not.
	for _, at := range []int{0, 999, 1000, 4500, 5499} {
		bad := contents()
		bad[at] ^= 0x20
		if _, err := check.Verify(t.Context(), open(t, files(), p, bad)); !errors.Is(err, blob.ErrDigest) {
			t.Errorf("byte %d changed: %v", at, err)
		}
	}
	if _, err := check.Verify(t.Context(), open(t, files(), p, p[:5000])); !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, blob.ErrCorrupt) {
		t.Errorf("cut: %v", err)
	}
	for name, change := range map[string]func(t *tree.Tree){
		"extent outside": func(t *tree.Tree) { t.Lookup("file").Extents[0].Offset = 3000 },
		"gap":            func(t *tree.Tree) { t.Lookup("file").Size++ },
		"bad name":       func(t *tree.Tree) { t.Root.Put("a/b", &tree.Node{Mode: tree.TypeFIFO}) },
	} {
		tr := files()
		change(tr)
		if _, err := check.Verify(t.Context(), open(t, tr, p, p)); !errors.Is(err, blob.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
	unverified := &sum{plain: p, sums: make([]digest.Digest, 6)}
	f, err = check.Verify(t.Context(), openBlob(t, files(), formats.Blob{Layout: unverified, PlainSize: 5500, Open: func(context.Context) (blob.Source, error) {
		return blob.ReaderAtSource{R: bytes.NewReader(p), N: 5500}, nil
	}}))
	if err != nil || f.Unverified != 6 {
		t.Errorf("without digests: %+v, %v", f, err)
	}
}

// Blobs that stream are verified at their ends.
func TestVerifyStream(t *testing.T) {
	t.Parallel()
	p := contents()
	for want, end := range map[error]error{nil: io.EOF, blob.ErrDigest: blob.ErrDigest} {
		im := openBlob(t, files(), formats.Blob{PlainSize: int64(len(p)), Stream: func(context.Context) (io.ReadCloser, error) {
			return io.NopCloser(io.MultiReader(bytes.NewReader(p), ending{end})), nil
		}})
		if f, err := check.Verify(t.Context(), im); !errors.Is(err, want) || err == nil && f.Plain != 5500 {
			t.Errorf("%+v, %v instead of %v", f, err, want)
		}
		err := check.Compare(t.Context(), im, open(t, files(), p, p), func(d check.Difference) error { return errors.New(d.String()) })
		if !errors.Is(err, want) {
			t.Errorf("%v instead of %v", err, want)
		}
	}
}

type ending struct{ err error }

func (e ending) Read([]byte) (int, error) { return 0, e.err }
