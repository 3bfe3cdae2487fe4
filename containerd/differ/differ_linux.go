package differ

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	diffapi "github.com/containerd/containerd/api/services/diff/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/diff/apply"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/store"
)

// Options of a [Server].
type Options struct {
	// Readers are the formats of which layers are unpacked, without that of plain images.
	Readers []formats.Reader
	// OpenRemote opens the repository of which containerd has an image, for what that refers to; nil means that nothing is fetched.
	OpenRemote func(ctx context.Context, ref store.Ref) (store.Source, error)
	// Registries are those that are not at the usual port, as HOST:PORT: containerd remembers the host alone.
	Registries []string
	// OnApply, if set, is called after each layer, concurrently.
	OnApply func(Applied)
	// TempDir is where fetched objects lie while a layer is unpacked; "" means the system's directory.
	TempDir string
}

// Applied tells of one layer.
type Applied struct {
	Namespace string
	Layer     ocispec.Descriptor
	Format    string // "" for a plain layer
	Size      int64  // of the tar, in bytes
	Wall      time.Duration
	Err       error
}

// Server is the service containerd.services.diff.v1.Diff, but that it makes no layers: others of containerd's differs do that.
type Server struct {
	diffapi.UnimplementedDiffServer
	cs    content.Store
	opt   Options
	known manifests
	open  openImages
}

var _ diffapi.DiffServer = (*Server)(nil)

// NewServer returns the service for a containerd with this content store.
func NewServer(cs content.Store, opt Options) *Server { return &Server{cs: cs, opt: opt} }

// Apply implements [diffapi.DiffServer].
func (s *Server) Apply(ctx context.Context, req *diffapi.ApplyRequest) (*diffapi.ApplyResponse, error) {
	begin := time.Now()
	done := Applied{Layer: fromAPI(req.GetDiff())}
	applied, err := s.apply(ctx, req, &done)
	if s.opt.OnApply != nil {
		done.Wall, done.Err = time.Since(begin), err
		s.opt.OnApply(done)
	}
	if err != nil {
		return nil, toAPI(err)
	}
	return &diffapi.ApplyResponse{Applied: &types.Descriptor{MediaType: applied.MediaType, Digest: applied.Digest.String(), Size: applied.Size}}, nil
}

// toAPI makes an error what containerd understands and shows: one line, with a class.
func toAPI(err error) error {
	code := codes.Unknown
	for _, class := range []struct {
		err  error
		code codes.Code
	}{
		{context.Canceled, codes.Canceled}, {context.DeadlineExceeded, codes.DeadlineExceeded}, {store.ErrNotFound, codes.NotFound}, {errdefs.ErrNotFound, codes.NotFound},
		{store.ErrDenied, codes.PermissionDenied}, {store.ErrNetwork, codes.Unavailable}, {store.ErrNoSpace, codes.ResourceExhausted},
		{blob.ErrCorrupt, codes.DataLoss}, {blob.ErrDigest, codes.DataLoss},
	} {
		if errors.Is(err, class.err) {
			code = class.code
			break
		}
	}
	return status.Error(code, err.Error())
}

func fromAPI(d *types.Descriptor) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: d.GetMediaType(), Digest: digest.Digest(d.GetDigest()), Size: d.GetSize(), Annotations: d.GetAnnotations()}
}

func (s *Server) apply(ctx context.Context, req *diffapi.ApplyRequest, done *Applied) (ocispec.Descriptor, error) {
	fail := func(err error) (ocispec.Descriptor, error) {
		return ocispec.Descriptor{}, fmt.Errorf("apply layer %.100q: %w", done.Layer.Digest, err)
	}
	if err := done.Layer.Digest.Validate(); err != nil || done.Layer.Size < 0 {
		return fail(fmt.Errorf("size %d, %w: %w", done.Layer.Size, blob.ErrCorrupt, err))
	}
	ns, err := namespaces.NamespaceRequired(ctx)
	if err != nil {
		return fail(err)
	}
	done.Namespace = ns
	// Calls to containerd are in the namespace, and under the lease, of the one that it made.
	ctx = namespaces.WithNamespace(ctx, ns)
	if lease, ok := leases.FromContext(ctx); ok {
		ctx = leases.WithLease(ctx, lease)
	}
	opts := []diff.ApplyOpt{diff.WithSyncFs(req.GetSyncFs())}
	if len(req.GetPayloads()) > 0 {
		payloads := make(map[string]typeurl.Any)
		for k, v := range req.GetPayloads() {
			payloads[k] = v
		}
		opts = append(opts, diff.WithPayloads(payloads))
	}
	into := target{mount.FromProto(req.GetMounts()), opts}
	image, err := s.find(ctx, ns, done.Layer.Digest)
	if err != nil {
		return fail(err)
	}
	var d ocispec.Descriptor
	if image == nil || image.format == "" {
		d, err = apply.NewFileSystemApplier(s.cs).Apply(ctx, done.Layer, into.mounts, into.opts...)
	} else {
		done.Format = image.format
		d, err = s.applyLazy(ctx, image, done.Layer, into)
	}
	if err != nil {
		return fail(err)
	}
	done.Size = d.Size
	return d, nil
}

// target is what a layer is unpacked into.
type target struct {
	mounts []mount.Mount
	opts   []diff.ApplyOpt
}

// applyLazy unpacks a layer of an image of a format of ours.
func (s *Server) applyLazy(ctx context.Context, image *manifest, layer ocispec.Descriptor, into target) (ocispec.Descriptor, error) {
	diffID, err := image.diffID(layer.Digest)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	src := s.newSources(ctx, image)
	defer src.close()
	layers, err := s.open.layers(ctx, image, src, s.opt.Readers)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r, w := io.Pipe()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		w.CloseWithError(layers.WriteTar(ctx, w, src, layer.Digest))
	}()
	plain := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: layer.Digest}
	d, err := apply.NewFileSystemApplier(stream{r}).Apply(ctx, plain, into.mounts, into.opts...)
	_ = r.Close() // lets the writer end where the reader gave up
	<-ended
	d.Digest = diffID
	return d, err
}

// diffID returns what the configuration has for a layer.
func (m *manifest) diffID(layer digest.Digest) (digest.Digest, error) {
	layers, ids := m.Manifest.Manifest.Layers, m.Config.RootFS.DiffIDs
	if len(layers) != len(ids) {
		return "", fmt.Errorf("manifest %s with %d layers, config with %d diff IDs: %w", m.Desc.Digest, len(layers), len(ids), blob.ErrCorrupt)
	}
	k := slices.IndexFunc(layers, func(d ocispec.Descriptor) bool { return d.Digest == layer })
	if k < 0 {
		return "", fmt.Errorf("manifest %s does not name the layer: %w", m.Desc.Digest, blob.ErrCorrupt)
	}
	return ids[k], nil
}

// stream hands out one stream as an object of a content store.
type stream struct{ *io.PipeReader }

var _ content.ReaderAt = stream{}

// ReaderAt implements [content.Provider].
func (s stream) ReaderAt(context.Context, ocispec.Descriptor) (content.ReaderAt, error) {
	return s, nil
}

// Reader is what containerd asks for first.
func (s stream) Reader() io.Reader { return s.PipeReader }

// Size implements [content.ReaderAt]; nobody knows it yet.
func (stream) Size() int64 { return 0 }

// ReadAt implements [content.ReaderAt].
func (stream) ReadAt([]byte, int64) (int, error) {
	return 0, fmt.Errorf("random access to a stream: %w", blob.ErrUnsupported)
}
