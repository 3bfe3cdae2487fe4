package proxy

import (
	"context"
	"fmt"
	"net"

	"github.com/moby/buildkit/client/buildid"
	"google.golang.org/grpc"

	"github.com/lazuli-project/lazuli/convert"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/store"
)

// Methods of BuildKit's API that the proxy takes part in.
const (
	methodSolve  = "/moby.buildkit.v1.Control/Solve"
	methodStatus = "/moby.buildkit.v1.Control/Status"
)

// Options of a [Proxy].
type Options struct {
	// Daemon is where the daemon listens, as gRPC names it: "unix:///run/buildkit/buildkitd.sock", "dns:///host:1234".
	Daemon string
	// Dial are further options for the connection to it: its credentials.
	Dial []grpc.DialOption
	// Staging is the registry that the daemon pushes plain images to.
	Staging *Staging
	// Store says how to reach the registries that images are pushed to.
	Store store.Options
	// Record knows layers that were converted before; may be nil.
	Record convert.Record
	// Jobs bounds the cores that all conversions use; 0 means GOMAXPROCS.
	Jobs int
	// TempDir is where is spooled what cannot be streamed; "" means the system's directory.
	TempDir string
}

// Proxy is a BuildKit daemon to its clients.
type Proxy struct {
	opt    Options
	daemon *grpc.ClientConn
	server *grpc.Server
	cpu    *formats.CPU
	builds builds
}

// New returns a proxy. It connects to the daemon when a client comes.
func New(opt Options, serve ...grpc.ServerOption) (*Proxy, error) {
	p := &Proxy{opt: opt, cpu: formats.NewCPU(opt.Jobs)}
	dial := append([]grpc.DialOption{
		grpc.WithDefaultCallOptions(grpc.ForceCodec(frameCodec{}), grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)),
	}, opt.Dial...)
	var err error
	if p.daemon, err = grpc.NewClient(opt.Daemon, dial...); err != nil {
		return nil, fmt.Errorf("daemon %s: %w", opt.Daemon, err)
	}
	p.server = grpc.NewServer(append([]grpc.ServerOption{
		grpc.ForceServerCodec(frameCodec{}), grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage), grpc.UnknownServiceHandler(p.handle),
	}, serve...)...)
	return p, nil
}

// Serve answers the listener's clients until the proxy is closed. It may be called for several listeners.
func (p *Proxy) Serve(l net.Listener) error { return p.server.Serve(l) }

// Close ends all connections: those that have calls when these have ended, or when ctx ends.
func (p *Proxy) Close(ctx context.Context) error {
	stopped := context.AfterFunc(ctx, p.server.Stop)
	p.server.GracefulStop()
	stopped()
	return p.daemon.Close()
}

// handle is called for every call of a client.
func (p *Proxy) handle(_ any, client grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(client)
	switch method {
	case methodSolve:
		return p.solve(client)
	case methodStatus:
		return p.status(client)
	}
	ctx := client.Context()
	ref := buildid.FromIncomingContext(ctx) // in calls that frontends at the client make
	if ref == "" {
		return p.forward(ctx, method, client)
	}
	refused, err := p.builds.unlessRefused(ctx, ref, func(ctx context.Context) error { return p.forward(ctx, method, client) })
	if refused != nil {
		return refused
	}
	return err
}
