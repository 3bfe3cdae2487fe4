package differ

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/containerd/contentstore"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/store"
)

// labelSource begins the labels by which containerd remembers where it has an object from: a registry's host follows, without its port,
// and the value is a list of repositories.
const labelSource = "containerd.io/distribution.source."

// sources are the objects of an image: those that containerd has, and others from where it has the image from.
type sources struct {
	*contentstore.Source
	server *Server
	repos  []store.Ref

	mu      sync.Mutex // guards what follows
	remotes []store.Source
	fetched map[digest.Digest]*fetched
}

// fetched is an object in a temporary file.
type fetched struct {
	once  sync.Once
	spool formats.Spool
	err   error
}

func (s *Server) newSources(ctx context.Context, m *manifest) *sources {
	ref := store.Ref{Transport: store.Containerd, Namespace: m.namespace}
	return &sources{
		Source: contentstore.NewSource(ctx, s.cs, ref, m.Desc), server: s, repos: repositories(m.labels, s.opt.Registries), fetched: make(map[digest.Digest]*fetched),
	}
}

// maxRepositories bounds where is looked for an object.
const maxRepositories = 16

// repositories returns the places that labels name, in a stable order. registries are those with ports. What is no reference is passed
// over.
func repositories(labels map[string]string, registries []string) []store.Ref {
	var refs []store.Ref
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		host, ok := strings.CutPrefix(k, labelSource)
		if !ok {
			continue
		}
		var hosts []string
		for _, r := range registries {
			if name, _, err := net.SplitHostPort(r); err == nil && name == host {
				hosts = append(hosts, r)
			}
		}
		if hosts == nil {
			hosts = []string{host}
		}
		for repo := range strings.SplitSeq(labels[k], ",") {
			for _, h := range hosts {
				if r, err := store.Parse("docker://" + h + "/" + repo); err == nil && r.Host == h {
					refs = append(refs, r)
				}
			}
		}
	}
	return refs[:min(len(refs), maxRepositories)]
}

// Fetch implements [formats.Sources].
func (s *sources) Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	rc, err := s.Source.Fetch(ctx, desc)
	if !errors.Is(err, store.ErrNotFound) || s.server.opt.OpenRemote == nil {
		return rc, err
	}
	err = s.elsewhere(ctx, err, func(src store.Source) (err error) {
		rc, err = src.Fetch(ctx, desc)
		return err
	})
	return rc, err
}

// elsewhere calls fn with the places that containerd has the image from until it succeeds. missing is why it is called, for the error.
func (s *sources) elsewhere(ctx context.Context, missing error, fn func(store.Source) error) error {
	for _, repo := range s.repos {
		src, err := s.server.opt.OpenRemote(ctx, repo)
		if err == nil {
			s.mu.Lock()
			s.remotes = append(s.remotes, src)
			s.mu.Unlock()
			if err = fn(src); err == nil {
				return nil
			}
		}
		missing = fmt.Errorf("%w; %w", missing, err)
	}
	return missing
}

// Open implements [formats.Sources]. What containerd does not have is fetched as a whole, and so verified.
func (s *sources) Open(ctx context.Context, desc ocispec.Descriptor) (blob.Source, error) {
	src, err := s.Source.Open(ctx, desc)
	if !errors.Is(err, store.ErrNotFound) {
		return src, err
	}
	s.mu.Lock()
	f := s.fetched[desc.Digest]
	if f == nil {
		f = &fetched{}
		s.fetched[desc.Digest] = f
	}
	s.mu.Unlock()
	f.once.Do(func() { f.err = s.spool(ctx, desc, f) })
	return blob.ReaderAtSource{R: f.spool, N: desc.Size}, f.err
}

// peek are the same objects, but what containerd does not have, such as layers that it is fetching, is read where they are, and is not
// verified. It is for a look at what an image is.
type peek struct{ *sources }

// Open implements [formats.Sources].
func (p peek) Open(ctx context.Context, desc ocispec.Descriptor) (blob.Source, error) {
	src, err := p.Source.Open(ctx, desc)
	if !errors.Is(err, store.ErrNotFound) || p.server.opt.OpenRemote == nil {
		return src, err
	}
	err = p.elsewhere(ctx, err, func(remote store.Source) (err error) {
		src, err = remote.Open(ctx, desc)
		return err
	})
	return src, err
}

// spool fetches an object into a temporary file.
func (s *sources) spool(ctx context.Context, desc ocispec.Descriptor, into *fetched) error {
	rc, err := s.Fetch(ctx, desc)
	if err != nil {
		return err
	}
	defer rc.Close() // read to its end
	if into.spool, err = formats.NewSpool(s.server.opt.TempDir); err != nil {
		return err
	}
	if _, err := io.CopyBuffer(struct{ io.Writer }{into.spool}, rc, make([]byte, 1<<20)); err != nil {
		return fmt.Errorf("fetch %s: %w", desc.Digest, err)
	}
	return nil
}

// close frees what was fetched.
func (s *sources) close() {
	for _, r := range s.remotes {
		_ = r.Close() // only read from
	}
	for _, f := range s.fetched {
		if f.spool != nil {
			_ = f.spool.Close() // nobody needs what is in it
		}
	}
}
