package erofs_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/lazuli-project/lazuli/internal/imagetest"
)

// randomLayers makes layers of few names, which therefore replace, link and remove each other in every way.
func randomLayers(tb testing.TB, seed uint64, count int) layers {
	tb.Helper()
	r := rand.New(rand.NewPCG(seed, 1))
	var l layers
	for len(l) < count {
		tar := imagetest.Tar(tb, randomItems(tb, r)...)
		next := append(l[:len(l):len(l)], tar)
		// Many are impossible: links to nothing, files that are parents.
		if _, err := next.merge(); err == nil {
			l = next
		}
	}
	return l
}

func randomItems(tb testing.TB, r *rand.Rand) []imagetest.Item {
	tb.Helper()
	var items []imagetest.Item
	for range r.IntN(12) {
		items = append(items, randomItem(tb, r))
	}
	if r.IntN(3) == 0 {
		// A directory of many names, which takes blocks of its own and grows.
		for i := range r.IntN(400) {
			items = append(items, imagetest.File(fmt.Sprintf("many/%s-%d", strings.Repeat("n", r.IntN(200)), i), "x"))
		}
	}
	return items
}

func randomName(r *rand.Rand) string {
	parts := []string{string(rune('a' + r.IntN(4)))}
	for r.IntN(2) == 0 && len(parts) < 4 {
		parts = append(parts, string(rune('a'+r.IntN(4))))
	}
	return strings.Join(parts, "/")
}

func randomOptions(r *rand.Rand) []imagetest.Option {
	options := []imagetest.Option{imagetest.Mode(int64(r.IntN(0o10000)))}
	switch r.IntN(5) {
	case 0:
		options = append(options, imagetest.At(r.Int64N(1<<33)-1<<32, r.Int64N(1e9)))
	case 1:
		options = append(options, imagetest.Owner(r.IntN(1<<31), r.IntN(1<<17)))
	case 2:
		// Linux shows those of users at files and directories only.
		for i := range 1 + r.IntN(4) {
			options = append(options, imagetest.Xattr(fmt.Sprintf("trusted.%d", i), strings.Repeat("v", r.IntN(3000))))
		}
	}
	return options
}

func randomItem(tb testing.TB, r *rand.Rand) imagetest.Item {
	tb.Helper()
	name, options := randomName(r), randomOptions(r)
	switch r.IntN(12) {
	case 0, 1, 2:
		return imagetest.Dir(name, options...)
	case 3:
		return imagetest.Symlink(name, strings.Repeat("target/", 1+r.IntN(500)), options...)
	case 4:
		return imagetest.Link(name, randomName(r))
	case 5:
		return imagetest.Whiteout(name)
	case 6:
		return imagetest.Opaque(name)
	case 7:
		return imagetest.Char(name, int64(r.IntN(4096)), int64(r.IntN(1<<20)), options...)
	case 8:
		var pieces []imagetest.Piece
		size := int64(0)
		for range r.IntN(4) {
			size += r.Int64N(40) * 512
			pieces = append(pieces, imagetest.Piece{Off: size, Data: strings.Repeat("p", 512*(1+r.IntN(20)))})
			size += int64(len(pieces[len(pieces)-1].Data))
		}
		return imagetest.Sparse(tb, name, imagetest.Sparse10, size+r.Int64N(100000), pieces...)
	}
	return imagetest.File(name, strings.Repeat(string(rune('A'+r.IntN(26))), randomSize(r)), options...)
}

func randomSize(r *rand.Rand) int {
	switch r.IntN(3) {
	case 0:
		return r.IntN(600)
	case 1:
		return 4096 * r.IntN(4)
	}
	return r.IntN(20000)
}
