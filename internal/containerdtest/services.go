package containerdtest

import (
	"context"
	"net"
	"path/filepath"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	leasesapi "github.com/containerd/containerd/api/services/leases/v1"
	namespacesapi "github.com/containerd/containerd/api/services/namespaces/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/plugins/services/content/contentserver"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"
)

// Listen serves containerd's API on a socket until the test ends, and returns its path.
func (c *Containerd) Listen(tb Cleaner) string {
	path := filepath.Join(tempDir(tb), "s")
	var lc net.ListenConfig
	l, err := lc.Listen(context.Background(), "unix", path)
	if err != nil {
		tb.Fatal(err)
	}
	server := grpc.NewServer()
	contentapi.RegisterContentServer(server, contentserver.New(c.Content()))
	imagesapi.RegisterImagesServer(server, &imagesServer{store: c.Images})
	leasesapi.RegisterLeasesServer(server, &leasesServer{leases: c.Leases})
	namespacesapi.RegisterNamespacesServer(server, &namespacesServer{db: c.DB})
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(l) // it is stopped
	}()
	tb.Cleanup(func() {
		server.Stop()
		<-done
	})
	return path
}

// imagesServer is the service of images, as far as it is used.
type imagesServer struct {
	imagesapi.UnimplementedImagesServer
	store images.Store
}

// Get implements [imagesapi.ImagesServer].
func (s *imagesServer) Get(ctx context.Context, req *imagesapi.GetImageRequest) (*imagesapi.GetImageResponse, error) {
	im, err := s.store.Get(ctx, req.GetName())
	if err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	return &imagesapi.GetImageResponse{Image: &imagesapi.Image{Name: im.Name, Labels: im.Labels, Target: &types.Descriptor{
		MediaType: im.Target.MediaType, Digest: im.Target.Digest.String(), Size: im.Target.Size, Annotations: im.Target.Annotations,
	}}}, nil
}

func fromAPI(im *imagesapi.Image) images.Image {
	t := im.GetTarget()
	return images.Image{Name: im.GetName(), Labels: im.GetLabels(), Target: ocispec.Descriptor{
		MediaType: t.GetMediaType(), Digest: digest.Digest(t.GetDigest()), Size: t.GetSize(), Annotations: t.GetAnnotations(),
	}}
}

// Create implements [imagesapi.ImagesServer].
func (s *imagesServer) Create(ctx context.Context, req *imagesapi.CreateImageRequest) (*imagesapi.CreateImageResponse, error) {
	_, err := s.store.Create(ctx, fromAPI(req.GetImage()))
	return &imagesapi.CreateImageResponse{Image: req.GetImage()}, errgrpc.ToGRPC(err)
}

// Update implements [imagesapi.ImagesServer].
func (s *imagesServer) Update(ctx context.Context, req *imagesapi.UpdateImageRequest) (*imagesapi.UpdateImageResponse, error) {
	_, err := s.store.Update(ctx, fromAPI(req.GetImage()), req.GetUpdateMask().GetPaths()...)
	return &imagesapi.UpdateImageResponse{Image: req.GetImage()}, errgrpc.ToGRPC(err)
}

// leasesServer is the service of leases, as far as it is used.
type leasesServer struct {
	leasesapi.UnimplementedLeasesServer
	leases leases.Manager
}

// Create implements [leasesapi.LeasesServer].
func (s *leasesServer) Create(ctx context.Context, req *leasesapi.CreateRequest) (*leasesapi.CreateResponse, error) {
	l, err := s.leases.Create(ctx, leases.WithID(req.GetID()), leases.WithLabels(req.GetLabels()))
	return &leasesapi.CreateResponse{Lease: &leasesapi.Lease{ID: l.ID, Labels: l.Labels}}, errgrpc.ToGRPC(err)
}

// Delete implements [leasesapi.LeasesServer].
func (s *leasesServer) Delete(ctx context.Context, req *leasesapi.DeleteRequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, errgrpc.ToGRPC(s.leases.Delete(ctx, leases.Lease{ID: req.GetID()}))
}

// ListResources implements [leasesapi.LeasesServer].
func (s *leasesServer) ListResources(ctx context.Context, req *leasesapi.ListResourcesRequest) (*leasesapi.ListResourcesResponse, error) {
	list, err := s.leases.ListResources(ctx, leases.Lease{ID: req.GetID()})
	resp := &leasesapi.ListResourcesResponse{}
	for _, r := range list {
		resp.Resources = append(resp.Resources, &leasesapi.Resource{ID: r.ID, Type: r.Type})
	}
	return resp, errgrpc.ToGRPC(err)
}

// namespacesServer is the service of namespaces, as far as it is used.
type namespacesServer struct {
	namespacesapi.UnimplementedNamespacesServer
	db interface {
		View(fn func(*bolt.Tx) error) error
	}
}

// List implements [namespacesapi.NamespacesServer].
func (s *namespacesServer) List(ctx context.Context, _ *namespacesapi.ListNamespacesRequest) (*namespacesapi.ListNamespacesResponse, error) {
	resp := &namespacesapi.ListNamespacesResponse{}
	err := s.db.View(func(tx *bolt.Tx) error {
		names, err := metadata.NewNamespaceStore(tx).List(ctx)
		for _, n := range names {
			resp.Namespaces = append(resp.Namespaces, &namespacesapi.Namespace{Name: n})
		}
		return err
	})
	return resp, errgrpc.ToGRPC(err)
}
