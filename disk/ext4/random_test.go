package ext4

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/lazuli-project/lazuli/internal/imagetest"
)

// generator makes layers of a few directories, large and small, with all kinds of nodes.
type generator struct {
	r     *rand.Rand
	names []string // that were used, with their directories
}

func (g *generator) dir() string {
	return []string{"", "d", "d/e", "big", "big", "big/deep", "c/x", "linked"}[g.r.IntN(8)]
}

func (g *generator) name() string {
	// Few letters and many lengths: hashes differ, and names come again.
	b := make([]byte, 1+g.r.IntN([]int{3, 12, 60, 250}[g.r.IntN(4)]))
	for i := range b {
		b[i] = "ab\xe4\xff-"[g.r.IntN(5)]
	}
	return string(b)
}

func (g *generator) used() string {
	if len(g.names) == 0 || g.r.IntN(100) == 0 {
		return []string{"none", "d/e", "d", "big/deep", "big", "lost+found"}[g.r.IntN(6)]
	}
	return g.names[g.r.IntN(len(g.names))]
}

// options are attributes; user's extended ones are for files and directories only.
func (g *generator) options(spaces ...string) []imagetest.Option {
	spaces = append(spaces, "trusted.", "security.")
	o := []imagetest.Option{imagetest.Mode(int64(g.r.IntN(0o10000))), imagetest.Owner(g.r.IntN(1<<31), g.r.IntN(1<<17)),
		imagetest.At(g.r.Int64N(1<<33)-1<<31, g.r.Int64N(1e9))}
	if g.r.IntN(4) == 0 {
		for i := range 1 + g.r.IntN(5) {
			o = append(o, imagetest.Xattr(spaces[i%len(spaces)]+strings.Repeat("n", 1+g.r.IntN(9)),
				strings.Repeat("v", g.r.IntN(1<<g.r.IntN(10)))))
		}
	}
	if spaces[0] == "user." && g.r.IntN(8) == 0 {
		o = append(o, imagetest.Xattr(aclAccess, string(acl(1, 7, 2, 5, 4, uint16(g.r.IntN(8)), 8, 3, 16, 7, 32, 0))))
	}
	return o
}

func (g *generator) layer(tb testing.TB, items int) []byte {
	var all []imagetest.Item
	for range items {
		path := g.dir() + "/" + g.name()
		path = strings.TrimPrefix(path, "/")
		kind := g.r.IntN(20)
		if kind < 12 {
			g.names = append(g.names, path)
		}
		switch kind {
		case 0:
			all = append(all, imagetest.Symlink(path, strings.Repeat("t", 1+g.r.IntN(120)), g.options()...))
		case 1:
			all = append(all, imagetest.Dir(path, g.options("user.")...))
		case 2:
			all = append(all, imagetest.Char(path, g.r.Int64N(1<<[]int{8, 12}[g.r.IntN(2)]), g.r.Int64N(1<<20), g.options()...))
		case 3:
			all = append(all, imagetest.FIFO(path, g.options()...))
		case 12, 13, 14:
			all = append(all, imagetest.Whiteout(g.used()))
		case 15:
			if g.r.IntN(10) == 0 {
				if d := g.dir(); d != "" || g.r.IntN(20) == 0 { // the root seldom, with which all is gone
					all = append(all, imagetest.Opaque(d))
				}
			}
			if g.r.IntN(20) == 0 {
				all = append(all, imagetest.Dir("lost+found", g.options()...))
			}
		case 16:
			if d := g.dir(); d != "" {
				all = append(all, imagetest.Dir(d, g.options("user.")...))
			}
		default:
			content := make([]byte, g.r.IntN(1<<g.r.IntN(16)))
			for i := 0; i < len(content); i += 1 + g.r.IntN(3000) {
				content[i] = byte(g.r.Uint32())
			}
			all = append(all, imagetest.File(path, string(content), g.options("user.")...))
			if g.r.IntN(5) == 0 {
				all = append(all, imagetest.Link(g.dir()+"/hard"+fmt.Sprint(g.r.IntN(50)), path))
			}
		}
	}
	return imagetest.Tar(tb, all...)
}

// Layers of every kind, one over the other: the disk is what package tarfs says, e2fsck finds nothing, and it makes no difference whether the
// model is read anew for each layer.
func TestRandomLayers(t *testing.T) {
	t.Parallel()
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			g := &generator{r: rand.New(rand.NewPCG(seed, 1))}
			s := newStack(t, Options{Size: []int64{64 << 20, 300 << 20}[seed%2]})
			for range 8 {
				tar := g.layer(t, []int{5, 100, 600, 2000}[g.r.IntN(4)])
				if !valid(t, s, tar) {
					t.Log("not valid")
					continue
				}
				s.apply(t, tar)
				s.dev.fsck(t)
			}
		})
	}
}

// valid reports whether a layer can be laid over the others at all: paths may lead through what is no directory.
func valid(tb testing.TB, s *stack, tar []byte) (ok bool) {
	tb.Helper()
	var c content
	c.blobs = slices.Clone(s.blobs)
	layer, err := c.tryLayer(tar)
	if err != nil {
		return false
	}
	return mergeable(append(slices.Clone(s.layers), layer))
}
