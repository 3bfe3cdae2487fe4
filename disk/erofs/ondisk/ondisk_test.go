package ondisk

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/tree"
)

// TestInodeBytes writes inodes as mkfs.erofs does, but for their numbers.
func TestInodeBytes(t *testing.T) {
	t.Parallel()
	epoch := Stamp{1700000000, 5}
	for _, c := range []struct {
		name  string
		in    Inode
		bytes string
	}{
		{"compact", Inode{Compact: true, Layout: LayoutInline, Mode: tree.TypeSymlink | 0o777, Links: 2, Size: 7, U: 9, UID: 1000, GID: 65535, Mtime: epoch},
			"0400 0000 ffa1 0200 07000000 00000000 09000000 00000000 e803 ffff 00000000"},
		{"extended", Inode{Layout: LayoutChunked, XattrLen: 20, Mode: tree.TypeRegular | 0o644, Links: 70000, Size: 1 << 33, U: ChunkIndexes | 1, Number: 3,
			UID: 1 << 20, GID: 1 << 21, Mtime: Stamp{-1, 999999999}},
			"0900 0300 a481 0000 0000000002000000 21000000 03000000 00001000 00002000 ffffffffffffffff ffc99a3b 70110100 00000000000000000000000000000000"},
	} {
		want, err := hex.DecodeString(strings.ReplaceAll(c.bytes, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		got := c.in.AppendTo(nil)
		if !bytes.Equal(got, want) || len(got) != c.in.Len() || len(got) != InodeLen(got[0]) {
			t.Errorf("%s: %x\nwant %x", c.name, got, want)
		}
		if back, err := DecodeInode(want, epoch); err != nil || back != c.in {
			t.Errorf("%s: %+v, %v", c.name, back, err)
		}
		at, links := LinksField(c.in.Compact, c.in.Links)
		if !bytes.Equal(want[at:][:len(links)], links) {
			t.Errorf("%s: links %x at %d", c.name, links, at)
		}
	}
	// The time of a compact inode, which Linux reads since 6.15.
	p := (&Inode{Compact: true, Mode: tree.TypeFIFO, Links: 1}).AppendTo(nil)
	p[12] = 10
	if in, err := DecodeInode(p, epoch); err != nil || in.Mtime != (Stamp{1700000010, 5}) {
		t.Errorf("%+v, %v", in.Mtime, err)
	}
}

func TestDevices(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		d    tree.Device
		want uint32
		ok   bool
	}{
		{tree.Device{Major: 1, Minor: 3}, 0x103, true},
		{tree.Device{Major: 259, Minor: 300}, 0x11032c, true},
		{tree.Device{Major: 4095, Minor: 1<<20 - 1}, 0xffffffff, true},
		{tree.Device{Major: 4096}, 0, false},
		{tree.Device{Minor: 1 << 20}, 0, false},
	} {
		got, ok := EncodeDevice(c.d)
		if ok != c.ok || ok && (got != c.want || DecodeDevice(got) != c.d) {
			t.Errorf("%v: %#x, %v", c.d, got, ok)
		}
	}
}

func TestXattrs(t *testing.T) {
	t.Parallel()
	xattrs := []tree.Xattr{
		{Name: "security.capability", Value: []byte{1, 2, 3, 4, 5}},
		{Name: "system.posix_acl_access", Value: []byte{2, 0, 0, 0}},
		{Name: "system.posix_acl_default", Value: []byte{}},
		{Name: "trusted.x", Value: []byte("y")},
		{Name: "user." + strings.Repeat("n", 250), Value: bytes.Repeat([]byte{7}, 65535)},
	}
	n, err := XattrLen(xattrs)
	if err != nil {
		t.Fatal(err)
	}
	p := AppendXattrs(nil, xattrs)
	got, err := DecodeXattrs(p, nil)
	if err != nil || len(p) != n || !reflect.DeepEqual(got, xattrs) {
		t.Errorf("%d bytes instead of %d, %v", len(p), n, err)
	}
	// Shared ones come first, and room that is not used is passed over.
	p = append([]byte{0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 42, 0, 0, 0, 0, 0, 0, 0}, AppendXattrs(nil, xattrs[1:2])[xattrHeader:]...)
	got, err = DecodeXattrs(append(p, make([]byte, 8)...), func(number uint32) (tree.Xattr, error) {
		return tree.Xattr{Name: fmt.Sprint("user.", number)}, nil
	})
	if err != nil || len(got) != 2 || got[1].Name != "user.42" {
		t.Errorf("shared: %v, %v", got, err)
	}
	for _, name := range []string{"user", "gnu.x", "system.posix_acl_access.", "user." + strings.Repeat("n", 251)} {
		if _, err := XattrLen([]tree.Xattr{{Name: name}}); !errors.Is(err, blob.ErrUnsupported) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

// TestDirents packs directories into blocks of both sizes.
func TestDirents(t *testing.T) {
	t.Parallel()
	for _, block := range []int64{512, 4096} {
		for _, count := range []int{0, 1, 30, 300, 3000} {
			n := &tree.Node{Mode: tree.TypeDir}
			for i := range count {
				name := fmt.Sprintf("%s%d", strings.Repeat("-", i*7%240), i)
				n.Put(name, &tree.Node{Mode: tree.TypeRegular})
			}
			p := AppendDirents(nil, n, block, func(entry int) uint64 { return uint64(entry + 1000) })
			if int64(len(p)) != DirentsSize(n, block) {
				t.Errorf("%d names: %d bytes instead of %d", count, len(p), DirentsSize(n, block))
			}
			var got []Dirent
			for b := p; len(b) > 0; b = b[min(len(b), int(block)):] {
				if err := DecodeDirents(b[:min(len(b), int(block))], func(d Dirent) error { got = append(got, d); return nil }); err != nil {
					t.Fatal(err)
				}
			}
			var want []Dirent
			ForNames(n, func(name string, entry int) {
				kind := uint8(2)
				if entry >= 0 {
					kind = 1
				}
				if k := len(want); k > 0 && want[k-1].Name >= name {
					t.Errorf("%q after %q", name, want[k-1].Name)
				}
				want = append(want, Dirent{uint64(entry + 1000), name, kind})
			})
			if !reflect.DeepEqual(got, want) || len(got) != count+2 {
				t.Errorf("%d names in blocks of %d: %d entries", count, block, len(got))
			}
		}
	}
}

// FuzzDecode decodes any bytes as each structure.
func FuzzDecode(f *testing.F) {
	f.Add((&Inode{Mode: tree.TypeRegular, Links: 1}).AppendTo(nil))
	f.Add(AppendXattrs(nil, []tree.Xattr{{Name: "user.a", Value: []byte("b")}}))
	f.Add(AppendDirents(nil, &tree.Node{}, 512, func(int) uint64 { return 1 }))
	f.Fuzz(func(t *testing.T, p []byte) {
		check := func(err error) bool {
			if err != nil && !errors.Is(err, blob.ErrCorrupt) && !errors.Is(err, blob.ErrUnsupported) {
				t.Fatal(err)
			}
			return err == nil
		}
		if len(p) >= CompactSize && len(p) >= InodeLen(p[0]) {
			in, err := DecodeInode(p, Stamp{})
			if check(err) && !in.Compact {
				if back, err := DecodeInode(in.AppendTo(nil), Stamp{}); err != nil || back != in {
					t.Fatalf("%+v becomes %+v, %v", in, back, err)
				}
			}
		}
		if k := len(p) &^ 3; k >= xattrHeader {
			xattrs, err := DecodeXattrs(p[:k], func(uint32) (tree.Xattr, error) { return tree.Xattr{}, blob.ErrCorrupt })
			if check(err) {
				if _, err := XattrLen(xattrs); err != nil {
					t.Fatal(err)
				}
			}
		}
		check(DecodeDirents(p, func(d Dirent) error {
			if d.Name == "" {
				t.Fatalf("entry %+v", d)
			}
			return nil
		}))
	})
}
