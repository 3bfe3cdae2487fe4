package ext4

import (
	"errors"
	"fmt"
	"io"

	"github.com/lazuli-project/lazuli/blob"
	"github.com/lazuli-project/lazuli/disk"
)

// volume is a file system to read from.
type volume struct {
	sb     superblock
	groups []group
	// block returns the content of a block, which must not be changed.
	block func(number int64) ([]byte, error)
	// budget is how many blocks and extents may still be read. What uses it up has blocks that are read again and again, which no
	// valid file system has, but one that is made to waste time.
	budget int64
}

// spend takes from the budget.
func (v *volume) spend(n int64) error {
	if v.budget -= n; v.budget < 0 {
		return corrupt("more blocks in use than there are")
	}
	return nil
}

// openVolume reads the superblock and the group descriptors.
func openVolume(dev io.ReaderAt, size int64) (*volume, error) {
	p := make([]byte, superSize)
	if err := readFull(dev, p, superOffset, size); err != nil {
		return nil, fmt.Errorf("superblock: %w", err)
	}
	sb, err := decodeSuper(p, size)
	if err != nil {
		return nil, fmt.Errorf("superblock: %w", err)
	}
	v := &volume{sb: *sb, budget: 2*sb.blocks + int64(sb.inodes)}
	table := make([]byte, sb.groups()*sb.descSize)
	if err := readFull(dev, table, (sb.firstData+1)*sb.blockSize, size); err != nil {
		return nil, fmt.Errorf("group descriptors: %w", err)
	}
	v.groups = make([]group, sb.groups())
	for i := range v.groups {
		if v.groups[i], err = decodeGroup(sb, table[int64(i)*sb.descSize:][:sb.descSize]); err != nil {
			return nil, fmt.Errorf("group %d: %w", i, err)
		}
	}
	return v, nil
}

// readFull reads all of p at off of a device of size bytes.
func readFull(dev io.ReaderAt, p []byte, off, size int64) error {
	if err := blob.CheckRange(off, int64(len(p)), size); err != nil {
		return err
	}
	if n, err := dev.ReadAt(p, off); n < len(p) {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("read of the disk at %d: %w", off, err)
	}
	return nil
}

// inodePlace returns the block that an inode lies in, and where in it.
func (v *volume) inodePlace(number uint32) (block, offset int64, err error) {
	if number == 0 || number > v.sb.inodes {
		return 0, 0, corrupt("inode %d of %d", number, v.sb.inodes)
	}
	g, i := (number-1)/v.sb.inodesPerGroup, int64((number-1)%v.sb.inodesPerGroup)
	at := i * v.sb.inodeSize
	return v.groups[g].inodeTable + at/v.sb.blockSize, at % v.sb.blockSize, nil
}

// inode returns an inode, which must not be changed.
func (v *volume) inode(number uint32) (inode, error) {
	block, offset, err := v.inodePlace(number)
	if err != nil {
		return nil, err
	}
	p, err := v.block(block)
	if err != nil {
		return nil, fmt.Errorf("inode %d: %w", number, err)
	}
	return inode(p[offset : offset+v.sb.inodeSize]), nil
}

// keptBlocks is how many blocks a reader keeps at most.
const keptBlocks = 4096

// blockCache reads blocks from a device and keeps the last ones.
type blockCache struct {
	dev       io.ReaderAt // nil where every block is zeros
	size      int64       // of the file system, in blocks
	blockSize int64
	kept      map[int64][]byte
	zeros     []byte
}

func newBlockCache(dev io.ReaderAt, blocks, blockSize int64) *blockCache {
	return &blockCache{dev: dev, size: blocks, blockSize: blockSize, kept: make(map[int64][]byte), zeros: make([]byte, blockSize)}
}

func (c *blockCache) read(number int64) ([]byte, error) {
	if p, ok := c.kept[number]; ok {
		return p, nil
	}
	if number < 0 || number >= c.size {
		return nil, corrupt("block %d of %d", number, c.size)
	}
	if c.dev == nil {
		return c.zeros, nil
	}
	p := make([]byte, c.blockSize)
	if err := readFull(c.dev, p, number*c.blockSize, c.size*c.blockSize); err != nil {
		return nil, err
	}
	if len(c.kept) >= keptBlocks {
		clear(c.kept)
	}
	c.kept[number] = p
	return p, nil
}

// changedBlocks are the blocks of metadata of a file system that is being changed.
type changedBlocks struct {
	below *blockCache
	// held has the blocks that were changed since the file system was made or opened. They are replaced, never changed, once a
	// Change with them was handed out.
	held map[int64][]byte
	// before has what the blocks that this layer changes held before it; nil for those that it takes anew.
	before map[int64][]byte
}

func newChangedBlocks(below *blockCache) *changedBlocks {
	return &changedBlocks{below: below, held: make(map[int64][]byte), before: make(map[int64][]byte)}
}

func (c *changedBlocks) read(number int64) ([]byte, error) {
	if p, ok := c.held[number]; ok {
		return p, nil
	}
	return c.below.read(number)
}

// edit returns a block to be changed.
func (c *changedBlocks) edit(number int64) ([]byte, error) {
	if _, ok := c.before[number]; ok {
		return c.held[number], nil
	}
	old, err := c.read(number)
	if err != nil {
		return nil, err
	}
	p := append(make([]byte, 0, len(old)), old...)
	c.before[number], c.held[number] = old, p
	delete(c.below.kept, number)
	return p, nil
}

// fresh returns a block of zeros in place of whatever is there: what a block held that was in no use, or in a file, is not known.
func (c *changedBlocks) fresh(number int64) []byte {
	p := make([]byte, disk.BlockSize)
	c.before[number], c.held[number] = nil, p
	return p
}

// take returns a block whose content is known, or a fresh one.
func (c *changedBlocks) take(number int64, known bool) ([]byte, error) {
	if known {
		return c.edit(number)
	}
	return c.fresh(number), nil
}

// drop forgets a block that is not metadata any more.
func (c *changedBlocks) drop(number int64) {
	delete(c.held, number)
	delete(c.before, number)
}
