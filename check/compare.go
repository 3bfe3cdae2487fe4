package check

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/fetch"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/tree"
)

// Difference is one way in which two images differ at a path.
type Difference struct {
	Path string `json:"path"` // "" is the root
	What string `json:"what"` // the attribute
	Want string `json:"want"` // in the source
	Got  string `json:"got"`
}

// String returns the difference on one line.
func (d Difference) String() string {
	return fmt.Sprintf("%q: %s: source has %s, image has %s", "/"+d.Path, d.What, d.Want, d.Got)
}

// window is how much of a file is compared at a time, in bytes.
const window = 1 << 20

// Compare reports every difference between the files of an image and those of its source: paths, types, modes, owners,
// times to the nanosecond, sizes, link targets, devices, extended attributes, which names are links of one file, and
// contents. report is called for each; an error from it ends the comparison. The times of directories that no layer has an
// entry for are not defined and still must be equal, as both come from one rule. Memory: the two trees and 2 MiB, and a digest of each file where both images are streams.
func Compare(ctx context.Context, source, image *fetch.Image, report func(Difference) error) error {
	c := &comparison{ctx: ctx, source: source, image: image, report: report, links: make(map[*tree.Node]*tree.Node), back: make(map[*tree.Node]*tree.Node)}
	if err := c.nodes("", source.Tree.Root, image.Tree.Root); err != nil {
		return err
	}
	if err := c.contents(); err != nil {
		return err
	}
	return errors.Join(source.Drain(), image.Drain())
}

type comparison struct {
	ctx           context.Context //nolint:containedctx // of one call
	source, image *fetch.Image
	report        func(Difference) error
	// links and back tell which node of the one tree stands for which of the other, for files with several names.
	links, back map[*tree.Node]*tree.Node
	files       map[*tree.Node]*tree.Node // regular files of equal size, to compare their contents
}

func (c *comparison) differ(path, what, want, got string) error {
	return c.report(Difference{path, what, want, got})
}

// nodes compares two nodes and what is below them.
func (c *comparison) nodes(path string, want, got *tree.Node) error {
	for _, a := range attributes(want, got) {
		if a.want != a.got {
			if err := c.differ(path, a.what, a.want, a.got); err != nil {
				return err
			}
		}
	}
	if err := c.xattrs(path, want, got); err != nil {
		return err
	}
	if err := c.hardlinks(path, want, got); err != nil {
		return err
	}
	if want.IsRegular() && got.IsRegular() && want.Size == got.Size && want.Size > 0 {
		if c.files == nil {
			c.files = make(map[*tree.Node]*tree.Node)
		}
		c.files[want] = got
	}
	return c.entries(path, want, got)
}

// attribute is a property of both nodes, in words.
type attribute struct{ what, want, got string }

func attributes(want, got *tree.Node) []attribute {
	list := []attribute{{"type", typeName(want), typeName(got)}}
	if want.Mode != got.Mode {
		list = append(list, attribute{"mode", fmt.Sprintf("%04o", want.Mode&tree.PermMask), fmt.Sprintf("%04o", got.Mode&tree.PermMask)})
	}
	if want.UID != got.UID || want.GID != got.GID {
		list = append(list, attribute{"owner", fmt.Sprintf("%d:%d", want.UID, want.GID), fmt.Sprintf("%d:%d", got.UID, got.GID)})
	}
	if want.Mtime != got.Mtime || want.MtimeNsec != got.MtimeNsec {
		list = append(list, attribute{"time", fmt.Sprintf("%d.%09d", want.Mtime, want.MtimeNsec), fmt.Sprintf("%d.%09d", got.Mtime, got.MtimeNsec)})
	}
	if want.Type() != got.Type() {
		return list
	}
	switch want.Type() {
	case tree.TypeRegular:
		if want.Size != got.Size {
			list = append(list, attribute{"size", fmt.Sprint(want.Size), fmt.Sprint(got.Size)})
		}
	case tree.TypeSymlink:
		list = append(list, attribute{"link target", fmt.Sprintf("%q", want.Target), fmt.Sprintf("%q", got.Target)})
	case tree.TypeChar, tree.TypeBlock:
		list = append(list, attribute{"device", fmt.Sprint(want.Rdev), fmt.Sprint(got.Rdev)})
	}
	return list
}

func typeName(n *tree.Node) string {
	switch n.Type() {
	case tree.TypeRegular:
		return "file"
	case tree.TypeDir:
		return "directory"
	case tree.TypeSymlink:
		return "symbolic link"
	case tree.TypeChar:
		return "character device"
	case tree.TypeBlock:
		return "block device"
	case tree.TypeFIFO:
		return "FIFO"
	case tree.TypeSocket:
		return "socket"
	}
	return fmt.Sprintf("type %o", n.Type())
}

func (c *comparison) xattrs(path string, want, got *tree.Node) error {
	if slices.EqualFunc(want.Xattrs, got.Xattrs, func(a, b tree.Xattr) bool { return a.Name == b.Name && bytes.Equal(a.Value, b.Value) }) {
		return nil
	}
	names := make(map[string]bool)
	for _, x := range slices.Concat(want.Xattrs, got.Xattrs) {
		names[x.Name] = true
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		w, inWant := want.Xattr(name)
		g, inGot := got.Xattr(name)
		if inWant == inGot && bytes.Equal(w, g) {
			continue
		}
		if err := c.differ(path, "xattr "+name, xattrValue(w, inWant), xattrValue(g, inGot)); err != nil {
			return err
		}
	}
	return nil
}

func xattrValue(v []byte, there bool) string {
	if !there {
		return "none"
	}
	return fmt.Sprintf("0x%x", v)
}

// hardlinks compares which names belong to one file.
func (c *comparison) hardlinks(path string, want, got *tree.Node) error {
	if want.IsDir() || got.IsDir() {
		return nil
	}
	if want.Nlink != got.Nlink {
		if err := c.differ(path, "link count", fmt.Sprint(want.Nlink), fmt.Sprint(got.Nlink)); err != nil {
			return err
		}
	}
	if want.Nlink == 1 && got.Nlink == 1 {
		return nil
	}
	w, g := c.links[want], c.back[got]
	if w != nil && w != got || g != nil && g != want {
		return c.differ(path, "hard link", "another file with this name's content", "a link of a different set of names")
	}
	c.links[want], c.back[got] = got, want
	return nil
}

// entries compares two directories.
func (c *comparison) entries(path string, want, got *tree.Node) error {
	w, g := want.Entries, got.Entries
	for len(w) > 0 || len(g) > 0 {
		order := 0
		switch {
		case len(w) == 0:
			order = 1
		case len(g) == 0:
			order = -1
		default:
			order = strings.Compare(w[0].Name, g[0].Name)
		}
		var err error
		switch {
		case order < 0:
			err = c.differ(join(path, w[0].Name), "entry", "a "+typeName(w[0].Node), "nothing")
			w = w[1:]
		case order > 0:
			err = c.differ(join(path, g[0].Name), "entry", "nothing", "a "+typeName(g[0].Node))
			g = g[1:]
		default:
			err = c.nodes(join(path, w[0].Name), w[0].Node, g[0].Node)
			w, g = w[1:], g[1:]
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func join(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}

// contents compares files in the order in which the source stores them, so that a source without random access is read once.
func (c *comparison) contents() error {
	if streamed(c.source) && streamed(c.image) {
		return c.digests()
	}
	a, b := make([]byte, window), make([]byte, window)
	for _, f := range fetch.InStoredOrder(c.source.Tree) {
		got, ok := c.files[f.Node]
		if !ok {
			continue
		}
		for off := int64(0); off < f.Node.Size; off += window {
			n, err := c.source.ReadAt(c.ctx, f.Node, a, off, blob.Background)
			if err != nil {
				return fmt.Errorf("source: %q: %w", "/"+f.Path, err)
			}
			m, err := c.image.ReadAt(c.ctx, got, b, off, blob.Background)
			if err != nil {
				return fmt.Errorf("image: %q: %w", "/"+f.Path, err)
			}
			if n == m && bytes.Equal(a[:n], b[:m]) {
				continue
			}
			at := 0
			for at < min(n, m) && a[at] == b[at] {
				at++
			}
			if err := c.differ(f.Path, "content", "other bytes", fmt.Sprintf("a difference at offset %d", off+int64(at))); err != nil {
				return err
			}
			break
		}
	}
	return nil
}

// streamed reports whether an image has blobs without random access.
func streamed(im *fetch.Image) bool {
	return slices.ContainsFunc(im.Blobs, func(b formats.Blob) bool { return b.Layout == nil })
}

// digests compares the digests of files, for images that are both streams: each is read once, in an order of its own.
func (c *comparison) digests() error {
	want, err := fileDigests(c.ctx, c.source, func(n *tree.Node) bool { return c.files[n] != nil })
	if err != nil {
		return fmt.Errorf("source: %w", err)
	}
	wanted := make(map[*tree.Node]bool, len(c.files))
	for _, n := range c.files {
		wanted[n] = true
	}
	got, err := fileDigests(c.ctx, c.image, func(n *tree.Node) bool { return wanted[n] })
	if err != nil {
		return fmt.Errorf("image: %w", err)
	}
	for _, f := range fetch.InStoredOrder(c.source.Tree) {
		n, ok := c.files[f.Node]
		if !ok || want[f.Node] == got[n] {
			continue
		}
		if err := c.differ(f.Path, "content", fmt.Sprintf("SHA-256 %x", want[f.Node]), fmt.Sprintf("SHA-256 %x", got[n])); err != nil {
			return err
		}
	}
	return nil
}

// fileDigests reads files in stored order and returns the SHA-256 of each.
func fileDigests(ctx context.Context, im *fetch.Image, wanted func(*tree.Node) bool) (map[*tree.Node][sha256.Size]byte, error) {
	sums := make(map[*tree.Node][sha256.Size]byte)
	buf := make([]byte, window)
	for _, f := range fetch.InStoredOrder(im.Tree) {
		if !wanted(f.Node) {
			continue
		}
		h := sha256.New()
		if err := im.WriteContent(ctx, f.Node, h, buf, blob.Background); err != nil {
			return nil, fmt.Errorf("%q: %w", "/"+f.Path, err)
		}
		sums[f.Node] = [sha256.Size]byte(h.Sum(nil))
	}
	return sums, nil
}
