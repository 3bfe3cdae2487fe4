package convert

import (
	"cmp"
	"context"
	"slices"
	"sync"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	"golang.org/x/sync/errgroup"

	"github.com/lazuli-project/lazuli/formats"
)

// imageLayers are the layers of one image on their way.
type imageLayers struct {
	c      *conversion
	image  *sourceImage
	chains []digest.Digest // of this layer and those below, by diff IDs
	result [][]formats.Layer
	reused [][]reuse
	ready  [][]readyLayer
	slots  chan struct{} // one for each layer at work; a layer that waits for those below has none
}

// readyLayer is what the layers above need of one.
type readyLayer struct {
	once  sync.Once
	set   chan struct{} // closed when layer is set
	layer formats.Layer
}

func (r *readyLayer) give(l formats.Layer) {
	r.once.Do(func() {
		r.layer = l
		close(r.set)
	})
}

// needsParents reports whether the layers of an output depend on those below.
func needsParents(out Output) bool {
	p, ok := out.Writer.(formats.NeedsParents)
	return ok && p.NeedsParents()
}

// layers converts the layers of an image. Results are by output and layer.
func (c *conversion) layers(ctx context.Context, im *sourceImage) ([][]formats.Layer, [][]reuse, error) {
	if err := checkLayers(im.src); err != nil {
		return nil, nil, err
	}
	l := newImageLayers(c, im)
	order, first := l.order()
	group, gctx := errgroup.WithContext(ctx)
	for o, out := range c.outputs {
		if needsParents(out) {
			l.findKnown(ctx, o)
		}
	}
	for _, i := range order {
		l.acquire()
		group.Go(func() error {
			defer l.release()
			return l.convert(gctx, i)
		})
	}
	if err := group.Wait(); err != nil {
		return nil, nil, err
	}
	for i, k := range first {
		for o := range c.outputs {
			if k != i {
				l.result[o][i], l.reused[o][i] = l.result[o][k], reuse{true, l.reused[o][k].from}
			}
		}
	}
	return l.result, l.reused, nil
}

func newImageLayers(c *conversion, im *sourceImage) *imageLayers {
	n := len(im.src.Manifest.Layers)
	l := &imageLayers{
		c: c, image: im, chains: identity.ChainIDs(slices.Clone(im.src.Config.RootFS.DiffIDs)),
		slots:  make(chan struct{}, c.opt.Jobs),
		result: make([][]formats.Layer, len(c.outputs)), reused: make([][]reuse, len(c.outputs)),
		ready: make([][]readyLayer, len(c.outputs)),
	}
	for o := range c.outputs {
		l.result[o], l.reused[o], l.ready[o] = make([]formats.Layer, n), make([]reuse, n), make([]readyLayer, n)
		for i := range n {
			l.ready[o][i].set = make(chan struct{})
		}
	}
	return l
}

// order returns the layers to convert, in the order in which that begins, and for each layer the one that is converted for it.
func (l *imageLayers) order() (order, first []int) {
	layers := l.image.src.Manifest.Layers
	first = make([]int, len(layers))
	// A layer that stands twice in an image is converted once, unless it depends on what is below.
	chained := slices.ContainsFunc(l.c.outputs, needsParents)
	seen := make(map[digest.Digest]int)
	for i, d := range layers {
		k, ok := seen[d.Digest]
		if !ok || chained {
			k = i
			seen[d.Digest] = i
			order = append(order, i)
		}
		first[i] = k
	}
	// The largest first: they would be alone on the cores at the end.
	slices.SortStableFunc(order, func(a, b int) int { return -cmp.Compare(layers[a].Size, layers[b].Size) })
	return order, first
}

// acquire waits for a place among the layers at work. Who has one always goes on, and gives it back.
func (l *imageLayers) acquire() { l.slots <- struct{}{} }

func (l *imageLayers) release() { <-l.slots }

// key is what the record knows layer i by.
func (l *imageLayers) key(o, i int) Key {
	w := l.c.outputs[o].Writer
	k := Key{Source: l.image.src.Manifest.Layers[i].Digest, Format: w.Name(), Writer: w.Version()}
	if needsParents(l.c.outputs[o]) {
		k.Chain = l.chains[i]
		if i > 0 {
			stored := make([]digest.Digest, i)
			for j := range stored {
				stored[j] = l.image.src.Manifest.Layers[j].Digest
			}
			k.Below = identity.ChainID(stored)
		}
	}
	return k
}

// findKnown takes up the layers that are known, from the lowest on, as far as each lies on one that is.
func (l *imageLayers) findKnown(ctx context.Context, o int) {
	for i := range l.result[o] {
		layer, from, ok := l.c.known(ctx, o, l.key(o, i))
		if !ok {
			return
		}
		l.set(o, i, layer, reuse{true, from})
	}
}

// set notes what a layer became.
func (l *imageLayers) set(o, i int, layer formats.Layer, r reuse) {
	l.result[o][i], l.reused[o][i] = layer, r
	l.ready[o][i].give(layer)
}

// below returns what waits for the layers below i. It is called by a layer at work, which gives its place to others meanwhile.
func (l *imageLayers) below(o, i int) func(context.Context) ([]formats.Layer, error) {
	return func(ctx context.Context) ([]formats.Layer, error) {
		l.release()
		defer l.acquire()
		layers := make([]formats.Layer, i)
		for k := range layers {
			r := &l.ready[o][k]
			select {
			case <-r.set:
				layers[k] = r.layer
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			}
		}
		return layers, nil
	}
}

// convert converts layer i for the outputs that do not know it.
func (l *imageLayers) convert(ctx context.Context, i int) error {
	c := l.c
	j := &layerJob{c: c, image: l.image, layers: l, index: i, desc: l.image.src.Manifest.Layers[i], diffID: l.image.src.Config.RootFS.DiffIDs[i]}
	for o, out := range c.outputs {
		if l.reused[o][i].ok {
			continue
		}
		if !needsParents(out) {
			if layer, from, ok := c.known(ctx, o, l.key(o, i)); ok {
				l.set(o, i, layer, reuse{true, from})
				continue
			}
		}
		j.outputs = append(j.outputs, o)
	}
	if err := j.findKept(ctx); err != nil {
		return err
	}
	if len(j.outputs) == 0 {
		j.progress(Reused, j.desc.Size)
		return j.copyKept(ctx)
	}
	return j.run(ctx)
}
