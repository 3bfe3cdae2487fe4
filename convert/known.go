package convert

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"sync"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/store"
)

// reuse says whether a layer was taken up, and from where.
type reuse struct {
	ok   bool
	from string
}

// lookup asks the record.
func (c *conversion) lookup(ctx context.Context, o int, k Key) (Known, formats.Reopener, bool) {
	re, ok := c.outputs[o].Writer.(formats.Reopener)
	if !ok || c.opt.Record == nil {
		return Known{}, nil, false
	}
	find := c.opt.Record.Lookup
	if near, ok := c.opt.Record.(NearRecord); ok {
		find = func(ctx context.Context, k Key) (Known, bool, error) {
			return near.LookupNear(ctx, k, c.outputs[o].Target.Ref().Place())
		}
	}
	known, ok, err := find(ctx, k)
	return known, re, ok && err == nil
}

// known returns a layer that was converted before, once the target has its blob, and where that came from. Whatever goes
// wrong, the layer is converted anew.
func (c *conversion) known(ctx context.Context, o int, k Key) (formats.Layer, string, bool) {
	known, re, ok := c.lookup(ctx, o, k)
	if !ok {
		return formats.Layer{}, "", false
	}
	from, ok := c.obtain(ctx, o, k, known)
	if !ok {
		return formats.Layer{}, "", false
	}
	s, err := c.outputs[o].Target.Open(ctx, known.Desc)
	if err != nil {
		return formats.Layer{}, "", false
	}
	l, err := re.Reopen(ctx, known.Desc, s)
	return l, from, err == nil
}

// obtain makes the target have a blob that is known, and says from where.
func (c *conversion) obtain(ctx context.Context, o int, k Key, known Known) (string, bool) {
	t := c.outputs[o].Target
	here := t.Ref().Place()
	has, err := t.Exists(ctx, known.Desc)
	if err != nil {
		return "", false
	}
	if has {
		c.note(ctx, k, known, here)
		return here, true
	}
	if slices.Contains(known.Places, here) {
		_ = c.opt.Record.Forget(ctx, k, here) // deleted since; a record that fails is no reason to stop
		known.Places = slices.DeleteFunc(slices.Clone(known.Places), func(p string) bool { return p == here })
	}
	for _, place := range nearest(known.Places, here) {
		src := c.places.open(ctx, place, c.opt.OpenPlace)
		if src == nil {
			continue
		}
		err := bring(ctx, t, known.Desc, src)
		switch {
		case err == nil:
			c.note(ctx, k, known, here)
			return place, true
		case ctx.Err() != nil:
			return "", false
		case errors.Is(err, store.ErrNotFound):
			_ = c.opt.Record.Forget(ctx, k, place) // as above
		case errors.Is(err, store.ErrNetwork):
			c.places.giveUp(place)
		}
	}
	return "", false
}

// bring makes the target have a blob of a place: mounted if that is possible, else copied.
func bring(ctx context.Context, t store.Target, desc ocispec.Descriptor, src store.Source) error {
	if ok, err := t.Mount(ctx, desc, src); err == nil && ok {
		return nil
	}
	r, err := src.Fetch(ctx, desc)
	if err != nil {
		return err
	}
	return errors.Join(t.Push(ctx, desc, r), r.Close())
}

// whereKnown says where a layer would be taken from that was converted before.
func (c *conversion) whereKnown(ctx context.Context, o int, k Key) (string, bool) {
	known, _, ok := c.lookup(ctx, o, k)
	if !ok {
		return "", false
	}
	t := c.outputs[o].Target
	here := t.Ref().Place()
	if has, err := t.Exists(ctx, known.Desc); err != nil || has {
		return here, err == nil
	}
	for _, place := range nearest(known.Places, here) {
		src := c.places.open(ctx, place, c.opt.OpenPlace)
		if src == nil {
			continue
		}
		if r, err := src.Fetch(ctx, known.Desc); err == nil {
			_ = r.Close() // given up at its beginning
			return place, true
		}
	}
	return "", false
}

// maxPlaces bounds how many places are tried for a blob.
const maxPlaces = 8

// nearest returns the places other than here, those of the same registry first: they can be mounted from.
func nearest(places []string, here string) []string {
	host := func(place string) string { h, _, _ := strings.Cut(place, "/"); return h }
	list := slices.DeleteFunc(slices.Clone(places), func(p string) bool { return p == here })
	far := func(p string) int {
		if host(p) == host(here) {
			return 0
		}
		return 1
	}
	slices.SortStableFunc(list, func(a, b string) int { return cmp.Compare(far(a), far(b)) })
	return list[:min(len(list), maxPlaces)]
}

// note adds a place to what is known.
func (c *conversion) note(ctx context.Context, k Key, known Known, place string) {
	if place != "" && !slices.Contains(known.Places, place) {
		_ = c.opt.Record.Store(ctx, k, Known{Desc: known.Desc, Places: []string{place}}) // see Record
	}
}

// remember notes a layer that was converted.
func (c *conversion) remember(ctx context.Context, o int, k Key, blob ocispec.Descriptor) {
	if c.opt.Record == nil || blob.Digest == "" {
		return
	}
	known := Known{Desc: blob}
	if place := c.outputs[o].Target.Ref().Place(); place != "" {
		known.Places = []string{place}
	}
	_ = c.opt.Record.Store(ctx, k, known) // see Record
}

// places are the opened places that blobs are taken from.
type places struct {
	mu     sync.Mutex // guards opened
	opened map[string]store.Source
}

// open returns a place, or nil for one that cannot be opened.
func (p *places) open(ctx context.Context, place string, open func(context.Context, string) (store.Source, error)) store.Source {
	if open == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	src, ok := p.opened[place]
	if ok {
		return src
	}
	src, err := open(ctx, place)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		src = nil
	}
	p.put(place, src)
	return src
}

func (p *places) put(place string, src store.Source) {
	if p.opened == nil {
		p.opened = make(map[string]store.Source)
	}
	p.opened[place] = src
}

// giveUp keeps a place from being tried again.
func (p *places) giveUp(place string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if src := p.opened[place]; src != nil {
		_ = src.Close() // others may still read from it, and then fail as well
	}
	p.put(place, nil)
}

func (p *places) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, src := range p.opened {
		if src != nil {
			_ = src.Close() // only read from
		}
	}
}
