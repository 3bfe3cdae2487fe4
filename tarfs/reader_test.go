package tarfs_test

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/internal/imagetest"
	"github.com/lazuli-project/lazuli/tarfs"
	"github.com/lazuli-project/lazuli/tree"
)

// entries reads a whole tar.
func entries(r *tarfs.Reader) (list []*tarfs.Entry, contents []string, err error) {
	for {
		e, err := r.Next()
		if errors.Is(err, io.EOF) {
			return list, contents, nil
		}
		if err != nil {
			return list, contents, err
		}
		p, err := io.ReadAll(r)
		if err != nil {
			return list, contents, err
		}
		list, contents = append(list, e), append(contents, string(p))
	}
}

// one reads the only entry of a tar.
func one(t *testing.T, i imagetest.Item) (*tarfs.Entry, string) {
	t.Helper()
	list, contents, err := entries(tarfs.NewReader(bytes.NewReader(imagetest.Tar(t, i))))
	if err != nil {
		t.Fatal(err)
	}
	if len(list) != 1 {
		t.Fatalf("%d entries", len(list))
	}
	return list[0], contents[0]
}

func raw(parts ...[]byte) imagetest.Item { return imagetest.Raw(slices.Concat(parts...)) }

// header is a POSIX header that change has been applied to.
func header(change func(*imagetest.Header)) []byte {
	h := imagetest.Header{Name: "name", Mode: 0o644, Mtime: imagetest.Time, Type: '0', Magic: imagetest.MagicPOSIX}
	if change != nil {
		change(&h)
	}
	return h.Block()
}

func field(off int, value string) func(*imagetest.Header) {
	return func(h *imagetest.Header) { h.Change = func(b []byte) { copy(b[off:], value) } }
}

func TestReaderAttributes(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("l", 255)
	deep := strings.Repeat("d/", 1500) + "x"
	pax := func(keysAndValues ...string) []byte {
		return imagetest.Extension('x', imagetest.Records(keysAndValues...))
	}
	for name, c := range map[string]struct {
		item  imagetest.Item
		check func(e *tarfs.Entry) bool
	}{
		"mode": {imagetest.File("a", "", imagetest.Mode(0o7755)), func(e *tarfs.Entry) bool { return e.Mode == tree.TypeRegular|0o7755 }},
		"mode with type bits": {raw(header(func(h *imagetest.Header) { h.Mode = 0o100644 })),
			func(e *tarfs.Entry) bool { return e.Mode == tree.TypeRegular|0o644 }},
		"directory":     {imagetest.Dir("a"), func(e *tarfs.Entry) bool { return e.Name == "a" && e.Mode == tree.TypeDir|0o755 }},
		"root":          {imagetest.Dir("."), func(e *tarfs.Entry) bool { return e.Name == "" && e.Mode == tree.TypeDir|0o755 }},
		"root as slash": {imagetest.Dir(""), func(e *tarfs.Entry) bool { return e.Name == "" }},
		"symlink":       {imagetest.Symlink("a", "../x"), func(e *tarfs.Entry) bool { return e.Target == "../x" && e.Mode == tree.TypeSymlink|0o777 }},
		"4095 bytes": {imagetest.Symlink("a", strings.Repeat("x", 4095)),
			func(e *tarfs.Entry) bool { return len(e.Target) == 4095 }},
		"4095 bytes, GNU": {imagetest.Symlink("a", strings.Repeat("x", 4095), imagetest.GNU()), func(e *tarfs.Entry) bool { return len(e.Target) == 4095 }},
		"hard link":       {imagetest.Link("a", "/b//c"), func(e *tarfs.Entry) bool { return e.Hardlink == "b/c" && e.Mode&tree.TypeMask == tree.TypeRegular }},
		"char device":     {imagetest.Char("a", 5, 1), func(e *tarfs.Entry) bool { return e.Rdev == tree.Device{Major: 5, Minor: 1} }},
		"block device":    {imagetest.Block("a", 259, 70000), func(e *tarfs.Entry) bool { return e.Rdev == tree.Device{Major: 259, Minor: 70000} }},
		"device without numbers": {raw(header(func(h *imagetest.Header) { h.Type = '3' })),
			func(e *tarfs.Entry) bool { return e.Mode&tree.TypeMask == tree.TypeChar && e.Rdev == tree.Device{} }},
		"fifo": {imagetest.FIFO("a"), func(e *tarfs.Entry) bool { return e.Mode == tree.TypeFIFO|0o600 }},
		"contiguous": {raw(header(func(h *imagetest.Header) { h.Type, h.Size = '7', 3 }), imagetest.Padded([]byte("abc"))),
			func(e *tarfs.Entry) bool { return e.Size == 3 && e.Mode == tree.TypeRegular|0o644 }},
		"Version 7": {raw(header(func(h *imagetest.Header) { h.Type, h.Magic = 0, "" })),
			func(e *tarfs.Entry) bool { return e.Mode == tree.TypeRegular|0o644 }},
		"Version 7 directory": {raw(header(func(h *imagetest.Header) { h.Type, h.Magic, h.Name = 0, "", "d/" })),
			func(e *tarfs.Entry) bool { return e.Name == "d" && e.Mode == tree.TypeDir|0o644 }},
		"directory with a size": {raw(header(func(h *imagetest.Header) { h.Type, h.Size = '5', 1000 })),
			func(e *tarfs.Entry) bool { return e.Size == 0 }},
		"GNU long name":    {imagetest.File(long, "", imagetest.GNU()), func(e *tarfs.Entry) bool { return e.Name == long }},
		"GNU deep name":    {imagetest.File(deep, "", imagetest.GNU()), func(e *tarfs.Entry) bool { return e.Name == deep }},
		"PAX long name":    {imagetest.File(long, ""), func(e *tarfs.Entry) bool { return e.Name == long }},
		"USTAR prefix":     {imagetest.File(strings.Repeat("p", 150)+"/"+strings.Repeat("n", 99), "", imagetest.USTAR()), func(e *tarfs.Entry) bool { return len(e.Name) == 250 }},
		"star prefix":      {raw(header(field(345, strings.Repeat("p", 131)+strings.Repeat("0", 32)+"tar\x00"))), func(e *tarfs.Entry) bool { return e.Name == strings.Repeat("p", 131)+"/name" }},
		"not UTF-8":        {imagetest.File("a\xff\xfe", ""), func(e *tarfs.Entry) bool { return e.Name == "a\xff\xfe" }},
		"not UTF-8, USTAR": {raw(header(func(h *imagetest.Header) { h.Name = "a\xff\xfe" })), func(e *tarfs.Entry) bool { return e.Name == "a\xff\xfe" }},
		"signed checksum": {raw(signedChecksum(header(func(h *imagetest.Header) { h.Name = "a\xff\xfe" }))),
			func(e *tarfs.Entry) bool { return e.Name == "a\xff\xfe" }},
		"paths":          {imagetest.File(".//x/./y/../..//z.", ""), func(e *tarfs.Entry) bool { return e.Name == "z." }},
		"dots in names":  {imagetest.File("./.a/..b/...", ""), func(e *tarfs.Entry) bool { return e.Name == ".a/..b/..." }},
		"owner":          {imagetest.File("a", "", imagetest.Owner(1<<21+5, 1<<32-1)), func(e *tarfs.Entry) bool { return e.UID == 1<<21+5 && e.GID == 1<<32-1 }},
		"owner, GNU":     {imagetest.File("a", "", imagetest.GNU(), imagetest.Owner(1<<21+5, 1<<32-1)), func(e *tarfs.Entry) bool { return e.UID == 1<<21+5 && e.GID == 1<<32-1 }},
		"time":           {imagetest.File("a", "", imagetest.At(5, 123456789)), func(e *tarfs.Entry) bool { return e.Mtime == 5 && e.MtimeNsec == 123456789 }},
		"before 1970":    {imagetest.File("a", "", imagetest.At(-2, 750000000)), func(e *tarfs.Entry) bool { return e.Mtime == -2 && e.MtimeNsec == 750000000 }},
		"time, GNU":      {imagetest.File("a", "", imagetest.GNU(), imagetest.At(-86400, 0)), func(e *tarfs.Entry) bool { return e.Mtime == -86400 && e.MtimeNsec == 0 }},
		"negative zero":  {raw(pax("mtime", "-0.25"), header(nil)), func(e *tarfs.Entry) bool { return e.Mtime == -1 && e.MtimeNsec == 750000000 }},
		"many digits":    {raw(pax("mtime", "1.0000000019"), header(nil)), func(e *tarfs.Entry) bool { return e.Mtime == 1 && e.MtimeNsec == 1 }},
		"no fraction":    {raw(pax("mtime", "7."), header(nil)), func(e *tarfs.Entry) bool { return e.Mtime == 7 && e.MtimeNsec == 0 }},
		"empty record":   {raw(pax("path", "", "mtime", "", "size", ""), header(nil)), func(e *tarfs.Entry) bool { return e.Name == "name" && e.Mtime == imagetest.Time }},
		"last PAX wins":  {raw(pax("path", "x", "mtime", "7"), pax("path", "y"), header(nil)), func(e *tarfs.Entry) bool { return e.Name == "y" && e.Mtime == imagetest.Time }},
		"global ignored": {raw(imagetest.Extension('g', imagetest.Records("path", "x", "comment", "z")), header(nil)), func(e *tarfs.Entry) bool { return e.Name == "name" }},
		"GNU over PAX":   {raw(imagetest.Extension('L', []byte("gnu\x00")), pax("path", "x"), header(nil)), func(e *tarfs.Entry) bool { return e.Name == "gnu" }},
		"offset":         {raw(imagetest.Extension('L', []byte("gnu\x00")), pax("path", "x"), header(nil)), func(e *tarfs.Entry) bool { return e.Offset == 0 && e.Index == 0 }},
		"numbers with spaces": {raw(header(field(100, " 755  \x00"))),
			func(e *tarfs.Entry) bool { return e.Mode == tree.TypeRegular|0o755 }},
		"numbers missing": {raw(header(field(100, strings.Repeat("\x00", 48)))), func(e *tarfs.Entry) bool { return e.Mtime == 0 && e.UID == 0 && e.Size == 0 }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if e, _ := one(t, c.item); !c.check(e) {
				t.Errorf("%+v", e)
			}
		})
	}
}

// signedChecksum sets the checksum of a header as programs did that summed signed bytes.
func signedChecksum(b []byte) []byte {
	copy(b[148:], "        ")
	sum := 0
	for _, c := range b {
		sum += int(int8(c))
	}
	const digits = "01234567"
	for i := 5; i >= 0; i-- {
		b[148+i] = digits[sum&7]
		sum >>= 3
	}
	b[154] = 0
	return b
}

func TestReaderXattrs(t *testing.T) {
	t.Parallel()
	value := strings.Repeat("\x00v=\n", 16000)
	e, _ := one(t, raw(imagetest.Extension('x', imagetest.Records(
		"LIBARCHIVE.xattr.user.only%2Fhere%3D", "aGVsbG8",
		"LIBARCHIVE.xattr.user.both", "b3RoZXI=",
		"SCHILY.xattr.user.large", value,
		"SCHILY.xattr.user.both", "mine",
		"SCHILY.xattr.user.empty", "",
		"SCHILY.xattr.user.twice", "1",
		"SCHILY.xattr.user.twice", "2")), header(nil)))
	want := []tree.Xattr{{Name: "user.both", Value: []byte("mine")}, {Name: "user.empty"}, {Name: "user.large", Value: []byte(value)},
		{Name: "user.only/here=", Value: []byte("hello")}, {Name: "user.twice", Value: []byte("2")}}
	if !slices.EqualFunc(e.Xattrs, want, func(a, b tree.Xattr) bool { return a.Name == b.Name && bytes.Equal(a.Value, b.Value) }) {
		t.Errorf("%.300q", e.Xattrs)
	}
}

func TestReaderSparse(t *testing.T) {
	t.Parallel()
	pieces := []imagetest.Piece{{Off: 0, Data: "first"}, {Off: 4096, Data: "second"}, {Off: 4102, Data: "third"}, {Off: 9000, Data: strings.Repeat("z", 600)}}
	var many []imagetest.Piece
	for i := range 100 {
		many = append(many, imagetest.Piece{Off: int64(i) * 1000, Data: strings.Repeat("m", i)})
	}
	for name, c := range map[string]struct {
		size   int64
		pieces []imagetest.Piece
	}{
		"pieces":      {20000, pieces},
		"to the end":  {9600, pieces},
		"many":        {200000, many},
		"no pieces":   {70000, nil},
		"nothing":     {0, nil},
		"end mark":    {100, []imagetest.Piece{{Off: 0, Data: "x"}, {Off: 100}}},
		"only data":   {3, []imagetest.Piece{{Off: 0, Data: "abc"}}},
		"large holes": {300000, []imagetest.Piece{{Off: 150000, Data: "middle"}}},
	} {
		want := make([]byte, c.size)
		for _, p := range c.pieces {
			copy(want[p.Off:], p.Data)
		}
		for _, format := range imagetest.SparseFormats {
			t.Run(name+", "+string(format), func(t *testing.T) {
				t.Parallel()
				layer := imagetest.Tar(t, imagetest.Sparse(t, "sparse", format, c.size, c.pieces...), imagetest.File("next", "n"))
				list, contents, err := entries(tarfs.NewReader(bytes.NewReader(layer)))
				if err != nil {
					t.Fatal(err)
				}
				if len(list) != 2 || list[0].Name != "sparse" || list[0].Size != c.size || list[1].Name != "next" {
					t.Fatalf("%+v", list)
				}
				if contents[0] != string(want) || contents[1] != "n" {
					t.Fatal("content differs")
				}
				// The extents say the same of the tar's bytes.
				var direct []byte
				for _, x := range list[0].Data {
					if x.Blob == tree.Hole {
						direct = append(direct, make([]byte, x.Length)...)
					} else {
						direct = append(direct, layer[x.Offset:x.Offset+x.Length]...)
					}
				}
				if !bytes.Equal(direct, want) {
					t.Errorf("extents %+v", list[0].Data)
				}
				// Content that is not read is passed over.
				r := tarfs.NewReader(bytes.NewReader(layer))
				for range 2 {
					if _, err := r.Next(); err != nil {
						t.Fatal(err)
					}
				}
			})
		}
	}
}

func TestReaderEnds(t *testing.T) {
	t.Parallel()
	a, b := imagetest.Entries(t, imagetest.File("a", "1")), imagetest.Entries(t, imagetest.File("b", "22"))
	zero := make([]byte, 512)
	for name, c := range map[string]struct {
		tar          []byte
		concatenated bool
		want         string
	}{
		"empty":                    {nil, false, ""},
		"no end":                   {slices.Concat(a, b), false, "a b"},
		"one zero block":           {slices.Concat(a, b, zero), false, "a b"},
		"two zero blocks":          {slices.Concat(a, zero, zero), false, "a"},
		"zero block between":       {slices.Concat(a, zero, b), false, "a b"},
		"behind the end":           {slices.Concat(a, zero, zero, b, []byte("rest")), false, "a"},
		"only zeros":               {make([]byte, 5120), false, ""},
		"concatenated":             {slices.Concat(a, zero, zero, b, zero, zero, zero, a), true, "a b a"},
		"concatenated, without it": {slices.Concat(a, zero, zero, b, zero, zero), false, "a"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			src := bytes.NewReader(c.tar)
			r := tarfs.NewReader(iotest.OneByteReader(src))
			r.Concatenated = c.concatenated
			list, _, err := entries(r)
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, e := range list {
				names = append(names, e.Name)
			}
			if got := strings.Join(names, " "); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
			if src.Len() != 0 || r.Offset() != int64(len(c.tar)) {
				t.Errorf("%d bytes were not read, offset %d of %d", src.Len(), r.Offset(), len(c.tar))
			}
			if _, err := r.Next(); !errors.Is(err, io.EOF) {
				t.Errorf("after the end: %v", err)
			}
		})
	}
}

func TestReaderRefuses(t *testing.T) {
	t.Parallel()
	pax := func(keysAndValues ...string) []byte {
		return imagetest.Extension('x', imagetest.Records(keysAndValues...))
	}
	withPAX := func(keysAndValues ...string) imagetest.Item { return raw(pax(keysAndValues...), header(nil)) }
	sized := func(size int64) imagetest.Item { return raw(header(func(h *imagetest.Header) { h.Size = size })) }
	sparse := func(format imagetest.SparseFormat, size int64, pieces ...imagetest.Piece) imagetest.Item {
		return imagetest.Sparse(t, "s", format, size, pieces...)
	}
	for name, c := range map[string]struct {
		item imagetest.Item
		want error
	}{
		"above the root":             {imagetest.File("../a", ""), tarfs.ErrPath},
		"above the root, inside":     {imagetest.File("a/../../b", ""), tarfs.ErrPath},
		"above the root, absolute":   {imagetest.File("/../b", ""), tarfs.ErrPath},
		"above the root, at the end": {imagetest.Dir("a/../.."), tarfs.ErrPath},
		"root as a file":             {raw(header(func(h *imagetest.Header) { h.Name = "./" })), tarfs.ErrPath},
		"no name":                    {raw(header(func(h *imagetest.Header) { h.Name = "" })), tarfs.ErrPath},
		"long component":             {imagetest.File(strings.Repeat("a", 256), ""), tarfs.ErrName},
		"long component, first":      {imagetest.File("./"+strings.Repeat("a", 256)+"/b", ""), tarfs.ErrName},
		"long path":                  {imagetest.File(strings.Repeat("a/", 2048)+"b", ""), tarfs.ErrName},
		"NUL in a name":              {withPAX("path", "a\x00b"), tarfs.ErrName},
		"NUL in a target":            {withPAX("linkpath", "a\x00b"), tarfs.ErrName},
		"NUL in a sparse name":       {withPAX("GNU.sparse.name", "a\x00b"), tarfs.ErrName},
		"long symlink":               {imagetest.Symlink("a", strings.Repeat("x", 4096)), tarfs.ErrName},
		"empty symlink":              {imagetest.Symlink("a", ""), tarfs.ErrPath},
		"hard link outside":          {imagetest.Link("a", "../b"), tarfs.ErrPath},
		"hard link outside, abs":     {imagetest.Link("a", "/../b"), tarfs.ErrPath},
		"hard link to the root":      {imagetest.Link("a", "./"), tarfs.ErrLink},
		"hard link to nothing":       {imagetest.Link("a", ""), tarfs.ErrLink},
		"reserved xattr":             {imagetest.File("a", "", imagetest.Xattr("trusted.lazuli.implied", "")), tarfs.ErrXattr},
		"reserved xattr, libarchive": {withPAX("LIBARCHIVE.xattr.trusted%2elazuli.x", ""), tarfs.ErrXattr},
		"long xattr":                 {imagetest.File("a", "", imagetest.Xattr("user.a", strings.Repeat("x", 65536))), tarfs.ErrXattr},
		"long xattr name":            {imagetest.File("a", "", imagetest.Xattr("user."+strings.Repeat("x", 255), "")), tarfs.ErrXattr},
		"empty xattr name":           {withPAX("SCHILY.xattr.", "x"), tarfs.ErrXattr},
		"bad base64":                 {withPAX("LIBARCHIVE.xattr.user.x", "?"), blob.ErrCorrupt},
		"bad escape":                 {withPAX("LIBARCHIVE.xattr.user%zz", ""), blob.ErrCorrupt},
		"unknown type":               {raw(header(func(h *imagetest.Header) { h.Type = 'V' })), blob.ErrUnsupported},
		"bad checksum":               {raw(header(func(h *imagetest.Header) { h.BadChecksum = true })), blob.ErrCorrupt},
		"bad digits":                 {raw(header(field(108, "12z"))), blob.ErrCorrupt},
		"negative size":              {raw(header(field(124, strings.Repeat("\xff", 12)))), blob.ErrCorrupt},
		"huge number":                {raw(header(field(124, "\x80\x01"+strings.Repeat("\x00", 10)))), blob.ErrCorrupt},
		"size over the limit":        {raw(header(field(124, "\x80\x00\x00\x00\x00\x00\x20"+strings.Repeat("\x00", 5)))), tarfs.ErrTooLarge},
		"negative owner":             {raw(header(field(108, strings.Repeat("\xff", 8)))), blob.ErrCorrupt},
		"large owner":                {withPAX("uid", "4294967296"), blob.ErrCorrupt},
		"cut content":                {sized(5000), io.ErrUnexpectedEOF},
		"cut extension":              {raw(pax("path", strings.Repeat("x", 3000))[:1024]), io.ErrUnexpectedEOF},
		"extension alone":            {raw(pax("path", "x")), blob.ErrCorrupt},
		"large extension":            {raw(header(func(h *imagetest.Header) { h.Type, h.Size = 'x', 1<<20+1 })), tarfs.ErrTooLarge},
		"large long name":            {raw(header(func(h *imagetest.Header) { h.Type, h.Size = 'L', 1<<33-1 })), tarfs.ErrTooLarge},
		"PAX negative size":          {withPAX("size", "-1"), blob.ErrCorrupt},
		"PAX bad time":               {withPAX("mtime", "1.x"), blob.ErrCorrupt},
		"PAX time before all time":   {withPAX("mtime", "-9223372036854775808.5"), blob.ErrCorrupt},
		"PAX bad length":             {raw(imagetest.Extension('x', []byte("99 path=x\n")), header(nil)), blob.ErrCorrupt},
		"PAX no length":              {raw(imagetest.Extension('x', []byte("path=x\n")), header(nil)), blob.ErrCorrupt},
		"PAX no newline":             {raw(imagetest.Extension('x', []byte("9 path=xy")), header(nil)), blob.ErrCorrupt},
		"PAX no key":                 {raw(imagetest.Extension('x', []byte("5 =x\n")), header(nil)), blob.ErrCorrupt},
		"global, bad":                {raw(imagetest.Extension('g', []byte("nothing")), header(nil)), blob.ErrCorrupt},
		"sparse beyond the end":      {sparse(imagetest.Sparse01, 10, imagetest.Piece{Off: 8, Data: "abc"}, imagetest.Piece{Off: 10}), blob.ErrCorrupt},
		"sparse overlap":             {sparse(imagetest.Sparse10, 10, imagetest.Piece{Off: 2, Data: "abc"}, imagetest.Piece{Off: 4, Data: "abc"}), blob.ErrCorrupt},
		"sparse over the limit":      {sparse(imagetest.Sparse00, 1<<60), tarfs.ErrTooLarge},
		"sparse order of records":    {withPAX("GNU.sparse.numbytes", "1", "GNU.sparse.offset", "1"), blob.ErrCorrupt},
		"sparse odd map":             {withPAX("GNU.sparse.map", "1,2,3"), blob.ErrCorrupt},
		"sparse, stored bytes left":  {raw(pax("GNU.sparse.map", "0,1", "GNU.sparse.size", "1"), header(func(h *imagetest.Header) { h.Size = 512 }), make([]byte, 512)), blob.ErrCorrupt},
		"sparse map without an end":  {raw(pax("GNU.sparse.major", "1", "GNU.sparse.minor", "0"), header(func(h *imagetest.Header) { h.Size = 512 }), bytes.Repeat([]byte("1"), 512)), blob.ErrCorrupt},
		"sparse map too long":        {raw(pax("GNU.sparse.major", "1", "GNU.sparse.minor", "0"), header(func(h *imagetest.Header) { h.Size = 512 }), imagetest.Padded([]byte("99999999\n"))), blob.ErrCorrupt},
		"sparse without GNU magic":   {raw(header(func(h *imagetest.Header) { h.Type = 'S' })), blob.ErrCorrupt},
		"sparse blocks missing": {raw(header(func(h *imagetest.Header) {
			h.Type, h.Magic = 'S', imagetest.MagicGNU
			h.Change = func(b []byte) { b[482] = 1 }
		})), blob.ErrCorrupt},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			layer := imagetest.Entries(t, imagetest.File("before", "x"), c.item)
			r := tarfs.NewReader(bytes.NewReader(layer))
			list, _, err := entries(r)
			var e *tarfs.Error
			if !errors.Is(err, c.want) || !errors.As(err, &e) {
				t.Fatalf("got %v after %d entries, want %v", err, len(list), c.want)
			}
			if e.Entry != 1 || e.Offset < 1024 {
				t.Errorf("place of the error: %+v", e)
			}
			if _, again := r.Next(); again == nil || again.Error() != err.Error() {
				t.Errorf("the error does not stay: %v", again)
			}
		})
	}
}

// TestReaderCut cuts a tar at each length: whole entries come, and an error unless the cut is between two.
func TestReaderCut(t *testing.T) {
	t.Parallel()
	layer := imagetest.Tar(t, imagetest.File("a", "content"), imagetest.Sparse(t, "s", imagetest.Sparse10, 5000, imagetest.Piece{Off: 1000, Data: "x"}),
		imagetest.File(strings.Repeat("long", 50), ""))
	starts := []int64{int64(len(layer))}
	list, _, err := entries(tarfs.NewReader(bytes.NewReader(layer)))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		starts = append(starts, e.Offset)
	}
	for n := range layer {
		_, _, err := entries(tarfs.NewReader(bytes.NewReader(layer[:n])))
		whole := slices.Contains(starts, int64(n)) || n >= len(layer)-1024 && n%512 == 0
		if whole != (err == nil) || err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("%d of %d bytes: %v", n, len(layer), err)
		}
	}
}

func TestReaderPassesErrorsOn(t *testing.T) {
	t.Parallel()
	layer := imagetest.Tar(t, imagetest.File("a", strings.Repeat("x", 5000)))
	errNetwork := errors.New("network")
	for _, n := range []int{0, 300, 512, 2000, 5700, len(layer)} {
		src := io.MultiReader(bytes.NewReader(layer[:n]), iotest.ErrReader(errNetwork))
		if _, _, err := entries(tarfs.NewReader(src)); !errors.Is(err, errNetwork) || errors.Is(err, blob.ErrCorrupt) {
			t.Errorf("after %d bytes: %v", n, err)
		}
	}
}
