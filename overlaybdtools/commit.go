package overlaybdtools

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/formats/overlaybd/layerfile"
	"github.com/lazuli-project/lazuli/formats/overlaybd/lsmt"
	"github.com/lazuli-project/lazuli/formats/overlaybd/zfile"
)

// Compression says how layers are compressed.
type Compression struct {
	// Algorithm is "lz4" (default) or "zstd".
	Algorithm string
	// BlockKB is how much is compressed at once, in KiB: 4 (default), 8, 16, 32 or 64.
	BlockKB int
	// Threads bounds the computing goroutines. Default is as many as there are cores.
	Threads int
}

func (c Compression) options() (o zfile.Options, err error) {
	if c.Algorithm != "" {
		if o.Algorithm, err = zfile.ParseAlgorithm(c.Algorithm); err != nil {
			return o, err
		}
	}
	if c.BlockKB < 0 || c.BlockKB > zfile.MaxBlockSize>>10 {
		return o, fmt.Errorf("blocks of %d KB: 4, 8, 16, 32 and 64 are possible", c.BlockKB)
	}
	o.BlockSize = c.BlockKB << 10
	return o, o.Validate()
}

func (c Compression) cpu() *formats.CPU { return formats.NewCPU(min(max(c.Threads, 0), 1<<10)) }

// maxMessage is the size of the longest message of a layer in bytes.
const maxMessage = 256

// CommitOptions are those of overlaybd-commit.
type CommitOptions struct {
	// Data and Index are the files of the writable layer. With Sealed, Data is a sealed layer, and there is no Index.
	Data, Index string
	// Output is the path of the new layer. Replace says that it may exist.
	Output  string
	Replace bool
	// Compress makes a ZFile of the layer, Tar wraps it into a tar.
	Compress, Tar bool
	Compression   Compression
	// Message, UUID and Parent are those of the new layer. Without a Parent it is that of the writable layer.
	Message, UUID, Parent string
	// Turbo says that the layer is one of turboOCI.
	Turbo, Sealed bool
}

// Commit makes a finished layer of a writable one.
func Commit(ctx context.Context, o CommitOptions) (err error) {
	opt := layerfile.Options{Compress: o.Compress, Tar: o.Tar, Unpadded: o.Turbo}
	if opt.ZFile, err = o.Compression.options(); err != nil {
		return err
	}
	info := lsmt.Info{UserTag: o.Message}
	if len(o.Message) > maxMessage {
		return fmt.Errorf("message of %d bytes, layers have room for %d: %w", len(o.Message), maxMessage, blob.ErrUnsupported)
	}
	if info.UUID, err = parseUUID(o.UUID); err != nil {
		return err
	}
	if info.Parent, err = parseUUID(o.Parent); err != nil {
		return fmt.Errorf("parent: %w", err)
	}
	src, err := o.open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, src.close()) }()
	info.VirtualSize = src.info.VirtualSize
	if info.Parent == "" {
		info.Parent = src.info.Parent
	}
	return storeLayer(ctx, o.Output, o.Replace, o.Compression.cpu(), info, opt, src.copy)
}

// storeLayer makes a stored layer of what data copies to it.
func storeLayer(ctx context.Context, path string, replace bool, cpu *formats.CPU, info lsmt.Info, opt layerfile.Options, data func(context.Context, lsmt.Payload) ([]lsmt.Segment, error)) error {
	out, err := createOutput(path, replace)
	if err != nil {
		return err
	}
	defer out.abort()
	w, err := layerfile.NewWriter(ctx, out, cpu, info, opt)
	if err != nil {
		return err
	}
	defer w.Abort()
	segs, err := data(ctx, w)
	if err != nil {
		return err
	}
	if _, err := w.Close(segs); err != nil {
		return err
	}
	return out.commit()
}

// commitSource is a layer that is committed.
type commitSource struct {
	files []*os.File
	info  lsmt.Info
	copy  func(context.Context, lsmt.Payload) ([]lsmt.Segment, error)
}

func (s *commitSource) close() error {
	errs := make([]error, 0, len(s.files))
	for _, f := range s.files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

func (o *CommitOptions) open() (_ *commitSource, err error) {
	s := &commitSource{}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	data, err := s.open(o.Data)
	if err != nil {
		return nil, err
	}
	if o.Sealed {
		return s, s.sealed(data)
	}
	index, err := s.open(o.Index)
	if err != nil {
		return nil, err
	}
	var w *lsmt.Writable
	if o.Turbo {
		w, err = lsmt.OpenWarp(data, index)
	} else {
		w, _, err = lsmt.OpenWritable(data, index)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", o.Data, err)
	}
	s.info, s.copy = w.Info(), w.Commit
	return s, nil
}

func (s *commitSource) open(path string) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("writable layer: %w", err)
	}
	s.files = append(s.files, f)
	return f, nil
}

// sealed opens a sealed layer.
func (s *commitSource) sealed(data *os.File) error {
	i, err := data.Stat()
	if err != nil {
		return fmt.Errorf("sealed layer: %w", err)
	}
	layer, err := lsmt.Parse(data, i.Size())
	if err != nil {
		return fmt.Errorf("sealed layer %s: %w", data.Name(), err)
	}
	if layer.Remote {
		return errRefused("a sealed layer that refers to another one")
	}
	index, err := lsmt.NewIndex([]*lsmt.Layer{layer})
	if err != nil {
		return fmt.Errorf("sealed layer %s: %w", data.Name(), err)
	}
	d := lsmt.NewDevice(index, []lsmt.Sources{{Data: data}})
	s.info = layer.Info
	s.copy = func(ctx context.Context, w lsmt.Payload) ([]lsmt.Segment, error) { return lsmt.Merge(ctx, w, d, true) }
	return nil
}

// Seal ends a writable layer in its own data file, which is a layer then that can be read but not written.
func Seal(data, index string) (err error) {
	d, err := os.OpenFile(data, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("seal: %w", err)
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	x, err := os.Open(index)
	if err != nil {
		return fmt.Errorf("seal: %w", err)
	}
	defer func() { err = errors.Join(err, x.Close()) }()
	w, _, err := lsmt.OpenWritable(d, x)
	if err != nil {
		return fmt.Errorf("seal %s: %w", data, err)
	}
	_, err = w.Seal()
	return err
}
