package formatstest

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/lazuli-project/lazuli/internal/imagetest"
)

// stack is a named image: the entries of its layers.
type stack struct {
	name   string
	layers [][]imagetest.Item
}

// cases are what layers have that converters get wrong.
func (f *Format) cases(tb testing.TB) []stack {
	tb.Helper()
	return slices.Concat(f.contentCases(tb), headerCases(), overlayCases())
}

func one(name string, items ...imagetest.Item) stack { return stack{name, [][]imagetest.Item{items}} }

func layer(items ...imagetest.Item) []imagetest.Item { return items }

// contentCases are about the content of files.
func (f *Format) contentCases(tb testing.TB) []stack {
	tb.Helper()
	var sizes []imagetest.Item
	for _, n := range []int{0, 1, 511, 512, 513, 4095, 4096, 4097, f.Chunk - 1, f.Chunk, f.Chunk + 1, 2*f.Chunk - 1, 2 * f.Chunk, 2*f.Chunk + 1} {
		sizes = append(sizes, imagetest.File(fmt.Sprintf("noise-%d", n), string(noise(n, 3))), imagetest.File(fmt.Sprintf("zeros-%d", n), string(make([]byte, n))))
	}
	list := []stack{
		one("sizes at borders", sizes...),
		one("same content", imagetest.File("a", string(noise(f.Chunk+5, 4))), imagetest.File("b", string(noise(f.Chunk+5, 4))),
			imagetest.File("c", string(noise(f.Chunk, 4))), imagetest.File("d", string(noise(f.Chunk, 4))+"tail")),
		{"same content in layers", [][]imagetest.Item{
			layer(imagetest.File("a", string(noise(f.Chunk+5, 4)))),
			layer(imagetest.File("b", string(noise(f.Chunk+5, 4)))),
			layer(imagetest.Whiteout("a"), imagetest.Whiteout("b"), imagetest.File("c", string(noise(f.Chunk+5, 4)))),
		}},
		{"same layer twice", [][]imagetest.Item{
			layer(imagetest.File("a", "1"), imagetest.Dir("d")), layer(imagetest.Whiteout("a")), layer(imagetest.File("a", "1"), imagetest.Dir("d")),
		}},
		{"layers without content", [][]imagetest.Item{layer(), layer(imagetest.Dir("d"), imagetest.Symlink("l", "d")), layer(imagetest.Whiteout("d"))}},
	}
	for _, format := range imagetest.SparseFormats {
		list = append(list, one("sparse "+string(format),
			imagetest.Sparse(tb, "holes", format, 100_000, imagetest.Piece{Off: 0, Data: "first"}, imagetest.Piece{Off: 8192, Data: string(noise(512, 5))},
				imagetest.Piece{Off: 40_960, Data: "x"}, imagetest.Piece{Off: 50_176, Data: "y"}, imagetest.Piece{Off: 60_416, Data: "z"}),
			imagetest.Sparse(tb, "only a hole", format, 1<<20),
			imagetest.Sparse(tb, "ends with data", format, 10_003, imagetest.Piece{Off: 10_000, Data: "end"}),
			imagetest.File("behind", "still in step")))
	}
	return list
}

// largeXattrs is the case that formats with [Format].SmallXattrs refuse.
const largeXattrs = "large xattrs"

// headerCases are about what the headers of a tar say.
func headerCases() []stack {
	long := strings.Repeat(strings.Repeat("d", 200)+"/", 5)
	var many []imagetest.Item
	for i := range 3000 { // not sorted
		many = append(many, imagetest.File(fmt.Sprintf("many/%d", i*7919%3000), fmt.Sprint(i)))
	}
	xattrs := []imagetest.Option{}
	for i := range 100 {
		xattrs = append(xattrs, imagetest.Xattr(fmt.Sprintf("user.attribute%d", i), strings.Repeat("v", i)))
	}
	return []stack{
		one("PAX names", imagetest.File(long+"file", "1"), imagetest.Symlink("target", strings.Repeat("t/", 2047)+"x")),
		one("GNU names", imagetest.File(long+"file", "1", imagetest.GNU()), imagetest.Symlink("target", strings.Repeat("t/", 2047)+"x", imagetest.GNU()),
			imagetest.Link("hard", long+"file", imagetest.GNU())),
		one("USTAR prefix", imagetest.File(strings.Repeat("p", 100)+"/"+strings.Repeat("n", 90), "1", imagetest.USTAR())),
		one("odd names", imagetest.File(strings.Repeat("n", 255), "1"), imagetest.File("\xff\xfe\x01 \n\t\\", "2"), imagetest.File("é/ü", "3"),
			imagetest.File("-rf *", "4"), imagetest.File("a=b", "5"), imagetest.File("...", "6"), imagetest.File(".hidden", "7"), imagetest.File("wh.a", "8")),
		one("fronts", imagetest.Dir("./", imagetest.Mode(0o1700), imagetest.Owner(7, 8)), imagetest.File("./dot", "1"), imagetest.File("/slash", "2"),
			imagetest.File("./a//b/./c", "3"), imagetest.Link("./hard", "/slash"), imagetest.Link("hard2", "./dot")),
		one("attributes of the root", imagetest.Dir(".", imagetest.Mode(0o7711), imagetest.Owner(1<<21, 1<<31), imagetest.At(-1, 1), imagetest.Xattr("user.root", "r"))),
		one("times", imagetest.File("before", "", imagetest.At(-86400*365*80, 0)), imagetest.File("just before", "", imagetest.At(-1, 999_999_999)),
			imagetest.File("zero", "", imagetest.At(0, 0)), imagetest.File("nano", "", imagetest.At(1, 1)), imagetest.Dir("late", imagetest.At(1<<33+5, 123_456_789)),
			imagetest.Symlink("link", "x", imagetest.At(-7, 250_000_000)), imagetest.FIFO("fifo", imagetest.At(1<<31, 0))),
		one("owners", imagetest.File("a", "", imagetest.Owner(1<<21, 1<<21+1)), imagetest.File("b", "", imagetest.Owner(1<<32-1, 1<<32-2)),
			imagetest.Dir("c", imagetest.Owner(65535, 65536)), imagetest.Symlink("d", "a", imagetest.Owner(1<<16, 0))),
		one("modes", imagetest.File("suid", "", imagetest.Mode(0o4755)), imagetest.File("sgid", "", imagetest.Mode(0o2644)), imagetest.Dir("sticky", imagetest.Mode(0o1777)),
			imagetest.File("none", "", imagetest.Mode(0)), imagetest.File("all", "", imagetest.Mode(0o7777)), imagetest.Symlink("link", "x", imagetest.Mode(0o700))),
		one("xattrs", imagetest.File("user", "u", imagetest.Xattr("user.a", "1"), imagetest.Xattr("user.empty", ""), imagetest.Xattr("user.binary", "\x00\x01\xff=\n")),
			imagetest.File("capability", "", imagetest.Xattr("security.capability", "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")),
			imagetest.Dir("acl", imagetest.Xattr("system.posix_acl_default", "\x02\x00\x00\x00\x01\x00\x07\x00\xff\xff\xff\xff"),
				imagetest.Xattr("system.posix_acl_access", "\x02\x00\x00\x00\x01\x00\x06\x00\xff\xff\xff\xff")),
			imagetest.Symlink("link", "x", imagetest.Xattr("trusted.t", "t")), imagetest.Char("device", 1, 3, imagetest.Xattr("security.selinux", "label\x00")),
			imagetest.File("some", "", xattrs[:40]...), imagetest.File("same as some", "", xattrs[:40]...)),
		one(largeXattrs, imagetest.File("many", "", xattrs...), imagetest.File("same as many", "", xattrs...),
			imagetest.File("long", "", imagetest.Xattr("user."+strings.Repeat("n", 250), strings.Repeat("v", 60_000)))),
		one("xattrs of libarchive", imagetest.File("both", "", imagetest.Xattr("user.a", "1"), imagetest.PAX("LIBARCHIVE.xattr.user.a", "MQ")),
			imagetest.File("alone", "", imagetest.PAX("LIBARCHIVE.xattr.user.%20b", "AAH/"))),
		one("devices", imagetest.Char("null", 1, 3), imagetest.Block("sda", 8, 0), imagetest.Char("large", 4095, 1048575), imagetest.Block("minor", 259, 70000), imagetest.FIFO("fifo")),
		one("hard links", imagetest.File("a", "1", imagetest.Mode(0o600), imagetest.Xattr("user.x", "1")), imagetest.Link("b", "a"), imagetest.Link("c", "b"),
			imagetest.Link("d/e", "c"), imagetest.Symlink("s", "a"), imagetest.Link("s2", "s"), imagetest.FIFO("f"), imagetest.Link("f2", "f"),
			imagetest.File("empty", ""), imagetest.Link("empty2", "empty"), imagetest.Char("n", 1, 3), imagetest.Link("n2", "n")),
		one("many entries", many...),
		one("duplicates", imagetest.File("a", "first"), imagetest.File("a", "last, and longer"), imagetest.Link("b", "a"), imagetest.File("a", "another file now"),
			imagetest.Dir("d", imagetest.Mode(0o700)), imagetest.File("d/x", "kept"), imagetest.Dir("d", imagetest.Mode(0o711)), imagetest.File("e", "file"), imagetest.Dir("e"),
			imagetest.File("e/y", "in it"), imagetest.Dir("g"), imagetest.File("g/z", "lost"), imagetest.File("g", "file")),
		one("missing parents", imagetest.File("a/b/c/d", "1"), imagetest.Dir("a/b", imagetest.Mode(0o500), imagetest.At(3, 4)), imagetest.Whiteout("x/y/z")),
		one("whiteouts in the lowest layer", imagetest.File("a", "1"), imagetest.Whiteout("a"), imagetest.Opaque("d"), imagetest.File("d/x", "1"), imagetest.Whiteout("none")),
	}
}

// overlayCases are about what one layer does to those below.
func overlayCases() []stack {
	return []stack{
		{"whiteouts", [][]imagetest.Item{
			layer(imagetest.File("a", "1"), imagetest.Dir("d"), imagetest.File("d/x", "1"), imagetest.File("d/y", "2"), imagetest.Symlink("l", "d"), imagetest.File("keep", "k")),
			layer(imagetest.Whiteout("a"), imagetest.Whiteout("d/x"), imagetest.Whiteout("l"), imagetest.Whiteout("never was")),
			layer(imagetest.File("a", "back"), imagetest.Whiteout("d")),
		}},
		{"whiteout and entry of one name", [][]imagetest.Item{
			layer(imagetest.Dir("d"), imagetest.File("d/x", "1"), imagetest.File("f", "1")),
			layer(imagetest.Dir("d", imagetest.Mode(0o700)), imagetest.Whiteout("d"), imagetest.File("d/new", "n"), imagetest.Whiteout("f"), imagetest.File("f", "2")),
		}},
		{"opaque", [][]imagetest.Item{
			layer(imagetest.Dir("d"), imagetest.File("d/x", "1"), imagetest.Dir("d/sub"), imagetest.File("d/sub/y", "2")),
			layer(imagetest.File("d/new", "n"), imagetest.Opaque("d"), imagetest.Dir("d/sub")),
			layer(imagetest.Opaque("d/sub"), imagetest.File("d/sub/z", "3")),
		}},
		{"opaque root", [][]imagetest.Item{layer(imagetest.File("a", "1"), imagetest.Dir("d")), layer(imagetest.Opaque("."), imagetest.File("b", "2"))}},
		{"file replaces directory and back", [][]imagetest.Item{
			layer(imagetest.Dir("d"), imagetest.File("d/x", "1"), imagetest.File("f", "file")),
			layer(imagetest.File("d", "now a file"), imagetest.Dir("f"), imagetest.File("f/y", "2")),
			layer(imagetest.Dir("d"), imagetest.File("d/z", "3"), imagetest.Symlink("f", "d")),
			layer(imagetest.Char("f", 1, 3), imagetest.FIFO("d")),
		}},
		{"hard links to lower layers", [][]imagetest.Item{
			layer(imagetest.File("a", "content", imagetest.Owner(5, 6), imagetest.Xattr("user.x", "1")), imagetest.Symlink("s", "a")),
			layer(imagetest.Link("b", "a"), imagetest.Link("c", "b"), imagetest.Link("t", "s")),
			layer(imagetest.Whiteout("a"), imagetest.Link("d/e", "c")),
			layer(imagetest.Whiteout("b"), imagetest.Link("g", "c"), imagetest.File("c", "replaced")),
		}},
		{"hard link to what the layer takes away", [][]imagetest.Item{
			layer(imagetest.File("a", "content"), imagetest.Dir("d"), imagetest.File("d/x", "other")),
			layer(imagetest.Link("b", "a"), imagetest.Whiteout("a"), imagetest.Link("y", "d/x"), imagetest.Opaque("d")),
		}},
		{"attributes of directories", [][]imagetest.Item{
			layer(imagetest.Dir("d", imagetest.Mode(0o700), imagetest.Owner(1, 2), imagetest.At(10, 20), imagetest.Xattr("user.a", "1")), imagetest.File("d/x", "1")),
			layer(imagetest.File("d/y", "2")), // implied: d keeps what it has
			layer(imagetest.Dir("d", imagetest.Mode(0o711), imagetest.At(30, 40), imagetest.Xattr("user.b", "2"))),
		}},
		{"link to a directory below", [][]imagetest.Item{
			layer(imagetest.Dir("usr"), imagetest.Dir("usr/bin"), imagetest.Symlink("bin", "usr/bin"), imagetest.Symlink("loop", "loop"), imagetest.Symlink("out", "../../nowhere")),
			layer(imagetest.File("bin/sh", "shell"), imagetest.File("loop/x", "1"), imagetest.File("out/x", "2")),
			layer(imagetest.Dir("bin"), imagetest.File("bin/other", "real directory now")),
		}},
	}
}
