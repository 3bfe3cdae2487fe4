package store

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/fetch"
	"github.com/lazuli-project/lazuli/formats"
)

// Source is an image, or an index of images, to read. Its methods may be called concurrently.
type Source interface {
	formats.Sources
	// Ref returns the reference as a user would write it, without credentials.
	Ref() Ref
	// Resolve returns the descriptor of what the reference names: a manifest or an index.
	Resolve(ctx context.Context) (ocispec.Descriptor, error)
	// Referrers lists the manifests whose subject is desc, from the referrers API or the fallback tag, filtered by
	// artifact type unless that is "".
	Referrers(ctx context.Context, desc ocispec.Descriptor, artifactType string) ([]ocispec.Descriptor, error)
	io.Closer
}

// Target takes an image. Blobs may come concurrently; manifests after what they name; Tag and Commit last.
type Target interface {
	// Sources reads back what the target holds, also before Commit.
	formats.Sources
	formats.Sink
	Ref() Ref
	// Exists reports whether the target has the blob or manifest.
	Exists(ctx context.Context, desc ocispec.Descriptor) (bool, error)
	// Mount makes the target have a blob of src without moving its bytes (cross-repository mount, hard link,
	// reflink), and reports whether that worked. Not being possible is no error.
	Mount(ctx context.Context, desc ocispec.Descriptor, src Source) (bool, error)
	// Push stores a blob or manifest of known digest, which is verified. What the target has is not pushed again.
	Push(ctx context.Context, desc ocispec.Descriptor, content io.Reader) error
	// Resolve returns what the target's reference names now; ErrNotFound where nothing has that name.
	Resolve(ctx context.Context) (ocispec.Descriptor, error)
	// Tag gives a stored manifest the name; "" means the reference's own tag.
	Tag(ctx context.Context, desc ocispec.Descriptor, tag string) error
	// Commit makes everything durable and visible. For archives, it writes the file.
	Commit(ctx context.Context) error
	// Close frees what the target holds. Without Commit, what can be taken back is taken back.
	io.Closer
}

// Errors that callers tell apart. They are wrapped with what was tried and where.
var (
	ErrNotFound  = fetch.ErrNotFound
	ErrDenied    = fetch.ErrDenied
	ErrNetwork   = fetch.ErrNetwork
	ErrNoSpace   = errors.New("no space left")
	ErrReference = errors.New("invalid reference")
)

// Options say how to reach a store. The zero value is a good default.
type Options struct {
	PlainHTTP bool         // use http
	Insecure  bool         // do not verify certificates, and use http where nobody answers https
	CAFiles   []string     // additional certificate authorities, PEM
	Clients   []ClientCert // client certificates; the registry says which it wants
	// CertDirs are directories of certificates as docker has them in certs.d: FILE.crt are authorities, and FILE.cert is a client
	// certificate with its key in FILE.key. One that is not there has none.
	CertDirs []string
	Username string // with Password: credentials for the registry; else those of the credential files
	Password string
	// Authorization is sent to the registry as the header of that name, as long as it takes that; else, credentials are looked up.
	Authorization string
	AuthFile      string // credential file; "" means the usual places of docker and podman, which Env tells
	// Env looks up environment variables (DOCKER_CONFIG, REGISTRY_AUTH_FILE, XDG_RUNTIME_DIR, HOME); nil means none.
	Env func(string) string
	// Proxy chooses the HTTP proxy of a request; nil means none. Commands take [http.ProxyFromEnvironment].
	Proxy func(*http.Request) (*url.URL, error)
	// UserAgent of HTTP requests; "" means "lazuli".
	UserAgent string
	// TempDir is where archives are spooled; "" means beside the archive, or the system's for standard output.
	TempDir string
	// Stdin and Stdout serve the archive "-".
	Stdin  io.Reader
	Stdout io.Writer
	// Openers open references of transports that this package does not reach itself.
	Openers map[Transport]Opener
	// Retry bounds the repetition of failed requests.
	Retry fetch.Retry
	// Counters, if set, count the lazy reads of what [Source] opens, by class.
	Counters *fetch.Counters
	// OnRequest, if set, is called after each request to a registry, concurrently.
	OnRequest func(RequestInfo)
}

// ClientCert names the files of a client certificate and its key, PEM.
type ClientCert struct{ CertFile, KeyFile string }

// RequestInfo describes one finished HTTP request.
type RequestInfo struct {
	Method, Path string
	Status       int   // 0 where there was no answer
	Bytes        int64 // of the answer's body as read
}
