package ext4

import (
	"encoding/binary"

	"github.com/lazuli-project/lazuli/disk"
)

// A block of a directory is filled with entries: u32 inode, u16 length of the entry, u8 length of the name, u8 type; the name, padded to
// 4 bytes. An entry may be longer than it needs, and one of inode 0 is free room. The first two are "." and "..".
const (
	direntHeader = 8
	dotsSize     = 24 // of "." and ".." where they are no longer than they need
)

// dirent is an entry of a directory.
type dirent struct {
	name string
	ino  uint32
	kind uint8
}

// direntSize returns how many bytes an entry needs.
func direntSize(name int) int { return direntHeader + pad4(name) }

// putDirent writes an entry of the given length.
func putDirent(p []byte, e dirent, length int) {
	le := binary.LittleEndian
	le.PutUint32(p, e.ino)
	le.PutUint16(p[4:], uint16(length))
	p[6], p[7] = uint8(len(e.name)), e.kind
	copy(p[direntHeader:], e.name)
	clear(p[direntHeader+len(e.name) : direntSize(len(e.name))])
}

// eachDirent calls fn for every entry in a block, free ones too, with where it begins, where the one before it begins (-1 for the first) and its
// length, until fn returns false.
func eachDirent(p []byte, fn func(at, before, length int, name []byte) bool) error {
	before := -1
	for at := 0; at < len(p); {
		if len(p)-at < direntHeader {
			return corrupt("directory entry over the end")
		}
		length, name := int(binary.LittleEndian.Uint16(p[at+4:])), int(p[at+6])
		if length == 0xFFFF || length < direntSize(0) || length%4 != 0 || length > len(p)-at || direntHeader+name > length {
			return corrupt("directory entry of %d bytes with a name of %d", length, name)
		}
		if !fn(at, before, length, p[at+direntHeader:at+direntHeader+name]) {
			return nil
		}
		before = at
		at += length
	}
	return nil
}

// direntIno returns the inode of the entry at p.
func direntIno(p []byte) uint32 { return binary.LittleEndian.Uint32(p) }

// isDot reports whether a name is "." or "..".
func isDot(name []byte) bool { return string(name) == "." || string(name) == ".." }

// packDirents fills a block with entries, of which the last takes what is left. There is room.
func packDirents(p []byte, entries []dirent) {
	if len(entries) == 0 {
		clear(p)
		binary.LittleEndian.PutUint16(p[4:], uint16(len(p)))
		return
	}
	at := 0
	for i, e := range entries {
		length := direntSize(len(e.name))
		if i == len(entries)-1 {
			clear(p[at+length:])
			length = len(p) - at
		}
		putDirent(p[at:], e, length)
		at += length
	}
}

// insertDirent puts an entry into a block where there is room, and reports whether there was.
func insertDirent(p []byte, e dirent) (bool, error) {
	need, done := direntSize(len(e.name)), false
	err := eachDirent(p, func(at, _, length int, name []byte) bool {
		used := 0
		if direntIno(p[at:]) != 0 {
			used = direntSize(len(name))
		}
		if length-used < need {
			return true
		}
		if used > 0 {
			binary.LittleEndian.PutUint16(p[at+4:], uint16(used))
		}
		putDirent(p[at+used:], e, length-used)
		done = true
		return false
	})
	return done, err
}

// roomIn returns the size of the largest entry that a block has room for.
func roomIn(p []byte) (int, error) {
	room := 0
	err := eachDirent(p, func(at, _, length int, name []byte) bool {
		if direntIno(p[at:]) != 0 {
			length -= direntSize(len(name))
		}
		room = max(room, length)
		return true
	})
	return room, err
}

// removeDirent takes the entry at an offset out of a block. before is where the one before it begins, or -1.
func removeDirent(p []byte, at, before int) {
	le := binary.LittleEndian
	if before < 0 {
		le.PutUint32(p[at:], 0)
		return
	}
	le.PutUint16(p[before+4:], le.Uint16(p[before+4:])+le.Uint16(p[at+4:]))
}

// direntsOf returns the entries of a block without free ones, "." and "..".
func direntsOf(p []byte) ([]dirent, error) {
	var all []dirent
	err := eachDirent(p, func(at, _, _ int, name []byte) bool {
		if ino := direntIno(p[at:]); ino != 0 && !isDot(name) {
			all = append(all, dirent{string(name), ino, p[at+7]})
		}
		return true
	})
	return all, err
}

// dirBlocks returns the blocks of a new directory with those entries: one, if there is room, and otherwise a hashed index and its leaves, or, in
// a file system without such, a row of blocks.
func dirBlocks(s *superblock, self, parent uint32, entries []dirent) ([][]byte, bool, error) {
	dots := []dirent{{".", self, disk.TypeDir}, {"..", parent, disk.TypeDir}}
	size := dotsSize
	for _, e := range entries {
		size += direntSize(len(e.name))
	}
	if size > disk.BlockSize && s.compat(compatDirIndex) {
		blocks, err := indexedDir(s, dots, entries)
		return blocks, true, err
	}
	var blocks [][]byte
	row := dots
	used := dotsSize
	flush := func() {
		p := make([]byte, disk.BlockSize)
		packDirents(p, row)
		blocks, row, used = append(blocks, p), nil, 0
	}
	for _, e := range entries {
		if used+direntSize(len(e.name)) > disk.BlockSize {
			flush()
		}
		row = append(row, e)
		used += direntSize(len(e.name))
	}
	flush()
	return blocks, false, nil
}
