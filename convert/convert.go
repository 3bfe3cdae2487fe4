package convert

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/store"
	"github.com/lazuli-project/lazuli/tree"
)

// conversion is one call of [Convert].
type conversion struct {
	src     store.Source
	outputs []Output
	opt     Options
	places  places
}

// Convert converts what src names for every output. Targets are committed, and not closed. On an error nothing is tagged;
// blobs that were stored stay and are used by the next try.
func Convert(ctx context.Context, src store.Source, outputs []Output, opt Options) (*Result, error) {
	if err := opt.setDefaults(); err != nil {
		return nil, err
	}
	c := &conversion{src: src, outputs: outputs, opt: opt}
	defer c.places.close()
	begin := time.Now()
	s, err := c.plan(ctx)
	if err != nil {
		return nil, err
	}
	res := &Result{}
	made := make([][]madeImage, len(outputs)) // by output and image
	for _, im := range s.images {
		images, manifests, err := c.image(ctx, im)
		if err != nil {
			return nil, fmt.Errorf("image %s%s: %w", im.src.Desc.Digest, onPlatform(im.platform), err)
		}
		for o := range outputs {
			made[o] = append(made[o], manifests[o])
		}
		res.Images = append(res.Images, images...)
	}
	for o, out := range outputs {
		tagged, err := c.attach(ctx, out, s, made[o])
		if err != nil {
			return nil, err
		}
		res.Tagged = append(res.Tagged, tagged)
	}
	for _, out := range outputs {
		if err := out.Target.Commit(ctx); err != nil {
			return nil, err
		}
	}
	for o := range outputs {
		for i, im := range s.images {
			c.rememberImage(ctx, o, im, made[o][i].desc)
		}
	}
	res.Wall = time.Since(begin)
	return res, nil
}

func onPlatform(p string) string {
	if p == "" {
		return ""
	}
	return " for " + p
}

// madeImage is a manifest that is not stored yet: a referrer is seen as soon as it is.
type madeImage struct {
	desc ocispec.Descriptor
	raw  []byte
}

// unstored is a target that also hands out a manifest that it has not got yet, and the source's, to which that may refer.
type unstored struct {
	store.Target
	made   madeImage
	source *formats.Manifest
}

// Fetch implements [formats.Sources].
func (u *unstored) Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	switch desc.Digest {
	case u.made.desc.Digest:
		return io.NopCloser(bytes.NewReader(u.made.raw)), nil
	case u.source.Desc.Digest:
		return io.NopCloser(bytes.NewReader(u.source.Raw)), nil
	case u.source.Manifest.Config.Digest:
		return io.NopCloser(bytes.NewReader(u.source.ConfigRaw)), nil
	}
	return u.Target.Fetch(ctx, desc)
}

// image converts one image for all outputs.
func (c *conversion) image(ctx context.Context, im *sourceImage) ([]Image, []madeImage, error) {
	if images, manifests, ok, err := c.knownImages(ctx, im); ok || err != nil {
		return images, manifests, err
	}
	layers, reused, err := c.layers(ctx, im)
	if err != nil {
		return nil, nil, err
	}
	images := make([]Image, len(c.outputs))
	manifests := make([]madeImage, len(c.outputs))
	for o, out := range c.outputs {
		image := Image{Format: out.Writer.Name(), Output: o, Platform: im.platform, Source: im.src.Desc}
		for i, l := range layers[o] {
			image.Layers = append(image.Layers, LayerResult{
				Source: im.src.Manifest.Layers[i], Desc: l.Desc, Reused: reused[o][i].ok, From: reused[o][i].from, LayerStats: l.Stats,
			})
			image.SourceSize += im.src.Manifest.Layers[i].Size
			image.Size += l.Desc.Size
		}
		list := layers[o]
		layers[o] = nil
		giveAway(list)
		fin, err := out.Writer.Finish(ctx, list, im.src, out.Target)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", out.Writer.Name(), err)
		}
		if err := c.bringNeeds(ctx, out.Target, fin.Needs); err != nil {
			return nil, nil, fmt.Errorf("%s: %w", out.Writer.Name(), err)
		}
		desc, raw, err := c.dress(out, im, fin)
		if err != nil {
			return nil, nil, err
		}
		manifests[o] = madeImage{desc, raw}
		if err := c.beforeTag(ctx, o, im, manifests[o]); err != nil {
			return nil, nil, err
		}
		image.Desc, image.Stats, image.CPU = desc, fin.Stats, fin.CPU
		image.Size += fin.Stats["bootstrap_layer_bytes"]
		images[o] = image
	}
	return images, manifests, nil
}

// beforeTag lets the caller look at an image.
func (c *conversion) beforeTag(ctx context.Context, o int, im *sourceImage, made madeImage) error {
	if c.opt.BeforeTag == nil {
		return nil
	}
	out := c.outputs[o]
	return c.opt.BeforeTag(ctx, Output{out.Writer, &unstored{out.Target, made, im.src}}, made.desc, im.src.Desc)
}

// giveAway lets Finish use up the trees of the layers, which nothing here holds any more, but for those that stand twice.
func giveAway(layers []formats.Layer) {
	uses := make(map[*tree.Tree]int, len(layers))
	for _, l := range layers {
		uses[l.Tree]++
	}
	for i, l := range layers {
		layers[i].Final = uses[l.Tree] == 1
	}
}

// checkLayers checks what can be said of the layers before they are read.
func checkLayers(m *formats.Manifest) error {
	layers, diffIDs := m.Manifest.Layers, m.Config.RootFS.DiffIDs
	if len(diffIDs) != len(layers) {
		return fmt.Errorf("manifest with %d layers, config with %d diff IDs: %w", len(layers), len(diffIDs), blob.ErrCorrupt)
	}
	same := make(map[digest.Digest]digest.Digest)
	for i, l := range layers {
		if !isTar(l.MediaType) {
			return fmt.Errorf("layer %d (%s): media type %q: %w", i, l.Digest, l.MediaType, blob.ErrUnsupported)
		}
		if err := diffIDs[i].Validate(); err != nil {
			return fmt.Errorf("layer %d (%s): diff ID %q: %w: %w", i, l.Digest, diffIDs[i], blob.ErrCorrupt, err)
		}
		// A layer that stands twice is read once.
		if before, ok := same[l.Digest]; ok && before != diffIDs[i] {
			return fmt.Errorf("layer %d (%s): diff ID %s, and %s where it stands before: %w", i, l.Digest, diffIDs[i], before, blob.ErrDigest)
		}
		same[l.Digest] = diffIDs[i]
	}
	return nil
}

// isTar reports whether a layer is a tar, however compressed: OCI and Docker media types end with that.
func isTar(mediaType string) bool {
	for _, suffix := range []string{"+gzip", "+zstd", ".gzip", ".zstd"} {
		mediaType = strings.TrimSuffix(mediaType, suffix)
	}
	return strings.HasSuffix(mediaType, ".tar")
}

// ErrNothingToConvert means that no image of the source is for the wanted platforms, or all are converted already.
var ErrNothingToConvert = errors.New("nothing to convert")
