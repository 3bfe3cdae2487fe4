package rafs6

import (
	"bytes"
	"encoding/binary"
)

// A directory is blocks of 4096 bytes (512 where blobs are tars), each an array of entries of 12 bytes and then the names:
// 0 u64 nid | 8 u16 offset of the name in the block | 10 u8 type | 11 u8 0
//
// Entries, "." and ".." among them, are in the order of the bytes of their names over the whole directory. A name
// ends where the next begins; the last one of a block at a NUL byte or the block's end.
const direntSize = 12

// dirent is an entry whose name lies in the bootstrap.
type dirent struct {
	nid  uint64
	name string
	kind uint8
}

// decodeDirents calls fn for each entry of a block, whose text is that of the block.
func decodeDirents(block []byte, text string, fn func(dirent) error) error {
	le := binary.LittleEndian
	if len(block) < direntSize {
		return corrupt("directory block of %d bytes", len(block))
	}
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

// direntPacker finds out how many bytes a directory takes and where its blocks begin.
type direntPacker struct {
	block int   // size
	full  int64 // bytes of complete blocks
	used  int   // in the last block
}

// add takes up a name and reports whether it begins a new block.
func (d *direntPacker) add(nameLen int) bool {
	need := direntSize + nameLen
	if d.used > 0 && d.used+need <= d.block {
		d.used += need
		return false
	}
	fresh := d.used > 0
	if fresh {
		d.full += int64(d.block)
	}
	d.used = need
	return fresh
}

func (d *direntPacker) size() int64 { return d.full + int64(d.used) }

// encodeDirents writes one block of entries. p has the length that they take, or of a whole block.
func encodeDirents(p []byte, entries []dirent) {
	le := binary.LittleEndian
	at := len(entries) * direntSize
	for i, e := range entries {
		d := p[i*direntSize:]
		le.PutUint64(d, e.nid)
		le.PutUint16(d[8:], uint16(at))
		d[10] = e.kind
		at += copy(p[at:], e.name)
	}
}
