package erofs

import (
	"cmp"
	"fmt"
	"math/bits"
	"slices"

	"github.com/lazuli-project/lazuli/disk"
	"github.com/lazuli-project/lazuli/disk/erofs/ondisk"
	"github.com/lazuli-project/lazuli/tree"
)

// maxChunks is how many chunks a file with holes has at most, unless chunks cannot be larger.
const maxChunks = 1 << 16

// flatBits is the size of the only chunk of a file without holes.
const flatBits = 62

// checkContent says what is wrong with the extents of a regular file.
func checkContent(n *tree.Node) error {
	var off, stored int64 // stored: behind the last extent that is no hole
	for _, x := range n.Extents {
		if x.Length <= 0 || x.Length > n.Size-off {
			return fmt.Errorf("%w: extent of %d bytes at %d of %d", errTree, x.Length, off, n.Size)
		}
		if x.Blob != tree.Hole {
			if stored%disk.SectorSize != 0 || off%disk.SectorSize != 0 || x.Offset%disk.SectorSize != 0 {
				return unsupported(fmt.Sprintf("content at %d of a file that lies at %d", off, x.Offset))
			}
			stored = off + x.Length
		}
		off += x.Length
	}
	if off != n.Size {
		return fmt.Errorf("%w: extents of %d bytes in a file of %d", errTree, off, n.Size)
	}
	return nil
}

// placeContent gives blocks to the content of new files, in the order in which it is stored.
func (u *update) placeContent() {
	var order []*newFile
	for i := range u.files {
		if f := &u.files[i]; f.node.IsRegular() && f.node.Size > 0 {
			order = append(order, f)
		}
	}
	first := func(f *newFile) tree.Extent {
		for _, x := range f.node.Extents {
			if x.Blob != tree.Hole {
				return x
			}
		}
		return tree.Extent{Blob: tree.Hole}
	}
	slices.SortStableFunc(order, func(a, b *newFile) int {
		x, y := first(a), first(b)
		return cmp.Or(cmp.Compare(x.Blob, y.Blob), cmp.Compare(x.Offset, y.Offset))
	})
	for _, f := range order {
		f.chunkBits = chunkBits(f.node)
		u.placeChunks(f)
		u.addExtents(f)
	}
}

// chunkBits returns log2 of the size of a file's chunks: as large as they may be without a chunk of both content and holes.
func chunkBits(n *tree.Node) int {
	var off, edges int64
	holes := false
	for _, x := range n.Extents {
		if x.Blob == tree.Hole {
			from, to := roundUp(off, blockSize), (off+x.Length)&^(blockSize-1)
			if off+x.Length == n.Size {
				to = roundUp(n.Size, blockSize)
			}
			if from < to {
				holes = true
				edges |= from
				if to < n.Size {
					edges |= to
				}
			}
		}
		off += x.Length
	}
	if !holes {
		return flatBits
	}
	whole := max(bits.Len64(uint64(n.Size-1)), blockBits)
	size := min(bits.TrailingZeros64(uint64(edges)), whole, blockBits+ondisk.ChunkBits)
	for size < blockBits+ondisk.ChunkBits && (n.Size-1)>>size >= maxChunks {
		size++
	}
	return size
}

// placeChunks gives blocks to each chunk that is not all hole.
func (u *update) placeChunks(f *newFile) {
	n, i, end := f.node, 0, f.node.Extents[0].Length // end of extent i
	for from := int64(0); from < n.Size; {
		size := n.Size - from
		if f.chunkBits < flatBits {
			size = min(size, 1<<f.chunkBits)
		}
		stored := f.chunkBits == flatBits
		for {
			stored = stored || n.Extents[i].Blob != tree.Hole
			if end > from+size || i+1 == len(n.Extents) {
				break
			}
			if end == from+size {
				i++
				end += n.Extents[i].Length
				break
			}
			i++
			end += n.Extents[i].Length
		}
		if stored {
			f.chunks = append(f.chunks, uint32(min(u.next, ondisk.NullBlock)))
			u.next += roundUp(size, blockSize) / blockSize
		} else {
			f.chunks = append(f.chunks, ondisk.NullBlock)
		}
		from += size
	}
}

// addExtents adds what a file has stored to the change.
func (u *update) addExtents(f *newFile) {
	var off int64
	for _, x := range f.node.Extents {
		for x.Length > 0 {
			chunk := off >> f.chunkBits
			in := off - chunk<<f.chunkBits
			n := min(x.Length, 1<<f.chunkBits-in)
			if x.Blob != tree.Hole {
				u.addExtent(disk.Extent{Device: int64(f.chunks[chunk])*blockSize + in, Source: x.Offset, Length: roundUp(n, disk.SectorSize), Blob: x.Blob})
			}
			off, x.Offset, x.Length = off+n, x.Offset+n, x.Length-n
		}
	}
}

func (u *update) addExtent(x disk.Extent) {
	if k := len(u.data); k > 0 {
		last := &u.data[k-1]
		if last.Blob == x.Blob && last.Device+last.Length == x.Device && last.Source+last.Length == x.Source {
			last.Length += x.Length
			return
		}
	}
	u.data = append(u.data, x)
}
