package proxy

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	control "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/lazuli-project/lazuli/buildkit/output"
	"github.com/lazuli-project/lazuli/catalog"
	"github.com/lazuli-project/lazuli/formats"
)

// staged is an output that is converted here.
type staged struct {
	format string
	opt    *output.Options
	writer formats.Writer
	image  string // in the staging registry, as PATH:TAG
}

// solve passes a build on, with plain images in the place of our outputs, and converts these.
func (p *Proxy) solve(client grpc.ServerStream) error {
	var in frame
	if err := client.RecvMsg(&in); err != nil {
		return err
	}
	var req control.SolveRequest
	if err := proto.Unmarshal(in.payload, &req); err != nil {
		return invalid(fmt.Errorf("solve: %w", err))
	}
	place := p.opt.Staging.begin()
	defer place.end()
	outputs, err := p.rewrite(&req, place)
	if err != nil {
		err = invalid(err)
		p.builds.refuse(req.Ref, err)
		return err
	}
	p.builds.accept(req.Ref)
	var b *build
	if len(outputs) > 0 {
		if in.payload, err = proto.Marshal(&req); err != nil {
			return status.Error(codes.Internal, err.Error())
		}
		b = p.builds.begin(req.Ref)
		defer p.builds.end(b)
	}
	ctx := client.Context()
	var out frame
	var header, trailer metadata.MD
	err = p.daemon.Invoke(outgoing(ctx), methodSolve, &in, &out, grpc.Header(&header), grpc.Trailer(&trailer))
	client.SetTrailer(trailer)
	if err != nil {
		return err
	}
	if len(outputs) > 0 {
		var resp control.SolveResponse
		if err := proto.Unmarshal(out.payload, &resp); err != nil {
			return status.Error(codes.Internal, fmt.Sprintf("the daemon's answer: %v", err))
		}
		for _, o := range outputs {
			made, err := p.finish(ctx, b, o)
			if err == nil {
				err = o.describe(&resp, made)
			}
			if err != nil {
				return status.Error(codes.Unknown, fmt.Sprintf("exporter %s: %v", o.format, err))
			}
		}
		if out.payload, err = proto.Marshal(&resp); err != nil {
			return status.Error(codes.Internal, err.Error())
		}
	}
	if err := client.SendHeader(header); err != nil {
		return err
	}
	return client.SendMsg(&out)
}

// rewrite puts plain images into a request where it asks for our formats. Without one of these, the request stays as it is.
func (p *Proxy) rewrite(req *control.SolveRequest, place *stagingPlace) ([]*staged, error) {
	exporters := req.Exporters
	if len(exporters) == 0 && req.ExporterDeprecated != "" {
		exporters = []*control.Exporter{{Type: req.ExporterDeprecated, Attrs: req.ExporterAttrsDeprecated}}
	}
	var outputs []*staged
	for i, e := range exporters {
		if !slices.Contains(catalog.Formats(), e.GetType()) {
			continue
		}
		o := &staged{format: e.Type, image: fmt.Sprintf("%s/image:%d", place.name, i)}
		var err error
		if o.opt, err = output.Parse(e.Type, e.Attrs); err != nil {
			return nil, err
		}
		if !o.opt.Push {
			return nil, fmt.Errorf("exporter %s: push=false: a proxy has no place where the image could stay", e.Type)
		}
		if slices.Contains(o.opt.Names, "*") {
			return nil, fmt.Errorf("exporter %s: name=*: a name is needed here", e.Type)
		}
		if o.writer, err = p.newWriter(o, nil); err != nil {
			return nil, err
		}
		// Compressed as ever: layers that the daemon made as plain tars it would push as these from then on, also to others.
		attrs := o.opt.PlainAttrs(true)
		attrs[string(exptypes.OptKeyName)] = p.opt.Staging.name + "/" + o.image
		attrs[string(exptypes.OptKeyPush)], attrs[string(exptypes.OptKeyInsecure)] = "true", "true"
		exporters[i] = &control.Exporter{Type: "image", Attrs: attrs}
		outputs = append(outputs, o)
	}
	if len(outputs) > 0 && len(req.Exporters) == 0 {
		req.ExporterDeprecated, req.ExporterAttrsDeprecated = exporters[0].Type, exporters[0].Attrs
	}
	return outputs, nil
}

// newWriter makes an output's writer.
func (p *Proxy) newWriter(o *staged, change func(*catalog.Options)) (formats.Writer, error) {
	f := o.opt.Format
	f.CPU = p.cpu
	if change != nil {
		change(&f)
	}
	w, err := catalog.NewWriter(o.format, f)
	if err != nil {
		return nil, fmt.Errorf("exporter %s: %w", o.format, err)
	}
	return w, nil
}

// describe puts what was made into the daemon's answer.
func (o *staged) describe(resp *control.SolveResponse, made ocispec.Descriptor) error {
	raw, err := json.Marshal(made)
	if err != nil {
		return err
	}
	if resp.ExporterResponse == nil {
		resp.ExporterResponse = make(map[string]string)
	}
	resp.ExporterResponse[exptypes.ExporterImageDigestKey] = made.Digest.String()
	resp.ExporterResponse[exptypes.ExporterImageDescriptorKey] = base64.StdEncoding.EncodeToString(raw)
	resp.ExporterResponse[exptypes.ExporterImageNameKey] = strings.Join(o.opt.Names, ",")
	delete(resp.ExporterResponse, exptypes.ExporterImageConfigDigestKey) // of the plain image
	return nil
}

// status passes a build's progress on, and goes on with what is done here.
func (p *Proxy) status(client grpc.ServerStream) error {
	var in frame
	if err := client.RecvMsg(&in); err != nil {
		return err
	}
	var req control.StatusRequest
	if err := proto.Unmarshal(in.payload, &req); err != nil {
		return invalid(fmt.Errorf("status: %w", err))
	}
	refused, err := p.builds.unlessRefused(client.Context(), req.Ref, func(ctx context.Context) error { return p.daemonStatus(ctx, client, &in) })
	if refused != nil {
		return nil //nolint:nilerr // whoever asks to build is told
	}
	if err != nil {
		return err
	}
	b := p.builds.find(req.Ref)
	if b == nil {
		return nil
	}
	return b.follow(client.Context(), func(n *control.StatusResponse) error {
		p, err := proto.Marshal(n)
		if err != nil {
			return err
		}
		return client.SendMsg(&frame{p})
	})
}

// daemonStatus passes on what the daemon tells of a build.
func (p *Proxy) daemonStatus(ctx context.Context, client grpc.ServerStream, in *frame) error {
	daemon, err := p.daemon.NewStream(outgoing(ctx), &grpc.StreamDesc{ServerStreams: true}, methodStatus)
	if err == nil {
		err = daemon.SendMsg(in)
	}
	if err == nil {
		err = daemon.CloseSend()
	}
	if err == nil {
		err = receive(client, daemon)
	}
	return err
}
