package converter

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"path/filepath"

	"github.com/opencontainers/go-digest"

	"github.com/lazuli-project/lazuli/formats/nydus/nydusblob"
	"github.com/lazuli-project/lazuli/formats/nydus/rafs5"
	"github.com/lazuli-project/lazuli/formats/nydus/rafs6"
	"github.com/lazuli-project/lazuli/nydusimage"
)

// Merge lays the bootstraps that layers' blobs have inside over each other, lowest first, and writes the image's bootstrap to dest:
// alone, or with WithTar as "image/image.boot" in a tar without compression. There it is followed by the layers' chunk tables, if
// FsVersion is "6", and by AppendFiles.
//
// The result are the blobs that the bootstrap refers to: those of a chunk dictionary are among them, and those of layers without data
// are not. dest gets nothing before the bootstrap is complete, which is in memory until then.
func Merge(ctx context.Context, layers []Layer, dest io.Writer, opt MergeOption) ([]digest.Digest, error) {
	ctx, cancel := withTimeout(ctx, opt.Timeout)
	defer cancel()
	blobs, err := merge(ctx, layers, dest, &opt)
	if err != nil {
		return nil, fmt.Errorf("merge layers: %w", ended(ctx, err))
	}
	return blobs, nil
}

func merge(ctx context.Context, layers []Layer, dest io.Writer, opt *MergeOption) ([]digest.Digest, error) {
	var boot bytes.Buffer
	o := nydusimage.MergeOptions{Parent: opt.ParentBootstrapPath, ChunkDict: opt.ChunkDictPath, PrefetchPolicy: nydusimage.PrefetchFS,
		Prefetch: prefetch(opt.PrefetchPatterns), Writer: &boot}
	for i := range layers {
		if err := addLayer(&o, &layers[i]); err != nil {
			return nil, fmt.Errorf("layer %d, %s: %w", i, layers[i].Digest, err)
		}
	}
	res, err := nydusimage.Merge(ctx, o)
	if err != nil {
		return nil, err
	}
	blobs := make([]digest.Digest, len(res.Blobs))
	for i, id := range res.Blobs {
		blobs[i] = digest.NewDigestFromEncoded(digest.SHA256, id)
		if err := blobs[i].Validate(); err != nil {
			return nil, fmt.Errorf("blob %q: %w", id, err)
		}
	}
	if !opt.WithTar {
		_, err = dest.Write(boot.Bytes())
		return blobs, err
	}
	return blobs, writeBootstrapTar(ctx, dest, boot.Bytes(), layers, opt)
}

// addLayer gives a layer to the merge.
func addLayer(o *nydusimage.MergeOptions, l *Layer) error {
	if err := l.Digest.Validate(); err != nil {
		return err
	}
	name := l.Digest.Encoded()
	if l.OriginalDigest != nil {
		// The data are the OCI layer; digest, size and table of contents are those of the index.
		if err := l.OriginalDigest.Validate(); err != nil {
			return err
		}
		name = l.OriginalDigest.Encoded()
		toc := digest.SHA256.Digester()
		if _, err := UnpackEntry(l.ReaderAt, EntryTOC, toc.Hash()); err != nil {
			return err
		}
		o.TOCDigests = append(o.TOCDigests, toc.Digest().Encoded())
		o.BlobDigests = append(o.BlobDigests, l.Digest.Encoded())
		o.BlobSizes = append(o.BlobSizes, uint64(l.ReaderAt.Size()))
	}
	o.Sources = append(o.Sources, name)
	o.Layers = append(o.Layers, source(l.ReaderAt))
	return nil
}

// writeBootstrapTar writes the tar of a bootstrap layer. Times and owners are zero.
func writeBootstrapTar(ctx context.Context, dest io.Writer, boot []byte, layers []Layer, opt *MergeOption) error {
	w := tar.NewWriter(dest)
	if err := w.WriteHeader(&tar.Header{Name: "image", Typeflag: tar.TypeDir, Mode: 0o755}); err != nil {
		return err
	}
	if err := addFile(w, EntryBootstrap, int64(len(boot)), bytes.NewReader(boot).WriteTo); err != nil {
		return err
	}
	if opt.FsVersion == "6" {
		done, err := encryptedBlobs(boot)
		if err != nil {
			return err
		}
		for i := range layers {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if d := layers[i].Digest; !done[d] { // an image may have a layer twice
				done[d] = true
				if err := addTable(w, &layers[i]); err != nil {
					return fmt.Errorf("layer %d, %s: %w", i, d, err)
				}
			}
		}
	}
	for _, f := range opt.AppendFiles {
		if !filepath.IsLocal(f.Name) {
			return fmt.Errorf("file %q: no path below image/", f.Name)
		}
		r := f.Reader
		if ra, ok := r.(io.ReaderAt); ok {
			r = io.NewSectionReader(ra, 0, f.Size)
		}
		if err := addFile(w, f.Name, f.Size, func(w io.Writer) (int64, error) { return io.Copy(w, r) }); err != nil {
			return err
		}
	}
	return w.Close()
}

// encryptedBlobs are blobs whose chunk tables are encrypted like their data, and stay in the blob.
func encryptedBlobs(boot []byte) (map[digest.Digest]bool, error) {
	set := make(map[digest.Digest]bool)
	if rafs5.IsBootstrap(boot) {
		return set, nil
	}
	image, _, err := rafs6.Inspect(boot)
	if err != nil {
		return nil, err
	}
	for i := range image.Blobs {
		if b := &image.Blobs[i]; b.Features&nydusblob.FeatureEncrypted != 0 {
			set[digest.NewDigestFromEncoded(digest.SHA256, b.ID)] = true
		}
	}
	return set, nil
}

// addFile adds a file whose content write writes.
func addFile(w *tar.Writer, name string, size int64, write func(io.Writer) (int64, error)) error {
	err := w.WriteHeader(&tar.Header{Name: path.Join("image", filepath.ToSlash(name)), Mode: 0o444, Size: size})
	if err == nil {
		_, err = write(w)
	}
	if err == nil {
		err = w.Flush() // whether all of it is there
	}
	if err != nil {
		return fmt.Errorf("file %q: %w", name, err)
	}
	return nil
}

// tableAlign is what the chunk table is filled to, so that its header stands where runtimes look for it.
const tableAlign = 4096

// addTable adds a layer's chunk table, and behind it the header of that. Layers without data, and blobs in old forms, have none.
func addTable(w *tar.Writer, l *Layer) error {
	var parts [2]*section
	for i, name := range []string{EntryBlobMeta, EntryBlobMetaHeader} {
		s, err := findInTOC(l.ReaderAt, name) // without one, where the header begins is not known
		if errors.Is(err, ErrNotFound) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		parts[i] = s
	}
	table, header := parts[0], parts[1]
	padding := -table.size & (tableAlign - 1)
	return addFile(w, l.Digest.Encoded()+".blob.meta", table.size+padding+header.size, func(w io.Writer) (int64, error) {
		err := table.writeTo(w)
		if err == nil {
			_, err = w.Write(make([]byte, padding))
		}
		if err == nil {
			err = header.writeTo(w)
		}
		return 0, err
	})
}
