package tarfs_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/internal/imagetest"
	"github.com/lazuli-project/lazuli/tarfs"
	"github.com/lazuli-project/lazuli/tree"
)

func seeds(f *testing.F) {
	f.Helper()
	for _, s := range [][]byte{
		imagetest.Tar(f, imagetest.Dir("d", imagetest.Xattr("user.a", "b")), imagetest.File("d/f", "content"), imagetest.Link("l", "d/f"),
			imagetest.Symlink("s", "d"), imagetest.Char("c", 1, 3), imagetest.FIFO("p")),
		imagetest.Tar(f, imagetest.File(strings.Repeat("long/", 60)+"x", "x", imagetest.GNU(), imagetest.Owner(1<<22, 1<<22), imagetest.At(-5, 0))),
		imagetest.Tar(f, imagetest.Whiteout("a"), imagetest.Opaque("b"), imagetest.File("a", ""), imagetest.File("b/c", "", imagetest.At(-5, 5))),
		imagetest.Tar(f, imagetest.File(strings.Repeat("p", 120)+"/"+strings.Repeat("n", 90), "", imagetest.USTAR())),
		imagetest.Tar(f, imagetest.Raw(imagetest.Extension('g', imagetest.Records("path", "x"))), imagetest.Symlink("s/s", "../s"), imagetest.File("s/s/s", "")),
	} {
		f.Add(s)
	}
	for _, format := range imagetest.SparseFormats {
		f.Add(imagetest.Tar(f, imagetest.Sparse(f, "s", format, 5000, imagetest.Piece{Off: 700, Data: "abc"}, imagetest.Piece{Off: 4000, Data: "def"})))
	}
}

func knownError(err error) bool {
	for _, known := range []error{blob.ErrCorrupt, blob.ErrUnsupported, tarfs.ErrPath, tarfs.ErrName, tarfs.ErrLink, tarfs.ErrXattr, tarfs.ErrTooLarge} {
		if errors.Is(err, known) {
			return true
		}
	}
	return false
}

// reseal sets the checksums of all blocks that look like headers, so that changed ones are looked into.
func reseal(p []byte) []byte {
	p = bytes.Clone(p)
	for b := p; len(b) >= 512; b = b[512:] {
		if !bytes.HasPrefix(b[257:], []byte("ustar")) {
			continue
		}
		copy(b[148:156], "        ")
		sum := 0
		for _, c := range b[:512] {
			sum += int(c)
		}
		copy(b[148:], fmt.Sprintf("%06o\x00 ", sum))
	}
	return p
}

// maxContent bounds what is read of one entry's content: holes cost no input.
const maxContent = 1 << 20

// FuzzReader compares the reader with archive/tar: entries that both accept are equal.
func FuzzReader(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, p []byte) {
		p = reseal(p)
		ours, std := tarfs.NewReader(bytes.NewReader(p)), tar.NewReader(bytes.NewReader(p))
		for {
			e, err := ours.Next()
			h, stdErr := std.Next()
			for stdErr == nil && h.Typeflag == tar.TypeXGlobalHeader {
				h, stdErr = std.Next()
			}
			if errors.Is(err, io.EOF) {
				if ours.Offset() != int64(len(p)) {
					t.Fatalf("%d of %d bytes read", ours.Offset(), len(p))
				}
				return
			}
			if err != nil {
				var place *tarfs.Error
				if !knownError(err) || !errors.As(err, &place) || place.Offset > int64(len(p)) {
					t.Fatalf("error %v", err)
				}
				return
			}
			got, err := io.ReadAll(io.LimitReader(ours, maxContent))
			if err != nil {
				if !errors.Is(err, blob.ErrCorrupt) {
					t.Fatal(err)
				}
				return
			}
			checkEntry(t, e, int64(len(p)))
			if stdErr != nil {
				continue
			}
			compareEntries(t, e, h)
			if want, err := io.ReadAll(io.LimitReader(std, maxContent)); err == nil && !bytes.Equal(got, want) {
				t.Fatalf("%q: content differs", e.Name)
			}
		}
	})
}

// checkEntry checks what others rely on.
func checkEntry(t *testing.T, e *tarfs.Entry, size int64) {
	t.Helper()
	sum := int64(0)
	for _, x := range e.Data {
		if x.Length <= 0 || x.Blob != tree.Hole && (x.Offset < 0 || x.Offset > size) {
			t.Fatalf("extent %+v", x)
		}
		sum += x.Length
	}
	if sum != e.Size || e.MtimeNsec >= 1e9 {
		t.Fatalf("%+v", e)
	}
	for part := range strings.SplitSeq(e.Name, "/") {
		if err := tree.CheckName(part); err != nil && e.Name != "" {
			t.Fatalf("%q: %v", e.Name, err)
		}
	}
}

func compareEntries(t *testing.T, e *tarfs.Entry, h *tar.Header) {
	t.Helper()
	kinds := map[byte]uint32{tar.TypeReg: tree.TypeRegular, tar.TypeCont: tree.TypeRegular, tar.TypeGNUSparse: tree.TypeRegular, tar.TypeLink: tree.TypeRegular,
		tar.TypeSymlink: tree.TypeSymlink, tar.TypeChar: tree.TypeChar, tar.TypeBlock: tree.TypeBlock, tar.TypeDir: tree.TypeDir, tar.TypeFifo: tree.TypeFIFO}
	kind := kinds[h.Typeflag]
	if kind != e.Mode&tree.TypeMask || uint32(h.Mode)&tree.PermMask != e.Mode&tree.PermMask {
		t.Fatalf("%q: mode %o, archive/tar %q %o", e.Name, e.Mode, h.Typeflag, h.Mode)
	}
	if uint32(h.Uid) != e.UID || uint32(h.Gid) != e.GID || h.ModTime.Unix() != e.Mtime || uint32(h.ModTime.Nanosecond()) != e.MtimeNsec {
		t.Fatalf("%q: %+v, archive/tar %+v", e.Name, e, h)
	}
	if kind == tree.TypeRegular && h.Typeflag != tar.TypeLink && h.Size != e.Size {
		t.Fatalf("%q: size %d, archive/tar %d", e.Name, e.Size, h.Size)
	}
	if kind == tree.TypeSymlink && h.Linkname != e.Target {
		t.Fatalf("%q: target %q, archive/tar %q", e.Name, e.Target, h.Linkname)
	}
	if (kind == tree.TypeChar || kind == tree.TypeBlock) && (uint32(h.Devmajor) != e.Rdev.Major || uint32(h.Devminor) != e.Rdev.Minor) {
		t.Fatalf("%q: device %v, archive/tar %d:%d", e.Name, e.Rdev, h.Devmajor, h.Devminor)
	}
	if base := e.Name[strings.LastIndexByte(e.Name, '/')+1:]; !strings.Contains(h.Name, base) {
		t.Fatalf("name %q, archive/tar %q", e.Name, h.Name)
	}
}

// FuzzMerge makes trees of an input's parts and merges them: any error is a known one, and any tree is valid, and can be
// written and read again.
func FuzzMerge(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, p []byte) {
		p = reseal(p)
		var layers []*tree.Tree
		for rest := p; len(rest) > 0 && len(layers) < 4; {
			r := tarfs.NewReader(bytes.NewReader(rest))
			b := tarfs.NewBuilder()
			// Each layer has four entries at most.
			n := 0
			for ; n < 4; n++ {
				e, err := r.Next()
				if err != nil {
					break
				}
				if _, err := b.Add(e); err != nil && !knownError(err) {
					t.Fatal(err)
				}
			}
			layers = append(layers, b.Tree())
			if n < 4 {
				break
			}
			rest = rest[r.Offset():]
		}
		merged, err := tarfs.Merge(layers)
		if err != nil {
			if !knownError(err) {
				t.Fatal(err)
			}
			return
		}
		checkMerged(t, merged)
		total := int64(0)
		_ = merged.Nodes(func(n *tree.Node) error { total += min(n.Size, maxContent+1); return nil })
		if total > maxContent {
			return
		}
		var buf bytes.Buffer
		err = tarfs.WriteTar(&buf, merged, func(_ string, n *tree.Node, w io.Writer) error {
			_, err := w.Write(make([]byte, n.Size))
			return err
		})
		if err != nil {
			if !knownError(err) {
				t.Fatal(err)
			}
			return
		}
		back, err := readTree(tarfs.NewReader(&buf))
		if err != nil {
			t.Fatal(err)
		}
		want, err := imagetest.List(merged, nil)
		if err != nil {
			t.Fatal(err)
		}
		got, err := imagetest.List(back, nil)
		if err != nil {
			t.Fatal(err)
		}
		if diff := imagetest.Diff(want, got); diff != "" {
			t.Fatalf("written and read again:\n%s", diff)
		}
	})
}
