package proxy

import (
	"context"
	"errors"
	"fmt"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/buildkit/output"
	"github.com/lazuli-project/lazuli/catalog"
	"github.com/lazuli-project/lazuli/convert"
	"github.com/lazuli-project/lazuli/image"
	"github.com/lazuli-project/lazuli/store"
)

// layerName is how a layer's progress is called.
func layerName(p convert.Progress) string {
	name := fmt.Sprintf("layer %d of %d", p.Layer+1, p.Layers)
	if p.Platform != "" {
		name = p.Platform + " " + name
	}
	if p.State == convert.Reused {
		name += ", converted before"
	}
	return name
}

// finish converts what the daemon pushed, and pushes it to all names.
func (p *Proxy) finish(ctx context.Context, b *build, o *staged) (made ocispec.Descriptor, err error) {
	for _, name := range o.opt.Names {
		s := b.step(fmt.Sprintf("converting to %s and pushing %s", o.format, name))
		for _, w := range o.opt.Warnings {
			s.warn(w)
		}
		made, err = p.convert(ctx, s, o, name)
		if s.end(err) != nil {
			return made, fmt.Errorf("%s: %w", name, err)
		}
	}
	return made, nil
}

// storeOptions are those of the registry of a name.
func (p *Proxy) storeOptions(o *staged) store.Options {
	so := p.opt.Store
	so.Insecure = so.Insecure || o.opt.Insecure
	return so
}

// convert converts for one name.
func (p *Proxy) convert(ctx context.Context, s *step, o *staged, name string) (_ ocispec.Descriptor, err error) {
	to, err := store.Parse(name)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	src, err := p.opt.Staging.open(ctx, o.image)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	defer src.Close() // was only read
	target, err := store.OpenTarget(ctx, to, p.storeOptions(o))
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	defer func() { err = errors.Join(err, target.Close()) }()
	opt := convert.Options{
		Attach: o.opt.Attach, Untagged: o.opt.Attach == convert.AttachTag, Jobs: p.opt.Jobs, Record: p.opt.Record,
		OpenPlace: store.PlaceOpener(to.Host, p.storeOptions(o)), Readers: catalog.LazyReaders(), TempDir: p.opt.TempDir, OnProgress: s.layer,
	}
	if o.opt.Merge == output.MergeBuild {
		opt.Attach, opt.Untagged = convert.AttachIndex, false
	}
	writer := o.writer
	if o.opt.Dictionary != "" {
		d, err := p.openDictionary(ctx, o)
		if err != nil {
			return ocispec.Descriptor{}, err
		}
		defer d.Close() // was only read
		if d.Source != nil {
			opt.Others = append(opt.Others, d.Source)
		}
		if writer, err = p.newWriter(o, func(c *catalog.Options) { c.Dictionary = d.Dictionary }); err != nil {
			return ocispec.Descriptor{}, err
		}
	}
	res, err := convert.Convert(ctx, src, []convert.Output{{Writer: writer, Target: target}}, opt)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	made := output.Made{Format: o.format, Writer: writer, Tagged: res.Tagged[0], Images: res.Images, Name: name}
	if !opt.Untagged {
		return made.Tagged, nil
	}
	if err := made.PointAttestations(ctx, target); err != nil {
		return made.Tagged, err
	}
	return made.Tagged, p.name(ctx, o, &made, target)
}

// name makes the name of a target be that of what was made.
func (p *Proxy) name(ctx context.Context, o *staged, made *output.Made, target store.Target) error {
	switch {
	case o.opt.PushByDigest:
		return target.Commit(ctx)
	case o.opt.Merge == output.MergeTag:
		a, err := made.Addition(ctx, target)
		if err != nil {
			return err
		}
		if err := a.MergeInto(ctx, place{target}, o.opt.Merge); err != nil {
			return err
		}
		return target.Commit(ctx)
	}
	if err := target.Tag(ctx, made.Tagged, ""); err != nil {
		return err
	}
	return target.Commit(ctx)
}

// place is a target as a place for an index.
type place struct{ store.Target }

// Current implements [output.Place].
func (p place) Current(ctx context.Context) (ocispec.Descriptor, error) {
	desc, err := p.Resolve(ctx)
	if errors.Is(err, store.ErrNotFound) {
		return ocispec.Descriptor{}, nil
	}
	return desc, err
}

// PutIndex implements [output.Place].
func (p place) PutIndex(ctx context.Context, desc ocispec.Descriptor, raw []byte) error {
	if err := p.Put(ctx, desc, raw); err != nil {
		return err
	}
	return p.Tag(ctx, desc, "")
}

// openDictionary opens an output's chunk dictionary.
func (p *Proxy) openDictionary(ctx context.Context, o *staged) (*image.Dictionary, error) {
	ref, err := store.Parse(o.opt.Dictionary)
	if err != nil {
		return nil, err
	}
	return image.OpenDictionary(ctx, ref, p.storeOptions(o))
}

// open opens an image that a daemon pushed.
func (s *Staging) open(ctx context.Context, image string) (store.Source, error) {
	path, tag, _ := strings.Cut(image, ":")
	ref := store.Ref{Transport: store.Registry, Host: s.local, Repo: path, Tag: tag}
	return store.OpenSource(ctx, ref, store.Options{PlainHTTP: true})
}
