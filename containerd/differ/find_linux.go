package differ

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/containerd/contentstore"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/store"
)

// manifest is an image in containerd.
type manifest struct {
	*formats.Manifest
	namespace string
	format    string            // "" for a plain image
	labels    map[string]string // of the manifest
}

func (m *manifest) names(layer digest.Digest) bool {
	return slices.ContainsFunc(m.Manifest.Manifest.Layers, func(d ocispec.Descriptor) bool { return d.Digest == layer })
}

// maxKnown is how many manifests are remembered: containerd asks for the layers of an image one after the other.
const maxKnown = 32

// manifests are those that were found lately.
type manifests struct {
	mu   sync.Mutex // guards list
	list []*manifest
}

// find returns a manifest that names a layer, or nil.
func (m *manifests) find(namespace string, layer digest.Digest) *manifest {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, known := range m.list {
		if known.namespace == namespace && known.names(layer) {
			return known
		}
	}
	return nil
}

func (m *manifests) add(found *manifest) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.list = append(m.list, found)
	m.list = m.list[max(0, len(m.list)-maxKnown):]
}

// hasConfig is the filter for manifests of images: containerd labels them with their configurations before it fetches their layers.
const hasConfig = `labels."containerd.io/gc.ref.content.config"`

// maxManifests bounds how many manifests are looked at for a layer.
const maxManifests = 4096

// find returns an image with the layer: one of a format of ours if there is one, else a plain one, else nil.
func (s *Server) find(ctx context.Context, namespace string, layer digest.Digest) (*manifest, error) {
	if m := s.known.find(namespace, layer); m != nil {
		return m, nil
	}
	var all []content.Info
	err := s.cs.Walk(ctx, func(i content.Info) error {
		all = append(all, i)
		return nil
	}, hasConfig)
	if err != nil {
		return nil, contentstore.Fail(ctx, "look for the image of a layer", err)
	}
	// The one that is being pulled is new.
	slices.SortFunc(all, func(a, b content.Info) int { return b.CreatedAt.Compare(a.CreatedAt) })
	src := contentstore.NewSource(ctx, s.cs, store.Ref{Transport: store.Containerd, Namespace: namespace}, ocispec.Descriptor{})
	var plain *manifest
	for _, info := range all[:min(len(all), maxManifests)] {
		m, err := s.load(ctx, src, info)
		if errors.Is(err, store.ErrNotFound) || errors.Is(err, blob.ErrCorrupt) || errors.Is(err, blob.ErrUnsupported) {
			continue // another image's problem, or no image
		}
		if err != nil {
			return nil, err
		}
		if !m.names(layer) {
			continue
		}
		m.namespace = namespace
		if m.format == "" {
			plain = m
			continue
		}
		s.known.add(m)
		return m, nil
	}
	if plain != nil {
		s.known.add(plain)
	}
	return plain, nil
}

// load reads a manifest with its configuration.
func (s *Server) load(ctx context.Context, src *contentstore.Source, info content.Info) (*manifest, error) {
	desc, err := src.FindManifest(ctx, info.Digest)
	if err != nil {
		return nil, err
	}
	m, err := store.LoadManifest(ctx, src, desc)
	if err != nil {
		return nil, err
	}
	found := &manifest{Manifest: m, labels: info.Labels}
	for _, r := range s.opt.Readers {
		if r.Recognize(m) {
			found.format = r.Name()
			break
		}
	}
	return found, nil
}
