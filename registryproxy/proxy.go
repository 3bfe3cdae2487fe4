package registryproxy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"time"

	"github.com/lazuli-project/lazuli/convert"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/store"
)

// HeaderConvert of a request that pushes a manifest says when it wants its answer: "wait" is after the conversion, whose outcome then
// stands in the same header of the answer. Without it, the answer comes at once.
const HeaderConvert = "Lazuli-Convert"

// StatusPath is where the proxy tells about conversions, as {"conversions": [...]} with the latest first; see [Conversion].
const StatusPath = "/lazuli/conversions"

// Options of a [Proxy].
type Options struct {
	// Registry that everything goes to, as in references: "docker.io", "host:5000".
	Registry string
	// Store says how to reach it. Its credentials are for conversions where pushes come without any.
	Store store.Options
	Rules []Rule
	// Jobs bounds the cores that all conversions use; 0 means GOMAXPROCS.
	Jobs int
	// Queue is how many conversions may wait (100). Pushes beyond are not converted, which is logged and said in a Warning.
	Queue int
	// Timeout bounds a conversion (1 hour).
	Timeout time.Duration
	// Record knows layers that were converted before; may be nil.
	Record convert.Record
	// TempDir is where is spooled what cannot be streamed; "" means the system's directory.
	TempDir string
	// Log gets what became of conversions; nil means nobody is told.
	Log *slog.Logger
}

// Proxy is a registry to its clients. It is an [http.Handler] that serves the distribution API, and [StatusPath] beside it.
type Proxy struct {
	opt      Options
	upstream *url.URL
	reverse  *httputil.ReverseProxy
	idle     func()
	cpu      *formats.CPU
	queue    *queue
}

// New returns a proxy. Its conversions end with ctx, or by [Proxy.Close].
func New(ctx context.Context, opt Options) (*Proxy, error) {
	if len(opt.Rules) == 0 {
		return nil, errors.New("no rule says what to convert")
	}
	for i := range opt.Rules {
		if err := opt.Rules[i].prepare(); err != nil {
			return nil, fmt.Errorf("rule %d: %w", i+1, err)
		}
	}
	if opt.Queue <= 0 {
		opt.Queue = 100
	}
	if opt.Timeout <= 0 {
		opt.Timeout = time.Hour
	}
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	upstream, transport, err := store.Endpoint(ctx, opt.Registry, opt.Store)
	if err != nil {
		return nil, err
	}
	p := &Proxy{opt: opt, upstream: upstream, idle: transport.CloseIdleConnections, cpu: formats.NewCPU(opt.Jobs)}
	p.queue = newQueue(ctx, opt.Queue, p.run)
	p.reverse = &httputil.ReverseProxy{
		Transport: transport,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(upstream)
			r.Out.Host = upstream.Host
			r.Out.Header.Del(HeaderConvert)
		},
		ModifyResponse: p.answer,
		ErrorHandler:   p.unreachable,
		ErrorLog:       slog.NewLogLogger(opt.Log.Handler(), slog.LevelDebug), // requests that clients gave up
	}
	return p, nil
}

// Close waits for conversions until ctx ends, and then ends those that are left, which are logged.
func (p *Proxy) Close(ctx context.Context) error {
	err := p.queue.close(ctx)
	p.idle()
	return err
}

// ServeHTTP implements [http.Handler].
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.URL.Path == StatusPath:
		p.status(w, r)
	case r.URL.Path != "/v2" && !strings.HasPrefix(r.URL.Path, "/v2/"), strings.Contains(r.URL.Path, "/../"), strings.Contains(r.URL.Path, "/./"):
		refuse(w, http.StatusNotFound, "UNSUPPORTED", "this is a registry: paths begin with /v2/")
	case r.Method == http.MethodPut && manifestPath.MatchString(r.URL.Path):
		p.manifest(w, r)
	default:
		p.reverse.ServeHTTP(w, r)
	}
}

// answer changes what the registry says: places of uploads are here, too, and a manifest that it took is converted.
func (p *Proxy) answer(resp *http.Response) error {
	if at := resp.Header.Get("Location"); at != "" {
		if u, err := url.Parse(at); err == nil && strings.EqualFold(u.Host, p.upstream.Host) {
			u.Scheme, u.Host, u.User = "", "", nil
			resp.Header.Set("Location", u.String())
		}
	}
	if got, ok := resp.Request.Context().Value(pushKey{}).(*push); ok && resp.StatusCode == http.StatusCreated {
		p.accepted(resp, got)
	}
	return nil
}

func (p *Proxy) unreachable(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() != nil {
		return // nobody listens any more
	}
	p.opt.Log.Warn("registry does not answer", "registry", p.opt.Registry, "method", r.Method, "path", r.URL.Path, "err", err)
	refuse(w, http.StatusBadGateway, "UNAVAILABLE", "the registry behind this proxy does not answer")
}

// refuse answers with an error in the form of the distribution specification.
func refuse(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"errors": []any{map[string]any{"code": code, "message": message}}}) // a client that left
}

// status tells about conversions.
func (p *Proxy) status(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		refuse(w, http.StatusMethodNotAllowed, "UNSUPPORTED", "conversions can only be read")
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"conversions": p.queue.list()}) // a client that left
}
