package formatstest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/formats"
)

// errSink is the error of a sink that fails.
var errSink = errors.New("the sink fails")

// memory is a target in memory: a sink, and the sources of what it got.
type memory struct {
	// trusting makes Fetch hand out changed objects as if they were what was asked for: somebody made their digests fit.
	trusting bool

	mu      sync.Mutex // guards what follows
	objects map[digest.Digest][]byte
	changed map[digest.Digest][]byte // what is handed out in their place
	left    int                      // calls until errSink; negative for never
	open    int                      // objects that are neither committed nor aborted
}

func newMemory() *memory {
	return &memory{objects: make(map[digest.Digest][]byte), changed: make(map[digest.Digest][]byte), left: -1}
}

// call counts down to the failure.
func (m *memory) call() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.left == 0 {
		return errSink
	}
	if m.left > 0 {
		m.left--
	}
	return nil
}

func (m *memory) store(p []byte) digest.Digest {
	d := digest.FromBytes(p)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.objects[d] = p
	return d
}

func (m *memory) get(d digest.Digest) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if p, ok := m.changed[d]; ok {
		return p, nil
	}
	p, ok := m.objects[d]
	if !ok {
		return nil, fmt.Errorf("there is no object %s", d)
	}
	return p, nil
}

// digests returns those of all objects, sorted.
func (m *memory) digests() []digest.Digest {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Sorted(maps.Keys(m.objects))
}

// Create implements [formats.Sink].
func (m *memory) Create(context.Context, string) (formats.ObjectWriter, error) {
	if err := m.call(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.open++
	return &object{m: m}, nil
}

// Put implements [formats.Sink].
func (m *memory) Put(_ context.Context, d ocispec.Descriptor, p []byte) error {
	if err := m.call(); err != nil {
		return err
	}
	if got := m.store(bytes.Clone(p)); got != d.Digest || int64(len(p)) != d.Size {
		return fmt.Errorf("object of %d bytes with digest %s is said to be %+v", len(p), got, d)
	}
	return nil
}

// Open implements [formats.Sources].
func (m *memory) Open(_ context.Context, d ocispec.Descriptor) (blob.Source, error) {
	p, err := m.get(d.Digest)
	return blob.ReaderAtSource{R: bytes.NewReader(p), N: int64(len(p))}, err
}

// Fetch implements [formats.Sources]. A changed object ends with an error in place of io.EOF, as a store's would.
func (m *memory) Fetch(_ context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	p, err := m.get(d.Digest)
	if err != nil {
		return nil, err
	}
	r := io.Reader(bytes.NewReader(p))
	if digest.FromBytes(p) != d.Digest && !m.trusting {
		r = io.MultiReader(r, failing{fmt.Errorf("object %s: %w", d.Digest, blob.ErrDigest)})
	}
	return io.NopCloser(r), nil
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// object is an object that is being written.
type object struct {
	m     *memory
	buf   bytes.Buffer
	ended bool
}

// Write implements io.Writer.
func (o *object) Write(p []byte) (int, error) {
	if o.ended {
		return 0, errors.New("write to an object that has ended")
	}
	if err := o.m.call(); err != nil {
		return 0, err
	}
	return o.buf.Write(p)
}

func (o *object) end() {
	if !o.ended {
		o.ended = true
		o.m.mu.Lock()
		o.m.open--
		o.m.mu.Unlock()
	}
}

// Commit implements [formats.ObjectWriter].
func (o *object) Commit(context.Context) (digest.Digest, int64, error) {
	if o.ended {
		return "", 0, errors.New("commit of an object that has ended")
	}
	if err := o.m.call(); err != nil {
		return "", 0, err
	}
	o.end()
	return o.m.store(o.buf.Bytes()), int64(o.buf.Len()), nil
}

// Abort implements [formats.ObjectWriter].
func (o *object) Abort() { o.end() }
