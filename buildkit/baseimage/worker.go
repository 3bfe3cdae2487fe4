package baseimage

import (
	"context"

	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/solver"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/source/containerimage"
	"github.com/moby/buildkit/worker"
	"github.com/moby/buildkit/worker/base"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// wrapped is a worker that tells of images of our formats what is said of plain ones.
type wrapped struct {
	worker.Worker
	source *source
}

var _ worker.Worker = (*wrapped)(nil)

// Wrap makes a worker take images of our formats, and returns what stands for it. outer is what stands for it so far.
func Wrap(w *base.Worker, outer worker.Worker) worker.Worker {
	s := &source{Source: w.ImageSource, worker: w}
	w.SourceManager.Register(s)
	return &wrapped{outer, s}
}

// ResolveSourceMetadata implements [worker.Worker].
func (w *wrapped) ResolveSourceMetadata(ctx context.Context, op *pb.SourceOp, opt sourceresolver.Opt, sm *session.Manager, job solver.JobContext) (*sourceresolver.MetaResponse, error) {
	resp, err := w.Worker.ResolveSourceMetadata(ctx, op, opt, sm, job)
	if err != nil || resp.Image == nil || resp.Image.Config == nil || opt.ImageOpt == nil {
		return resp, err
	}
	id, err := w.ParseSource(op, nil)
	if err != nil {
		return nil, err
	}
	image, ok := id.(*containerimage.ImageIdentifier)
	if !ok {
		return resp, nil
	}
	image.Platform = platformOf(opt.ImageOpt.Platform)
	var g session.Group
	if job != nil {
		g = job.Session()
	}
	lazy, err := w.source.find(ctx, image, sm, g)
	if err != nil || lazy == nil {
		return resp, err
	}
	plain, err := lazy.plain(ctx)
	if err != nil {
		return nil, err
	}
	resp.Image.Config = plain.ConfigRaw
	return resp, nil
}

// platformOf returns a copy of a platform, which may be none.
func platformOf(p *ocispec.Platform) *ocispec.Platform {
	if p == nil {
		return nil
	}
	c := *p
	return &c
}
