//go:build linux

package daemon

import (
	"context"
	"fmt"
	"net"
	"os"
	"strings"

	"github.com/containerd/containerd/v2/defaults"
	sddaemon "github.com/coreos/go-systemd/v22/daemon"
	"github.com/moby/buildkit/control"
	"github.com/moby/buildkit/util/bklog"
	"github.com/moby/buildkit/util/grpcerrors"
	_ "github.com/moby/buildkit/util/grpcutil/encoding/proto" // the codec that clients ask for
	"github.com/moby/buildkit/util/stack"
	"github.com/moby/buildkit/util/tracing"
	"github.com/sirupsen/logrus"
	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/otel/propagation"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"
)

// newServer returns a server of BuildKit's API, with health checks and reflection.
func newServer(t *telemetry, c *control.Controller) *grpc.Server {
	s := grpc.NewServer(
		grpc.StatsHandler(tracing.ServerStatsHandler(
			otelgrpc.WithTracerProvider(t.tracer),
			otelgrpc.WithMeterProvider(t.meter),
			otelgrpc.WithPropagators(propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{})),
		)),
		grpc.ChainUnaryInterceptor(logErrors, grpcerrors.UnaryServerInterceptor),
		grpc.StreamInterceptor(grpcerrors.StreamServerInterceptor),
		grpc.MaxRecvMsgSize(defaults.DefaultMaxRecvMsgSize),
		grpc.MaxSendMsgSize(defaults.DefaultMaxSendMsgSize),
	)
	healthv1.RegisterHealthServer(s, health.NewServer())
	c.Register(s)
	reflection.Register(s)
	return s
}

// logErrors logs the calls that fail, but for those that only bring spans.
func logErrors(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	resp, err := handler(ctx, req)
	if err != nil && !strings.HasSuffix(info.FullMethod, "opentelemetry.proto.collector.trace.v1.TraceService/Export") {
		bklog.G(ctx).Errorf("%s returned error: %v", info.FullMethod, err)
		if logrus.IsLevelEnabled(logrus.DebugLevel) {
			fmt.Fprintf(os.Stderr, "%+v", stack.Formatter(grpcerrors.FromGRPC(err)))
		}
	}
	return resp, err
}

// serve serves at all listeners until ctx ends or one fails, and then lets the calls end that are under way.
func serve(ctx context.Context, s *grpc.Server, listeners []net.Listener) error {
	group, gctx := errgroup.WithContext(ctx)
	for _, l := range listeners {
		group.Go(func() error {
			bklog.G(ctx).Infof("running server on %s", l.Addr())
			return s.Serve(l)
		})
	}
	notify(ctx, sddaemon.SdNotifyReady)
	group.Go(func() error {
		<-gctx.Done()
		bklog.G(ctx).Infof("stopping server")
		notify(ctx, sddaemon.SdNotifyStopping)
		s.GracefulStop()
		return nil
	})
	return group.Wait()
}

// notify tells systemd, where that started the daemon.
func notify(ctx context.Context, state string) {
	if _, err := sddaemon.SdNotify(false, state); err != nil {
		bklog.G(ctx).Warnf("systemd is not told %s: %v", state, err)
	}
}
