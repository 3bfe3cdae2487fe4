package formatstest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/flate"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/internal/imagetest"
	"github.com/lazuli-project/lazuli/tarfs"
	"github.com/lazuli-project/lazuli/tree"
)

// source is a plain image that is converted.
type source struct {
	*formats.Manifest
	layers []imagetest.Layer
}

// source returns a plain image of the layers.
func (f *Format) source(tb testing.TB, layers [][]byte) *source {
	tb.Helper()
	s := &source{layers: make([]imagetest.Layer, len(layers))}
	for i, l := range layers {
		s.layers[i] = f.Pack(tb, l)
	}
	img := imagetest.NewImage(tb, s.layers...)
	raw := img.Objects[img.Desc.Digest]
	var m ocispec.Manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		tb.Fatal(err)
	}
	var err error
	if s.Manifest, err = formats.ParseManifest(img.Desc, raw, img.Objects[m.Config.Digest]); err != nil {
		tb.Fatal(err)
	}
	return s
}

// manner says in what way layers are converted; the image must be the same.
type manner struct {
	cut   int  // content is given in pieces of at most so many bytes; 0 leaves them as they come
	final bool // the layers' trees may be used up
}

// overwritten is what content becomes after the call that gave it.
var overwritten = bytes.Repeat([]byte{0xee}, 64<<10)

// writeLayer converts layer i.
func writeLayer(ctx context.Context, w formats.Writer, m *memory, src *source, i int, below []formats.Layer, how manner) (formats.Layer, error) {
	if k, ok := w.(formats.KeepsLayers); ok && k.KeepsLayers() {
		m.store(src.layers[i].Stored)
	}
	l, err := tryLayer(ctx, w, m, src, formats.LayerSource{Index: i}, below, how)
	if errors.Is(err, formats.ErrAgain) {
		l, err = tryLayer(ctx, w, m, src, formats.LayerSource{Index: i, Again: true}, below, how)
	}
	return l, err
}

func tryLayer(ctx context.Context, w formats.Writer, m *memory, src *source, from formats.LayerSource, below []formats.Layer, how manner) (formats.Layer, error) {
	from, pieces, err := layerSource(w, src, src.layers[from.Index].Stored, from, below)
	if err != nil {
		return formats.Layer{}, err
	}
	defer from.Stream.Close()
	lw, err := w.Layer(ctx, from, m)
	if err != nil {
		return formats.Layer{}, err
	}
	pieces.follow(lw)
	defer lw.Abort()
	var buf []byte
	t, err := readTar(pieces, func(e *tarfs.Entry, n *tree.Node) error { return lw.Entry(e, n) }, func(p []byte) error {
		for len(p) > 0 {
			n := len(p)
			if how.cut > 0 {
				n = min(n, how.cut)
			}
			buf = append(buf[:0], p[:n]...)
			err := lw.Data(buf)
			for at := 0; at < n; { // only valid during the call
				at += copy(buf[at:], overwritten)
			}
			if err != nil {
				return err
			}
			p = p[n:]
		}
		return nil
	})
	if err != nil {
		return formats.Layer{}, err
	}
	l, err := lw.Close(t)
	l.Final = how.final
	return l, err
}

// layerSource says all of a layer that converters say, and returns what it is read from.
func layerSource(w formats.Writer, src *source, stored []byte, from formats.LayerSource, below []formats.Layer) (formats.LayerSource, *followedPieces, error) {
	var trace flate.Trace
	if t, ok := w.(formats.Tracer); ok {
		trace = t.Trace()
	}
	var err error
	if from.Stream, err = flate.NewTracingReader(bytes.NewReader(stored), trace); err != nil {
		return from, nil, err
	}
	from.Desc = src.Manifest.Manifest.Layers[from.Index]
	from.Chains = identity.ChainIDs(slices.Clone(src.Config.RootFS.DiffIDs[:from.Index+1]))
	from.Below = func(context.Context) ([]formats.Layer, error) { return below, nil }
	from.Spool = func() (formats.Spool, error) { return formats.NewSpool("") }
	return from, &followedPieces{Reader: from.Stream}, nil
}

// followedPieces shows the pieces of a layer to a writer that follows them.
type followedPieces struct {
	*flate.Reader
	follower formats.Follower
}

func (p *followedPieces) follow(lw formats.LayerWriter) { p.follower, _ = lw.(formats.Follower) }

// Next implements [tarfs.Pieces].
func (p *followedPieces) Next() ([]byte, error) {
	piece, err := p.Reader.Next()
	if err == nil && p.follower != nil {
		err = p.follower.Follow(piece)
	}
	return piece, err
}

// writeLayers converts all layers.
func writeLayers(ctx context.Context, w formats.Writer, m *memory, src *source, how manner) ([]formats.Layer, error) {
	p, ok := w.(formats.NeedsParents)
	needsParents := ok && p.NeedsParents()
	var done []formats.Layer
	for i := range src.layers {
		var below []formats.Layer
		if needsParents {
			below = done
		}
		l, err := writeLayer(ctx, w, m, src, i, below, how)
		if err != nil {
			return nil, fmt.Errorf("layer %d: %w", i, err)
		}
		done = append(done, l)
	}
	return done, nil
}

// errBroken: a writer made an image that does not hold together.
var errBroken = errors.New("broken image")

// finish makes the image of finished layers and checks that its manifest names what m has.
func finish(ctx context.Context, w formats.Writer, m *memory, src *source, layers []formats.Layer) (*formats.Manifest, error) {
	res, err := w.Finish(ctx, layers, src.Manifest, m)
	if err != nil {
		return nil, err
	}
	if d := formats.DigestOf(res.Desc.MediaType, res.Manifest); d.Digest != res.Desc.Digest || d.Size != res.Desc.Size {
		return nil, fmt.Errorf("%w: the manifest is %+v and not %+v", errBroken, d, res.Desc)
	}
	var parsed ocispec.Manifest
	if err := json.Unmarshal(res.Manifest, &parsed); err != nil {
		return nil, fmt.Errorf("%w: %w", errBroken, err)
	}
	for _, d := range append([]ocispec.Descriptor{parsed.Config}, parsed.Layers...) {
		p, err := m.get(d.Digest)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errBroken, err)
		}
		if int64(len(p)) != d.Size || d.MediaType == "" {
			return nil, fmt.Errorf("%w: object of %d bytes is said to be %+v", errBroken, len(p), d)
		}
	}
	config, err := m.get(parsed.Config.Digest)
	if err != nil {
		return nil, err
	}
	return formats.ParseManifest(res.Desc, res.Manifest, config)
}

// write converts an image.
func write(ctx context.Context, w formats.Writer, m *memory, src *source, how manner) (*formats.Manifest, error) {
	done, err := writeLayers(ctx, w, m, src, how)
	if err != nil {
		return nil, err
	}
	return finish(ctx, w, m, src, done)
}

// roundTrip converts layers, reads the result, and says how it differs from what package tarfs makes of them. Where that
// refuses the layers, so must the writer.
func (f *Format) roundTrip(tb testing.TB, w formats.Writer, layers [][]byte, how manner) error {
	tb.Helper()
	ctx := context.Background()
	src := f.source(tb, layers)
	want, refused := expectedOf(layers, f)
	m := newMemory()
	made, err := write(ctx, w, m, src, how)
	switch {
	case refused != nil && err == nil:
		return fmt.Errorf("the writer takes layers that are refused: %w", refused)
	case refused != nil:
		return nil //nolint:nilerr // both refuse the layers, which is right
	case err != nil:
		return fmt.Errorf("write: %w", err)
	case m.open != 0:
		return fmt.Errorf("%d objects were neither committed nor given up", m.open)
	}
	if f.Reader.Recognize(src.Manifest) {
		return errors.New("the reader takes a plain image for its own")
	}
	if !f.Reader.Recognize(made) {
		return errors.New("the reader does not recognise the image")
	}
	got, err := list(ctx, f.Reader, made, m)
	if err != nil {
		return fmt.Errorf("read: %w", err)
	}
	if diff := imagetest.Diff(want, got); diff != "" {
		return fmt.Errorf("the image differs from its layers:\n%s", diff)
	}
	return nil
}

// same says how two targets differ.
func same(a, b *memory) error {
	all := make(map[digest.Digest]bool)
	for _, d := range append(a.digests(), b.digests()...) {
		all[d] = true
	}
	for d := range all {
		p, err := a.get(d)
		q, err2 := b.get(d)
		if err := errors.Join(err, err2); err != nil {
			return err
		}
		if !bytes.Equal(p, q) {
			return fmt.Errorf("two objects have digest %s", d)
		}
	}
	return nil
}
