package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/fetch"
)

// registryStore is a repository of a registry. Manifests, tags and referrers are done by oras-go; blobs are read by
// fetch.Remote and pushed by upload.
type registryStore struct {
	ref    Ref
	opts   Options
	base   *url.URL // of the registry's API
	api    registry.Reference
	repo   *remote.Repository
	client *auth.Client // repeats nothing: for those who know better when and how
	direct *http.Client // for redirect targets: no credentials
	gate   *fetch.Gate
	// actions are what all requests ask permission for, so that one token serves them.
	actions []string
	idle    func()
}

var _ Source = (*registryStore)(nil)

// openRegistry makes the clients. For loopback hosts it asks which scheme they speak; else it does no I/O.
func openRegistry(ctx context.Context, ref Ref, opts Options, actions ...string) (*registryStore, error) {
	transport, err := newTransport(opts)
	if err != nil {
		return nil, err
	}
	var base http.RoundTripper = transport
	if opts.OnRequest != nil {
		base = observed{base, opts.OnRequest}
	}
	agent := opts.UserAgent
	if agent == "" {
		agent = "lazuli"
	}
	api := registry.Reference{Registry: ref.Host, Repository: ref.Repo}
	host := api.Host() // Docker Hub's API has a host of its own
	if opts.Authorization != "" {
		base = authorized{base, host, opts.Authorization}
	}
	newClient := func(rt http.RoundTripper, cache auth.Cache) *auth.Client {
		return &auth.Client{
			Client: &http.Client{Transport: rt}, Cache: cache, ClientID: agent,
			Header: http.Header{"User-Agent": {agent}}, Credential: credential(ref, host, opts),
		}
	}
	cache := auth.NewCache()
	r := &registryStore{
		ref: ref, opts: opts, api: api, actions: actions,
		base:   endpoint(ctx, host, opts, base),
		client: newClient(base, cache),
		direct: &http.Client{Transport: base},
		gate:   fetch.NewGate(0),
		idle:   transport.CloseIdleConnections,
	}
	r.repo = &remote.Repository{
		Client: newClient(retrying{base, opts.Retry}, cache), Reference: api, PlainHTTP: r.base.Scheme == "http",
		MaxMetadataBytes: maxManifest, ReferrerListMaxPages: 100,
	}
	return r, nil
}

func loopback(hostport string) bool {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	ip := net.ParseIP(strings.Trim(host, "[]"))
	return host == "localhost" || strings.HasSuffix(host, ".localhost") || ip != nil && ip.IsLoopback()
}

// speaksHTTP reports whether a host does not answer HTTPS but HTTP. A certificate that is not trusted is an answer.
func speaksHTTP(ctx context.Context, host string, rt http.RoundTripper) bool {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	answers := func(scheme string) (bool, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+"://"+host+"/v2/", nil)
		if err != nil {
			return false, err
		}
		resp, err := rt.RoundTrip(req)
		if err != nil {
			return false, err
		}
		_, _ = io.CopyN(io.Discard, resp.Body, 64<<10)
		return true, resp.Body.Close()
	}
	ok, err := answers("https")
	switch {
	case ok:
		return false
	case isPlainHTTP(err): // which is an answer, too
		return true
	case !refusedConnection(err):
		return false
	}
	ok, _ = answers("http")
	return ok
}

// refusedConnection reports whether nobody listens, perhaps on the port of HTTPS only.
func refusedConnection(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

// Ref implements [Source].
func (r *registryStore) Ref() Ref { return r.ref }

// Close implements [Source].
func (r *registryStore) Close() error {
	r.idle()
	return nil
}

func (r *registryStore) fail(ctx context.Context, what string, err error) error {
	return remoteError(ctx, what+" "+r.ref.String(), err)
}

// Resolve implements [Source].
func (r *registryStore) Resolve(ctx context.Context) (ocispec.Descriptor, error) {
	name := r.ref.Tag
	if r.ref.Digest != "" {
		name = r.ref.Digest.String()
	}
	desc, err := r.repo.Resolve(r.scope(ctx), name)
	if err == nil {
		return desc, nil
	}
	err = r.fail(ctx, "resolve", err)
	if errors.Is(err, ErrNotFound) || errors.Is(err, ErrDenied) || ctx.Err() != nil {
		return ocispec.Descriptor{}, err
	}
	// Some registries answer HEAD with less than is needed, or not at all.
	desc, rc, err2 := r.repo.FetchReference(r.scope(ctx), name)
	if err2 != nil {
		return ocispec.Descriptor{}, r.fail(ctx, "resolve", err2)
	}
	return desc, rc.Close()
}

// Referrers implements [Source].
func (r *registryStore) Referrers(ctx context.Context, desc ocispec.Descriptor, artifactType string) ([]ocispec.Descriptor, error) {
	if err := checkDescriptor(desc); err != nil {
		return nil, err
	}
	var all []ocispec.Descriptor
	err := r.repo.Referrers(r.scope(ctx), desc, artifactType, func(page []ocispec.Descriptor) error {
		all = append(all, page...)
		return nil
	})
	if err != nil {
		return nil, r.fail(ctx, "referrers of "+desc.Digest.String()+" in", err)
	}
	return all, nil
}

// Open implements [formats.Sources]. Reading a blob does no request but those for its ranges.
func (r *registryStore) Open(ctx context.Context, desc ocispec.Descriptor) (blob.Source, error) {
	if err := checkDescriptor(desc); err != nil {
		return nil, err
	}
	if isManifest(desc.MediaType) {
		raw, err := r.manifest(ctx, desc)
		if err != nil {
			return nil, err
		}
		return blob.ReaderAtSource{R: bytes.NewReader(raw), N: desc.Size}, nil
	}
	return r.remote(desc, true), nil
}

// Fetch implements [formats.Sources].
func (r *registryStore) Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	if err := checkDescriptor(desc); err != nil {
		return nil, err
	}
	if isManifest(desc.MediaType) {
		return r.fetchManifest(ctx, desc)
	}
	rc, err := r.remote(desc, false).Stream(ctx, 0, blob.Demand)
	if errors.Is(err, ErrNotFound) && desc.Size <= maxManifest {
		// A child of an index with a media type of its own is a manifest all the same.
		if rc, err := r.fetchManifest(ctx, desc); err == nil {
			return rc, nil
		}
	}
	if err != nil {
		return nil, r.fail(ctx, "fetch "+desc.Digest.String()+" of", err)
	}
	return verified(rc, rc, desc), nil
}

func (r *registryStore) fetchManifest(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	raw, err := r.manifest(ctx, desc)
	if err != nil {
		return nil, err
	}
	return io.NopCloser(bytes.NewReader(raw)), nil
}

// manifest reads a manifest and verifies it. A body that is cut is read again.
func (r *registryStore) manifest(ctx context.Context, desc ocispec.Descriptor) ([]byte, error) {
	what := "fetch manifest " + desc.Digest.String() + " of"
	if desc.Size > maxManifest {
		return nil, r.fail(ctx, what, fmt.Errorf("%d bytes, the limit is %d: %w", desc.Size, maxManifest, blob.ErrCorrupt))
	}
	pacer := r.opts.Retry.Pacer()
	for {
		raw, err := r.readManifest(ctx, desc)
		if err == nil {
			return raw, nil
		}
		if !errors.Is(err, io.ErrUnexpectedEOF) || !pacer.Wait(ctx, 0) {
			return nil, r.fail(ctx, what, err)
		}
	}
}

func (r *registryStore) readManifest(ctx context.Context, desc ocispec.Descriptor) ([]byte, error) {
	rc, err := r.repo.Manifests().Fetch(r.scope(ctx), desc)
	if err != nil {
		return nil, err
	}
	defer rc.Close()
	raw, err := io.ReadAll(io.LimitReader(rc, desc.Size+1))
	if err != nil {
		return nil, err
	}
	return raw, checkContent(desc, raw)
}

// remote is a blob of the repository.
func (r *registryStore) remote(desc ocispec.Descriptor, lazy bool) *fetch.Remote {
	opts := fetch.RemoteOptions{
		Client: doer(r.send), Direct: r.direct, Gate: r.gate, Retry: r.opts.Retry,
	}
	if lazy {
		opts.Counters = r.opts.Counters
	}
	return fetch.NewRemote(r.blobURL(desc.Digest), desc.Size, opts)
}

func (r *registryStore) blobURL(d digest.Digest) *url.URL {
	return r.base.JoinPath("v2", r.ref.Repo, "blobs", d.String())
}

// scope says what permission requests need.
func (r *registryStore) scope(ctx context.Context) context.Context {
	return auth.AppendRepositoryScope(ctx, r.api, r.actions...)
}

// send sends a request that is repeated, if at all, by the caller.
func (r *registryStore) send(req *http.Request) (*http.Response, error) {
	return r.client.Do(req.WithContext(r.scope(req.Context())))
}

// doer makes a [fetch.Doer] of a function.
type doer func(*http.Request) (*http.Response, error)

// Do implements [fetch.Doer].
func (f doer) Do(req *http.Request) (*http.Response, error) { return f(req) }
