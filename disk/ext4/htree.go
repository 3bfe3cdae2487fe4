package ext4

import (
	"cmp"
	"encoding/binary"
	"slices"
	"sort"

	"github.com/lazuli-project/lazuli/disk"
)

// A hashed index begins in a directory's first block, behind "." and "..", the latter of which reaches to the block's end for those who know
// of no index: u32 0, u8 version of the hash, u8 8, u8 levels below, u8 0, then entries. Further levels are blocks with one free
// directory entry and index entries behind its header. An index entry is u32 smallest hash, u32 block of the directory; in place of the first
// one's hash, which is 0, stand u16 room for entries and u16 number of entries. A hash with the lowest bit set says that names of that hash begin in the block before.
const (
	indexRootInfo  = dotsSize
	indexRootAt    = dotsSize + 8 // where the root's entries begin
	indexNodeAt    = direntHeader // where a node's entries begin
	indexRootLimit = (disk.BlockSize - indexRootAt) / 8
	indexNodeLimit = (disk.BlockSize - indexNodeAt) / 8

	// Blocks of new directories are filled so far, so that additions do not split them at once.
	leafFill = disk.BlockSize * 7 / 8
	nodeFill = indexNodeLimit * 7 / 8
)

// hashed is an entry of a directory with its name's hash.
type hashed struct {
	dirent
	hash uint32
}

// indexVersion returns the version of the hash that a directory says it has, with the superblock's sign.
func indexVersion(s *superblock, version uint8) uint8 {
	if version < hashUnsigned && s.flags&flagUnsignedHash != 0 {
		version += hashUnsigned
	}
	return version
}

// newIndexVersion returns the version for new directories.
func newIndexVersion(s *superblock) uint8 {
	if s.hashVersion < hashUnsigned {
		return s.hashVersion
	}
	return hashHalfMD4
}

// indexEntries are the entries of a node of the index.
type indexEntries []byte

func (e indexEntries) limit() int        { return int(binary.LittleEndian.Uint16(e)) }
func (e indexEntries) count() int        { return int(binary.LittleEndian.Uint16(e[2:])) }
func (e indexEntries) hash(i int) uint32 { return binary.LittleEndian.Uint32(e[8*i:]) }
func (e indexEntries) block(i int) int64 {
	return int64(binary.LittleEndian.Uint32(e[8*i+4:]) & 0x0FFFFFFF)
}
func (e indexEntries) setHeader(l, c int) { e.setLimit(l); e.setCount(c) }
func (e indexEntries) setLimit(n int)     { binary.LittleEndian.PutUint16(e, uint16(n)) }
func (e indexEntries) setCount(n int)     { binary.LittleEndian.PutUint16(e[2:], uint16(n)) }
func (e indexEntries) setBlock(i int, b int64) {
	binary.LittleEndian.PutUint32(e[8*i+4:], uint32(b))
}

// insert puts an entry at i > 0. There is room.
func (e indexEntries) insert(i int, hash uint32, block int64) {
	n := e.count()
	copy(e[8*(i+1):8*(n+1)], e[8*i:8*n])
	binary.LittleEndian.PutUint32(e[8*i:], hash)
	e.setBlock(i, block)
	e.setCount(n + 1)
}

// find returns the entry whose block has a hash.
func (e indexEntries) find(hash uint32) int {
	return sort.Search(e.count()-1, func(i int) bool { return e.hash(i+1) > hash })
}

// newIndexNode makes a node without entries in a block.
func newIndexNode(p []byte) indexEntries {
	clear(p)
	binary.LittleEndian.PutUint16(p[4:], disk.BlockSize)
	e := indexEntries(p[indexNodeAt:])
	e.setHeader(indexNodeLimit, 0)
	return e
}

// newIndexRoot makes the first block of an indexed directory without index entries.
func newIndexRoot(p []byte, dots []dirent, version uint8, levels int) indexEntries {
	clear(p)
	packDirents(p, dots)
	p[indexRootInfo+4], p[indexRootInfo+5], p[indexRootInfo+6] = version, 8, uint8(levels)
	e := indexEntries(p[indexRootAt:])
	e.setHeader(indexRootLimit, 0)
	return e
}

// indexedDir returns the blocks of a directory with a hashed index: the root, the nodes, the leaves.
func indexedDir(s *superblock, dots, entries []dirent) ([][]byte, error) {
	version := newIndexVersion(s)
	all := make([]hashed, len(entries))
	for i, e := range entries {
		all[i] = hashed{e, nameHash(e.name, indexVersion(s, version), s.hashSeed)}
	}
	slices.SortFunc(all, func(a, b hashed) int { return cmp.Or(cmp.Compare(a.hash, b.hash), cmp.Compare(a.name, b.name)) })
	var leaves [][]byte
	var hashes []uint32 // the smallest of each leaf
	for at := 0; at < len(all); {
		size, end := 0, at
		for ; end < len(all) && (size+direntSize(len(all[end].name)) <= leafFill || end == at); end++ {
			size += direntSize(len(all[end].name))
		}
		hash := all[at].hash
		if at > 0 && all[at-1].hash == hash {
			hash |= 1
		}
		p := make([]byte, disk.BlockSize)
		packDirents(p, plain(all[at:end]))
		leaves, hashes = append(leaves, p), append(hashes, hash)
		at = end
	}
	root := make([]byte, disk.BlockSize)
	blocks := [][]byte{root}
	if len(leaves) <= indexRootLimit {
		e := newIndexRoot(root, dots, version, 0)
		for i, h := range hashes {
			e.append(h, int64(1+i))
		}
		return append(blocks, leaves...), nil
	}
	nodes := (len(leaves) + nodeFill - 1) / nodeFill
	if nodes > indexRootLimit {
		return nil, unsupported("directory with %d entries", len(entries))
	}
	e := newIndexRoot(root, dots, version, 1)
	for n := range nodes {
		p := make([]byte, disk.BlockSize)
		node := newIndexNode(p)
		for i := n * nodeFill; i < min((n+1)*nodeFill, len(leaves)); i++ {
			node.append(hashes[i], int64(1+nodes+i))
		}
		e.append(hashes[n*nodeFill], int64(1+n))
		blocks = append(blocks, p)
	}
	return append(blocks, leaves...), nil
}

// append adds an entry at the end. The hash of the first is not kept.
func (e indexEntries) append(hash uint32, block int64) {
	if e.count() == 0 {
		e.setBlock(0, block)
		e.setCount(1)
		return
	}
	e.insert(e.count(), hash, block)
}

func plain(all []hashed) []dirent {
	out := make([]dirent, len(all))
	for i, h := range all {
		out[i] = h.dirent
	}
	return out
}
