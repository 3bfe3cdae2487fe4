package erofs

import (
	"bytes"
	"encoding/binary"

	"github.com/lazuli-project/lazuli/tree"
)

// A directory is blocks, each an array of entries of 12 bytes and then the names:
// 0 u64 nid | 8 u16 offset of the name in the block | 10 u8 type | 11 u8 0
//
// Entries, "." and ".." among them, are in the order of the bytes of their names over the whole directory. A name
// ends where the next begins; the last one of a block at a NUL byte or the block's end.
const direntSize = 12

// direntType returns the type of an entry by the mode of its node; 0 where there is none.
func direntType(mode uint32) uint8 {
	switch mode & tree.TypeMask {
	case tree.TypeRegular:
		return 1
	case tree.TypeDir:
		return 2
	case tree.TypeChar:
		return 3
	case tree.TypeBlock:
		return 4
	case tree.TypeFIFO:
		return 5
	case tree.TypeSocket:
		return 6
	case tree.TypeSymlink:
		return 7
	}
	return 0
}

type dirent struct {
	nid  uint64
	name string
	kind uint8
}

// direntPacker finds out how many bytes a directory takes and where its blocks begin.
type direntPacker struct {
	block int64 // size
	full  int64 // bytes of complete blocks
	used  int64 // in the last block
}

// add takes up a name and reports whether it begins a new block.
func (d *direntPacker) add(name string) bool {
	need := int64(direntSize + len(name))
	if d.used > 0 && d.used+need <= d.block {
		d.used += need
		return false
	}
	fresh := d.used > 0
	if fresh {
		d.full += d.block
	}
	d.used = need
	return fresh
}

// forNames calls fn for the names of a directory in the order of their bytes, "." and ".." among them, with the place in
// n.Entries, self or up.
func forNames(n *tree.Node, fn func(name string, entry int)) {
	special := [...]string{".", ".."}
	next := 0
	for i, e := range n.Entries {
		for next < len(special) && special[next] < e.Name {
			fn(special[next], self-next)
			next++
		}
		fn(e.Name, i)
	}
	for ; next < len(special); next++ {
		fn(special[next], self-next)
	}
}

// What forNames gives in place of an entry's number.
const (
	self = -1
	up   = -2
)

// direntsSize returns the size of a directory's content.
func direntsSize(n *tree.Node, block int64) int64 {
	p := direntPacker{block: block}
	forNames(n, func(name string, _ int) { p.add(name) })
	return p.full + p.used
}

// appendDirents appends the content of a directory to dst. nid gives the number of an entry, self or up.
func appendDirents(dst []byte, n *tree.Node, block int64, nid func(entry int) uint64) []byte {
	begin := len(dst)
	p := direntPacker{block: block}
	var entries []dirent
	flush := func() {
		le := binary.LittleEndian
		at := len(entries) * direntSize
		for _, e := range entries {
			dst = le.AppendUint64(dst, e.nid)
			dst = le.AppendUint16(dst, uint16(at))
			dst = append(dst, e.kind, 0)
			at += len(e.name)
		}
		for _, e := range entries {
			dst = append(dst, e.name...)
		}
		entries = entries[:0]
	}
	forNames(n, func(name string, entry int) {
		if p.add(name) {
			flush()
			dst = append(dst, make([]byte, p.full-int64(len(dst)-begin))...)
		}
		mode := uint32(tree.TypeDir)
		if entry >= 0 {
			mode = n.Entries[entry].Node.Mode
		}
		entries = append(entries, dirent{nid(entry), name, direntType(mode)})
	})
	flush()
	return dst
}

// decodeDirents calls fn for each entry of a block.
func decodeDirents(block []byte, fn func(dirent) error) error {
	le := binary.LittleEndian
	if len(block) < direntSize {
		return corrupt("directory block of %d bytes", len(block))
	}
	text := string(block) // one allocation for the names of a block
	first := int(le.Uint16(block[8:]))
	if first == 0 || first%direntSize != 0 || first > len(block) {
		return corrupt("directory block with names at %d", first)
	}
	count := first / direntSize
	for i := range count {
		d := block[i*direntSize:]
		from, to := int(le.Uint16(d[8:])), len(block)
		if i+1 < count {
			to = int(le.Uint16(d[direntSize+8:]))
		} else if from < to {
			if n := bytes.IndexByte(block[from:], 0); n >= 0 {
				to = from + n
			}
		}
		if from < first || from >= to || to > len(block) {
			return corrupt("directory entry with its name at %d to %d", from, to)
		}
		if err := fn(dirent{le.Uint64(d), text[from:to], d[10]}); err != nil {
			return err
		}
	}
	return nil
}
