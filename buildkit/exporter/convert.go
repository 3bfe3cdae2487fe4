package exporter

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/cache"
	cacheconfig "github.com/moby/buildkit/cache/config"
	"github.com/moby/buildkit/exporter"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/buildkit/output"
	"github.com/lazuli-project/lazuli/catalog"
	"github.com/lazuli-project/lazuli/containerd/contentstore"
	"github.com/lazuli-project/lazuli/convert"
	"github.com/lazuli-project/lazuli/store"
)

// made is what an export made, all of it in the worker's content store.
type made struct {
	output.Made
	plain ocispec.Descriptor // what BuildKit made
}

// run makes the plain image and converts it.
func (x *export) run(ctx context.Context, src *exporter.Source, info exporter.ExportBuildInfo) (*made, error) {
	refs, err := refsOf(src)
	if err != nil {
		return nil, err
	}
	layers := &layerSource{worker: x.worker, session: x.session, asIs: x.asIs}
	if !x.asIs {
		src = layers.wrap(src)
		// It names layers, which the image does not have.
		info.InlineCache = nil
	}
	_, _, plain, err := x.ExporterInstance.Export(ctx, src, info)
	if err != nil {
		return nil, err
	}
	m := &made{Made: output.Made{Format: x.format}, plain: plain.Descriptor()}
	delete(m.plain.Annotations, exptypes.ExporterConfigDigestKey) // for BuildKit itself
	defer func() { _ = plain.Release() }()                        // our lease holds the same
	chains, err := layers.complete(ctx, refs)
	if err != nil {
		return nil, err
	}
	if err := x.convert(ctx, m); err != nil {
		return nil, fmt.Errorf("convert to %s: %w", x.format, err)
	}
	for i, image := range m.Images {
		if i < len(chains) {
			if err := x.keep(ctx, chains[i], image.Layers); err != nil {
				return nil, err
			}
		}
	}
	if !x.opt.NeedsPlain() {
		return m, m.PointAttestations(ctx, contentstore.NewTarget(ctx, x.worker.ContentStore(), store.Ref{}, contentstore.Options{}))
	}
	return m, nil
}

// convert converts the plain image.
func (x *export) convert(ctx context.Context, m *made) (err error) {
	ref := store.Ref{Transport: "buildkit", Path: "build"} // for messages
	if len(x.names) > 0 {
		if ref, err = store.Parse(x.names[0]); err != nil {
			return err
		}
	}
	opt := convert.Options{Attach: x.opt.Attach, Readers: catalog.LazyReaders(), Record: contentstore.NewRecord(x.worker.ContentStore())}
	if x.opt.Merge == output.MergeBuild {
		opt.Attach = convert.AttachIndex
	}
	d, err := x.openDictionary(ctx)
	if err != nil {
		return err
	}
	if d != nil {
		opt.Others = append(opt.Others, d.Source)
	}
	if m.Writer, err = x.writer(x.opt, d); err != nil {
		return err
	}
	p := newLayerProgress(ctx, x.format)
	defer p.close()
	opt.OnProgress = p.on
	target := contentstore.NewTarget(ctx, x.worker.ContentStore(), ref, contentstore.Options{})
	defer func() { err = errors.Join(err, target.Close()) }() //nolint:contextcheck // objects have their own
	res, err := convert.Convert(ctx, contentstore.NewSource(ctx, x.worker.ContentStore(), ref, m.plain), []convert.Output{{Writer: m.Writer, Target: target}}, opt)
	if err != nil {
		return err
	}
	m.Images, m.Tagged = res.Images, res.Tagged[0]
	return nil
}

// keep lets what layers became stay as long as BuildKit's cache keeps the layers: its leases hold each object by itself.
func (x *export) keep(ctx context.Context, chain []string, layers []convert.LayerResult) error {
	if len(chain) != len(layers) {
		return nil // what BuildKit squashed is converted again
	}
	for i, l := range layers {
		for _, d := range []digest.Digest{l.Source.Digest, l.Desc.Digest} {
			if d == "" {
				continue
			}
			if err := hold(ctx, x.worker, chain[i], d); err != nil {
				return err
			}
		}
	}
	return nil
}

// hold makes an object stay as long as a layer of the cache.
func hold(ctx context.Context, w *wrapped, id string, d digest.Digest) error {
	err := w.LeaseManager().AddResource(ctx, leases.Lease{ID: id}, leases.Resource{ID: d.String(), Type: "content"})
	if err != nil && !errdefs.IsNotFound(err) { // the layer was removed since
		return fmt.Errorf("keep %s with the layer: %w", d, err)
	}
	return nil
}

// complete makes the content store have all layers of file systems, and returns what BuildKit's cache calls them, by file system.
func (s *layerSource) complete(ctx context.Context, refs []cache.ImmutableRef) ([][]string, error) {
	chains := make([][]string, len(refs))
	for i, ref := range refs {
		if ref == nil {
			continue
		}
		layers := ref.LayerChain()
		for _, l := range layers {
			chains[i] = append(chains[i], l.ID())
		}
		if err := layers.Release(context.WithoutCancel(ctx)); err != nil {
			return nil, err
		}
		if s.asIs {
			if _, err := fetchRemote(ctx, ref, cacheconfig.RefConfig{}, s.session); err != nil {
				return nil, err
			}
		}
	}
	return chains, nil
}
