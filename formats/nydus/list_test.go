package nydus

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/tree"
)

// blobReader reads the plain space of a blob, and verifies every span of it.
type blobReader struct {
	blob formats.Blob
	src  blob.Source
	span int
	data []byte
}

// plain returns the whole content of the extent.
func (r *blobReader) plain(ctx context.Context, off, n int64) ([]byte, error) {
	if r.src == nil {
		var err error
		if r.src, err = r.blob.Open(ctx); err != nil {
			return nil, err
		}
		r.span = -1
	}
	out := make([]byte, 0, n)
	for n > 0 {
		if i := r.blob.Layout.SpanAt(off); i != r.span {
			s := r.blob.Layout.Span(i)
			stored := make([]byte, s.Stored.Len)
			if err := r.src.ReadRange(ctx, stored, s.Stored.Off, blob.Demand); err != nil {
				return nil, err
			}
			// What was there before must not show.
			r.data = []byte(strings.Repeat("\xa5", int(s.Plain.Len)))
			if err := r.blob.Layout.Decode(r.data, stored, s); err != nil {
				return nil, err
			}
			if err := r.blob.Layout.Verify(r.data, s); err != nil {
				return nil, err
			}
			r.span = i
		}
		s := r.blob.Layout.Span(r.span)
		piece := r.data[off-s.Plain.Off:]
		piece = piece[:min(n, int64(len(piece)))]
		out = append(out, piece...)
		off, n = off+int64(len(piece)), n-int64(len(piece))
	}
	return out, nil
}

// list prints an image as the reference listing does, with the SHA-256 of each file's content.
func list(ctx context.Context, img *formats.Image) ([]string, error) {
	readers := make([]*blobReader, len(img.Blobs))
	for i, b := range img.Blobs {
		readers[i] = &blobReader{blob: b}
	}
	kinds := map[uint32]string{tree.TypeRegular: "f", tree.TypeDir: "d", tree.TypeSymlink: "l", tree.TypeChar: "c",
		tree.TypeBlock: "b", tree.TypeFIFO: "p", tree.TypeSocket: "s"}
	type item struct {
		path string
		node *tree.Node
	}
	var items []item
	_ = img.Tree.Walk(func(path string, n *tree.Node) error {
		if path == "" {
			path = "."
		}
		items = append(items, item{path, n})
		return nil
	})
	slices.SortFunc(items, func(a, b item) int { return strings.Compare(a.path, b.path) })
	groups := make(map[*tree.Node]int)
	var lines []string
	for _, it := range items {
		n := it.node
		var size, dev, group, sum string
		if n.IsRegular() {
			size = fmt.Sprint(n.Size)
			h := sha256.New()
			for _, x := range n.Extents {
				if x.Blob == tree.Hole {
					h.Write(make([]byte, x.Length))
					continue
				}
				p, err := readers[x.Blob].plain(ctx, x.Offset, x.Length)
				if err != nil {
					return nil, fmt.Errorf("%s: %w", it.path, err)
				}
				h.Write(p)
			}
			sum = hex.EncodeToString(h.Sum(nil))
		}
		if !n.IsDir() && n.Nlink > 1 {
			if _, ok := groups[n]; !ok {
				groups[n] = len(groups)
			}
			group = fmt.Sprint(groups[n])
		}
		if n.Type() == tree.TypeChar || n.Type() == tree.TypeBlock {
			dev = fmt.Sprintf("%d:%d", n.Rdev.Major, n.Rdev.Minor)
		}
		var xattrs []string
		for _, x := range n.Xattrs {
			xattrs = append(xattrs, fmt.Sprintf("%s=%x", x.Name, x.Value))
		}
		lines = append(lines, strings.Join([]string{show(it.path), kinds[n.Type()], fmt.Sprintf("%o", n.Mode&tree.PermMask), fmt.Sprint(n.UID), fmt.Sprint(n.GID),
			size, fmt.Sprint(n.Mtime*1e9 + int64(n.MtimeNsec)), dev, group, show(n.Target), strings.Join(xattrs, ","), sum}, "\t"))
	}
	return lines, nil
}

func show(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		if c > 32 && c < 127 && c != 92 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, `\x%02x`, c)
		}
	}
	return b.String()
}

// compare compares listings. Times that the expected one shows as "-" are not compared.
func compare(t *testing.T, got []string, wantFile string) {
	t.Helper()
	data, err := os.ReadFile(filepath.FromSlash(wantFile))
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Split(strings.TrimSuffix(string(data), "\n"), "\n")
	bad := 0
	for i := range max(len(got), len(want)) {
		var g, w string
		if i < len(got) {
			g = got[i]
		}
		if i < len(want) {
			w = want[i]
		}
		if gf, wf := strings.Split(g, "\t"), strings.Split(w, "\t"); len(gf) > 6 && len(wf) > 6 && wf[6] == "-" {
			gf[6] = "-"
			g = strings.Join(gf, "\t")
		}
		if g != w {
			t.Errorf("line %d:\n got %s\nwant %s", i+1, g, w)
			if bad++; bad > 5 {
				return
			}
		}
	}
}
