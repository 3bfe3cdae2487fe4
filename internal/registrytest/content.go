package registrytest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"sync"

	"github.com/opencontainers/go-digest"
)

var (
	errDigest  = errors.New("content has another digest")
	errUnknown = errors.New("no such content")
)

// blobStore keeps blobs by digest.
type blobStore interface {
	create(id string) (pending, error)
	open(d digest.Digest) (io.ReadSeekCloser, error)
}

// pending is a blob that is being written.
type pending interface {
	io.Writer
	commit(d digest.Digest) error
	abort()
}

// memory is a blobStore for tests.
type memory struct {
	mu    sync.Mutex // guards blobs
	blobs map[digest.Digest][]byte
}

func (m *memory) create(string) (pending, error) { return &inMemory{store: m}, nil }

func (m *memory) open(d digest.Digest) (io.ReadSeekCloser, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p, ok := m.blobs[d]
	if !ok {
		return nil, errUnknown
	}
	return nopCloser{bytes.NewReader(p)}, nil
}

type nopCloser struct{ io.ReadSeeker }

func (nopCloser) Close() error { return nil }

type inMemory struct {
	bytes.Buffer
	store *memory
}

func (b *inMemory) commit(d digest.Digest) error {
	if d.Algorithm().FromBytes(b.Bytes()) != d {
		return errDigest
	}
	b.store.mu.Lock()
	defer b.store.mu.Unlock()
	b.store.blobs[d] = b.Bytes()
	return nil
}

func (b *inMemory) abort() {}

// disk is a blobStore in a directory, with a journal of what belongs to which repository.
type disk struct {
	dir     string
	mu      sync.Mutex // guards journal
	journal *os.File
}

// entry is a line of the journal: a blob or a manifest of a repository.
type entry struct {
	Repo     string        `json:"repo"`
	Blob     digest.Digest `json:"blob,omitempty"`
	Ref      string        `json:"ref,omitempty"`
	Type     string        `json:"type,omitempty"`
	Manifest []byte        `json:"manifest,omitempty"`
}

func openDisk(dir string) (*disk, error) {
	if err := os.RemoveAll(filepath.Join(dir, "uploads")); err != nil {
		return nil, err
	}
	for _, sub := range []string{"uploads", "blobs"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, err
		}
	}
	j, err := os.OpenFile(filepath.Join(dir, "journal"), os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	return &disk{dir: dir, journal: j}, nil
}

// replay tells the registry what an earlier one kept in the directory. A half-written last line is ignored.
func (d *disk) replay(r *Registry) error {
	dec := json.NewDecoder(d.journal)
	for {
		var e entry
		err := dec.Decode(&e)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("registry journal: %w", err)
		}
		if e.Blob != "" {
			r.addBlob(e.Repo, e.Blob)
			continue
		}
		req, err := http.NewRequestWithContext(context.Background(), http.MethodPut,
			"/v2/"+e.Repo+"/manifests/"+e.Ref, bytes.NewReader(e.Manifest))
		if err != nil {
			return err
		}
		req.Header.Set("Content-Type", e.Type)
		r.inner.ServeHTTP(&nowhere{http.Header{}}, req)
	}
}

type nowhere struct{ header http.Header }

func (n *nowhere) Header() http.Header         { return n.header }
func (n *nowhere) Write(p []byte) (int, error) { return len(p), nil }
func (n *nowhere) WriteHeader(int)             {}

func (d *disk) log(e entry) error {
	line, err := json.Marshal(e)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	_, err = d.journal.Write(append(line, '\n'))
	return err
}

func (d *disk) path(dg digest.Digest) string {
	return filepath.Join(d.dir, "blobs", dg.Algorithm().String()+"-"+dg.Encoded())
}

func (d *disk) open(dg digest.Digest) (io.ReadSeekCloser, error) { return os.Open(d.path(dg)) }

func (d *disk) create(id string) (pending, error) {
	f, err := os.Create(filepath.Join(d.dir, "uploads", id))
	if err != nil {
		return nil, err
	}
	return &onDisk{f, digest.SHA256.Hash(), d}, nil
}

type onDisk struct {
	f     *os.File
	sum   hash.Hash
	store *disk
}

func (b *onDisk) Write(p []byte) (int, error) {
	n, err := b.f.Write(p)
	b.sum.Write(p[:n])
	return n, err
}

func (b *onDisk) commit(d digest.Digest) error {
	if digest.NewDigest(digest.SHA256, b.sum) != d {
		b.abort()
		return errDigest
	}
	if err := b.f.Close(); err != nil {
		return err
	}
	return os.Rename(b.f.Name(), b.store.path(d))
}

func (b *onDisk) abort() {
	_ = b.f.Close()
	_ = os.Remove(b.f.Name())
}
