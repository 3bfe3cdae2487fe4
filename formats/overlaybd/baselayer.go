package overlaybd

import (
	"context"
	"sync"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/formats"
	"github.com/lazuli-project/lazuli/formats/overlaybd/layerfile"
	"github.com/lazuli-project/lazuli/formats/overlaybd/lsmt"
	"github.com/lazuli-project/lazuli/tree"
)

// baseLimit bounds the stored size of a file system without files.
const baseLimit = 16 << 20

// baseLayer is the empty file system as a layer of its own. It is the same for every image.
type baseLayer struct {
	once   sync.Once
	stored []byte
	desc   ocispec.Descriptor
	err    error
}

// make makes the layer, once.
func (b *baseLayer) make(ctx context.Context, w *Writer) error {
	b.once.Do(func() { b.err = b.write(ctx, w) })
	return b.err
}

func (b *baseLayer) write(ctx context.Context, w *Writer) error {
	spool, err := formats.NewSpool("")
	if err != nil {
		return err
	}
	defer spool.Close() // what mattered of it has been read
	file, err := layerfile.NewWriter(ctx, spool, w.opt.CPU, lsmt.Info{VirtualSize: w.opt.Size, UUID: nilUUID, Parent: nilUUID}, w.file)
	if err != nil {
		return err
	}
	defer file.Abort()
	d, err := NewDisk(Ext4, w.opt.Size)
	if err != nil {
		return err
	}
	change, err := d.Apply(tree.New())
	if err != nil {
		return err
	}
	segs, err := AppendBlocks(nil, change.Blocks, file)
	if err != nil {
		return err
	}
	size, err := CloseFile(file, segs)
	if err != nil {
		return err
	}
	b.stored, err = blob.ReadAll(ctx, blob.ReaderAtSource{R: spool, N: size}, baseLimit, blob.Demand)
	b.desc = nativeDesc(formats.DigestOf("", b.stored))
	return err
}

// EmptyLayer returns a native layer with an empty ext4 file system on a disk of size bytes, and its blob.
func EmptyLayer(ctx context.Context, size int64, cpu *formats.CPU) (ocispec.Descriptor, []byte, error) {
	w, err := NewWriter(Options{Size: size, CPU: cpu})
	if err != nil {
		return ocispec.Descriptor{}, nil, err
	}
	b := &baseLayer{}
	if err := b.make(ctx, w); err != nil {
		return ocispec.Descriptor{}, nil, err
	}
	return b.desc, b.stored, nil
}

// open returns the layer for a disk.
func (b *baseLayer) open(ctx context.Context, w *Writer) (DiskLayer, error) {
	if err := b.make(ctx, w); err != nil {
		return DiskLayer{}, err
	}
	return OpenStored(ctx, b.stored)
}
