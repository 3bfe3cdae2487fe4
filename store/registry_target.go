package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/formats"
)

// registryTarget pushes to a repository. Blobs are there once they are pushed; nothing of it is seen by others before
// a tag is.
type registryTarget struct{ *registryStore }

var (
	_ Target         = (*registryTarget)(nil)
	_ ManifestPusher = (*registryTarget)(nil)
)

// Commit implements [Target]. All is durable already.
func (t *registryTarget) Commit(context.Context) error { return nil }

// Exists implements [Target].
func (t *registryTarget) Exists(ctx context.Context, desc ocispec.Descriptor) (bool, error) {
	return t.exists(ctx, desc, isManifest(desc.MediaType))
}

func (t *registryTarget) exists(ctx context.Context, desc ocispec.Descriptor, manifest bool) (bool, error) {
	if err := checkDescriptor(desc); err != nil {
		return false, err
	}
	ctx = t.scope(ctx)
	kind := "blobs"
	if manifest {
		kind = "manifests"
	}
	at := t.base.JoinPath("v2", t.ref.Repo, kind, desc.Digest.String())
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, at.String(), nil)
	if err != nil {
		return false, err
	}
	if manifest {
		req.Header.Set("Accept", desc.MediaType)
	}
	resp, err := t.repo.Client.Do(req)
	if err == nil {
		defer resp.Body.Close()
		switch resp.StatusCode {
		case http.StatusOK:
			return true, nil
		case http.StatusNotFound:
			return false, nil
		case http.StatusMethodNotAllowed, http.StatusNotImplemented:
			return t.existsByGet(ctx, desc, manifest)
		}
		err = answerError(resp)
	}
	return false, t.fail(ctx, "look for "+desc.Digest.String()+" in", err)
}

// existsByGet asks a registry that knows no HEAD for the object's first bytes.
func (t *registryTarget) existsByGet(ctx context.Context, desc ocispec.Descriptor, manifest bool) (bool, error) {
	var rc io.ReadCloser
	var err error
	if manifest {
		rc, err = t.repo.Manifests().Fetch(t.scope(ctx), desc)
	} else {
		rc, err = t.remote(desc, false).Stream(ctx, max(desc.Size-1, 0), blob.Demand)
	}
	if err == nil {
		return true, rc.Close()
	}
	if err = t.fail(ctx, "look for "+desc.Digest.String()+" in", err); errors.Is(err, ErrNotFound) {
		return false, nil
	}
	return false, err
}

// Mount implements [Target] between repositories of one registry.
func (t *registryTarget) Mount(ctx context.Context, desc ocispec.Descriptor, src Source) (bool, error) {
	if err := checkDescriptor(desc); err != nil {
		return false, err
	}
	from := src.Ref()
	if from.Transport != Registry || from.Host != t.ref.Host || isManifest(desc.MediaType) {
		return false, nil
	}
	if from.Repo == t.ref.Repo {
		return t.Exists(ctx, desc)
	}
	other := t.api
	other.Repository = from.Repo
	ctx = auth.AppendRepositoryScope(ctx, other, auth.ActionPull)
	u := t.base.JoinPath("v2", t.ref.Repo, "blobs", "uploads/")
	u.RawQuery = url.Values{"mount": {desc.Digest.String()}, "from": {from.Repo}}.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), nil)
	if err != nil {
		return false, err
	}
	resp, err := t.send(req)
	if err != nil {
		if ctx.Err() != nil {
			return false, context.Cause(ctx)
		}
		return false, nil // the ordinary push has retries, and an error to show
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusAccepted {
		// It did not mount but wait for the bytes.
		if at, err := resp.Location(); err == nil {
			t.cancel(ctx, at)
		}
	}
	return resp.StatusCode == http.StatusCreated, nil
}

// Push implements [Target].
func (t *registryTarget) Push(ctx context.Context, desc ocispec.Descriptor, content io.Reader) error {
	if err := checkDescriptor(desc); err != nil {
		return err
	}
	if isManifest(desc.MediaType) {
		raw, err := readContent(desc, content, maxManifest)
		if err != nil {
			return err
		}
		return t.PushManifest(ctx, desc, raw)
	}
	if ok, err := t.Exists(ctx, desc); ok || err != nil {
		return err
	}
	u := t.newUpload(ctx, desc.Digest.Algorithm())
	defer u.Abort()
	if _, err := io.CopyBuffer(onlyWriter{u}, verified(content, nil, desc), make([]byte, 128<<10)); err != nil {
		return t.fail(ctx, "push "+desc.Digest.String()+" to", err)
	}
	_, _, err := u.finish(ctx, false)
	return err
}

type onlyWriter struct{ io.Writer }

// PushManifest implements [ManifestPusher]. Referrers are made known as the registry needs it.
func (t *registryTarget) PushManifest(ctx context.Context, desc ocispec.Descriptor, raw []byte) error {
	if err := checkContent(desc, raw); err != nil {
		return err
	}
	if g, err := parseGraph(desc, raw); err != nil || g.Subject == nil {
		// One with a subject is pushed again: who pushed it before may have ended before it was made known.
		if ok, err := t.exists(ctx, desc, true); ok || err != nil {
			return err
		}
	}
	err := t.repo.Manifests().Push(t.scope(ctx), desc, bytes.NewReader(raw))
	var list *remote.ReferrersError
	if errors.As(err, &list) && list.IsReferrersIndexDelete() {
		err = nil // the list that the fallback tag named before stays: many registries delete nothing
	}
	if err != nil {
		return t.fail(ctx, "push manifest "+desc.Digest.String()+" to", err)
	}
	return nil
}

// Tag implements [Target].
func (t *registryTarget) Tag(ctx context.Context, desc ocispec.Descriptor, tag string) error {
	if tag == "" {
		tag = t.ref.Tag
	}
	if err := t.repo.Tag(t.scope(ctx), desc, tag); err != nil {
		return t.fail(ctx, fmt.Sprintf("tag %s as %q in", desc.Digest, tag), err)
	}
	return nil
}

// Put implements [formats.Sink].
func (t *registryTarget) Put(ctx context.Context, desc ocispec.Descriptor, content []byte) error {
	return t.Push(ctx, desc, bytes.NewReader(content))
}

// Create implements [formats.Sink].
func (t *registryTarget) Create(ctx context.Context, _ string) (formats.ObjectWriter, error) {
	return t.newUpload(ctx, digest.SHA256), nil
}

// readContent reads a whole object of known size.
func readContent(desc ocispec.Descriptor, content io.Reader, limit int64) ([]byte, error) {
	if desc.Size > limit {
		return nil, fmt.Errorf("%s: %d bytes, the limit is %d: %w", desc.Digest, desc.Size, limit, blob.ErrCorrupt)
	}
	raw, err := io.ReadAll(io.LimitReader(content, desc.Size+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", desc.Digest, err)
	}
	return raw, checkContent(desc, raw)
}
