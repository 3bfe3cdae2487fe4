package nydus

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/flate"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/tarfs"
)

// memory is a sink and a source of objects.
type memory struct {
	mu      sync.Mutex // guards objects
	objects map[digest.Digest][]byte
}

func newMemory() *memory { return &memory{objects: make(map[digest.Digest][]byte)} }

func (m *memory) put(p []byte) digest.Digest {
	d := digest.FromBytes(p)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.objects[d] = p
	return d
}

func (m *memory) get(d digest.Digest) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p, ok := m.objects[d]
	if !ok {
		return nil, fmt.Errorf("no object %s", d)
	}
	return p, nil
}

func (m *memory) Create(context.Context, string) (formats.ObjectWriter, error) {
	return &memoryObject{m: m}, nil
}

func (m *memory) Put(_ context.Context, d ocispec.Descriptor, p []byte) error {
	if got := m.put(p); got != d.Digest || int64(len(p)) != d.Size {
		return fmt.Errorf("object is %s, not %s", got, d.Digest)
	}
	return nil
}

func (m *memory) Open(_ context.Context, d ocispec.Descriptor) (blob.Source, error) {
	p, err := m.get(d.Digest)
	return bytesSource(p), err
}

func (m *memory) Fetch(_ context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	p, err := m.get(d.Digest)
	return io.NopCloser(bytes.NewReader(p)), err
}

type memoryObject struct {
	bytes.Buffer
	m *memory
}

func (o *memoryObject) Commit(context.Context) (digest.Digest, int64, error) {
	return o.m.put(o.Bytes()), int64(o.Len()), nil
}

func (o *memoryObject) Abort() {}

// convertLayer converts a stored layer.
func convertLayer(ctx context.Context, w formats.Writer, sink formats.Sink, stored io.Reader) (formats.Layer, error) {
	return convertSource(ctx, w, sink, formats.LayerSource{}, stored)
}

// convertSource converts a stored layer that has a descriptor.
func convertSource(ctx context.Context, w formats.Writer, sink formats.Sink, src formats.LayerSource, stored io.Reader) (formats.Layer, error) {
	var trace flate.Trace
	if t, ok := w.(formats.Tracer); ok {
		trace = t.Trace()
	}
	plain, err := flate.NewTracingReader(stored, trace)
	if err != nil {
		return formats.Layer{}, err
	}
	src.Stream = plain
	lw, err := w.Layer(ctx, src, sink)
	if err != nil {
		return formats.Layer{}, err
	}
	defer lw.Abort()
	r, b := tarfs.NewReader(plain), tarfs.NewBuilder()
	for {
		e, err := r.Next()
		if errors.Is(err, io.EOF) {
			return lw.Close(b.Tree())
		}
		if err != nil {
			return formats.Layer{}, err
		}
		n, err := b.Add(e)
		if err != nil {
			return formats.Layer{}, err
		}
		if err := lw.Entry(e, n); err != nil {
			return formats.Layer{}, err
		}
		for e.Size > 0 {
			p, err := r.Data()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return formats.Layer{}, err
			}
			if err := lw.Data(p); err != nil {
				return formats.Layer{}, err
			}
		}
	}
}

// convert converts an image and gives its manifest.
func convert(t testing.TB, w *Writer, m *memory, src *formats.Manifest, sources formats.Sources) (*formats.Manifest, []formats.Layer) {
	t.Helper()
	var layers []formats.Layer
	for _, d := range src.Manifest.Layers {
		r, err := sources.Fetch(t.Context(), d)
		if err != nil {
			t.Fatal(err)
		}
		l, err := convertLayer(t.Context(), w, m, r)
		if err != nil {
			t.Fatal(err)
		}
		layers = append(layers, l)
	}
	return finish(t, w, m, src, layers), layers
}

func finish(t testing.TB, w *Writer, m *memory, src *formats.Manifest, layers []formats.Layer) *formats.Manifest {
	t.Helper()
	res, err := w.Finish(t.Context(), layers, src, m)
	if err != nil {
		t.Fatal(err)
	}
	var parsed ocispec.Manifest
	if err := json.Unmarshal(res.Manifest, &parsed); err != nil {
		t.Fatal(err)
	}
	config, err := m.get(parsed.Config.Digest)
	if err != nil {
		t.Fatal(err)
	}
	out, err := formats.ParseManifest(res.Desc, res.Manifest, config)
	if err != nil {
		t.Fatal(err)
	}
	return out
}
