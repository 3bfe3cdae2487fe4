package formatstest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime/metrics"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/internal/imagetest"
	"github.com/lazuli-project/lazuli/tarfs"
)

// known reports whether an error has one of the classes that callers tell apart.
func known(err error) bool {
	for _, class := range []error{
		blob.ErrCorrupt, blob.ErrDigest, blob.ErrUnsupported, io.ErrUnexpectedEOF, errTooLong,
		tarfs.ErrPath, tarfs.ErrName, tarfs.ErrLink, tarfs.ErrXattr, tarfs.ErrTooLarge,
	} {
		if errors.Is(err, class) {
			return true
		}
	}
	return false
}

// places returns where an object of n bytes is damaged: larger ones than whole at their beginning and end, and at samples between.
func places(n, whole, samples int) []int {
	var list []int
	step := max(1, n/samples|1)
	for i := range n {
		if n <= whole || i < whole/4 || n-i <= whole/4 || i%step == 0 {
			list = append(list, i)
		}
	}
	return list
}

// testDamage turns bytes of every stored object and cuts it short.
func (f *Format) testDamage(t *testing.T) {
	layers := [][]byte{
		imagetest.Tar(t, imagetest.File("a", "content\n", imagetest.Xattr("user.x", "y")), imagetest.Dir("d"),
			imagetest.File("d/large", string(noise(f.Chunk+9, 1)[:min(f.Chunk+9, 9000)])), imagetest.Symlink("l", "a"), imagetest.Link("h", "a")),
		imagetest.Tar(t, imagetest.File("d/b", "text text text text text text text text\n"), imagetest.Whiteout("l")),
	}
	src := f.source(t, layers)
	m := newMemory()
	w := f.Writer(t, formats.NewCPU(1))
	done, err := writeLayers(t.Context(), w, m, src, manner{})
	if err != nil {
		t.Fatal(err)
	}
	made, err := finish(t.Context(), w, m, src, done)
	if err != nil {
		t.Fatal(err)
	}
	want, err := list(t.Context(), f.Reader, made, m)
	if err != nil {
		t.Fatal(err)
	}
	d := &damage{f: f, m: m, image: made, want: want}
	for _, dgst := range m.digests() {
		if dgst == made.Manifest.Config.Digest {
			continue // parsed before the reader comes
		}
		good := m.objects[dgst]
		for _, trusting := range []bool{false, true} {
			m.trusting = trusting
			for _, at := range places(len(good), f.Whole, f.Samples) {
				bad := slices.Clone(good)
				bad[at] ^= 1 << (at % 8)
				d.try(t, dgst, fmt.Sprintf("byte %d turned", at), bad)
				if trusting { // what looks like a number becomes a large one
					bad[at] = good[at] ^ 0xff
					d.try(t, dgst, fmt.Sprintf("byte %d inverted", at), bad)
				}
				d.try(t, dgst, fmt.Sprintf("cut to %d", at), good[:at])
				if t.Failed() {
					return
				}
			}
		}
		m.trusting = false
	}
	if re, ok := w.(formats.Reopener); ok {
		f.damageReopened(t, w, re, src, done, m, want)
	}
}

// damage is an image of which one object at a time is changed.
type damage struct {
	f     *Format
	m     *memory
	image *formats.Manifest
	want  []string
}

// try reads the image with other bytes in the place of an object.
func (d *damage) try(t *testing.T, dgst digest.Digest, what string, bad []byte) {
	t.Helper()
	d.m.changed[dgst] = bad
	defer delete(d.m.changed, dgst)
	before := allocated()
	got, err := list(t.Context(), d.f.Reader, d.image, d.m)
	if n := allocated() - before; n > d.f.MaxAlloc {
		t.Errorf("object %s, %s: %d bytes allocated", dgst, what, n)
	}
	switch {
	case errors.Is(err, errInvalid) || err != nil && !known(err):
		t.Errorf("object %s, %s: %v", dgst, what, err)
	case err == nil && !d.m.trusting && !slices.Equal(got, d.want):
		// Without a store that verifies, metadata may say anything; content still has its digests.
		t.Errorf("object %s, %s: read as something else:\n%s", dgst, what, imagetest.Diff(d.want, got))
	}
}

// allocated returns how many bytes the process has allocated so far.
func allocated() int64 {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(sample)
	return int64(sample[0].Value.Uint64())
}

// damageReopened takes up damaged layers. Where that works, the image must be right or its content have an error.
func (f *Format) damageReopened(t *testing.T, w formats.Writer, re formats.Reopener, src *source, done []formats.Layer, m *memory, want []string) {
	ctx := context.Background()
	good := m.objects[done[0].Desc.Digest]
	try := func(what string, bad []byte) {
		s := blob.ReaderAtSource{R: bytes.NewReader(bad), N: int64(len(bad))}
		l, err := re.Reopen(ctx, done[0].Desc, s)
		if err != nil {
			if !known(err) {
				t.Errorf("reopened, %s: %v", what, err)
			}
			return
		}
		made, err := finish(ctx, w, m, src, []formats.Layer{l, done[1]})
		if err != nil {
			if !known(err) {
				t.Errorf("reopened, %s: merged: %v", what, err)
			}
			return
		}
		if got, err := list(ctx, f.Reader, made, m); err == nil && !slices.Equal(got, want) {
			t.Errorf("reopened, %s: read as something else:\n%s", what, imagetest.Diff(want, got))
		} else if err != nil && !known(err) {
			t.Errorf("reopened, %s: %v", what, err)
		}
	}
	for i, at := range places(len(good), f.Whole, f.Samples) {
		if i%3 != 0 { // these take longer
			continue
		}
		bad := slices.Clone(good)
		bad[at] ^= 1 << (at % 8)
		try(fmt.Sprintf("byte %d turned", at), bad)
		try(fmt.Sprintf("cut to %d", at), good[:at])
		if t.Failed() {
			return
		}
	}
}
