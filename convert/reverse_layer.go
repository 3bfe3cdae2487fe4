package convert

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/fetch"
	"github.com/lazuli-project/lazuli/flate"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/tarfs"
	"github.com/lazuli-project/lazuli/tree"
)

// reverseLevel is gzip's level for the layers that [Reverse] writes, as that of docker.
const reverseLevel = 6

// plainJob makes one plain layer.
type plainJob struct {
	r      *reversal
	image  *sourceImage
	index  int
	layers int
	layer  formats.StoredLayer
}

// run returns the layer and its diff ID.
func (j *plainJob) run(ctx context.Context) (LayerResult, digest.Digest, error) {
	j.progress(Converting, 0)
	run, state := j.write, Converted
	if j.layer.Original != nil {
		run, state = j.keep, Reused
	}
	res, diffID, err := run(ctx)
	if err != nil {
		return LayerResult{}, "", err
	}
	j.progress(state, j.layer.Desc.Size)
	res.Source = j.layer.Desc
	if j.image.src.IsDocker() {
		res.Desc.MediaType = dockerLayerType(res.Desc.MediaType)
	}
	return res, diffID, nil
}

// dockerLayerType returns Docker's name of a layer's media type.
func dockerLayerType(mediaType string) string {
	if mediaType == ocispec.MediaTypeImageLayerGzip {
		return formats.MediaTypeDockerLayer + ".gzip"
	}
	return formats.MediaTypeDockerLayer
}

func (j *plainJob) progress(s State, done int64) {
	if f := j.r.opt.OnProgress; f != nil {
		f(Progress{Platform: j.image.platform, Layer: j.index, Layers: j.layers, State: s, Done: done, Total: j.layer.Desc.Size})
	}
}

// keep gives the target the layer of the source, which holds the data, as it is. It is inflated for its diff ID.
func (j *plainJob) keep(ctx context.Context) (_ LayerResult, _ digest.Digest, err error) {
	desc := *j.layer.Original
	fail := func(err error) (LayerResult, digest.Digest, error) {
		return LayerResult{}, "", fmt.Errorf("layer %s of the source: %w", desc.Digest, err)
	}
	k := &layerJob{c: &j.r.conversion, image: j.image, index: j.index, desc: desc}
	has, err := j.r.target.Exists(ctx, desc)
	if err == nil && !has {
		has, err = j.r.target.Mount(ctx, desc, j.r.src)
	}
	if err != nil {
		return fail(err)
	}
	if !has {
		k.keep = []int{0}
	}
	stored, err := j.r.src.Fetch(ctx, desc)
	if err != nil {
		return fail(err)
	}
	defer stored.Close() // read to its end
	kept := k.beginKeeping(ctx)
	diffID, err := inflatedDigest(kept.tee(stored))
	if err := kept.end(err); err != nil {
		return fail(err)
	}
	return LayerResult{Desc: desc, Reused: true, From: j.r.src.Ref().Place()}, diffID, nil
}

// inflatedDigest reads a stored layer to its end.
func inflatedDigest(stored io.Reader) (digest.Digest, error) {
	plain, err := flate.NewReader(stored)
	if err != nil {
		return "", err
	}
	defer plain.Close() // frees memory only
	sum := digest.SHA256.Digester()
	for {
		p, err := plain.Next()
		sum.Hash().Write(p)
		if errors.Is(err, io.EOF) {
			return sum.Digest(), nil
		}
		if err != nil {
			return "", err
		}
	}
}

// write writes the layer as a tar and compresses it.
func (j *plainJob) write(ctx context.Context) (LayerResult, digest.Digest, error) {
	fail := func(err error) (LayerResult, digest.Digest, error) { return LayerResult{}, "", err }
	img, err := j.layer.Open(ctx, j.r.spool)
	if err != nil {
		return fail(err)
	}
	obj, err := j.r.target.Create(ctx, ocispec.MediaTypeImageLayerGzip)
	if err != nil {
		return fail(err)
	}
	defer obj.Abort()
	z, err := gzip.NewWriterLevel(obj, reverseLevel)
	if err != nil {
		return fail(fmt.Errorf("gzip: %w", err))
	}
	sum := digest.SHA256.Digester()
	counted := &countingWriter{w: io.MultiWriter(sum.Hash(), z)}
	err = writeTar(ctx, counted, img)
	if err == nil {
		err = z.Close()
	}
	if err != nil {
		return fail(err)
	}
	dgst, size, err := obj.Commit(ctx)
	if err != nil {
		return fail(err)
	}
	desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: dgst, Size: size}
	return LayerResult{Desc: desc, LayerStats: formats.LayerStats{Plain: counted.n, Stored: size}}, sum.Digest(), nil
}

// writeTar writes the files of an image, or of one layer, as a tar.
func writeTar(ctx context.Context, w io.Writer, img *formats.Image) error {
	im, err := fetch.NewImage(img, fetch.Options{})
	if err != nil {
		return err
	}
	defer im.Close() // only read from
	im.Tree.CountLinks()
	buf := make([]byte, 1<<20)
	err = tarfs.WriteTar(w, im.Tree, func(_ string, n *tree.Node, w io.Writer) error {
		return im.WriteContent(ctx, n, w, buf, blob.Background)
	})
	if err != nil {
		return err
	}
	return im.Drain()
}

// countingWriter counts what is written.
type countingWriter struct {
	w io.Writer
	n int64
}

func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}
