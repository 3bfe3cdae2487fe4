package exporter

import (
	"fmt"
	"slices"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/exporter"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/util/resolver"
	"github.com/moby/buildkit/worker"
	"github.com/moby/buildkit/worker/base"

	"github.com/lazuli-project/lazuli/catalog"
	"github.com/lazuli-project/lazuli/formats"
)

// wrapped is a worker with more exporters.
type wrapped struct {
	*base.Worker
	cpu  *formats.CPU
	pool *resolver.Pool // of our own requests to registries
	tags *locks
	refs *locks
}

var _ worker.Worker = (*wrapped)(nil)

// Wrap returns the worker with an exporter for each format beside its own. All exports together use the cores once.
func Wrap(w *base.Worker) worker.Worker {
	return &wrapped{Worker: w, cpu: formats.NewCPU(0), pool: resolver.NewPool(), tags: newLocks(), refs: newLocks()}
}

// Exporter implements [worker.Worker].
func (w *wrapped) Exporter(name string, sessions *session.Manager) (exporter.Exporter, error) {
	if !slices.Contains(catalog.Formats(), name) {
		return w.Worker.Exporter(name, sessions)
	}
	inner, err := w.Worker.Exporter(client.ExporterImage, sessions)
	if err != nil {
		return nil, fmt.Errorf("exporter of plain images: %w", err)
	}
	return &formatExporter{worker: w, sessions: sessions, inner: inner, format: name}, nil
}
