package proxy

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"io"
	"log"
	"net/http"
	"os"
	"strings"
	"sync"

	"github.com/google/go-containerregistry/pkg/registry"
)

// Staging is the registry that a daemon pushes plain images to, so that they can be converted. It is an [http.Handler].
//
// Each build gets a place of its own in it, whose name is made by chance and told to the daemon alone: nobody else can push or pull. Blobs
// stay for the builds to come, which push only what is new; when no build runs, the least used ones go until the limit is kept.
type Staging struct {
	name  string // for daemons
	local string // for the proxy
	limit int64
	blobs *blobs

	mu     sync.Mutex // guards places
	places map[string]http.Handler
}

// maxStagedManifest bounds manifests, in bytes.
const maxStagedManifest = 4 << 20

// NewStaging returns a registry that keeps blobs in a directory, which is created, up to limit bytes between builds. name is how daemons
// reach it, as host:port, and local how this process does. What a process that was killed left half-written in the directory is removed.
func NewStaging(name, local, dir string, limit int64) (*Staging, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	s := &Staging{name: name, local: local, limit: limit, blobs: &blobs{dir}, places: make(map[string]http.Handler)}
	if err := s.blobs.clean(); err != nil {
		return nil, err
	}
	return s, s.blobs.shrink(limit)
}

// stagingPlace is where one build pushes to.
type stagingPlace struct {
	staging *Staging
	name    string
}

// begin makes a place.
func (s *Staging) begin() *stagingPlace {
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails
	p := &stagingPlace{s, hex.EncodeToString(id[:])}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.places[p.name] = registry.New(registry.WithBlobHandler(s.blobs), registry.Logger(log.New(io.Discard, "", 0)))
	return p
}

// end gives a place up.
func (p *stagingPlace) end() {
	s := p.staging
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.places, p.name)
	if len(s.places) == 0 {
		_ = s.blobs.shrink(s.limit) // tried again after the next build
	}
}

// ServeHTTP implements [http.Handler]: the distribution API, without uploads in pieces, which daemons do not need.
func (s *Staging) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	rest, ok := strings.CutPrefix(r.URL.Path, "/v2/")
	if ok && rest == "" || r.URL.Path == "/v2" {
		w.WriteHeader(http.StatusOK)
		return
	}
	id, rest, _ := strings.Cut(rest, "/")
	s.mu.Lock()
	place := s.places[id]
	s.mu.Unlock()
	if place == nil {
		http.NotFound(w, r)
		return
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodPost:
	case http.MethodPut:
		if strings.HasPrefix(rest, "image/manifests/") {
			// As a whole: the library takes a part for the whole.
			raw, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxStagedManifest))
			if err != nil {
				http.Error(w, err.Error(), http.StatusRequestEntityTooLarge)
				return
			}
			r.Body = io.NopCloser(bytes.NewReader(raw))
		}
	default:
		w.WriteHeader(http.StatusMethodNotAllowed)
		return
	}
	place.ServeHTTP(w, r)
}
