package overlaybd

import (
	"encoding/binary"
	"errors"

	"github.com/lazuli-project/lazuli/disk"
	"github.com/lazuli-project/lazuli/formats/overlaybd/layerfile"
	"github.com/lazuli-project/lazuli/tree"
)

// content writes the content of files to a layer file, in blocks: every file begins at a block's beginning, and its last block is
// filled up with zeros. Blocks of zeros become holes.
type content struct {
	file *layerfile.Writer
	node *tree.Node // of the open file; nil for content that nobody wants
	left int64      // bytes that the open file still wants
	fill int        // bytes in block
	// block has the beginning of a block whose rest has not come yet.
	block [disk.BlockSize]byte
}

// begin begins a file of size bytes.
func (c *content) begin(node *tree.Node, size int64) {
	c.node, c.left, c.fill = node, size, 0
	if node != nil {
		node.Extents = nil
	}
}

// errContent means that an entry's content has another size than the entry says.
var errContent = errors.New("content does not fit its entry")

// write gives the next bytes of the file.
func (c *content) write(p []byte) error {
	if int64(len(p)) > c.left {
		return errContent
	}
	if c.node == nil {
		c.left -= int64(len(p))
		return nil
	}
	for len(p) > 0 {
		if c.fill == 0 && len(p) >= disk.BlockSize {
			n := len(p) &^ (disk.BlockSize - 1)
			if err := c.blocks(p[:n]); err != nil {
				return err
			}
			p, c.left = p[n:], c.left-int64(n)
			continue
		}
		n := copy(c.block[c.fill:], p)
		p, c.fill, c.left = p[n:], c.fill+n, c.left-int64(n)
		if c.fill < disk.BlockSize && c.left > 0 {
			continue
		}
		clear(c.block[c.fill:])
		if err := c.blocks(c.block[:]); err != nil {
			return err
		}
		c.fill = 0
	}
	if c.left == 0 {
		c.end()
	}
	return nil
}

// end cuts the last extent to the file's size.
func (c *content) end() {
	var sum int64
	for _, x := range c.node.Extents {
		sum += x.Length
	}
	if k := len(c.node.Extents); k > 0 {
		c.node.Extents[k-1].Length -= sum - c.node.Size
	}
	c.node = nil
}

// blocks writes whole blocks.
func (c *content) blocks(p []byte) error {
	for len(p) > 0 {
		n, zero := run(p)
		x := tree.Extent{Blob: tree.Hole, Length: int64(n)}
		if !zero {
			x.Blob, x.Offset = 0, c.file.Offset()
			if _, err := c.file.Write(p[:n]); err != nil {
				return err
			}
		}
		c.node.AppendExtent(x)
		p = p[n:]
	}
	return nil
}

// run returns how many bytes of p, whole blocks, come before the first block that is of zeros where the first is not, or the other way
// round.
func run(p []byte) (n int, zero bool) {
	zero = isZero(p[:disk.BlockSize])
	for n = disk.BlockSize; n < len(p); n += disk.BlockSize {
		if isZero(p[n:n+disk.BlockSize]) != zero {
			break
		}
	}
	return n, zero
}

// isZero reports whether a block is of zeros.
func isZero(p []byte) bool {
	for ; len(p) >= 8; p = p[8:] {
		if binary.LittleEndian.Uint64(p) != 0 {
			return false
		}
	}
	return true
}
