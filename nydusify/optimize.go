package nydusify

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/formats/nydus"
	"github.com/lazuli-project/lazuli/image"
	"github.com/lazuli-project/lazuli/nydusimage"
	"github.com/lazuli-project/lazuli/store"
)

// annotationPrefetchBlob, on the bootstrap layer, names the blob that is no layer.
const annotationPrefetchBlob = "containerd.io/snapshot/nydus-separated-blob-with-prefetch-files"

// OptimizeOptions are the flags of "nydusify optimize".
type OptimizeOptions struct {
	Source store.Source
	Image  image.Options // of the source
	Target store.Target
	// PrefetchFiles is a file that names files, as nydusimage.OptimizeOptions has it.
	PrefetchFiles string
	TempDir       string // "" means the system's
}

// Optimize makes an image that has the chunks that some files need in one more blob, by themselves, for runtimes to fetch in
// advance. The other blobs are those of the source. It returns what the target names; the target is committed.
func Optimize(ctx context.Context, o OptimizeOptions) (_ ocispec.Descriptor, err error) {
	fail := func(err error) (ocispec.Descriptor, error) { return ocispec.Descriptor{}, err }
	m, boot, err := openNydus(ctx, o.Source, o.Image)
	if err != nil {
		return fail(err)
	}
	dir, err := os.MkdirTemp(o.TempDir, "lazuli-optimize-")
	if err != nil {
		return fail(fmt.Errorf("optimize: %w", err))
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	in, out, blobDir := filepath.Join(dir, "bootstrap"), filepath.Join(dir, "optimized"), filepath.Join(dir, "blobs")
	if err := errors.Join(os.WriteFile(in, boot.files[layerBoot], 0o600), os.Mkdir(blobDir, 0o700)); err != nil {
		return fail(fmt.Errorf("optimize: %w", err))
	}
	_, err = nydusimage.Optimize(ctx, nydusimage.OptimizeOptions{
		Bootstrap: in, PrefetchFiles: o.PrefetchFiles, Output: out, OutputBlobDir: blobDir,
		Source: func(ctx context.Context, id string) (blob.Source, error) {
			for _, l := range m.Manifest.Layers {
				if l.Digest.Encoded() == id {
					return o.Source.Open(ctx, l)
				}
			}
			return nil, fmt.Errorf("blob %.64q is no layer of the image: %w", id, store.ErrNotFound)
		},
	})
	if err != nil {
		return fail(err)
	}
	n := &newImage{bootstrap: boot, config: m.ConfigRaw, annots: m.Manifest.Annotations, mediaTypes: m}
	last := m.Manifest.Layers[len(m.Manifest.Layers)-1]
	for _, l := range m.Manifest.Layers[:len(m.Manifest.Layers)-1] {
		if l.Digest.Encoded() == last.Annotations[annotationPrefetchBlob] {
			continue // of an earlier time
		}
		if err := store.Copy(ctx, o.Target, o.Source, l, store.CopyOptions{}); err != nil {
			return fail(err)
		}
		n.blobs = append(n.blobs, l)
	}
	prefetch, err := pushBlobs(ctx, o.Target, blobDir)
	if err != nil {
		return fail(err)
	}
	n.bootMarks = last.Annotations
	for _, d := range prefetch {
		n.blobs = append(n.blobs, d)
		n.bootMarks = marks(last.Annotations, map[string]string{annotationPrefetchBlob: d.Digest.Encoded()})
	}
	optimized, err := os.ReadFile(out)
	if err != nil {
		return fail(fmt.Errorf("optimize: %w", err))
	}
	list, err := os.ReadFile(o.PrefetchFiles)
	if err != nil {
		return fail(fmt.Errorf("optimize: %w", err))
	}
	boot.set(layerBoot, optimized)
	boot.set(layerFiles, list)
	desc, err := n.put(ctx, o.Target)
	if err == nil {
		err = o.Target.Tag(ctx, desc, "")
	}
	if err == nil {
		err = o.Target.Commit(ctx)
	}
	return desc, err
}

// openNydus finds the Nydus image that a source names, and reads its bootstrap layer.
func openNydus(ctx context.Context, src store.Source, opt image.Options) (*formats.Manifest, *bootstrapLayer, error) {
	desc, err := src.Resolve(ctx)
	if err != nil {
		return nil, nil, err
	}
	opt.Readers = []formats.Reader{nydus.Reader{}}
	im, err := image.OpenManifest(ctx, src, nil, desc, opt)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", src.Ref(), err)
	}
	defer im.Close() // only read from
	boot, err := readBootstrapLayer(ctx, im.Manifest, src)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", src.Ref(), err)
	}
	return im.Manifest, boot, nil
}

// pushBlobs stores the files of a directory, which are named by their SHA-256, and returns them as layers.
func pushBlobs(ctx context.Context, target store.Target, dir string) ([]ocispec.Descriptor, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("blobs: %w", err)
	}
	var blobs []ocispec.Descriptor
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			return nil, fmt.Errorf("blobs: %w", err)
		}
		d := ocispec.Descriptor{MediaType: nydus.MediaTypeBlob, Digest: digest.NewDigestFromEncoded(digest.SHA256, e.Name()), Size: info.Size(),
			Annotations: map[string]string{nydus.AnnotationBlob: "true"}}
		f, err := os.Open(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, fmt.Errorf("blobs: %w", err)
		}
		if err := errors.Join(target.Push(ctx, d, f), f.Close()); err != nil {
			return nil, err
		}
		blobs = append(blobs, d)
	}
	return blobs, nil
}
