package overlaybdtools

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/formats/overlaybd/layerfile"
	"github.com/lazuli-project/lazuli/formats/overlaybd/zfile"
)

// CompressOptions are those of overlaybd-zfile where it makes a ZFile.
type CompressOptions struct {
	// Source is the path of any file or pipe. Stdin is read in its place if it is "".
	Source string
	Stdin  io.Reader
	// Output is the path of the ZFile. Replace says that it may exist.
	Output  string
	Replace bool
	// Tar wraps it into a tar.
	Tar         bool
	Compression Compression
}

// Compress makes a ZFile.
func Compress(ctx context.Context, o CompressOptions) (err error) {
	opt, err := o.Compression.options()
	if err != nil {
		return err
	}
	src := o.Stdin
	if o.Source != "" {
		f, err := openPipe(ctx, o.Source)
		if err != nil {
			return fmt.Errorf("source: %w", err)
		}
		defer func() { _ = f.Close() }() // was read only
		src = f
	}
	out, err := createOutput(o.Output, o.Replace)
	if err != nil {
		return err
	}
	defer out.abort()
	begin := int64(0)
	if o.Tar {
		begin = layerfile.TarBegin
	}
	if _, err := out.Seek(begin, io.SeekStart); err != nil {
		return fmt.Errorf("output %s: %w", o.Output, err)
	}
	w, err := zfile.NewWriter(ctx, out, o.Compression.cpu(), opt)
	if err != nil {
		return err
	}
	defer w.Abort()
	if _, err := io.CopyBuffer(struct{ io.Writer }{w}, contextReader{ctx, src}, make([]byte, copySize)); err != nil {
		return fmt.Errorf("compress: %w", err)
	}
	if err := w.Close(); err != nil {
		return err
	}
	header := w.Header()
	if _, err := out.WriteAt(header[:], begin); err != nil {
		return fmt.Errorf("output %s: %w", o.Output, err)
	}
	if o.Tar {
		if _, err := out.WriteAt(layerfile.TarHead(w.Size()), 0); err != nil {
			return fmt.Errorf("output %s: %w", o.Output, err)
		}
		if _, err := out.WriteAt(layerfile.TarEnd(w.Size()), begin+w.Size()); err != nil {
			return fmt.Errorf("output %s: %w", o.Output, err)
		}
	}
	return out.commit()
}

// Extract writes the plain bytes of a ZFile, which may lie in a tar, to a file. replace says that it may exist.
func Extract(ctx context.Context, source, path string, replace bool) (err error) {
	z, err := openZFile(ctx, source)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, z.file.Close()) }()
	out, err := createOutput(path, replace)
	if err != nil {
		return err
	}
	defer out.abort()
	if err := z.copy(ctx, out); err != nil {
		return err
	}
	return out.commit()
}

// Verify reads a ZFile, which may lie in a tar, to its end, and compares its checksums. One without checksums gives an error that
// wraps blob.ErrUnverified.
func Verify(ctx context.Context, source string) (err error) {
	z, err := openZFile(ctx, source)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, z.file.Close()) }()
	if z.layout.NumSpans() > 0 {
		if err := z.layout.Verify(nil, z.layout.Span(0)); err != nil {
			return fmt.Errorf("%s: %w", source, err)
		}
	}
	return z.copy(ctx, io.Discard)
}

// zFile is an open ZFile.
type zFile struct {
	file   *os.File
	src    blob.Source
	layout *zfile.Layout
}

func openZFile(ctx context.Context, path string) (_ *zFile, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("source: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("%s: %w", path, err), f.Close())
		}
	}()
	i, err := f.Stat()
	if err != nil {
		return nil, err
	}
	src := blob.ReaderAtSource{R: f, N: i.Size()}
	at, _, err := layerfile.Unwrap(ctx, src)
	if err != nil {
		return nil, err
	}
	l, err := zfile.Open(ctx, src, at)
	if err != nil {
		return nil, err
	}
	return &zFile{f, src, l}, nil
}

// copy writes the plain bytes.
func (z *zFile) copy(ctx context.Context, w io.Writer) error {
	r := (&layerfile.File{Layout: z.layout}).ReaderAt(ctx, z.src)
	if _, err := io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{io.NewSectionReader(r, 0, z.layout.Size())}, make([]byte, copySize)); err != nil {
		return fmt.Errorf("decompress: %w", err)
	}
	return nil
}
