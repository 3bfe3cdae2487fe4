package overlaybd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/disk"
	"github.com/lazuli-project/lazuli/disk/erofs"
	"github.com/lazuli-project/lazuli/disk/ext4"
	"github.com/lazuli-project/lazuli/formats/overlaybd/lsmt"
	"github.com/lazuli-project/lazuli/tree"
)

// FS is a kind of file system on a disk.
type FS string

// The kinds.
const (
	Ext4  FS = "ext4"
	EROFS FS = "erofs"
)

// Disk is a virtual disk that layers are applied to. It is used by one goroutine.
type Disk struct{ fs disk.FileSystem }

// NewDisk returns an empty file system on a disk of size bytes.
func NewDisk(kind FS, size int64) (*Disk, error) {
	var fs disk.FileSystem
	var err error
	if kind == EROFS {
		fs, err = erofs.Create(erofs.Options{Size: size})
	} else {
		fs, err = ext4.Create(ext4.Options{Size: size})
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", kind, err)
	}
	return &Disk{fs}, nil
}

// DiskLayer is one layer of a disk and where its sectors lie.
type DiskLayer struct {
	Layer   *lsmt.Layer
	Sources lsmt.Sources
}

// device returns the disk that the layers are, the lowest first.
func device(layers []DiskLayer) (*lsmt.Device, *lsmt.Index, error) {
	files, sources := make([]*lsmt.Layer, len(layers)), make([]lsmt.Sources, len(layers))
	for i, l := range layers {
		files[i], sources[i] = l.Layer, l.Sources
	}
	index, err := lsmt.NewIndex(files)
	if err != nil {
		return nil, nil, err
	}
	return lsmt.NewDevice(index, sources), index, nil
}

// OpenDisk reads the metadata of the disk that layers are, the lowest first, so that another one can be applied to it.
func OpenDisk(layers []DiskLayer) (*Disk, error) {
	dev, index, err := device(layers)
	if err != nil {
		return nil, err
	}
	kind, err := kindOf(dev)
	if err != nil {
		return nil, err
	}
	var fs disk.FileSystem
	if kind == EROFS {
		fs, err = erofs.Open(dev, index.Size())
	} else {
		fs, err = ext4.Open(dev, index.Size())
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", kind, err)
	}
	return &Disk{fs}, nil
}

// Apply lays a layer over the disk, see [disk.FileSystem].
func (d *Disk) Apply(layer *tree.Tree) (*disk.Change, error) {
	c, err := d.fs.Apply(layer)
	if err != nil {
		return nil, fmt.Errorf("file system: %w", err)
	}
	return c, nil
}

// Where file systems have their magic numbers.
const (
	erofsMagicAt, erofsMagic = 1024, 0xe0f5e1e2
	ext4MagicAt, ext4Magic   = 1024 + 56, 0xef53
)

// kindOf says what is on a disk.
func kindOf(dev io.ReaderAt) (FS, error) {
	var b [ext4MagicAt + 2 - erofsMagicAt]byte
	if _, err := dev.ReadAt(b[:], erofsMagicAt); err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("superblock: %w", err)
	}
	switch {
	case binary.LittleEndian.Uint32(b[:]) == erofsMagic:
		return EROFS, nil
	case binary.LittleEndian.Uint16(b[ext4MagicAt-erofsMagicAt:]) == ext4Magic:
		return Ext4, nil
	}
	return "", fmt.Errorf("file system on the disk is neither ext4 nor EROFS: %w", blob.ErrUnsupported)
}

// readTree reads the files of a disk.
func readTree(dev io.ReaderAt, size int64) (*tree.Tree, FS, error) {
	kind, err := kindOf(dev)
	if err != nil {
		return nil, "", err
	}
	var t *tree.Tree
	if kind == EROFS {
		t, err = erofs.Read(dev, size)
	} else {
		t, err = ext4.Read(dev, size)
	}
	if err != nil {
		return nil, "", fmt.Errorf("%s: %w", kind, err)
	}
	return t, kind, nil
}
