package ext4

import (
	"fmt"
	"math/bits"
	"sort"

	"github.com/lazuli-project/lazuli/disk"
)

// Blocks and inodes are taken behind the last ones that are in use when a layer begins. What a layer frees, and what was free before,
// is taken when the end is reached.

// rewind finds where the search for free blocks and inodes begins.
func (f *FS) rewind() error {
	f.next, f.wrap = f.sb.firstData, false
	f.nextInode, f.wrapInode = f.sb.firstInode+1, false
	for g := len(f.groups) - 1; g >= 0; g-- {
		last, err := f.lastBlock(int64(g))
		if err != nil {
			return err
		}
		if last >= 0 {
			f.next = last + 1
			break
		}
	}
	for g := len(f.groups) - 1; g >= 0; g-- {
		if f.groups[g].flags&groupInodeUninit != 0 {
			continue
		}
		p, err := f.block(f.groups[g].inodeBitmap)
		if err != nil {
			return err
		}
		if last := lastBit(p, int64(f.sb.inodesPerGroup)); last >= 0 {
			f.nextInode = max(f.nextInode, uint32(g)*f.sb.inodesPerGroup+uint32(last)+2)
			break
		}
	}
	return nil
}

// groupRange returns a group's first block and the one behind its last.
func (f *FS) groupRange(g int64) (first, end int64) {
	first = f.sb.firstData + g*f.sb.blocksPerGroup
	return first, min(first+f.sb.blocksPerGroup, f.sb.blocks)
}

// lastBlock returns the last block of a group that is in use by anything but tables and reserved inodes, or -1.
func (f *FS) lastBlock(g int64) (int64, error) {
	if f.groups[g].flags&groupBlockUninit != 0 {
		return -1, nil
	}
	shared, err := f.block(f.groups[g].blockBitmap)
	if err != nil {
		return 0, err
	}
	first, end := f.groupRange(g)
	p := append([]byte(nil), shared...)
	for _, s := range f.fixedIn(first, end) {
		for b := s.start; b < s.end(); b++ {
			p[(b-first)/8] &^= 1 << ((b - first) % 8)
		}
	}
	if last := lastBit(p, end-first); last >= 0 {
		return first + last, nil
	}
	return -1, nil
}

// fixedIn returns the parts of f.fixed that lie between two blocks.
func (f *FS) fixedIn(first, end int64) []span {
	i := sort.Search(len(f.fixed), func(i int) bool { return f.fixed[i].end() > first })
	var in []span
	for ; i < len(f.fixed) && f.fixed[i].start < end; i++ {
		s := f.fixed[i]
		start := max(s.start, first)
		in = append(in, span{start, min(s.end(), end) - start})
	}
	return in
}

// lastBit returns the last of n bits that is set, or -1.
func lastBit(p []byte, n int64) int64 {
	for i := n - 1; i >= 0; {
		switch c := p[i/8]; {
		case c == 0:
			i = i/8*8 - 1
		case c>>(i%8)&1 != 0:
			return i
		default:
			i--
		}
	}
	return -1
}

// nextZero returns the first of n bits at or behind i that is 0, or n.
func nextZero(p []byte, i, n int64) int64 {
	for i < n {
		rest := ^p[i/8] >> (i % 8) << (i % 8)
		if rest != 0 {
			return min(n, i/8*8+int64(bits.TrailingZeros8(rest)))
		}
		i = i/8*8 + 8
	}
	return n
}

// nextOne returns the first of n bits at or behind i that is 1, or n.
func nextOne(p []byte, i, n int64) int64 {
	for i < n {
		if rest := p[i/8] >> (i % 8) << (i % 8); rest != 0 {
			return min(n, i/8*8+int64(bits.TrailingZeros8(rest)))
		}
		i = i/8*8 + 8
	}
	return n
}

// setBits sets count bits from i on.
func setBits(p []byte, i, count int64) {
	for end := i + count; i < end; {
		if i%8 == 0 && end-i >= 8 {
			p[i/8] = 0xFF
			i += 8
			continue
		}
		p[i/8] |= 1 << (i % 8)
		i++
	}
}

// editBlockBitmap returns the bitmap of a group's blocks to be changed, and makes it where it was not written.
func (f *FS) editBlockBitmap(number int64) ([]byte, error) {
	g := &f.groups[number]
	p, err := f.blocks.edit(g.blockBitmap)
	if err != nil {
		return nil, fmt.Errorf("bitmap of group %d: %w", number, err)
	}
	g.changed = true
	if g.flags&groupBlockUninit == 0 {
		return p, nil
	}
	g.flags &^= groupBlockUninit
	clear(p)
	first, end := f.groupRange(number)
	for _, s := range f.fixedIn(first, end) {
		setBits(p, s.start-first, s.count)
	}
	setBits(p, end-first, 8*disk.BlockSize-(end-first))
	return p, nil
}

// allocate takes count blocks, and returns them as runs in the order in which they were found.
func (f *FS) allocate(count int64) ([]span, error) {
	var runs []span
	for count > 0 {
		if f.next >= f.sb.blocks {
			if f.wrap {
				return nil, f.noSpace()
			}
			f.next, f.wrap = f.sb.firstData, true
		}
		number := (f.next - f.sb.firstData) / f.sb.blocksPerGroup
		first, end := f.groupRange(number)
		g := &f.groups[number]
		if g.freeBlocks == 0 {
			f.next = end
			continue
		}
		p, err := f.editBlockBitmap(number)
		if err != nil {
			return nil, err
		}
		at := nextZero(p, f.next-first, end-first)
		n := min(count, nextOne(p, at, end-first)-at)
		f.next = first + at + n
		if n == 0 {
			continue
		}
		if int64(g.freeBlocks) < n {
			return nil, corrupt("group %d has more free blocks than it says", number)
		}
		setBits(p, at, n)
		g.freeBlocks -= uint32(n)
		count -= n
		if k := len(runs); k > 0 && runs[k-1].end() == first+at {
			runs[k-1].count += n
		} else {
			runs = append(runs, span{first + at, n})
		}
	}
	return runs, nil
}

// newBlock takes one block.
func (f *FS) newBlock() (int64, error) {
	runs, err := f.allocate(1)
	if err != nil {
		return 0, err
	}
	return runs[0].start, nil
}

// freeBlocks gives blocks back and forgets what they held.
func (f *FS) freeBlocks(start, count int64) error {
	for b := start; b < start+count; {
		number := (b - f.sb.firstData) / f.sb.blocksPerGroup
		if number < 0 || number >= int64(len(f.groups)) {
			return corrupt("block %d in use, of %d", b, f.sb.blocks)
		}
		p, err := f.editBlockBitmap(number)
		if err != nil {
			return err
		}
		first, end := f.groupRange(number)
		for end = min(end, start+count); b < end; b++ {
			i := b - first
			if p[i/8]>>(i%8)&1 == 0 {
				return corrupt("block %d is in use and free", b)
			}
			p[i/8] &^= 1 << (i % 8)
			f.groups[number].freeBlocks++
			f.blocks.drop(b)
		}
	}
	return nil
}

// newInode takes an inode. Its bytes are those of a former one, or zeros.
func (f *FS) newInode(dir bool) (uint32, error) {
	for {
		if f.nextInode > f.sb.inodes {
			if f.wrapInode {
				return 0, f.noSpace()
			}
			// The first inode is lost+found's, and stays so.
			f.nextInode, f.wrapInode = f.sb.firstInode+1, true
		}
		number := (f.nextInode - 1) / f.sb.inodesPerGroup
		g := &f.groups[number]
		groupEnd := uint64(number+1)*uint64(f.sb.inodesPerGroup) + 1
		if g.freeInodes == 0 {
			if groupEnd > uint64(f.sb.inodes) {
				groupEnd = uint64(f.sb.inodes) + 1
			}
			f.nextInode = uint32(groupEnd)
			continue
		}
		p, err := f.editInodeBitmap(int64(number))
		if err != nil {
			return 0, err
		}
		perGroup := int64(f.sb.inodesPerGroup)
		at := nextZero(p, int64((f.nextInode-1)%f.sb.inodesPerGroup), perGroup)
		f.nextInode = number*f.sb.inodesPerGroup + uint32(min(at+1, perGroup)) + 1
		if at == perGroup {
			continue
		}
		setBits(p, at, 1)
		g.freeInodes--
		if dir {
			g.usedDirs++
		}
		ino := number*f.sb.inodesPerGroup + uint32(at) + 1
		return ino, f.claimInodes(g, ino, uint32(at))
	}
}

// claimInodes clears inodes up to the given one that lie behind those of the table which were ever used.
func (f *FS) claimInodes(g *group, ino, index uint32) error {
	if !f.sb.roCompat(roGdtCsum) {
		return nil
	}
	used := f.sb.inodesPerGroup - g.unused
	for i := used; i <= index; i++ {
		p, err := f.editInode(ino - index + i)
		if err != nil {
			return err
		}
		clear(p)
	}
	g.unused = min(g.unused, f.sb.inodesPerGroup-index-1)
	return nil
}

// editInodeBitmap returns the bitmap of a group's inodes to be changed, and makes it where it was not written.
func (f *FS) editInodeBitmap(number int64) ([]byte, error) {
	g := &f.groups[number]
	p, err := f.blocks.edit(g.inodeBitmap)
	if err != nil {
		return nil, fmt.Errorf("bitmap of the inodes of group %d: %w", number, err)
	}
	g.changed = true
	if g.flags&groupInodeUninit == 0 {
		return p, nil
	}
	g.flags &^= groupInodeUninit
	clear(p)
	perGroup := int64(f.sb.inodesPerGroup)
	setBits(p, perGroup, 8*disk.BlockSize-perGroup)
	// As the kernel does: where inodes are in use, the blocks' bitmap is written too.
	_, err = f.editBlockBitmap(number)
	return p, err
}

// freeInode gives an inode back with its blocks.
func (f *FS) freeInode(ino uint32, dir bool) error {
	p, err := f.editInode(ino)
	if err != nil {
		return err
	}
	if !p.unmapped() {
		m, err := f.mapping(p)
		if err != nil {
			return fmt.Errorf("inode %d: %w", ino, err)
		}
		for _, e := range m.extents {
			if err := f.freeBlocks(e.physical, e.count); err != nil {
				return fmt.Errorf("inode %d: %w", ino, err)
			}
		}
		for _, b := range m.nodes {
			if err := f.freeBlocks(b, 1); err != nil {
				return fmt.Errorf("inode %d: %w", ino, err)
			}
		}
	}
	if err := f.releaseXattrBlock(p.xattrBlock()); err != nil {
		return fmt.Errorf("inode %d: %w", ino, err)
	}
	clear(p)
	number := int64((ino - 1) / f.sb.inodesPerGroup)
	bitmap, err := f.editInodeBitmap(number)
	if err != nil {
		return err
	}
	i := (ino - 1) % f.sb.inodesPerGroup
	bitmap[i/8] &^= 1 << (i % 8)
	f.groups[number].freeInodes++
	if dir {
		f.groups[number].usedDirs--
	}
	return nil
}
