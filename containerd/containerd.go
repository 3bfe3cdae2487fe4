package containerd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"strings"
	"time"

	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	leasesapi "github.com/containerd/containerd/api/services/leases/v1"
	namespacesapi "github.com/containerd/containerd/api/services/namespaces/v1"
	"github.com/containerd/containerd/v2/core/content"
	contentproxy "github.com/containerd/containerd/v2/core/content/proxy"
	"github.com/containerd/containerd/v2/core/leases"
	leasesproxy "github.com/containerd/containerd/v2/core/leases/proxy"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/lazuli-project/lazuli/containerd/contentstore"
	"github.com/lazuli-project/lazuli/store"
)

// What containerd has where nobody says anything else.
const (
	DefaultAddress   = "/run/containerd/containerd.sock"
	DefaultNamespace = "default"
)

// ErrUnreachable means that no containerd answers at an address. Errors with it also have a class of package store.
var ErrUnreachable = errors.New("no containerd answers there")

// maxMessage bounds messages of containerd, as its own clients do, in bytes.
const maxMessage = 16 << 20

// Options say how to reach a containerd. The zero value is a good default.
type Options struct {
	Address   string // of its socket, as a path or with unix:// before it; "" means DefaultAddress
	Namespace string // of references that say none; "" means DefaultNamespace
	// Needed, if set, returns the objects that an image needs and its manifest does not list.
	Needed func(desc ocispec.Descriptor, m *ocispec.Manifest) []digest.Digest
	// LeaseTime is how long containerd keeps what was written for an image that never got its name; 0 means a day.
	LeaseTime time.Duration
}

// Opener opens images in containerd. It may be used concurrently.
type Opener struct{ opt Options }

var _ store.Opener = (*Opener)(nil)

// NewOpener returns an opener. It connects when something is opened.
func NewOpener(opt Options) *Opener {
	opt.Address = strings.TrimPrefix(cmp.Or(opt.Address, DefaultAddress), "unix://")
	opt.Namespace = cmp.Or(opt.Namespace, DefaultNamespace)
	opt.LeaseTime = cmp.Or(opt.LeaseTime, 24*time.Hour)
	return &Opener{opt}
}

// client is a connection to the services of a containerd.
type client struct {
	conn       *grpc.ClientConn
	content    content.Store
	images     imagesapi.ImagesClient
	leases     leases.Manager
	namespaces namespacesapi.NamespacesClient
	ref        store.Ref // with its namespace
}

// connect connects for a reference. The context that it returns is in the reference's namespace.
func (o *Opener) connect(ctx context.Context, ref store.Ref) (context.Context, *client, error) {
	ref.Namespace = cmp.Or(ref.Namespace, o.opt.Namespace)
	conn, err := Dial(ctx, o.opt.Address)
	if err != nil {
		return ctx, nil, fmt.Errorf("%s: %w", ref, err)
	}
	return namespaces.WithNamespace(ctx, ref.Namespace), &client{
		conn: conn, ref: ref, content: contentproxy.NewContentStore(conn), images: imagesapi.NewImagesClient(conn),
		leases: leasesproxy.NewLeaseManager(leasesapi.NewLeasesClient(conn)), namespaces: namespacesapi.NewNamespacesClient(conn),
	}, nil
}

// Dial connects to the socket of a containerd. It tells at once if nobody listens there.
func Dial(ctx context.Context, address string) (*grpc.ClientConn, error) {
	address = strings.TrimPrefix(address, "unix://")
	dial := func(ctx context.Context, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", address)
	}
	probe, err := dial(ctx, "")
	if err != nil {
		class := store.ErrNetwork
		if errors.Is(err, fs.ErrPermission) {
			class = store.ErrDenied
		}
		return nil, fmt.Errorf("%w: %w: %w", ErrUnreachable, class, err)
	}
	_ = probe.Close() // it has shown what it should
	conn, err := grpc.NewClient("passthrough:///containerd", grpc.WithContextDialer(dial), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)))
	if err != nil {
		return nil, fmt.Errorf("containerd at %s: %w", address, err)
	}
	return conn, nil
}

// source is an image in containerd.
type source struct {
	*contentstore.Source
	*client
}

// OpenSource implements [store.Opener]. An image that is not there is told by Resolve.
func (o *Opener) OpenSource(ctx context.Context, ref store.Ref, _ store.Options) (store.Source, error) {
	ctx, c, err := o.connect(ctx, ref)
	if err != nil {
		return nil, err
	}
	return &source{contentstore.NewSource(ctx, c.content, c.ref, ocispec.Descriptor{}), c}, nil
}

// Resolve implements [store.Source].
func (s *source) Resolve(ctx context.Context) (ocispec.Descriptor, error) {
	ctx = namespaces.WithNamespace(ctx, s.ref.Namespace)
	desc, err := s.resolve(ctx)
	if !errors.Is(err, store.ErrNotFound) {
		return desc, err
	}
	if s.ref.Digest != "" { // a manifest of any image
		if desc, err := s.FindManifest(ctx, s.ref.Digest); !errors.Is(err, store.ErrNotFound) {
			return desc, err
		}
	}
	return desc, s.elsewhere(ctx, err)
}

// Close implements [store.Source].
func (s *source) Close() error { return s.conn.Close() }
