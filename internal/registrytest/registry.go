package registrytest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/opencontainers/go-digest"
)

// Options say what kind of registry it is. The zero value is a good one, in memory.
type Options struct {
	Dir            string // where blobs and manifests are kept; "" means in memory
	BytesPerSecond int64  // of all answers together; 0 means no limit

	Username, Password string // needed to get a token; "" means that anybody gets one
	Token              bool   // requests need a bearer token
	TokenUses          int    // after how many requests a token is worthless; 0 means never

	RedirectTo   string // base URL to which blobs are redirected, where the same handler listens; "" means none
	RedirectUses int    // after how many uses a redirect target answers 403; 0 means never

	NoReferrers bool // no referrers API: clients use the fallback tag
	NoHead      bool // 405 to every HEAD
	NoRange     bool // 200 with everything to requests for a range
	NoMount     bool // mounts begin an upload instead
	NoPieces    bool // 405 to PATCH
}

// Registry is the handler. It may be used concurrently.
type Registry struct {
	opts  Options
	inner http.Handler // manifests, tags, referrers
	blobs blobStore
	limit *limiter

	mu      sync.Mutex // guards what follows
	repos   map[string]map[digest.Digest]bool
	uploads map[string]*upload
	tokens  map[string]int // uses so far
	signed  map[string]int // uses so far
	faults  []*Fault
	stats   Stats
	nextID  int
}

// Stats count what a registry was asked.
type Stats struct {
	Requests   int
	ByMethod   map[string]int
	Bytes      int64 // of answers' bodies
	Uploaded   int64 // bytes of blobs received
	Uploads    int   // blobs that were pushed
	Mounts     int
	Tokens     int // given out
	Redirects  int
	OpenPushes int // uploads that were begun and neither finished nor cancelled
}

// New returns a registry. With a directory it goes on with what is there.
func New(opts Options) (*Registry, error) {
	r := &Registry{
		opts: opts,
		inner: registry.New(registry.Logger(log.New(io.Discard, "", 0)),
			registry.WithReferrersSupport(!opts.NoReferrers)),
		limit:   newLimiter(opts.BytesPerSecond),
		repos:   map[string]map[digest.Digest]bool{},
		uploads: map[string]*upload{},
		tokens:  map[string]int{},
		signed:  map[string]int{},
	}
	r.stats.ByMethod = map[string]int{}
	if opts.Dir == "" {
		r.blobs = &memory{blobs: map[digest.Digest][]byte{}}
		return r, nil
	}
	d, err := openDisk(opts.Dir)
	if err != nil {
		return nil, err
	}
	r.blobs = d
	return r, d.replay(r)
}

// Cleaner is the part of testing.TB that [Registry.Listen] needs.
type Cleaner interface {
	Cleanup(func())
	Fatal(args ...any)
}

// Listen serves on a loopback address until the test ends and returns it as HOST:PORT.
func (r *Registry) Listen(t Cleaner) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: r, ReadHeaderTimeout: time.Minute, ErrorLog: log.New(io.Discard, "", 0)}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
	return l.Addr().String()
}

// SetRedirectTo changes Options.RedirectTo, whose address is known only when the registry exists.
func (r *Registry) SetRedirectTo(base string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.opts.RedirectTo = base
}

// Stats returns the counts since the beginning or the last [Registry.ResetStats].
func (r *Registry) Stats() Stats {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.stats
	s.ByMethod = map[string]int{}
	for m, n := range r.stats.ByMethod {
		s.ByMethod[m] = n
	}
	s.OpenPushes = len(r.uploads)
	return s
}

// ResetStats begins counting anew.
func (r *Registry) ResetStats() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stats = Stats{ByMethod: map[string]int{}}
}

// HasBlob reports whether a repository has a blob.
func (r *Registry) HasBlob(repo string, d digest.Digest) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.repos[repo][d]
}

// DropBlob takes a blob out of a repository, as the garbage collection of a registry does.
func (r *Registry) DropBlob(repo string, d digest.Digest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.repos[repo], d)
}

// ServeHTTP implements http.Handler.
func (r *Registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	r.stats.Requests++
	r.stats.ByMethod[req.Method]++
	r.mu.Unlock()
	out := &answer{ResponseWriter: w, registry: r, req: req, cutAt: -1}
	if r.injected(out, req) {
		return
	}
	if req.Method == http.MethodHead && r.opts.NoHead {
		fail(out, http.StatusMethodNotAllowed, "UNSUPPORTED", "no HEAD here")
		return
	}
	if r.opts.NoRange {
		req.Header.Del("Range")
	}
	switch {
	case req.URL.Path == "/token":
		r.giveToken(out, req)
	case strings.HasPrefix(req.URL.Path, "/signed/"):
		r.serveSigned(out, req)
	case !r.authorized(out, req):
	default:
		r.route(out, req)
	}
}

// route splits /v2/REPO/KIND/REST.
func (r *Registry) route(w http.ResponseWriter, req *http.Request) {
	p, ok := strings.CutPrefix(req.URL.Path, "/v2/")
	if !ok {
		r.inner.ServeHTTP(w, req)
		return
	}
	if repo, rest, ok := cut(p, "/blobs/uploads"); ok {
		r.serveUpload(w, req, repo, strings.Trim(rest, "/"))
		return
	}
	if repo, rest, ok := cut(p, "/blobs/"); ok {
		r.serveBlob(w, req, repo, digest.Digest(rest))
		return
	}
	if repo, ref, ok := cut(p, "/manifests/"); ok && req.Method == http.MethodPut {
		r.putManifest(w, req, repo, ref)
		return
	}
	r.inner.ServeHTTP(w, req)
}

func cut(p, sep string) (repo, rest string, ok bool) {
	i := strings.LastIndex(p, sep)
	if i < 0 {
		return "", "", false
	}
	return p[:i], p[i+len(sep):], true
}

// putManifest refuses manifests whose blobs the repository lacks, as real registries do.
func (r *Registry) putManifest(w http.ResponseWriter, req *http.Request, repo, ref string) {
	raw, err := io.ReadAll(io.LimitReader(req.Body, 8<<20))
	if err != nil {
		fail(w, http.StatusBadRequest, "MANIFEST_INVALID", "body cut")
		return
	}
	var m struct {
		Config *struct{ Digest digest.Digest }
		Layers []struct {
			Digest digest.Digest
			URLs   []string
		}
	}
	if err := json.Unmarshal(raw, &m); err != nil {
		fail(w, http.StatusBadRequest, "MANIFEST_INVALID", "no JSON")
		return
	}
	need := []digest.Digest{}
	if m.Config != nil {
		need = append(need, m.Config.Digest)
	}
	for _, l := range m.Layers {
		if len(l.URLs) == 0 {
			need = append(need, l.Digest)
		}
	}
	for _, d := range need {
		if !r.HasBlob(repo, d) {
			fail(w, http.StatusNotFound, "MANIFEST_BLOB_UNKNOWN", "no blob "+d.String())
			return
		}
	}
	if strings.Contains(ref, ":") && ref != digest.FromBytes(raw).String() {
		fail(w, http.StatusBadRequest, "DIGEST_INVALID", "manifest has another digest")
		return
	}
	req.Body = io.NopCloser(bytes.NewReader(raw))
	status := &statusRecorder{ResponseWriter: w}
	r.inner.ServeHTTP(status, req)
	if d, ok := r.blobs.(*disk); ok && status.status == http.StatusCreated {
		_ = d.log(entry{Repo: repo, Ref: ref, Type: req.Header.Get("Content-Type"), Manifest: raw})
	}
}

type statusRecorder struct {
	http.ResponseWriter
	status int
}

func (s *statusRecorder) WriteHeader(code int) {
	s.status = code
	s.ResponseWriter.WriteHeader(code)
}

// fail answers with an error as the distribution specification shapes it.
func fail(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"errors": []map[string]string{{"code": code, "message": message}}})
}

// addBlob makes a stored blob part of a repository.
func (r *Registry) addBlob(repo string, d digest.Digest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.repos[repo] == nil {
		r.repos[repo] = map[digest.Digest]bool{}
	}
	r.repos[repo][d] = true
}

// id returns a name for an upload, a token or a signature.
func (r *Registry) id(kind string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.nextID++
	return fmt.Sprintf("%s%d", kind, r.nextID)
}

func uploadPath(repo, id string) string { return "/" + path.Join("v2", repo, "blobs/uploads", id) }
