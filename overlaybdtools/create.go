package overlaybdtools

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/disk/ext4"
	"github.com/lazuli-project/lazuli/formats/overlaybd/lsmt"
	"github.com/lazuli-project/lazuli/tarfs"
)

// CreateOptions are those of overlaybd-create.
type CreateOptions struct {
	// Data and Index are the files of the layer, which must not exist.
	Data, Index string
	// SizeGB is the size of the disk in GiB. 0: that of the layers below.
	SizeGB uint64
	// Parent is the UUID of the layer below, if that matters.
	Parent string
	// Sparse layers have their data at its place on the disk, others in the order in which it is written.
	Sparse bool
	// Turbo makes a layer of turboOCI, Raw a plain file as large as the disk.
	Turbo, Raw bool
	// MakeFS makes an empty ext4 file system on the disk.
	MakeFS bool
}

// maxGB is the size of the largest disk that layers can describe, in GiB.
const maxGB = 1 << 29

// Create makes an empty writable layer. After an error, its files are not there.
func Create(ctx context.Context, o CreateOptions) (err error) {
	if o.SizeGB > maxGB {
		return fmt.Errorf("disk of %d GB, at most %d are possible: %w", o.SizeGB, uint64(maxGB), blob.ErrUnsupported)
	}
	info := lsmt.Info{VirtualSize: int64(o.SizeGB) << 30}
	if info.Parent, err = parseUUID(o.Parent); err != nil {
		return fmt.Errorf("parent: %w", err)
	}
	data, err := createNew(o.Data)
	if err != nil {
		return err
	}
	defer func() { err = closeNew(data, err) }()
	index, err := createNew(o.Index)
	if err != nil {
		return err
	}
	defer func() { err = closeNew(index, err) }()
	v := &volume{size: info.VirtualSize, empty: true}
	switch {
	case o.Raw:
		v.readWriterAt, v.writeZeros, err = data, true, data.Truncate(info.VirtualSize)
	case o.Turbo:
		v.layer, err = lsmt.CreateWarp(data, index, info)
	case o.Sparse:
		v.writeZeros = true
		v.layer, err = lsmt.CreateSparse(data, info)
	default:
		v.layer, err = lsmt.CreateAppendOnly(data, index, info)
	}
	if err != nil || !o.MakeFS {
		return err
	}
	if v.layer != nil {
		v.readWriterAt = v.layer
	}
	return v.makeFS(ctx)
}

func createNew(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return nil, fmt.Errorf("create layer: %w", err)
	}
	return f, nil
}

// closeNew closes a new file, and removes it if there was an error.
func closeNew(f *os.File, err error) error {
	err = errors.Join(err, f.Close())
	if err != nil {
		err = errors.Join(err, os.Remove(f.Name()))
	}
	return err
}

// makeFS makes an empty file system on an empty disk.
func (v *volume) makeFS(ctx context.Context) error {
	fs, err := v.newExt4()
	if err != nil {
		return err
	}
	change, err := fs.Apply(tarfs.NewBuilder().Tree())
	if err != nil {
		return fmt.Errorf("file system: %w", err)
	}
	return v.write(ctx, change, &input{}, false)
}

// newExt4 begins a file system.
func (v *volume) newExt4() (*ext4.FS, error) {
	if v.size == 0 {
		return nil, fmt.Errorf("file system on a disk of no size: %w", blob.ErrUnsupported)
	}
	fs, err := ext4.Create(ext4.Options{Size: v.size})
	if err != nil {
		return nil, fmt.Errorf("file system: %w", err)
	}
	return fs, nil
}
