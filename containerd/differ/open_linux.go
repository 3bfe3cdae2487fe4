package differ

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/lazuli-project/lazuli/convert"
	"github.com/lazuli-project/lazuli/formats"
)

const (
	// maxOpen is how many images are open: containerd pulls a few at a time.
	maxOpen = 4
	// openFor is how long an image is open after its last layer was asked for. What was read of it needs memory.
	openFor = time.Minute
)

// openImages are those whose layers were asked for lately: the next one is asked for next.
type openImages struct {
	mu   sync.Mutex   // guards list
	list []*openImage // the one that was asked for last is last
}

type openImage struct {
	of     *manifest
	layers *convert.Layers
	expire *time.Timer
}

// layers returns the layers of an image, as they were found before, or else as they are found now.
func (o *openImages) layers(ctx context.Context, m *manifest, src *sources, readers []formats.Reader) (*convert.Layers, error) {
	if found := o.get(m, nil); found != nil {
		return found, nil
	}
	layers, err := convert.OpenLayers(ctx, peek{src}, m.Manifest, readers)
	if err == nil && layers.Whole() {
		// Another answer between two layers would mix their files: it is not believed without digests. That layers are apart is, as
		// each is verified when it is written.
		layers, err = convert.OpenLayers(ctx, src, m.Manifest, readers)
	}
	if err != nil {
		return nil, err
	}
	return o.get(m, layers), nil
}

// get returns an image's layers and keeps them open; where there are none, these, if any.
func (o *openImages) get(m *manifest, layers *convert.Layers) *convert.Layers {
	o.mu.Lock()
	defer o.mu.Unlock()
	i := slices.IndexFunc(o.list, func(e *openImage) bool { return e.of == m })
	var e *openImage
	switch {
	case i >= 0:
		e = o.list[i]
		o.list = slices.Delete(o.list, i, i+1)
		e.expire.Reset(openFor)
	case layers == nil:
		return nil
	default:
		e = &openImage{of: m, layers: layers}
		e.expire = time.AfterFunc(openFor, func() { o.drop(e) })
	}
	if len(o.list) == maxOpen {
		o.list[0].expire.Stop()
		o.list = slices.Delete(o.list, 0, 1)
	}
	o.list = append(o.list, e)
	return e.layers
}

func (o *openImages) drop(e *openImage) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.list = slices.DeleteFunc(o.list, func(other *openImage) bool { return other == e })
}
