package ext4

import (
	"encoding/binary"

	"github.com/lazuli-project/lazuli/disk"
)

// A tree of extents has its root in i_block, and further nodes in blocks. Each node begins with a header (u16 magic, entries, room for
// entries, depth of the tree below; u32 generation). Behind it are, in leaves (depth 0), extents: u32 first block of the file,
// u16 length, u16 and u32 first block of the disk, upper bits first. In other nodes: u32 first block of the file, u32 and u16 block of the
// node below, lower bits first, u16 unused. A length over 32768 means an extent of that much less that reads as zeros.
const (
	extentMagic     = 0xF30A
	extentEntry     = 12
	rootEntries     = (blockAreaLen - extentEntry) / extentEntry
	nodeEntries     = (disk.BlockSize - extentEntry) / extentEntry
	maxExtent       = 32768
	maxExtentDepth  = 5
	sectorsPerBlock = disk.BlockSize / disk.SectorSize

	// maxFileBlocks is where the block numbers of files end.
	maxFileBlocks = 1<<32 - 1
)

// extent is a run of blocks of a file.
type extent struct {
	logical, physical, count int64
	unwritten                bool // has blocks and reads as zeros
}

// mapping says where an inode's blocks are.
type mapping struct {
	extents []extent // in order, without overlaps
	nodes   []int64  // blocks of the mapping itself, from the root down
}

// blocks returns how many blocks the mapping uses.
func (m *mapping) blocks() int64 {
	n := int64(len(m.nodes))
	for _, e := range m.extents {
		n += e.count
	}
	return n
}

// add appends an extent and makes one of neighbours.
func (m *mapping) add(e extent) {
	if k := len(m.extents); k > 0 {
		last := &m.extents[k-1]
		if last.logical+last.count == e.logical && last.physical+last.count == e.physical && last.unwritten == e.unwritten {
			last.count += e.count
			return
		}
	}
	m.extents = append(m.extents, e)
}

// end returns the first block of the file behind all extents.
func (m *mapping) end() int64 {
	if k := len(m.extents); k > 0 {
		return m.extents[k-1].logical + m.extents[k-1].count
	}
	return 0
}

// mapping reads where an inode's blocks are.
func (v *volume) mapping(p inode) (mapping, error) {
	var m mapping
	if p.flags()&(inodeFlagInlineData|inodeFlagEncrypt) != 0 {
		return m, unsupported("ext4 with content in inodes, or encrypted")
	}
	if p.flags()&inodeFlagExtents == 0 {
		return m, v.indirect(p, &m)
	}
	area := p.area()
	depth := int(binary.LittleEndian.Uint16(area[6:]))
	return m, v.extentNode(area, rootEntries, depth, &m)
}

func (v *volume) extentNode(p []byte, room, depth int, m *mapping) error {
	le := binary.LittleEndian
	count := int(le.Uint16(p[2:]))
	if le.Uint16(p) != extentMagic || count > room || int(le.Uint16(p[6:])) != depth || depth > maxExtentDepth {
		return corrupt("node of a tree of extents")
	}
	for i := range count {
		e := p[extentEntry*(i+1) : extentEntry*(i+2)]
		logical := int64(le.Uint32(e))
		if logical < m.end() {
			return corrupt("extents out of order")
		}
		if depth > 0 {
			block := int64(le.Uint32(e[4:])) | int64(le.Uint16(e[8:]))<<32
			if err := v.spend(1); err != nil {
				return err
			}
			child, err := v.block(block)
			if err != nil {
				return err
			}
			m.nodes = append(m.nodes, block)
			if err := v.extentNode(child, (len(child)-extentEntry)/extentEntry, depth-1, m); err != nil {
				return err
			}
			continue
		}
		x := extent{logical: logical, count: int64(le.Uint16(e[4:])), physical: int64(le.Uint32(e[8:])) | int64(le.Uint16(e[6:]))<<32}
		if x.count > maxExtent {
			x.count, x.unwritten = x.count-maxExtent, true
		}
		if x.count == 0 || x.physical <= v.sb.firstData || x.physical > v.sb.blocks-x.count || x.logical+x.count > maxFileBlocks {
			return corrupt("extent %+v in a file system of %d blocks", x, v.sb.blocks)
		}
		if err := v.spend(1); err != nil {
			return err
		}
		m.add(x)
	}
	return nil
}

// setMapping writes a mapping into an inode and its nodes into blocks: those that m has, which are written again, and new ones, which
// are added to it. Nodes too many are freed.
func (f *FS) setMapping(p inode, m *mapping) error {
	le := binary.LittleEndian
	var entries []byte // of the level that is being written
	count := 0
	for _, x := range m.extents {
		for done := int64(0); done < x.count; count++ {
			n := min(x.count-done, maxExtent)
			length := uint16(n)
			if x.unwritten {
				n = min(n, maxExtent-1)
				length = uint16(n + maxExtent)
			}
			at := x.physical + done
			entries = le.AppendUint32(entries, uint32(x.logical+done))
			entries = le.AppendUint16(entries, length)
			entries = le.AppendUint16(entries, uint16(at>>32))
			entries = le.AppendUint32(entries, uint32(at))
			done += n
		}
	}
	old := m.nodes
	m.nodes = nil
	depth := 0
	for ; count > rootEntries; depth++ {
		var above []byte
		aboveCount := 0
		for len(entries) > 0 {
			n := min(len(entries), nodeEntries*extentEntry)
			block, reused, err := f.nodeBlock(&old)
			if err != nil {
				return err
			}
			node, err := f.blocks.take(block, reused)
			if err != nil {
				return err
			}
			clear(node)
			putExtentHeader(node, n/extentEntry, nodeEntries, depth)
			copy(node[extentEntry:], entries[:n])
			above = append(above, entries[:4]...)
			above = le.AppendUint32(above, uint32(block))
			above = le.AppendUint16(above, uint16(block>>32))
			above = le.AppendUint16(above, 0)
			aboveCount++
			m.nodes = append(m.nodes, block)
			entries = entries[n:]
		}
		entries, count = above, aboveCount
	}
	for _, b := range old {
		if err := f.freeBlocks(b, 1); err != nil {
			return err
		}
	}
	area := p.area()
	clear(area)
	putExtentHeader(area, count, rootEntries, depth)
	copy(area[extentEntry:], entries)
	p.set32(0x20, p.flags()|inodeFlagExtents)
	return nil
}

// nodeBlock returns a block for a node: the next of old, or a new one.
func (f *FS) nodeBlock(old *[]int64) (block int64, reused bool, err error) {
	if len(*old) > 0 {
		block = (*old)[0]
		*old = (*old)[1:]
		return block, true, nil
	}
	block, err = f.newBlock()
	return block, false, err
}

func putExtentHeader(p []byte, entries, room, depth int) {
	le := binary.LittleEndian
	le.PutUint16(p, extentMagic)
	le.PutUint16(p[2:], uint16(entries))
	le.PutUint16(p[4:], uint16(room))
	le.PutUint16(p[6:], uint16(depth))
}

// indirect reads the older kind of mapping: i_block has the numbers of 12 blocks, and of blocks of numbers at a distance of one, two and three
// steps. Zero is a hole.
func (v *volume) indirect(p inode, m *mapping) error {
	area := p.area()
	logical := int64(0)
	for i := range blockAreaLen / 4 {
		number := int64(binary.LittleEndian.Uint32(area[4*i:]))
		if err := v.indirectBlock(number, max(0, i-11), &logical, m); err != nil {
			return err
		}
	}
	return nil
}

// indirectBlock reads what a number stands for that is steps away from blocks of the file. What a mapping has behind the file's end is read
// too: it is in use.
func (v *volume) indirectBlock(number int64, steps int, logical *int64, m *mapping) error {
	perBlock := v.sb.blockSize / 4
	covers := int64(1)
	for range steps {
		covers *= perBlock
	}
	if number == 0 {
		*logical += covers
		return nil
	}
	if err := v.spend(1); err != nil {
		return err
	}
	if steps == 0 {
		if number <= v.sb.firstData || number >= v.sb.blocks {
			return corrupt("block %d in a file system of %d blocks", number, v.sb.blocks)
		}
		m.add(extent{logical: *logical, physical: number, count: 1})
		*logical++
		return nil
	}
	child, err := v.block(number)
	if err != nil {
		return err
	}
	m.nodes = append(m.nodes, number)
	for at := 0; at < len(child); at += 4 {
		if err := v.indirectBlock(int64(binary.LittleEndian.Uint32(child[at:])), steps-1, logical, m); err != nil {
			return err
		}
	}
	return nil
}
