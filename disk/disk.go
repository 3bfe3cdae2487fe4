package disk

import "github.com/lazuli-project/lazuli/tree"

// Units of disks, in bytes.
const (
	SectorSize = 512
	BlockSize  = 4096
)

// Zero is the blob number of an [Extent] that reads as zeros, as [tree.Hole] is in a file.
const Zero = tree.Hole

// Extent is content on the disk: Length bytes at Device are those at Source of the plain space of the blob with number Blob. Device
// and Length are multiples of [SectorSize]; Source is one too, and is 0 where Blob is [Zero].
type Extent struct {
	Device, Source, Length int64
	Blob                   uint32
}

// Block is one block of metadata: [BlockSize] bytes at Number*BlockSize of the disk.
type Block struct {
	Number int64
	Data   []byte
}

// Change is what one layer changes on a disk. Blocks and extents do not overlap; where neither is, the disk is as it was below.
type Change struct {
	// Blocks are those whose content differs from what they held before, in the order of their numbers. Below the lowest layer,
	// every block is zeros.
	Blocks []Block
	// Data is the content of files that the layer brings, in the order of the device, neighbours joined.
	Data []Extent
}

// FileSystem is a file system that layers are applied to. It is used by one goroutine.
type FileSystem interface {
	// Apply lays a layer over what is there, by the rules of package tarfs, and returns what that changes. The layer is used
	// up. Extents of its regular files name blobs of the caller's numbering, at offsets that are multiples of [SectorSize] wherever the
	// file's offset is one; a file's content ends in a sector that the blob has to its end, whose rest is zeros or at least harmless. What
	// the last block of a file has behind that sector becomes an extent of [Zero], unless that block was never used before and so is
	// zeros. Equal disks and equal layers give equal changes, whether the model has been kept or was read from the disk. After an
	// error the model is unusable.
	Apply(layer *tree.Tree) (*Change, error)
	// Size returns the size of the disk in bytes.
	Size() int64
}
