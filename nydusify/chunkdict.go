package nydusify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/formats/nydus"
	"github.com/lazuli-project/lazuli/image"
	"github.com/lazuli-project/lazuli/nydusimage"
	"github.com/lazuli-project/lazuli/store"
)

// ChunkDictOptions are the flags of "nydusify chunkdict generate".
type ChunkDictOptions struct {
	Sources []store.Source
	Image   image.Options // of the sources
	Target  store.Target
	TempDir string // "" means the system's
}

// GenerateChunkDict makes an image of the chunks that images have in common, for conversions to refer to. Its blobs are those of
// the images. It returns what the target names; the target is committed.
func GenerateChunkDict(ctx context.Context, o ChunkDictOptions) (_ ocispec.Descriptor, err error) {
	fail := func(err error) (ocispec.Descriptor, error) { return ocispec.Descriptor{}, err }
	dir, err := os.MkdirTemp(o.TempDir, "lazuli-chunkdict-")
	if err != nil {
		return fail(fmt.Errorf("chunk dictionary: %w", err))
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	opt := nydusimage.ChunkDictOptions{Bootstrap: filepath.Join(dir, "dictionary")}
	type place struct {
		desc ocispec.Descriptor
		src  store.Source
	}
	blobs := make(map[string]place) // by id
	n := &newImage{bootMarks: map[string]string{nydus.AnnotationBootstrap: "true"}}
	for i, src := range o.Sources {
		m, boot, err := openNydus(ctx, src, o.Image)
		if err != nil {
			return fail(err)
		}
		file := filepath.Join(dir, strconv.Itoa(i))
		if err := os.WriteFile(file, boot.files[layerBoot], 0o600); err != nil {
			return fail(fmt.Errorf("chunk dictionary: %w", err))
		}
		opt.Sources = append(opt.Sources, file)
		for _, l := range m.Manifest.Layers {
			if _, ok := blobs[l.Digest.Encoded()]; !ok {
				blobs[l.Digest.Encoded()] = place{l, src}
			}
		}
		if i > 0 {
			continue
		}
		last := m.Manifest.Layers[len(m.Manifest.Layers)-1]
		if v, ok := last.Annotations[nydus.AnnotationFSVersion]; ok {
			n.bootMarks[nydus.AnnotationFSVersion] = v
		}
		config, err := json.Marshal(ocispec.Image{Platform: m.Config.Platform})
		if err != nil {
			return fail(fmt.Errorf("chunk dictionary: %w", err))
		}
		n.config = config
	}
	res, err := nydusimage.GenerateChunkDict(ctx, opt)
	if err != nil {
		return fail(err)
	}
	for _, id := range res.Blobs {
		b, ok := blobs[id]
		if !ok {
			return fail(fmt.Errorf("blob %.64q is a layer of no image: %w", id, blob.ErrUnsupported))
		}
		if err := store.Copy(ctx, o.Target, b.src, b.desc, store.CopyOptions{}); err != nil {
			return fail(err)
		}
		n.blobs = append(n.blobs, b.desc)
	}
	boot, err := os.ReadFile(opt.Bootstrap)
	if err != nil {
		return fail(fmt.Errorf("chunk dictionary: %w", err))
	}
	n.bootstrap = &bootstrapLayer{names: []string{layerBoot}, files: map[string][]byte{layerBoot: boot}}
	desc, err := n.put(ctx, o.Target)
	if err == nil {
		err = o.Target.Tag(ctx, desc, "")
	}
	if err == nil {
		err = o.Target.Commit(ctx)
	}
	return desc, err
}
