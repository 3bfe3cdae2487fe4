//go:build linux

package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/containerd/containerd/v2/pkg/sys"
	"github.com/moby/buildkit/util/bklog"
	"github.com/moby/buildkit/util/tracing"
	_ "github.com/moby/buildkit/util/tracing/childprocess" // spans of programs that the daemon starts
	"github.com/moby/buildkit/util/tracing/detect"
	_ "github.com/moby/buildkit/util/tracing/detect/jaeger" // JAEGER_TRACE
	"github.com/moby/buildkit/util/tracing/transform"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/prometheus"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	tracev1 "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"
)

// telemetry is where spans and figures go: to what the environment variables of OpenTelemetry name, to the records of builds, and to
// /metrics of the debug handlers.
type telemetry struct {
	tracer *sdktrace.TracerProvider
	meter  *sdkmetric.MeterProvider
	spans  tracing.MultiSpanExporter // where spans of clients and of build steps go
}

func newTelemetry(ctx context.Context) (*telemetry, error) {
	detect.Recorder = detect.NewTraceRecorder()
	t := &telemetry{spans: tracing.MultiSpanExporter{detect.Recorder}}
	traces := []sdktrace.TracerProviderOption{sdktrace.WithResource(detect.Resource()), sdktrace.WithSyncer(detect.Recorder)}
	exp, err := detect.NewSpanExporter(ctx)
	if err != nil {
		return nil, fmt.Errorf("set up traces: %w", err)
	}
	if !detect.IsNoneSpanExporter(exp) {
		traces = append(traces, sdktrace.WithBatcher(exp))
		t.spans = append(t.spans, exp)
	}
	t.tracer = sdktrace.NewTracerProvider(traces...)

	figures := []sdkmetric.Option{sdkmetric.WithResource(detect.Resource()), sdkmetric.WithView(buildDurations())}
	if r, err := prometheus.New(); err != nil {
		bklog.G(ctx).WithError(err).Error("no figures for Prometheus") // builds work without
	} else {
		figures = append(figures, sdkmetric.WithReader(r))
	}
	mexp, err := detect.NewMetricExporter(ctx)
	if err != nil {
		return nil, fmt.Errorf("set up figures: %w", err)
	}
	if !detect.IsNoneMetricExporter(mexp) {
		figures = append(figures, sdkmetric.WithReader(sdkmetric.NewPeriodicReader(mexp)))
	}
	t.meter = sdkmetric.NewMeterProvider(figures...)
	return t, nil
}

// buildDurations gives build durations as a native histogram, whose size does not grow with labels.
func buildDurations() sdkmetric.View {
	return sdkmetric.NewView(
		sdkmetric.Instrument{Name: "buildkit.build.duration", Kind: sdkmetric.InstrumentKindHistogram},
		sdkmetric.Stream{
			Aggregation:     sdkmetric.AggregationBase2ExponentialHistogram{MaxSize: 160, MaxScale: 20},
			AttributeFilter: attribute.NewAllowKeysFilter("status"),
		},
	)
}

// shutdown sends what is left.
func (t *telemetry) shutdown(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), telemetryTimeout)
	defer cancel()
	return errors.Join(t.tracer.Shutdown(ctx), t.meter.Shutdown(ctx))
}

// collectSpans takes the spans of build steps at a socket, which is mounted into them.
func (t *telemetry) collectSpans(ctx context.Context, path string) error {
	l, err := sys.GetLocalListener(path, os.Getuid(), os.Getuid())
	if err != nil {
		return fmt.Errorf("listen for traces: %w", err)
	}
	if err := os.Chmod(path, 0o666); err != nil { // steps run as any user
		return errors.Join(err, l.Close())
	}
	s := grpc.NewServer()
	tracev1.RegisterTraceServiceServer(s, &spanCollector{exporter: t.spans})
	go func() {
		if err := s.Serve(l); err != nil {
			bklog.G(ctx).WithError(err).Error("no more traces of build steps")
		}
	}()
	context.AfterFunc(ctx, s.Stop)
	return nil
}

type spanCollector struct {
	tracev1.UnimplementedTraceServiceServer
	exporter sdktrace.SpanExporter
}

// Export implements the trace service.
func (c *spanCollector) Export(ctx context.Context, req *tracev1.ExportTraceServiceRequest) (*tracev1.ExportTraceServiceResponse, error) {
	if err := c.exporter.ExportSpans(ctx, transform.Spans(req.GetResourceSpans())); err != nil {
		return nil, err
	}
	return &tracev1.ExportTraceServiceResponse{}, nil
}
