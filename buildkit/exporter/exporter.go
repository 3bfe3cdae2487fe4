package exporter

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/moby/buildkit/cache"
	"github.com/moby/buildkit/exporter"
	"github.com/moby/buildkit/exporter/containerimage"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/util/leaseutil"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/buildkit/output"
	"github.com/lazuli-project/lazuli/catalog"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/image"
)

// formatExporter makes images of one format.
type formatExporter struct {
	worker   *wrapped
	sessions *session.Manager
	inner    exporter.Exporter // of plain images
	format   string
}

// Resolve implements [exporter.Exporter].
func (e *formatExporter) Resolve(ctx context.Context, id int, attrs map[string]string) (exporter.ExporterInstance, error) {
	o, err := output.Parse(e.format, attrs)
	if err != nil {
		return nil, err
	}
	w, err := e.writer(o, nil) // so that what is impossible is told before the build
	if err != nil {
		return nil, err
	}
	asIs := o.NeedsPlain() || output.KeepsLayers(w)
	inner, err := e.inner.Resolve(ctx, id, o.PlainAttrs(asIs))
	if err != nil {
		return nil, err
	}
	return &instance{formatExporter: e, ExporterInstance: inner, attrs: attrs, opt: o, asIs: asIs}, nil
}

// writer makes the format's writer.
func (e *formatExporter) writer(o *output.Options, d *image.Dictionary) (formats.Writer, error) {
	f := o.Format
	f.CPU = e.worker.cpu
	if d != nil {
		f.Dictionary = d.Dictionary
	}
	w, err := catalog.NewWriter(e.format, f)
	if err != nil {
		return nil, fmt.Errorf("exporter %s: %w", e.format, err)
	}
	return w, nil
}

// instance is an output of a build.
type instance struct {
	*formatExporter
	exporter.ExporterInstance // of the plain image
	attrs                     map[string]string
	opt                       *output.Options
	asIs                      bool // the plain image's layers become visible
}

var _ exporter.ExporterInstance = (*instance)(nil)

// Name implements [exporter.ExporterInstance].
func (i *instance) Name() string { return "exporting to " + i.format }

// Type implements [exporter.ExporterInstance].
func (i *instance) Type() string { return i.format }

// Attrs implements [exporter.ExporterInstance].
func (i *instance) Attrs() map[string]string { return i.attrs }

// Config implements [exporter.ExporterInstance]. Caches that are exported beside the image have the layers as they are by default, not
// the plain ones that are converted.
func (i *instance) Config() *exporter.Config {
	if i.asIs {
		return i.ExporterInstance.Config()
	}
	return exporter.NewConfig()
}

// Export implements [exporter.ExporterInstance].
func (i *instance) Export(ctx context.Context, src *exporter.Source, info exporter.ExportBuildInfo) (_ map[string]string, _ exporter.FinalizeFunc, ref exporter.DescriptorReference, err error) {
	warn(ctx, i.opt.Warnings)
	ctx, done, err := leaseutil.WithLease(ctx, i.worker.LeaseManager(), leaseutil.MakeTemporary)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("hold what is exported: %w", err)
	}
	defer func() {
		if ref == nil {
			err = errors.Join(err, done(context.WithoutCancel(ctx)))
		}
	}()
	x := &export{instance: i, session: session.NewGroup(info.SessionID), sessionID: info.SessionID}
	if x.names, err = i.names(src); err != nil {
		return nil, nil, nil, err
	}
	made, err := x.run(ctx, src, info)
	if err != nil {
		return nil, nil, nil, err
	}
	resp, err := x.response(made.Tagged)
	if err != nil {
		return nil, nil, nil, err
	}
	var finalize exporter.FinalizeFunc
	if i.opt.Push {
		finalize = func(ctx context.Context) error { return x.push(ctx, made) }
	}
	return resp, finalize, containerimage.NewDescriptorReference(made.Tagged, done), nil
}

// names returns what the image is called.
func (i *instance) names(src *exporter.Source) ([]string, error) {
	if !slices.Equal(i.opt.Names, []string{"*"}) {
		return i.opt.Names, nil
	}
	names, err := output.ParseNames(string(src.Metadata[exptypes.ExporterImageNameKey]))
	if err == nil && len(names) == 0 && i.opt.Push {
		err = fmt.Errorf("%s=*: the build gives no name", output.KeyName)
	}
	return names, err
}

// export is one export.
type export struct {
	*instance
	session   session.Group
	sessionID string
	names     []string
}

// response tells the client what was made.
func (x *export) response(desc ocispec.Descriptor) (map[string]string, error) {
	raw, err := json.Marshal(desc)
	if err != nil {
		return nil, fmt.Errorf("describe the image: %w", err)
	}
	resp := map[string]string{
		exptypes.ExporterImageDigestKey:     desc.Digest.String(),
		exptypes.ExporterImageDescriptorKey: base64.StdEncoding.EncodeToString(raw),
	}
	if len(x.names) > 0 {
		resp[exptypes.ExporterImageNameKey] = strings.Join(x.names, ",")
	}
	return resp, nil
}

// refsOf returns the file systems of a build in the order of the image's platforms, one for each.
func refsOf(src *exporter.Source) ([]cache.ImmutableRef, error) {
	if len(src.Refs) == 0 {
		return []cache.ImmutableRef{src.Ref}, nil
	}
	platforms, err := exptypes.ParsePlatforms(src.Metadata)
	if err != nil {
		return nil, err
	}
	refs := make([]cache.ImmutableRef, 0, len(platforms.Platforms))
	for _, p := range platforms.Platforms {
		ref, _ := src.FindRef(p.ID)
		refs = append(refs, ref)
	}
	return refs, nil
}
